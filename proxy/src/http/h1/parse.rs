//! Heads from bytes.

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::body::Framing;
use crate::http::head::{RequestHead, ResponseHead};

/// The longest head of a request (`HttpConnectionManager.max_request_headers_kb`).
const LONGEST_HEAD: usize = 60 * 1024;
/// The most headers of a message (`HttpProtocolOptions.max_headers_count`).
const MOST_HEADERS: usize = 100;

/// A request that is answered without being read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// The status of the answer.
    pub status: StatusCode,
    /// Response code details.
    pub details: &'static str,
}

/// Envoy's words for bytes that its codec does not take.
pub const CODEC_ERROR: Malformed = malformed(StatusCode::BAD_REQUEST, "http1.codec_error");
const TOO_LARGE: Malformed = malformed(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "http1.headers_too_large",
);
const TOO_MANY: Malformed = malformed(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "http1.too_many_headers",
);
const LOW_VERSION: Malformed = malformed(StatusCode::UPGRADE_REQUIRED, "low_version");
const BOTH_LENGTHS: Malformed = malformed(
    StatusCode::BAD_REQUEST,
    "http1.content_length_and_chunked_not_allowed",
);
const UNKNOWN_CODING: Malformed = malformed(StatusCode::NOT_IMPLEMENTED, "http1.invalid_transfer_encoding");
const BAD_URL: Malformed = malformed(StatusCode::BAD_REQUEST, "http1.invalid_url");

const fn malformed(status: StatusCode, details: &'static str) -> Malformed {
    Malformed { status, details }
}

/// A request whose head has come whole.
#[derive(Debug)]
pub struct Request {
    /// The head.
    pub head: RequestHead,
    /// How its body ends.
    pub framing: Framing,
    /// The client wants the connection closed after it.
    pub close: bool,
    /// The client waits for a 100 before it sends the body.
    pub expects_continue: bool,
}

/// A response whose head has come whole.
#[derive(Debug)]
pub struct Response {
    /// The head.
    pub head: ResponseHead,
    /// How its body ends.
    pub framing: Framing,
    /// The connection cannot be ridden again.
    pub close: bool,
}

/// Takes a request's head out of the buffer; none if it has not come whole.
pub fn request(buffer: &mut BytesMut) -> Result<Option<Request>, Malformed> {
    skip_blank_lines(buffer);
    let Some(end) = head_end(buffer) else {
        return if buffer.len() > LONGEST_HEAD {
            Err(TOO_LARGE)
        } else {
            begins_well(buffer).map(|()| None)
        };
    };
    if end > LONGEST_HEAD {
        return Err(TOO_LARGE);
    }
    let bytes = buffer.split_to(end).freeze();
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(&bytes, &mut slots) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_MANY),
        Ok(httparse::Status::Partial) | Err(_) => return Err(CODEC_ERROR),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(CODEC_ERROR);
    };
    if version == 0 {
        return Err(LOW_VERSION);
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_error| CODEC_ERROR)?;
    let mut headers = headers(&bytes, parsed.headers).ok_or(CODEC_ERROR)?;
    let (path, authority) = target_parts(&method, target)?;
    let host = host(&mut headers)?;
    let framing = match lengths(&headers) {
        Lengths::None => Framing::None,
        Lengths::Length(length) => Framing::Length(length),
        Lengths::Chunked => Framing::Chunked,
        Lengths::Both => return Err(BOTH_LENGTHS),
        Lengths::UnknownCoding => return Err(UNKNOWN_CODING),
        Lengths::Malformed => return Err(CODEC_ERROR),
    };
    let expects_continue = has_token(&headers, &header::EXPECT, "100-continue");
    let close = has_token(&headers, &header::CONNECTION, "close");
    Ok(Some(Request {
        head: RequestHead {
            method,
            path,
            authority: authority.or(host).filter(|authority| !authority.is_empty()),
            headers,
            http2: false,
        },
        framing,
        close,
        expects_continue,
    }))
}

/// An answer that is no HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbage;

/// Takes a response's head out of the buffer; none if it has not come whole. `to_head`: it answers a HEAD request.
pub fn response(buffer: &mut BytesMut, to_head: bool) -> Result<Option<Response>, Garbage> {
    let Some(end) = head_end(buffer) else {
        let looks_right = buffer.iter().zip(b"HTTP/1.").all(|(byte, wanted)| byte == wanted);
        return if looks_right && buffer.len() <= LONGEST_HEAD {
            Ok(None)
        } else {
            Err(Garbage)
        };
    };
    let bytes = buffer.split_to(end).freeze();
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let whole =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, &bytes, &mut slots);
    if !matches!(whole, Ok(httparse::Status::Complete(_))) {
        return Err(Garbage);
    }
    let (Some(code), Some(version)) = (parsed.code, parsed.version) else {
        return Err(Garbage);
    };
    let status = StatusCode::from_u16(code).map_err(|_error| Garbage)?;
    let headers = headers(&bytes, parsed.headers).ok_or(Garbage)?;
    let has_none = to_head || status.is_informational() || matches!(code, 204 | 304);
    let framing = match lengths(&headers) {
        Lengths::Both | Lengths::UnknownCoding | Lengths::Malformed => return Err(Garbage),
        _ if has_none => Framing::None,
        Lengths::None => Framing::UntilClose,
        Lengths::Length(length) => Framing::Length(length),
        Lengths::Chunked => Framing::Chunked,
    };
    let close = has_token(&headers, &header::CONNECTION, "close")
        || framing == Framing::UntilClose
        || (version == 0 && !has_token(&headers, &header::CONNECTION, "keep-alive"));
    Ok(Some(Response {
        head: ResponseHead { status, headers },
        framing,
        close,
    }))
}

/// Empty lines before a request are nothing (RFC 9112 2.2).
fn skip_blank_lines(buffer: &mut BytesMut) {
    let blank = buffer
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    buffer.advance(blank);
}

/// Behind the empty line that ends a head.
fn head_end(buffer: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', buffer).find_map(|at| match buffer.get(at + 1..)? {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// An error that shows before the head has come whole is told at once.
fn begins_well(buffer: &[u8]) -> Result<(), Malformed> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if buffer.first().is_some_and(|byte| !is_token(*byte)) {
        return Err(CODEC_ERROR);
    }
    if memchr::memchr(b'\n', buffer).is_none() {
        return Ok(());
    }
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(buffer, &mut slots) {
        Ok(_) => Ok(()),
        Err(httparse::Error::TooManyHeaders) => Err(TOO_MANY),
        Err(_) => Err(CODEC_ERROR),
    }
}

/// The headers as slices of the head's own bytes.
fn headers(bytes: &Bytes, parsed: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        let value = bytes.slice_ref(header.value);
        headers.append(name, HeaderValue::from_maybe_shared(value).ok()?);
    }
    Some(headers)
}

/// Path and authority of a request target (RFC 9112 3.2).
fn target_parts(method: &Method, target: &str) -> Result<(String, Option<String>), Malformed> {
    if *method == Method::CONNECT {
        return Ok((String::new(), Some(target.to_owned())));
    }
    if target.starts_with('/') || (target == "*" && *method == Method::OPTIONS) {
        return Ok((target.to_owned(), None));
    }
    let after_scheme = ["http://", "https://"].iter().find_map(|scheme| {
        target
            .get(..scheme.len())?
            .eq_ignore_ascii_case(scheme)
            .then(|| &target[scheme.len()..])
    });
    let rest = after_scheme.ok_or(BAD_URL)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        return Err(BAD_URL);
    }
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    Ok((path, Some(authority.to_owned())))
}

/// Takes the `Host` header out; several are an error.
fn host(headers: &mut HeaderMap) -> Result<Option<String>, Malformed> {
    let mut values = headers.get_all(header::HOST).iter();
    let (first, second) = (values.next(), values.next());
    let host = match (first, second) {
        (None, _) => return Ok(None),
        (Some(_), Some(_)) => return Err(CODEC_ERROR),
        (Some(host), None) => host.to_str().map_err(|_error| CODEC_ERROR)?.to_owned(),
    };
    headers.remove(header::HOST);
    Ok(Some(host))
}

enum Lengths {
    None,
    Length(u64),
    Chunked,
    Both,
    UnknownCoding,
    Malformed,
}

fn lengths(headers: &HeaderMap) -> Lengths {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (None, None) => Lengths::None,
        (Some(_), Some(_)) => Lengths::Both,
        (Some(coding), None) => {
            if coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none() {
                Lengths::Chunked
            } else {
                Lengths::UnknownCoding
            }
        }
        (None, Some(length)) => {
            let digits = length.as_bytes();
            let number = std::str::from_utf8(digits)
                .ok()
                .and_then(|text| text.parse().ok());
            match number {
                Some(number) if digits.iter().all(u8::is_ascii_digit) && lengths.next().is_none() => {
                    Lengths::Length(number)
                }
                _ => Lengths::Malformed,
            }
        }
    }
}

/// True if a header that holds a list has this word, in any case.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let mut words = value.as_bytes().split(|byte| *byte == b',');
        words.any(|it| it.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Request>, Malformed> {
        request(&mut BytesMut::from(text))
    }

    #[track_caller]
    fn refused(text: &str, wanted: Malformed) {
        assert_eq!(parse(text).map(|it| it.is_some()), Err(wanted), "{text}");
    }

    #[test]
    fn a_head_is_taken_out_whole() {
        let mut buffer = BytesMut::from(
            "\r\nPOST /a?b HTTP/1.1\r\nHost: H:80\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 3\r\n\r\nabc",
        );
        let parsed = request(&mut buffer).unwrap().unwrap();
        assert_eq!(
            (parsed.head.method.as_str(), parsed.head.path.as_str()),
            ("POST", "/a?b")
        );
        assert_eq!(parsed.head.authority.as_deref(), Some("H:80"));
        assert_eq!(parsed.head.headers.get_all("x-a").iter().count(), 2);
        assert_eq!((parsed.framing, parsed.close), (Framing::Length(3), false));
        assert_eq!(&buffer[..], b"abc");
    }

    #[test]
    fn a_head_may_come_in_parts() {
        for text in [
            "",
            "GET",
            "GET / HTTP/1.1\r\nhost: a\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\r",
        ] {
            assert!(matches!(parse(text), Ok(None)), "{text}");
        }
    }

    #[test]
    fn targets_have_four_forms() {
        let target = |line: &str| {
            let head = parse(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n"))
                .unwrap()
                .unwrap()
                .head;
            (head.path, head.authority.unwrap_or_default())
        };
        assert_eq!(target("GET http://a:1/x?y"), ("/x?y".into(), "a:1".into()));
        assert_eq!(target("GET http://a?y"), ("/?y".into(), "a".into()));
        assert_eq!(target("OPTIONS *"), ("*".into(), "h".into()));
        assert_eq!(target("CONNECT a:443"), (String::new(), "a:443".into()));
        refused("GET x HTTP/1.1\r\nHost: h\r\n\r\n", BAD_URL);
    }

    #[test]
    fn what_is_malformed_is_told_apart() {
        refused("\u{1}\r\n", CODEC_ERROR);
        refused("hello world\r\n", CODEC_ERROR);
        refused("GET / HTTP/1.0\r\n\r\n", LOW_VERSION);
        refused(
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            BOTH_LENGTHS,
        );
        refused(
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            UNKNOWN_CODING,
        );
        refused(
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\n",
            CODEC_ERROR,
        );
        refused(
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            CODEC_ERROR,
        );
        refused(
            &format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(LONGEST_HEAD)),
            TOO_LARGE,
        );
        refused(
            &format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(MOST_HEADERS + 1)),
            TOO_MANY,
        );
    }

    #[test]
    fn responses_end_as_rfc_9112_has_it() {
        let framing = |text: &str, to_head| {
            response(&mut BytesMut::from(text), to_head).map(|it| it.map(|it| (it.framing, it.close)))
        };
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", false),
            Ok(Some((Framing::Length(5), false)))
        );
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true),
            Ok(Some((Framing::None, false)))
        );
        assert_eq!(
            framing("HTTP/1.1 204 No Content\r\n\r\n", false),
            Ok(Some((Framing::None, false)))
        );
        assert_eq!(
            framing("HTTP/1.1 200\r\n\r\n", false),
            Ok(Some((Framing::UntilClose, true)))
        );
        assert_eq!(
            framing("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", false),
            Ok(Some((Framing::Length(0), true)))
        );
        assert_eq!(
            framing(
                "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n",
                false
            ),
            Ok(Some((Framing::Length(0), true)))
        );
        assert_eq!(framing("HTTP/1.1 2", false), Ok(None));
        assert_eq!(framing("this is not HTTP", false), Err(Garbage));
    }
}
