//! A request's body as it comes from the client, piece by piece, kept as far as a retry may need it.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::fed::Gone;
use super::h1::body::{Decoder, Framing, Piece as Decoded};
use super::h1::{BODY_ROOM, LONG_REST, fill};
use crate::pass::{self, onwards};

/// What of a body is kept for a retry (`Listener.per_connection_buffer_limit_bytes`).
const MOST_KEPT: usize = 1024 * 1024;

/// What a client may send ahead of an answer.
const MOST_AHEAD: usize = 64 * 1024;

/// A piece of a body.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    /// Bytes.
    Data(Bytes),
    /// What comes behind the bytes (HTTP/2 alone).
    Trailers(HeaderMap),
}

/// Why a body broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The client went away.
    Gone,
    /// It is not framed as it says.
    Malformed,
}

/// A request's body.
pub(super) struct RequestBody<'a> {
    source: Source<'a>,
    /// Bytes that came.
    pub(super) received: u64,
    /// What came and may be needed: again, or for the first time.
    kept: Vec<Piece>,
    kept_bytes: usize,
    /// The next of what is kept.
    next_kept: usize,
    /// All that came is kept.
    can_rewind: bool,
    /// How it ended.
    end: Option<Result<(), Broken>>,
}

enum Source<'a> {
    Http1 {
        read: &'a mut OwnedReadHalf,
        buffer: &'a mut BytesMut,
        framing: Framing,
        decoder: Decoder,
    },
    Http2 {
        incoming: Incoming,
        framing: Framing,
        gone: Rc<Gone>,
    },
}

impl<'a> RequestBody<'a> {
    /// Of a request by HTTP/1.1.
    pub(super) fn http1(read: &'a mut OwnedReadHalf, buffer: &'a mut BytesMut, framing: Framing) -> Self {
        Self::of(Source::Http1 {
            read,
            buffer,
            framing,
            decoder: Decoder::new(framing),
        })
    }

    /// Of a request by HTTP/2.
    pub(super) fn http2(incoming: Incoming, headers: &HeaderMap, gone: Rc<Gone>) -> Self {
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        let framing = match length {
            _ if incoming.is_end_stream() => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        Self::of(Source::Http2 {
            incoming,
            framing,
            gone,
        })
    }

    const fn of(source: Source<'a>) -> Self {
        Self {
            source,
            received: 0,
            kept: Vec::new(),
            kept_bytes: 0,
            next_kept: 0,
            can_rewind: true,
            end: None,
        }
    }

    /// How its end is known.
    pub(super) const fn framing(&self) -> Framing {
        match &self.source {
            Source::Http1 { framing, .. } | Source::Http2 { framing, .. } => *framing,
        }
    }

    /// Goes back to the beginning; false if that is not kept.
    pub(super) const fn rewind(&mut self) -> bool {
        if self.can_rewind {
            self.next_kept = 0;
        }
        self.can_rewind
    }

    /// True if all of it was read.
    pub(super) fn is_whole(&self) -> bool {
        match &self.source {
            Source::Http1 { decoder, .. } => decoder.is_done(),
            Source::Http2 { .. } => self.end == Some(Ok(())) || self.framing() == Framing::None,
        }
    }

    /// The next piece; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, Broken> {
        if self.next_kept == self.kept.len() && !self.take_in().await {
            return self.end.unwrap_or(Ok(())).map(|()| None);
        }
        let piece = self.kept[self.next_kept].clone();
        self.next_kept += 1;
        if !self.can_rewind {
            self.kept.drain(..std::mem::take(&mut self.next_kept));
        }
        Ok(Some(piece))
    }

    /// True if what is left is long, has a known length, was not read ahead and is not kept for a retry: it may go from
    /// socket to socket.
    pub(super) fn has_long_rest(&self) -> bool {
        match &self.source {
            Source::Http1 { buffer, decoder, .. } => {
                !self.can_rewind
                    && self.kept.is_empty()
                    && buffer.is_empty()
                    && decoder.left().is_some_and(|left| left >= LONG_REST)
            }
            Source::Http2 { .. } => false,
        }
    }

    /// Passes that rest to a socket; `moved` is told how much.
    pub(super) async fn pass_rest(&mut self, to: &TcpStream, moved: impl Fn(u64)) -> Result<(), pass::Broke> {
        let Source::Http1 { read, decoder, .. } = &mut self.source else {
            return Ok(());
        };
        let left = decoder.left().unwrap_or(0);
        let from: &TcpStream = (**read).as_ref();
        onwards(from, to, left, |length| {
            decoder.pass_over(length);
            self.received += length;
            moved(length);
        })
        .await
    }

    /// Takes one piece in from the client; false at the end.
    async fn take_in(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        let piece = match self.source.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => {
                self.end = Some(Ok(()));
                return false;
            }
            Err(broken) => {
                self.end = Some(Err(broken));
                return false;
            }
        };
        if let Piece::Data(bytes) = &piece {
            self.received += u64::try_from(bytes.len()).unwrap_or(0);
            self.kept_bytes += bytes.len();
        }
        if self.kept_bytes > MOST_KEPT && self.can_rewind {
            self.can_rewind = false;
            self.kept.drain(..std::mem::take(&mut self.next_kept));
        }
        self.kept.push(piece);
        true
    }

    /// Reads ahead as far as is kept; ends when the client breaks off.
    pub(super) async fn read_ahead(&mut self) -> Broken {
        while self.can_rewind && self.take_in().await {}
        match self.end {
            Some(Err(broken)) => broken,
            Some(Ok(())) => {
                self.gone().await;
                Broken::Gone
            }
            None => std::future::pending().await,
        }
    }

    /// Takes in what has come already.
    pub(super) fn take_what_is_there(&mut self) {
        while self.can_rewind && self.take_in().now_or_never() == Some(true) {}
    }

    /// Ends when the client goes away. What it sends meanwhile is kept for later. To be called once the body is whole.
    pub(super) async fn gone(&mut self) {
        match &mut self.source {
            Source::Http1 { read, buffer, .. } => {
                while buffer.len() < MOST_AHEAD {
                    if !matches!(fill(*read, buffer).await, Ok(1..)) {
                        return;
                    }
                }
                std::future::pending::<()>().await;
            }
            Source::Http2 { gone, .. } => gone.wait().await,
        }
    }
}

impl Source<'_> {
    async fn next(&mut self) -> Result<Option<Piece>, Broken> {
        match self {
            Self::Http1 {
                read,
                buffer,
                decoder,
                ..
            } => loop {
                match decoder.next(buffer).map_err(|_malformed| Broken::Malformed)? {
                    Decoded::Data(bytes) => return Ok(Some(Piece::Data(bytes))),
                    Decoded::End => return Ok(None),
                    Decoded::More => {}
                }
                if decoder.expects_much() {
                    buffer.reserve(BODY_ROOM);
                }
                if !matches!(fill(*read, buffer).await, Ok(1..)) {
                    return Err(Broken::Gone);
                }
            },
            Self::Http2 { incoming, .. } => match incoming.frame().await {
                None => Ok(None),
                Some(Err(_)) => Err(Broken::Gone),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Ok(Some(Piece::Data(bytes))),
                    Err(frame) => Ok(frame.into_trailers().ok().map(Piece::Trailers)),
                },
            },
        }
    }
}
