//! A client's connection that speaks HTTP/2: hyper's streams, each an exchange of its own.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use bytes::BytesMut;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::client::{Client, Http2Client};
use super::exchange::exchange;
use super::fed::{Fed, Gone};
use super::frames::{self, Wire};
use super::head::RequestHead;
use super::headers;
use super::http1::{LEAVE, linger};
use super::offence::{Code, Offence};
use super::request_body::RequestBody;
use super::stream_info::StreamInfo;
use super::{Connection, Ended, LocalExecutor};
use crate::access_log::Flags;
use crate::config::listener::HttpConfig;
use crate::serve::Prefixed;
use crate::within::sleep_until;

/// The most headers of a request (`HttpProtocolOptions.max_headers_count`).
const MOST_HEADERS: usize = 100;

/// The most bytes of them (`HttpConnectionManager.max_request_headers_kb`).
const MOST_HEADER_BYTES: u32 = 60 * 1024;

/// As much is read at a time of what nobody needs.
const MOST_WASTE: usize = 16 * 1024;

/// The last stream of a GOAWAY that turns none away.
const ANY_STREAM: u32 = (1 << 31) - 1;

/// A stream that ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer")]
struct Reset;

/// A client that is asked to leave, before the answer that it gets.
#[derive(Debug, Default)]
struct Leave {
    wanted: Notify,
    is_told: Cell<bool>,
    told: Notify,
}

impl Leave {
    async fn tell(&self) {
        self.wanted.notify_one();
        while !self.is_told.get() {
            self.told.notified().await;
        }
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve(connection: &Rc<Connection>, stream: TcpStream, prefix: BytesMut) {
    let wire = Wire::new(Prefixed::new(prefix, stream), Rc::clone(&connection.refused));
    let seen = Rc::new(Cell::new(0));
    let served = hyper_serves(connection, &wire, &seen).await;
    let Some(offence) = wire.offence() else {
        connection.ended.set(Ended::Quietly);
        if served == Served::Idle {
            close(wire, Some(Code::NoError)).await;
        }
        return;
    };
    // The streams that end with it tell how.
    connection.ended.set(Ended::By(offence));
    if let Some(config) = connection.config()
        && wire.begun() > seen.get()
    {
        no_request(
            connection,
            config,
            offence.details(),
            Flags::DOWNSTREAM_PROTOCOL_ERROR,
        );
    }
    let code = match offence {
        Offence::Frame(code) => Some(code),
        Offence::Rule | Offence::Head => None,
    };
    close(wire, code).await;
}

/// Closes a connection that hyper has let go of; the client is told this code, if there is one.
async fn close(wire: Wire<Prefixed>, code: Option<Code>) {
    let last = wire.last();
    let Some(stream) = wire.into_stream() else { return };
    let mut stream = stream.into_stream();
    // What came is read, or closing would be a reset.
    let mut waste = vec![0; MOST_WASTE];
    while matches!(stream.try_read(&mut waste), Ok(1..)) {}
    if let Some(code) = code {
        frames::go_away(&mut stream, last, code).await;
    }
    linger(&Held(stream)).await;
}

/// How hyper's part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    /// It has closed the connection.
    Closed,
    /// No stream was begun for too long, and the client did not go when it was asked to.
    Idle,
}

/// A connection that is let go of in a while.
struct Held(TcpStream);

impl AsRef<TcpStream> for Held {
    fn as_ref(&self) -> &TcpStream {
        &self.0
    }
}

/// A head that is no request, or none that is taken, is logged all the same.
fn no_request(connection: &Connection, config: &HttpConfig, details: &'static str, flag: Flags) {
    config.stats(&connection.proxy.stats).rq_total.inc();
    let mut info = StreamInfo::begin();
    info.details = details.into();
    info.flags.set(flag);
    info.http2 = true;
    info.log(connection, config, None, 0);
}

/// Hyper's part of it. `seen` counts the requests that it has handed over.
async fn hyper_serves(connection: &Rc<Connection>, wire: &Wire<Prefixed>, seen: &Rc<Cell<u32>>) -> Served {
    let io = TokioIo::new(wire.share());
    let task_connection = Rc::clone(connection);
    let seen = Rc::clone(seen);
    let leave = Rc::new(Leave::default());
    let task_leave = Rc::clone(&leave);
    let streams = wire.streams();
    let service = service_fn(move |request| {
        seen.set(seen.get() + 1);
        answer(Rc::clone(&task_connection), Rc::clone(&task_leave), request)
    });
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    builder
        .max_concurrent_streams(None)
        .max_header_list_size(MOST_HEADER_BYTES);
    let mut serving = pin!(builder.serve_connection(io, service));
    // An error here is the client's: it went away, or broke the protocol.
    let is_idle = tokio::select! {
        biased;
        _ended = serving.as_mut() => return Served::Closed,
        () = leave.wanted.notified() => false,
        () = streams.idle(connection.config().and_then(|config| config.idle_timeout)) => true,
    };
    if is_idle {
        if let Some(config) = connection.config() {
            config.stats(&connection.proxy.stats).cx_idle_timeout.inc();
        }
        if wire.is_between_frames() {
            // Whoever has begun a stream meanwhile gets its answer (RFC 9113, 6.8).
            frames::go_away(&mut wire.share(), ANY_STREAM, Code::NoError).await;
        }
        let moment = Instant::now() + LEAVE;
        tokio::select! {
            biased;
            _ended = serving.as_mut() => return Served::Closed,
            () = leave.wanted.notified() => {}
            () = async { sleep_until(moment).await; streams.none().await } => return Served::Idle,
        }
    }
    serving.as_mut().graceful_shutdown();
    leave.is_told.set(true);
    leave.told.notify_waiters();
    drop(serving.await);
    Served::Closed
}

async fn answer(
    connection: Rc<Connection>,
    leave: Rc<Leave>,
    request: Request<Incoming>,
) -> Result<Response<Fed>, Reset> {
    if request.headers().len() > MOST_HEADERS {
        if let Some(config) = connection.config() {
            no_request(
                &connection,
                config,
                "http2.too_many_headers",
                Flags::DOWNSTREAM_REMOTE_RESET,
            );
        }
        return Err(Reset);
    }
    let (head, answered) = oneshot::channel();
    let gone = Rc::new(Gone::default());
    let reader = gone.reader();
    let task_connection = Rc::clone(&connection);
    connection.proxy.spawn(async move {
        let connection = task_connection;
        if let Some(config) = connection.config() {
            one(&connection, config, request, head, gone).await;
        }
    });
    let response = answered.await.map_err(|_error| Reset)?;
    if connection.chain.drain.has_begun() {
        leave.tell().await;
    }
    Ok(response.map(|body| body.read_by(reader)))
}

async fn one(
    connection: &Connection,
    config: &HttpConfig,
    request: Request<Incoming>,
    answer: oneshot::Sender<Response<Fed>>,
    gone: Rc<Gone>,
) {
    let (parts, incoming) = request.into_parts();
    let mut headers = parts.headers;
    let host = headers.remove(header::HOST);
    headers::join_cookies(&mut headers);
    let host = host.and_then(|host| host.to_str().map(str::to_owned).ok());
    let authority = parts.uri.authority().map(ToString::to_string).or(host);
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let mut body = RequestBody::http2(incoming, &headers, gone);
    let head = RequestHead {
        method: parts.method,
        path: path.to_owned(),
        authority: authority.filter(|authority| !authority.is_empty()),
        headers,
        http2: true,
    };
    let mut client = Client::Http2(Http2Client::new(answer));
    exchange(connection, config, head, &mut body, &mut client).await;
}
