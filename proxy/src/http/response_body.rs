//! A response's body as it comes from the host, piece by piece.

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::h1::body::{Decoder, Piece as Decoded};
use super::h1::{BODY_ROOM, LONG_REST, fill};
use super::request_body::Piece;
use crate::pass::{self, onwards};
use crate::upstream::counted::Counted;

/// How a host broke off after its response had begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broke {
    /// The connection ended before the body did.
    Early,
    /// The connection was reset.
    Reset,
    /// The body is not framed as it says.
    Malformed,
}

/// A response's body.
pub(super) enum ResponseBody<'a> {
    /// By HTTP/1.1.
    Http1 {
        /// The connection.
        read: Counted<ReadHalf<'a>>,
        /// What was read of it.
        input: &'a mut BytesMut,
        /// Where the body ends.
        decoder: Decoder,
    },
    /// By HTTP/2.
    Http2(Incoming),
}

impl ResponseBody<'_> {
    /// True if what is left is long, has a known length, and was not read ahead: it may go from socket to socket.
    pub(super) fn has_long_rest(&self) -> bool {
        match self {
            Self::Http1 { input, decoder, .. } => {
                input.is_empty() && decoder.left().is_some_and(|left| left >= LONG_REST)
            }
            Self::Http2(_) => false,
        }
    }

    /// Passes that rest to a socket; `moved` is told how much.
    pub(super) async fn pass_rest(
        &mut self,
        to: &TcpStream,
        mut moved: impl FnMut(u64),
    ) -> Result<(), pass::Broke> {
        match self {
            Self::Http1 { read, decoder, .. } => {
                let left = decoder.left().unwrap_or(0);
                onwards(read.inner().as_ref(), to, left, |length| {
                    decoder.pass_over(length);
                    read.took(length);
                    moved(length);
                })
                .await
            }
            Self::Http2(_) => Ok(()),
        }
    }

    /// The next piece; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, Broke> {
        match self {
            Self::Http1 { read, input, decoder } => loop {
                match decoder.next(input).map_err(|_malformed| Broke::Malformed)? {
                    Decoded::Data(bytes) => return Ok(Some(Piece::Data(bytes))),
                    Decoded::End => return Ok(None),
                    Decoded::More => {}
                }
                if decoder.expects_much() {
                    input.reserve(BODY_ROOM);
                }
                match fill(read, input).await {
                    Ok(0) if decoder.ends_here() => return Ok(None),
                    Ok(0) => return Err(Broke::Early),
                    Ok(_) => {}
                    Err(_) => return Err(Broke::Reset),
                }
            },
            Self::Http2(incoming) => match incoming.frame().await {
                None => Ok(None),
                Some(Err(_)) => Err(Broke::Reset),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Ok(Some(Piece::Data(bytes))),
                    Err(frame) => Ok(frame.into_trailers().ok().map(Piece::Trailers)),
                },
            },
        }
    }
}
