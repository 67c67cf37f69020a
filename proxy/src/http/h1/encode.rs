//! Heads and chunks to bytes.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, BytesMut};
use http::header::{self, HeaderMap, HeaderName};

use super::body::Framing;
use crate::http::head::{RequestHead, ResponseHead};

/// The end of a body in chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n";
const NO_LENGTH: &[u8] = b"content-length: 0\r\n";

fn line(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    out.reserve(name.as_str().len() + value.len() + 4);
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// All headers but those that say how the body ends: these are said by [`framing_lines`].
fn lines(out: &mut BytesMut, headers: &HeaderMap, framing: Framing) {
    for (name, value) in headers {
        if *name == header::TRANSFER_ENCODING
            || (*name == header::CONTENT_LENGTH && framing == Framing::Chunked)
        {
            continue;
        }
        line(out, name, value.as_bytes());
    }
}

/// `silent`: what a message without a body says of that.
fn framing_lines(out: &mut BytesMut, headers: &HeaderMap, framing: Framing, silent: &[u8]) {
    match framing {
        Framing::Chunked => out.put_slice(CHUNKED),
        Framing::None if !headers.contains_key(header::CONTENT_LENGTH) => out.put_slice(silent),
        Framing::None | Framing::Length(_) | Framing::UntilClose => {}
    }
}

/// A request as it goes upstream.
pub fn request(out: &mut BytesMut, head: &RequestHead, framing: Framing) {
    out.reserve(512);
    out.put_slice(head.method.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(head.path.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    if let Some(authority) = &head.authority {
        line(out, &header::HOST, authority.as_bytes());
    }
    lines(out, &head.headers, framing);
    let may_have_a_body = !matches!(head.method.as_str(), "GET" | "HEAD" | "CONNECT" | "TRACE");
    framing_lines(
        out,
        &head.headers,
        framing,
        if may_have_a_body { NO_LENGTH } else { b"" },
    );
    out.put_slice(b"\r\n");
}

/// A response as it goes to the client. `to_head`: it answers a HEAD request.
pub fn response(out: &mut BytesMut, head: &ResponseHead, framing: Framing, to_head: bool, close: bool) {
    out.reserve(512);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(head.status.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    lines(out, &head.headers, framing);
    if close {
        out.put_slice(b"connection: close\r\n");
    }
    // An answer to HEAD whose length is not known says what a body would be like.
    let silent: &[u8] = if head.status.is_informational() || matches!(head.status.as_u16(), 204 | 304) {
        b""
    } else if to_head {
        CHUNKED
    } else {
        NO_LENGTH
    };
    framing_lines(out, &head.headers, framing, silent);
    out.put_slice(b"\r\n");
}

/// The first line of a chunk.
pub fn chunk_head(out: &mut BytesMut, length: usize) {
    // A BytesMut takes every write.
    write!(out.writer(), "{length:x}\r\n").unwrap_or_default();
}

/// The date of this second, as `Date` has it (RFC 9110 5.6.7).
pub fn date() -> header::HeaderValue {
    thread_local! {
        static NOW: std::cell::RefCell<(u64, header::HeaderValue)> =
            const { std::cell::RefCell::new((0, header::HeaderValue::from_static(""))) };
    }
    let second = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    NOW.with_borrow_mut(|(of, text)| {
        if *of != second {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + std::time::Duration::from_secs(second));
            if let Ok(value) = header::HeaderValue::from_str(&date) {
                (*of, *text) = (second, value);
            }
        }
        text.clone()
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method, StatusCode};

    use super::*;

    #[test]
    fn a_message_says_how_its_body_ends() {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("1"));
        let head = RequestHead {
            method: Method::POST,
            path: "/".into(),
            authority: Some("a".into()),
            headers: headers.clone(),
            http2: false,
        };
        let text = |framing| {
            let mut out = BytesMut::new();
            request(&mut out, &head, framing);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(
            text(Framing::Chunked),
            "POST / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert_eq!(
            text(Framing::None),
            "POST / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\ncontent-length: 0\r\n\r\n"
        );
        let head = ResponseHead {
            status: StatusCode::NO_CONTENT,
            headers,
        };
        let mut out = BytesMut::new();
        response(&mut out, &head, Framing::None, false, true);
        assert_eq!(
            &out[..],
            b"HTTP/1.1 204 No Content\r\nx-a: 1\r\nconnection: close\r\n\r\n"
        );
    }
}
