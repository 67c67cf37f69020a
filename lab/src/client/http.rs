//! One HTTP request on a connection of its own.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, Uri, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use proxy::http::LocalExecutor;
use tokio::net::TcpStream;

use super::connect::{self, Attempts};
use super::content::pattern;
use super::wire::{self, Answer, Failure, Outcome};

/// A body as it is sent: data, then trailers.
pub struct Outgoing {
    blocks: Box<dyn Iterator<Item = Bytes> + Send>,
    /// What is left of its length, if that is told.
    left: Option<u64>,
    trailers: Option<HeaderMap>,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Outgoing {
    /// These bytes, with their length.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            left: Some(bytes.len() as u64),
            blocks: Box::new((!bytes.is_empty()).then_some(bytes).into_iter()),
            trailers: None,
        }
    }

    /// So many bytes of the pattern.
    pub fn pattern(length: u64) -> Self {
        Self {
            left: Some(length),
            blocks: Box::new(pattern(length)),
            trailers: None,
        }
    }

    /// The same without a length.
    #[must_use]
    pub fn chunked(self) -> Self {
        Self { left: None, ..self }
    }

    /// The same with trailers; there is no length then.
    #[must_use]
    pub fn followed_by(self, trailers: HeaderMap) -> Self {
        Self {
            left: None,
            trailers: Some(trailers),
            ..self
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(block) = self.blocks.next() {
            self.left = self.left.map(|left| left.saturating_sub(block.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(block))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
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
    body: &wire::Body,
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
    answer.headers = told(response.headers());
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failure(&error))?;
        if let Some(bytes) = frame.data_ref() {
            answer.body.push(bytes);
        }
        if let Some(trailers) = frame.trailers_ref() {
            answer.trailers = told(trailers);
        }
    }
    Ok(())
}

fn told(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}

fn request(
    method: &str,
    uri: &Uri,
    authority: &str,
    headers: &[(String, String)],
    body: &wire::Body,
    http2: bool,
) -> Result<Request<Outgoing>, Failure> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut builder = Request::builder().method(method);
    builder = if http2 {
        builder.version(Version::HTTP_2).uri(uri.clone())
    } else {
        builder.uri(path)
    };
    let mut outgoing = match (&body.text, body.generated) {
        (Some(text), _) => Outgoing::bytes(text.clone()),
        (None, Some(length)) => Outgoing::pattern(length),
        (None, None) => Outgoing::bytes(Bytes::new()),
    };
    if body.chunked {
        outgoing = outgoing.chunked();
    }
    let trailers = header_map(&body.trailers)?;
    let announced: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    let announced = HeaderValue::from_str(&announced.join(", ")).map_err(|error| wrong(error.to_string()))?;
    if !trailers.is_empty() {
        outgoing = outgoing.followed_by(trailers);
    }
    let mut request = builder.body(outgoing).map_err(|error| wrong(error.to_string()))?;
    let map = request.headers_mut();
    if !http2 {
        let host = HeaderValue::from_str(authority).map_err(|error| wrong(error.to_string()))?;
        map.insert(header::HOST, host);
    }
    map.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("lab/", env!("CARGO_PKG_VERSION"))),
    );
    if !announced.is_empty() {
        // HTTP/1 sends only trailers that were announced.
        map.insert(header::TRAILER, announced);
    }
    let given = header_map(headers)?;
    for name in given.keys() {
        map.remove(name);
    }
    for (name, value) in &given {
        map.append(name.clone(), value.clone());
    }
    Ok(request)
}

fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, Failure> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name
            .parse()
            .map_err(|_error| wrong(format!("`{name}` is not a header's name")))?;
        let value = HeaderValue::from_str(value)
            .map_err(|_error| wrong(format!("`{value}` is not a header's value")))?;
        map.append(name, value);
    }
    Ok(map)
}

async fn exchange(
    stream: TcpStream,
    request: Request<Outgoing>,
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
    // Whether the end came before or after the request had gone is the client's own timing.
    let words = if error.is_canceled() {
        "connection closed before message completed".to_owned()
    } else {
        error.to_string()
    };
    Failure { outcome, words }
}
