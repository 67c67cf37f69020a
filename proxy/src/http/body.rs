//! Bodies on their way through: counted, never collected.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::stream::Ending;

/// A request's body, on its way upstream.
#[derive(Debug)]
pub struct RequestBody {
    inner: Option<Incoming>,
    counted: Rc<Cell<u64>>,
}

impl RequestBody {
    /// The client's body; its bytes are added to `counted`.
    pub fn new(inner: Incoming, counted: Rc<Cell<u64>>) -> Self {
        Self {
            inner: Some(inner),
            counted,
        }
    }

    /// No body.
    pub fn empty() -> Self {
        Self {
            inner: None,
            counted: Rc::default(),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            self.counted
                .set(self.counted.get() + u64::try_from(bytes.len()).unwrap_or(0));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response's body, on its way to the client. It tells its stream how it ended.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    ending: Option<Ending>,
}

#[derive(Debug)]
enum Source {
    /// A text of the proxy's own.
    Own(Option<Bytes>),
    /// The host's.
    Upstream(Incoming),
}

impl ResponseBody {
    /// A text of the proxy's own.
    pub fn own(text: Bytes, mut ending: Ending) -> Self {
        ending.sent(text.len());
        if text.is_empty() {
            ending.complete();
            return Self {
                source: Source::Own(None),
                ending: None,
            };
        }
        Self {
            source: Source::Own(Some(text)),
            ending: Some(ending),
        }
    }

    /// The host's body.
    pub fn upstream(body: Incoming, ending: Ending) -> Self {
        let mut this = Self {
            source: Source::Upstream(body),
            ending: Some(ending),
        };
        this.complete_at_end();
        this
    }

    /// The connection is free, and the log written, before the client can see the last byte: whoever has read the
    /// whole response finds both done.
    fn complete_at_end(&mut self) {
        let at_end = match &self.source {
            Source::Own(text) => text.is_none(),
            Source::Upstream(body) => body.is_end_stream(),
        };
        if at_end && let Some(ending) = self.ending.take() {
            ending.complete();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = match &mut self.source {
            Source::Own(text) => text.take().map(|bytes| Ok(Frame::data(bytes))),
            Source::Upstream(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                let length = frame
                    .as_ref()
                    .and_then(|frame| frame.as_ref().ok())
                    .and_then(|frame| frame.data_ref());
                let length = length.map(Bytes::len);
                if let (Some(length), Some(ending)) = (length, &mut self.ending) {
                    ending.sent(length);
                }
                frame
            }
        };
        match &frame {
            None => {
                if let Some(ending) = self.ending.take() {
                    ending.complete();
                }
            }
            Some(Err(_)) => {
                if let Some(ending) = self.ending.take() {
                    ending.upstream_broke();
                }
            }
            Some(Ok(_)) => self.complete_at_end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(text) => text.is_none(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(Some(text)) => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(0)),
            Source::Own(None) => SizeHint::with_exact(0),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}
