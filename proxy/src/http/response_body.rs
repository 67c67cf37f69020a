//! A response's body as it comes from the host, piece by piece.

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::AsyncRead;

use super::h1::body::{Decoder, Piece as Decoded};
use super::h1::{BODY_ROOM, fill};
use super::request_body::Piece;

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
pub(super) enum ResponseBody<'a, R> {
    /// By HTTP/1.1.
    Http1 {
        /// The connection.
        read: R,
        /// What was read of it.
        input: &'a mut BytesMut,
        /// Where the body ends.
        decoder: Decoder,
    },
    /// By HTTP/2.
    Http2(Incoming),
}

impl<R: AsyncRead + Unpin> ResponseBody<'_, R> {
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
