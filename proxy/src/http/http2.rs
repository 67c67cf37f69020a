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

use super::client::{Client, Http2Client};
use super::exchange::exchange;
use super::fed::{Fed, Gone};
use super::head::RequestHead;
use super::headers;
use super::request_body::RequestBody;
use super::{Connection, LocalExecutor};
use crate::config::listener::HttpConfig;
use crate::serve::Prefixed;

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
    let io = TokioIo::new(Prefixed::new(prefix, stream));
    let task_connection = Rc::clone(connection);
    let leave = Rc::new(Leave::default());
    let task_leave = Rc::clone(&leave);
    let service =
        service_fn(move |request| answer(Rc::clone(&task_connection), Rc::clone(&task_leave), request));
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    builder.max_concurrent_streams(None);
    let mut serving = pin!(builder.serve_connection(io, service));
    // An error here is the client's: it went away, or broke the protocol.
    tokio::select! {
        biased;
        ended = serving.as_mut() => return drop(ended),
        () = leave.wanted.notified() => {}
    }
    serving.as_mut().graceful_shutdown();
    leave.is_told.set(true);
    leave.told.notify_waiters();
    drop(serving.await);
}

async fn answer(
    connection: Rc<Connection>,
    leave: Rc<Leave>,
    request: Request<Incoming>,
) -> Result<Response<Fed>, Reset> {
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
