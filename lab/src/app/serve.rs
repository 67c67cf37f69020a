//! The servers of a built-in workload.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{App, calls};
use crate::client::LocalExecutor;

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

/// A connection of which the first bytes were read.
struct Prefixed {
    prefix: Vec<u8>,
    stream: TcpStream,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..length]);
        self.prefix.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn connection(app: Rc<App>, mut stream: TcpStream, peer: std::net::SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut prefix = Vec::new();
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
    let io = TokioIo::new(Prefixed { prefix, stream });
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
            Some(act) => act.act(served.into_parts().io.into_inner().stream).await,
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

async fn answer(app: &App, request: Request<Incoming>, peer: std::net::SocketAddr) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let response = match path.as_str() {
        "/health" => text(200, "ok\n"),
        "/metrics" => text(200, &metrics(app)),
        "/echo" => echo(&parts, body).await,
        _ => match special(&path) {
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
    let status = response.status().as_u16();
    *app.counts.borrow_mut().entry((path, status)).or_default() += 1;
    response
}

fn text(status: u16, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain"),
    );
    response
}

/// `/status/CODE` and `/bytes/N`.
fn special(path: &str) -> Option<Response<Full<Bytes>>> {
    if let Some(code) = path.strip_prefix("/status/") {
        return Some(text(code.parse().ok()?, ""));
    }
    let number: usize = path.strip_prefix("/bytes/")?.parse().ok()?;
    Some(Response::new(Full::new(Bytes::from(vec![
        b'x';
        number.min(1 << 30)
    ]))))
}

async fn echo(parts: &http::request::Parts, body: Incoming) -> Response<Full<Bytes>> {
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

fn json_response(status: u16, body: &Value) -> Response<Full<Bytes>> {
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
) -> Response<Full<Bytes>> {
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
        "version": format!("{version:?}"), "peer": peer.ip().to_string(), "calls": called,
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

/// Serves TCP: a greeting if there is one, then whatever comes, back.
pub(super) async fn tcp(socket: TcpListener, greeting: Option<&'static [u8]>) -> Result<(), String> {
    let mut open = JoinSet::new();
    loop {
        let (mut stream, _) = socket
            .accept()
            .await
            .map_err(|error| format!("accepting: {error}"))?;
        while open.try_join_next().is_some() {}
        open.spawn_local(async move {
            let served = async {
                if let Some(greeting) = greeting {
                    stream.write_all(greeting).await?;
                }
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            };
            // What goes wrong with one connection ends that connection.
            drop(served.await);
        });
    }
}
