//! Answers of the proxy's own, in the form that Envoy gives them.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::client::{Client, Gone};
use super::h1::body::Framing;
use super::h1::encode;
use super::head::ResponseHead;
use super::headers;
use super::request_body::Piece;
use super::stream_info::StreamInfo;
use crate::config::listener::HttpConfig;

/// What the request says of the form of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    is_head: bool,
    is_grpc: bool,
}

impl Asked {
    /// By a request with this head.
    pub(super) fn by(method: &Method, headers: &HeaderMap) -> Self {
        Self {
            is_head: *method == Method::HEAD,
            is_grpc: is_grpc(headers),
        }
    }

    /// By something that is no request.
    pub(super) const fn by_nothing() -> Self {
        Self {
            is_head: false,
            is_grpc: false,
        }
    }
}

/// Sends an answer of the proxy's own.
pub(super) async fn send(
    config: &HttpConfig,
    asked: Asked,
    status: StatusCode,
    body: &str,
    info: &mut StreamInfo,
    client: &mut Client<'_>,
) -> Result<(), Gone> {
    let (head, body) = if asked.is_grpc {
        (grpc(config, status, body), "")
    } else {
        (plain(config, status, body), body)
    };
    info.status = head.status.as_u16();
    let has_body = !body.is_empty() && !asked.is_head;
    let framing = if has_body {
        Framing::Length(u64::try_from(body.len()).unwrap_or(0))
    } else {
        Framing::None
    };
    client.push_head(&head, framing);
    info.response_headers = head.headers;
    if has_body {
        info.sent = u64::try_from(body.len()).unwrap_or(0);
        client
            .push(Piece::Data(Bytes::copy_from_slice(body.as_bytes())))
            .await?;
    }
    client.finish().await
}

fn plain(config: &HttpConfig, status: StatusCode, body: &str) -> ResponseHead {
    let mut headers = HeaderMap::new();
    if !body.is_empty() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    headers.insert(header::DATE, encode::date());
    headers::own_server(config, &mut headers);
    ResponseHead { status, headers }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| {
        let rest = kind.strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
    })
}

/// The status of an HTTP answer in gRPC's terms (`http-grpc-status-mapping.md` of gRPC).
const fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

fn grpc(config: &HttpConfig, status: StatusCode, body: &str) -> ResponseHead {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let name = HeaderName::from_static("grpc-status");
    headers.insert(name, HeaderValue::from_static(grpc_status(status)));
    if let Some(message) = Some(percent(body))
        .filter(|it| !it.is_empty())
        .and_then(|it| HeaderValue::try_from(it).ok())
    {
        headers.insert(HeaderName::from_static("grpc-message"), message);
    }
    headers.insert(header::DATE, encode::date());
    headers::own_server(config, &mut headers);
    ResponseHead {
        status: StatusCode::OK,
        headers,
    }
}

/// Percent-encoding of a status message (gRPC over HTTP/2, "Status-Message").
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'%' | 0..=0x1f | 0x7f.. => format!("%{byte:02X}"),
            plain => char::from(plain).to_string(),
        })
        .collect()
}
