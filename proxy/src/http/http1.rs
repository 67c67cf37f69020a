//! A client's connection that speaks HTTP/1.1: one request after another.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;

use super::Connection;
use super::client::{Client, Http1Client, Said, push_out, write_out};
use super::exchange::{Fate, exchange};
use super::h1::{fill, parse};
use super::local_reply::{self, Asked};
use super::request_body::RequestBody;
use super::stream_info::StreamInfo;
use super::tunnel;
use crate::access_log::Flags;
use crate::config::listener::HttpConfig;
use crate::within::{until, within};

/// How long a client may take to close a connection that is over (`HttpConnectionManager.delayed_close_timeout`).
pub(super) const DELAYED_CLOSE: Duration = Duration::from_secs(1);

/// How long a client that was asked to leave may take (`HttpConnectionManager.drain_timeout`).
pub(super) const LEAVE: Duration = Duration::from_secs(5);

/// Why no further request is awaited.
enum Late {
    /// None came for too long.
    Idle,
    /// The client was asked to leave.
    Leaving,
}

/// Serves a connection until it ends.
pub(super) async fn serve(connection: &Connection, config: &HttpConfig, stream: TcpStream, prefix: BytesMut) {
    let (mut read, mut write) = stream.into_split();
    let (mut buffer, mut out) = (prefix, BytesMut::new());
    let drain = &connection.chain.drain;
    let idle = || config.idle_timeout.map(|idle| Instant::now() + idle);
    let mut leaves_at: Option<Instant> = None;
    let mut idle_at = idle();
    loop {
        let leaving = leaves_at.map(|moment| (moment, Late::Leaving));
        let idling = idle_at.map(|moment| (moment, Late::Idle));
        let limit = leaving
            .into_iter()
            .chain(idling)
            .min_by_key(|(moment, _)| *moment);
        let begins = begins(&mut read, &mut buffer);
        let begins = match limit {
            Some((moment, late)) => until(moment, begins).await.ok_or(late),
            None => Ok(begins.await),
        };
        let next = match begins {
            Ok(true) => next(&mut read, &mut buffer).await,
            Ok(false) => return,
            Err(Late::Idle) => {
                config.stats(&connection.proxy.stats).cx_idle_timeout.inc();
                leaves_at.get_or_insert_with(|| Instant::now() + LEAVE);
                idle_at = None;
                continue;
            }
            Err(Late::Leaving) => {
                linger(&read).await;
                return write.forget();
            }
        };
        let request = match next {
            Next::Request(request) => request,
            Next::Malformed(why) => {
                refuse(connection, config, why, &mut write, &mut out).await;
                linger(&read).await;
                return write.forget();
            }
            Next::Closed => return gone(connection, config),
        };
        if request.expects_continue {
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            if write_out(&mut write, &mut out).await.is_err() {
                return;
            }
        }
        let closes = request.close;
        let to_head = request.head.method == Method::HEAD;
        let mut body = RequestBody::http1(&mut read, &mut buffer, request.framing);
        let mut client = Client::Http1(Http1Client::new(&mut write, &mut out, to_head, closes, drain));
        if let Client::Http1(client) = &mut client
            && leaves_at.is_some()
        {
            client.said = Said::Leave;
        }
        let fate = exchange(connection, config, request.head, &mut body, &mut client).await;
        if matches!(&client, Client::Http1(client) if client.said == Said::Leave) {
            leaves_at.get_or_insert_with(|| Instant::now() + LEAVE);
        }
        idle_at = idle();
        match fate {
            Fate::GoesOn if !closes => {}
            Fate::GoesOn => return write.forget(),
            Fate::Closes => {
                linger(&read).await;
                // Closing says it; bytes that nobody read make a reset of it.
                return write.forget();
            }
            Fate::BreaksOff => {
                // What was gathered of the answer still goes out.
                drop(write_out(&mut write, &mut out).await);
                if !closes {
                    linger(&read).await;
                }
                return;
            }
            Fate::Upgraded(host, unlogged) => {
                let ends = (read, write);
                // Rare, and more than all the rest: room of its own, instead of room in every connection's task.
                return Box::pin(tunnel::run(connection, config, ends, buffer, *host, *unlogged)).await;
            }
        }
    }
}

enum Next {
    Request(parse::Request),
    Malformed(parse::Malformed),
    Closed,
}

/// True when anything of a request has come; false if nothing comes any more.
async fn begins(read: &mut OwnedReadHalf, buffer: &mut BytesMut) -> bool {
    !buffer.is_empty() || matches!(fill(read, buffer).await, Ok(1..))
}

/// The next request, of which something has come.
async fn next(read: &mut OwnedReadHalf, buffer: &mut BytesMut) -> Next {
    loop {
        match parse::request(buffer) {
            Ok(Some(request)) => return Next::Request(request),
            Ok(None) => {}
            Err(why) => return Next::Malformed(why),
        }
        if !matches!(fill(read, buffer).await, Ok(1..)) {
            return Next::Closed;
        }
    }
}

/// The client went away within the head of a request.
fn gone(connection: &Connection, config: &HttpConfig) {
    config.stats(&connection.proxy.stats).rq_total.inc();
    let mut info = StreamInfo::begin();
    info.client_gone();
    info.log(connection, config, None, 0);
}

/// Answers what is no request.
async fn refuse(
    connection: &Connection,
    config: &HttpConfig,
    why: parse::Malformed,
    write: &mut OwnedWriteHalf,
    out: &mut BytesMut,
) {
    let stats = config.stats(&connection.proxy.stats);
    stats.rq_total.inc();
    let mut info = StreamInfo::begin();
    info.details = why.details.into();
    info.flags.set(Flags::DOWNSTREAM_PROTOCOL_ERROR);
    let drain = &connection.chain.drain;
    let mut client = Client::Http1(Http1Client::new(write, out, false, true, drain));
    let text = why.status.canonical_reason().unwrap_or_default();
    let sent = local_reply::send(
        config,
        Asked::by_nothing(),
        why.status,
        text,
        &mut info,
        &mut client,
    )
    .await;
    // A client that is gone does not read it.
    drop(sent);
    stats.response(info.status);
    info.log(connection, config, None, 0);
}

/// Gives the client time to read what was sent, and to close. Nothing that it sends is read any more.
pub(super) async fn linger(read: &impl AsRef<TcpStream>) {
    let read = read.as_ref();
    push_out(read);
    let closed = async {
        while let Ok(ready) = read.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // Told once, and not again until more comes.
            let unread = read.try_io(Interest::READABLE, || {
                Err::<(), _>(io::ErrorKind::WouldBlock.into())
            });
            drop(unread);
        }
    };
    drop(within(DELAYED_CLOSE, "the client to close", closed).await);
}
