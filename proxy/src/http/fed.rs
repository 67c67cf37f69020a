//! Bodies of HTTP/2 messages that somebody feeds piece by piece.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, mpsc};

/// Whoever fed it broke off: the other side is told by a reset of the stream.
#[derive(Debug, thiserror::Error)]
#[error("the body broke off")]
pub struct BrokenOff;

/// A body that is fed; no pieces once it is over.
#[derive(Debug)]
pub struct Fed {
    pieces: Option<mpsc::Receiver<Piece>>,
    reader: Option<Reader>,
}

/// Tells a [`Gone`] when it is dropped.
#[derive(Debug)]
pub struct Reader(Rc<Gone>);

/// Whether those who read are gone.
#[derive(Debug, Default)]
pub struct Gone {
    is: Cell<bool>,
    told: Notify,
}

impl Gone {
    /// The one whose end is awaited.
    pub fn reader(self: &Rc<Self>) -> Reader {
        Reader(Rc::clone(self))
    }

    /// Ends when the reader is dropped.
    pub async fn wait(&self) {
        while !self.is.get() {
            self.told.notified().await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.is.set(true);
        self.0.told.notify_one();
    }
}

/// Feeds an [`Fed`]. One that is dropped without [`Feed::end`] breaks the body off.
#[derive(Debug)]
pub struct Feed(mpsc::Sender<Piece>);

#[derive(Debug)]
enum Piece {
    Frame(Frame<Bytes>),
    End,
}

impl Fed {
    /// No body.
    pub const fn empty() -> Self {
        Self {
            pieces: None,
            reader: None,
        }
    }

    /// A body that is fed.
    pub fn pair() -> (Feed, Self) {
        let (pieces, received) = mpsc::channel(1);
        let body = Self {
            pieces: Some(received),
            reader: None,
        };
        (Feed(pieces), body)
    }

    /// Whose end is the end of this reader's interest.
    #[must_use]
    pub fn read_by(mut self, reader: Reader) -> Self {
        self.reader = Some(reader);
        self
    }
}

impl Feed {
    /// The next piece; false if nobody wants it any more.
    pub async fn send(&self, frame: Frame<Bytes>) -> bool {
        self.0.send(Piece::Frame(frame)).await.is_ok()
    }

    /// The body is whole.
    pub async fn end(&self) {
        // Nobody may want it any more.
        drop(self.0.send(Piece::End).await);
    }
}

impl Body for Fed {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let Some(pieces) = &mut self.pieces else {
            return Poll::Ready(None);
        };
        match ready!(pieces.poll_recv(context)) {
            Some(Piece::Frame(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Piece::End) => {
                self.pieces = None;
                Poll::Ready(None)
            }
            None => Poll::Ready(Some(Err(BrokenOff))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.pieces.is_none() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}
