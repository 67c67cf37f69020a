//! One HTTP request on a connection of its own.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Response, Uri, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::LONGEST_BODY;
use super::connect::{self, Attempts};
use super::wire::{Answer, Failure, Outcome};

/// Runs hyper's tasks on this thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

fn wrong(words: impl Into<String>) -> Failure {
    Failure {
        outcome: Outcome::ProtocolError,
        words: words.into(),
    }
}

pub(super) async fn send(
    method: &str,
    url: &str,
    headers: &[(String, String)],
    body: Option<&str>,
    http2: bool,
    attempts: &mut Attempts<'_>,
    answer: &mut Answer,
) -> Result<(), Failure> {
    let uri: Uri = url.parse().map_err(|error| wrong(format!("{url}: {error}")))?;
    let authority = uri
        .authority()
        .ok_or_else(|| wrong(format!("{url}: no host")))?
        .clone();
    let stream = connect::open(authority.host(), authority.port_u16().unwrap_or(80), attempts).await?;
    let request = request(method, &uri, authority.as_str(), headers, body, http2)?;
    let response = exchange(stream, request, http2).await?;
    answer.status = Some(response.status().as_u16());
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    answer.headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failure(&error))?;
        if let Some(bytes) = frame.data_ref()
            && answer.body.len() < LONGEST_BODY
        {
            answer.body.extend_from_slice(bytes);
        }
    }
    Ok(())
}

fn request(
    method: &str,
    uri: &Uri,
    authority: &str,
    headers: &[(String, String)],
    body: Option<&str>,
    http2: bool,
) -> Result<Request<Full<Bytes>>, Failure> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut builder = Request::builder().method(method);
    builder = if http2 {
        builder.version(Version::HTTP_2).uri(uri.clone())
    } else {
        builder.uri(path)
    };
    let body = Full::new(Bytes::copy_from_slice(body.unwrap_or_default().as_bytes()));
    let mut request = builder.body(body).map_err(|error| wrong(error.to_string()))?;
    let map = request.headers_mut();
    if !http2 {
        let host = HeaderValue::from_str(authority).map_err(|error| wrong(error.to_string()))?;
        map.insert(header::HOST, host);
    }
    map.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("lab/", env!("CARGO_PKG_VERSION"))),
    );
    let mut given = http::HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name
            .parse()
            .map_err(|_error| wrong(format!("`{name}` is not a header's name")))?;
        let value = HeaderValue::from_str(value)
            .map_err(|_error| wrong(format!("`{value}` is not a header's value")))?;
        given.append(name, value);
    }
    for name in given.keys() {
        map.remove(name);
    }
    for (name, value) in &given {
        map.append(name.clone(), value.clone());
    }
    Ok(request)
}

async fn exchange(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
    http2: bool,
) -> Result<Response<Incoming>, Failure> {
    let io = TokioIo::new(stream);
    let failed = |error: hyper::Error| failure(&error);
    if http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(LocalExecutor, io)
            .await
            .map_err(failed)?;
        tokio::task::spawn_local(connection);
        sender.send_request(request).await.map_err(failed)
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
        tokio::task::spawn_local(connection);
        sender.send_request(request).await.map_err(failed)
    }
}

/// What hyper's error was at bottom.
fn failure(error: &hyper::Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = cause {
        if let Some(io) = at.downcast_ref::<std::io::Error>() {
            return Failure::of(io, "exchanging HTTP");
        }
        cause = at.source();
    }
    let outcome = if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        Outcome::ConnectionClosed
    } else {
        Outcome::ProtocolError
    };
    Failure {
        outcome,
        words: error.to_string(),
    }
}
