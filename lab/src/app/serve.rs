//! The HTTP server of a built-in workload.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proxy::http::LocalExecutor;
use proxy::serve::Prefixed;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::client::raw::pause;

use super::replies::{self, Reply, whole};
use super::{App, calls};

/// What an HTTP/2 client with prior knowledge begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Serves HTTP/1.1, and HTTP/2 with prior knowledge.
pub(super) async fn http(app: Rc<App>, socket: TcpListener) -> Result<(), String> {
    let mut open = JoinSet::new();
    loop {
        let (stream, peer) = socket
            .accept()
            .await
            .map_err(|error| format!("accepting: {error}"))?;
        while open.try_join_next().is_some() {}
        let app = Rc::clone(&app);
        open.spawn_local(async move {
            // What goes wrong with one connection ends that connection.
            drop(connection(app, stream, peer).await);
        });
    }
}

async fn connection(app: Rc<App>, mut stream: TcpStream, peer: std::net::SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut prefix = BytesMut::new();
    while prefix.len() < PREFACE.len() && PREFACE.starts_with(&prefix) {
        if stream.read_buf(&mut prefix).await? == 0 {
            return Ok(());
        }
    }
    let is_http2 = prefix.starts_with(PREFACE);
    let asked: Rc<Asked> = Rc::default();
    let service_asked = Rc::clone(&asked);
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, asked) = (Rc::clone(&app), Rc::clone(&service_asked));
        async move {
            if let Some(act) = Misbehaviour::of(request.uri().path()) {
                asked.act.set(Some(act));
                asked.bell.notify_one();
                // The connection is taken away before this could answer.
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(answer(&app, request, peer).await)
        }
    });
    let io = TokioIo::new(Prefixed::new(prefix, stream));
    if is_http2 {
        let served = hyper::server::conn::http2::Builder::new(LocalExecutor)
            .serve_connection(io, service)
            .await;
        return served.map_err(io::Error::other);
    }
    let mut served = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(io, service);
    tokio::select! {
        ended = &mut served => ended.map_err(io::Error::other),
        () = asked.bell.notified() => match asked.act.take() {
            Some(act) => act.act(served.into_parts().io.into_inner().into_stream()).await,
            None => Ok(()),
        },
    }
}

/// How a request asked its connection to misbehave.
#[derive(Debug, Default)]
struct Asked {
    act: Cell<Option<Misbehaviour>>,
    bell: Notify,
}

/// Answers that are no proper HTTP, by path.
#[derive(Debug, Clone, Copy)]
enum Misbehaviour {
    Close,
    Reset,
    Garbage,
    Truncate,
    Hang,
}

impl Misbehaviour {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/close" => Some(Self::Close),
            "/reset" => Some(Self::Reset),
            "/garbage" => Some(Self::Garbage),
            "/truncate" => Some(Self::Truncate),
            "/hang" => Some(Self::Hang),
            _ => None,
        }
    }

    async fn act(self, mut stream: TcpStream) -> io::Result<()> {
        match self {
            Self::Close => Ok(()),
            Self::Reset => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
            Self::Garbage => stream.write_all(b"this is not HTTP\r\n\r\n").await,
            Self::Truncate => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc")
                    .await
            }
            Self::Hang => {
                let mut rest = [0; 1024];
                while stream.read(&mut rest).await? > 0 {}
                Ok(())
            }
        }
    }
}

async fn answer(app: &App, request: Request<Incoming>, peer: std::net::SocketAddr) -> Response<Reply> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let mut response = match path.as_str() {
        "/health" => text(200, "ok\n"),
        "/metrics" => text(200, &metrics(app)),
        "/echo" => echo(&parts, body).await,
        "/sink" => replies::sink(body).await,
        "/trailers" => replies::with_trailers(),
        "/grpc/unary" => replies::grpc_unary(body).await,
        "/grpc/stream" => replies::grpc_stream(body),
        "/grpc/fail" => replies::grpc_fail(),
        _ => match special(&path).await {
            Some(response) => response,
            None => {
                routed(
                    app,
                    &parts.headers,
                    &path,
                    parts.method.as_str(),
                    parts.version,
                    peer,
                )
                .await
            }
        },
    };
    if parts.method == Method::HEAD && parts.version == Version::HTTP_2 {
        replies::headers_alone(&mut response);
    }
    let status = response.status().as_u16();
    *app.counts.borrow_mut().entry((path, status)).or_default() += 1;
    response
}

pub(super) fn text(status: u16, body: &str) -> Response<Reply> {
    let mut response = Response::new(whole(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain"),
    );
    response
}

/// Answers that a path describes: `/status/CODE`, `/bytes/N`, `/chunked/N`, `/slow/MS`, `/drip/N/MS`.
async fn special(path: &str) -> Option<Response<Reply>> {
    let mut words = path.strip_prefix('/')?.split('/');
    let (word, number, more) = (words.next()?, words.next()?, words.next());
    let number: u64 = number.parse().ok()?;
    match (word, more) {
        ("status", None) => Some(text(u16::try_from(number).ok()?, "")),
        ("bytes", None) => Some(replies::bytes(number)),
        ("chunked", None) => Some(replies::chunked(number)),
        ("slow", None) => {
            pause(number).await;
            Some(text(200, "slow\n"))
        }
        ("drip", Some(millis)) => Some(replies::drip(number, millis.parse().ok()?)),
        _ => None,
    }
}

async fn echo(parts: &http::request::Parts, body: Incoming) -> Response<Reply> {
    let body = match body.collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => return text(400, &error.to_string()),
    };
    let headers: Vec<(String, String)> = parts
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let told = json!({ "method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers, "body": body });
    json_response(200, &told)
}

pub(super) fn json_response(status: u16, body: &Value) -> Response<Reply> {
    let mut response = text(status, &format!("{body}\n"));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

async fn routed(
    app: &App,
    headers: &HeaderMap,
    path: &str,
    method: &str,
    version: Version,
    peer: std::net::SocketAddr,
) -> Response<Reply> {
    let route = app.spec.routes.get(path);
    let urls = route.map_or(&app.spec.calls, |route| &route.calls);
    let mut called = Vec::new();
    for url in urls {
        called.push(calls::call(app, url, headers).await);
    }
    let status = route.and_then(|route| route.status).unwrap_or(200);
    if let Some(body) = route.and_then(|route| route.body.as_ref()) {
        return text(status, body);
    }
    let told = json!({
        "pod": app.spec.pod, "container": app.spec.container, "method": method, "path": path,
        "version": format!("{version:?}"), "peer": peer.ip().to_canonical().to_string(), "calls": called,
    });
    json_response(status, &told)
}

fn metrics(app: &App) -> String {
    let mut text =
        "# HELP app_requests_total Requests answered.\n# TYPE app_requests_total counter\n".to_owned();
    for ((path, status), number) in app.counts.borrow().iter() {
        let path = path.replace('\\', "\\\\").replace('"', "\\\"");
        text.push_str(&format!(
            "app_requests_total{{path=\"{path}\",status=\"{status}\"}} {number}\n"
        ));
    }
    text
}
