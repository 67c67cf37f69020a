//! Where a response goes: the client's connection (HTTP/1.1), or its stream (HTTP/2).

use std::collections::VecDeque;
use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Response, StatusCode};
use hyper::body::Frame;
use socket2::SockRef;
use tokio::io::{AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::oneshot;

use super::fed::{Fed, Feed};
use super::h1::body::Framing;
use super::h1::encode;
use super::head::ResponseHead;
use super::request_body::Piece;
use crate::drain::Drain;

/// As much is gathered before it is written.
pub(super) const BACKLOG: usize = 32 * 1024;

/// A piece of at least this size is not copied to be written.
const LARGE: usize = 16 * 1024;

/// The client went away.
#[derive(Debug)]
pub(super) struct Gone;

/// Where a response goes.
pub(super) enum Client<'a> {
    /// A connection.
    Http1(Http1Client<'a>),
    /// A stream of one.
    Http2(Http2Client),
}

/// What a response says to a client that may stay or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// That it may stay.
    Nothing,
    /// That it is to leave.
    Leave,
}

/// A client's connection that speaks HTTP/1.1.
pub(super) struct Http1Client<'a> {
    /// Where bytes go.
    pub write: &'a mut OwnedWriteHalf,
    /// What is gathered.
    pub out: &'a mut BytesMut,
    /// The request was HEAD.
    pub to_head: bool,
    /// The response says that the connection is closed after it.
    pub close: bool,
    /// The client wants the connection closed after the response: its end and the connection's go in one segment.
    last: bool,
    /// Whether the client is to leave.
    drain: &'a Drain,
    /// What the response says of that, or said.
    pub said: Said,
    /// How the response's body ends.
    framing: Framing,
}

/// A client's stream of an HTTP/2 connection.
pub(super) struct Http2Client {
    head: Option<oneshot::Sender<Response<Fed>>>,
    feed: Option<Feed>,
    pending: VecDeque<Frame<Bytes>>,
    ends: bool,
}

impl<'a> Http1Client<'a> {
    /// Nothing was sent yet.
    pub(super) const fn new(
        write: &'a mut OwnedWriteHalf,
        out: &'a mut BytesMut,
        to_head: bool,
        close: bool,
        drain: &'a Drain,
    ) -> Self {
        Self {
            write,
            out,
            to_head,
            close,
            last: close,
            drain,
            said: Said::Nothing,
            framing: Framing::None,
        }
    }
}

impl Http2Client {
    /// Nothing was sent yet.
    pub(super) const fn new(head: oneshot::Sender<Response<Fed>>) -> Self {
        Self {
            head: Some(head),
            feed: None,
            pending: VecDeque::new(),
            ends: false,
        }
    }
}

/// Adds a piece in its framing; large ones are written at once.
pub(super) async fn write_piece(
    write: &mut (impl AsyncWrite + Unpin),
    out: &mut BytesMut,
    framing: Framing,
    data: Bytes,
) -> io::Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    let in_chunks = framing == Framing::Chunked;
    if in_chunks {
        encode::chunk_head(out, data.len());
    }
    if data.len() < LARGE {
        out.extend_from_slice(&data);
    } else {
        let mut both = (&out[..]).chain(data);
        write.write_all_buf(&mut both).await?;
        out.clear();
    }
    if in_chunks {
        out.extend_from_slice(b"\r\n");
    }
    if out.len() >= BACKLOG {
        write_out(write, out).await?;
    }
    Ok(())
}

/// Writes what is gathered.
pub(super) async fn write_out(write: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> io::Result<()> {
    if !out.is_empty() {
        write.write_all(out).await?;
        out.clear();
    }
    Ok(())
}

/// Writes what is gathered. What fits is held back (`MSG_MORE`, tcp(7)) until the connection is closed, or pushed.
async fn write_last(write: &mut OwnedWriteHalf, out: &mut BytesMut) -> io::Result<()> {
    let stream: &TcpStream = (*write).as_ref();
    let sent = stream.try_io(Interest::WRITABLE, || {
        SockRef::from(stream).send_with_flags(out, libc::MSG_MORE)
    });
    match sent {
        Ok(length) => out.advance(length),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    write_out(write, out).await
}

/// Sends what [`write_last`] held back.
pub(super) fn push_out(stream: &TcpStream) {
    // Setting it again does that (tcp(7)); a connection that is gone has nothing to send.
    drop(stream.set_nodelay(true));
}

impl Client<'_> {
    /// The head of the response; `framing` is how its body ends upstream.
    pub(super) fn push_head(&mut self, head: &ResponseHead, framing: Framing) {
        match self {
            Self::Http1(client) => {
                client.framing = if framing == Framing::UntilClose {
                    Framing::Chunked
                } else {
                    framing
                };
                // After a change of the protocol there is no answer that could say it.
                let leaves = (client.said == Said::Leave || client.drain.has_begun())
                    && head.status != StatusCode::SWITCHING_PROTOCOLS;
                if leaves {
                    client.said = Said::Leave;
                }
                let close = client.close || leaves;
                encode::response(client.out, head, client.framing, client.to_head, close);
            }
            Self::Http2(client) => client.ends = framing == Framing::None,
        }
        if let Self::Http2(client) = self {
            client.send_head(head);
        }
    }

    /// True if the response says that the connection is closed after it.
    pub(super) const fn closes(&self) -> bool {
        match self {
            Self::Http1(client) => client.close,
            Self::Http2(_) => false,
        }
    }

    /// The next piece of the body.
    pub(super) async fn push(&mut self, piece: Piece) -> Result<(), Gone> {
        match (self, piece) {
            (Self::Http1(client), Piece::Data(data)) => {
                write_piece(client.write, client.out, client.framing, data)
                    .await
                    .map_err(|_error| Gone)
            }
            // HTTP/1.1 trailers are not sent (`Http1ProtocolOptions.enable_trailers` is off).
            (Self::Http1(_), Piece::Trailers(_)) => Ok(()),
            (Self::Http2(client), Piece::Data(data)) => {
                client.pending.push_back(Frame::data(data));
                client.flush().await
            }
            (Self::Http2(client), Piece::Trailers(trailers)) => {
                client.pending.push_back(Frame::trailers(trailers));
                client.flush().await
            }
        }
    }

    /// The body is over.
    pub(super) async fn finish(&mut self) -> Result<(), Gone> {
        match self {
            Self::Http1(client) => {
                if client.framing == Framing::Chunked {
                    client.out.extend_from_slice(encode::LAST_CHUNK);
                }
                if client.last {
                    write_last(client.write, client.out).await.map_err(|_error| Gone)
                } else {
                    write_out(client.write, client.out).await.map_err(|_error| Gone)
                }
            }
            Self::Http2(client) => {
                client.flush().await?;
                if let Some(feed) = client.feed.take() {
                    feed.end().await;
                }
                Ok(())
            }
        }
    }

    /// Sends what was gathered.
    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        match self {
            Self::Http1(client) => write_out(client.write, client.out).await.map_err(|_error| Gone),
            Self::Http2(client) => client.flush().await,
        }
    }
}

impl Http2Client {
    fn send_head(&mut self, head: &ResponseHead) {
        let body = if self.ends {
            Fed::empty()
        } else {
            let (feed, body) = Fed::pair();
            self.feed = Some(feed);
            body
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        response.headers_mut().clone_from(&head.headers);
        if let Some(sender) = self.head.take() {
            // A client that is gone is noticed where its stream is watched.
            drop(sender.send(response));
        }
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        let Some(feed) = &self.feed else {
            return Ok(());
        };
        while let Some(frame) = self.pending.pop_front() {
            if !feed.send(frame).await {
                return Err(Gone);
            }
        }
        Ok(())
    }
}
