//! Heads from bytes.

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::body::Framing;
use crate::http::head::{RequestHead, ResponseHead};

/// The longest head of a request (`HttpConnectionManager.max_request_headers_kb`).
const LONGEST_HEAD: usize = 60 * 1024;
/// The longest head of a response.
const LONGEST_ANSWER: usize = 1024 * 1024;
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
const CHARACTERS: Malformed = malformed(StatusCode::BAD_REQUEST, "http1.invalid_characters");
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
const BAD_AUTHORITY: Malformed = malformed(StatusCode::BAD_REQUEST, "http.invalid_authority");

/// Methods that Envoy's codec takes (`Http1ProtocolOptions.allow_custom_methods` is off).
const METHODS: [&str; 34] = [
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "M-SEARCH",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

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
    let (first, lines) = first_line(&bytes);
    let (method, target) = request_line(first)?;
    if bytes.iter().any(|byte| is_control(*byte)) {
        return Err(CHARACTERS);
    }
    let (headers, hosts) = headers(&bytes, lines)?;
    let (path, authority) = target_parts(&method, target)?;
    let authority = match (authority, hosts) {
        (Some(authority), _) => Some(authority),
        (None, Some(host)) => Some(String::from_utf8(host).map_err(|_error| BAD_AUTHORITY)?),
        (None, None) => None,
    };
    if authority
        .as_deref()
        .is_some_and(|text| !text.bytes().all(is_of_authority))
    {
        return Err(BAD_AUTHORITY);
    }
    let framing = match lengths(&headers) {
        Lengths::None => Framing::None,
        Lengths::Length(length) => Framing::Length(length),
        Lengths::Chunked => Framing::Chunked,
        Lengths::Both => return Err(BOTH_LENGTHS),
        Lengths::UnknownCoding => return Err(UNKNOWN_CODING),
        Lengths::Malformed => return Err(CODEC_ERROR),
    };
    let expects_continue = has_token(&headers, &header::EXPECT, "100-continue");
    let close = has_token(&headers, &header::CONNECTION, "close")
        || has_token(&headers, &HeaderName::from_static("proxy-connection"), "close");
    Ok(Some(Request {
        head: RequestHead {
            method,
            path,
            authority,
            headers,
            http2: false,
        },
        framing,
        close,
        expects_continue,
    }))
}

/// Method and target. Words are parted by blanks, and HTTP/1.1 is the only version.
fn request_line(line: &[u8]) -> Result<(Method, &[u8]), Malformed> {
    let line = line.trim_ascii_end();
    let (method, rest) = split_word(line);
    let (target, version) = split_word(rest);
    let method = std::str::from_utf8(method).map_err(|_error| CODEC_ERROR)?;
    if !METHODS.contains(&method) {
        return Err(CODEC_ERROR);
    }
    let is_absolute = || {
        let colon = target.iter().position(|byte| *byte == b':');
        let scheme = colon.map(|at| target.split_at(at));
        scheme.is_some_and(|(scheme, rest)| {
            !scheme.is_empty() && scheme.iter().all(u8::is_ascii_alphabetic) && rest.starts_with(b"://")
        })
    };
    let is_target = match target.first() {
        None => false,
        Some(b'/' | b'*') => true,
        Some(_) => method == "CONNECT" || is_absolute(),
    };
    // A carriage return would go upstream as it is, where it may end a line.
    if !is_target || target.iter().any(|byte| *byte == b'\r' || *byte >= 0x80) {
        return Err(CODEC_ERROR);
    }
    match version {
        b"HTTP/1.1" => {}
        b"" => return Err(LOW_VERSION),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(LOW_VERSION);
        }
        _ => return Err(CODEC_ERROR),
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_error| CODEC_ERROR)?;
    Ok((method, target))
}

/// The first word of a line, and what follows its blanks.
fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let end = line.iter().position(is_blank).unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    (word, rest.trim_ascii_start())
}

const fn is_control(byte: u8) -> bool {
    matches!(byte, 0..=0x08 | 0x0b | 0x0c | 0x0e..=0x1f | 0x7f)
}

/// `nghttp2_check_authority`, which Envoy asks.
const fn is_of_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'-'
                | b'.'
                | b':'
                | b';'
                | b'='
                | b'@'
                | b'['
                | b']'
                | b'_'
                | b'~'
        )
}

/// An answer that is no HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbage;

/// Takes a response's head out of the buffer; none if it has not come whole. `to_head`: it answers a HEAD request.
pub fn response(buffer: &mut BytesMut, to_head: bool) -> Result<Option<Response>, Garbage> {
    let Some(end) = head_end(buffer) else {
        let looks_right = buffer.iter().zip(b"HTTP/").all(|(byte, wanted)| byte == wanted);
        return if looks_right && buffer.len() <= LONGEST_ANSWER {
            Ok(None)
        } else {
            Err(Garbage)
        };
    };
    let bytes = buffer.split_to(end).freeze();
    let (first, lines) = first_line(&bytes);
    let (version, code) = status_line(first).ok_or(Garbage)?;
    if end > LONGEST_ANSWER || bytes.iter().any(|byte| is_control(*byte)) {
        return Err(Garbage);
    }
    let status = StatusCode::from_u16(code).map_err(|_error| Garbage)?;
    let (mut headers, _hosts) = headers(&bytes, lines).map_err(|_malformed| Garbage)?;
    if code == 204 {
        // It has no body, and says nothing of its length (RFC 9110 8.6).
        match lengths(&headers) {
            Lengths::None | Lengths::Length(0) => drop(headers.remove(header::CONTENT_LENGTH)),
            Lengths::Length(_)
            | Lengths::Chunked
            | Lengths::Both
            | Lengths::UnknownCoding
            | Lengths::Malformed => return Err(Garbage),
        }
    }
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

/// Minor version and status.
fn status_line(line: &[u8]) -> Option<(u8, u16)> {
    let (version, rest) = split_word(line);
    let [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] = version else {
        return None;
    };
    let (code, _reason) = split_word(rest);
    let digits = [*major, *minor].into_iter().chain(code.iter().copied());
    if code.len() != 3 || !digits.into_iter().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let code = std::str::from_utf8(code).ok()?.parse().ok()?;
    // Whatever is not HTTP/1.0 is taken for HTTP/1.1, as Envoy does.
    let version = u8::from(version != b"HTTP/1.0");
    Some((version, code))
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

/// An error that shows in the first line is told at once.
fn begins_well(buffer: &[u8]) -> Result<(), Malformed> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if buffer.first().is_some_and(|byte| !is_token(*byte)) {
        return Err(CODEC_ERROR);
    }
    match memchr::memchr(b'\n', buffer) {
        None => Ok(()),
        Some(end) => request_line(&buffer[..end]).map(drop),
    }
}

/// The lines of a head behind its first, without their ends. A line that begins with a blank goes on with the one before
/// it.
struct Lines<'a>(&'a [u8]);

/// The first line of a head, and what follows it. It never goes on in the next.
fn first_line(head: &[u8]) -> (&[u8], Lines<'_>) {
    let end = memchr::memchr(b'\n', head).map_or(head.len(), |end| end + 1);
    let (line, rest) = head.split_at(end);
    (without_end(line), Lines(rest))
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut end = memchr::memchr(b'\n', self.0)?;
        while matches!(self.0.get(end + 1), Some(b' ' | b'\t')) && end > 1 {
            end += 1 + memchr::memchr(b'\n', &self.0[end + 1..])?;
        }
        let (line, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// Headers, and the values of `Host` joined by commas.
type HeadersAndHost = (HeaderMap, Option<Vec<u8>>);

/// The headers as slices of the head's own bytes.
fn headers(bytes: &Bytes, lines: Lines<'_>) -> Result<HeadersAndHost, Malformed> {
    let mut headers = HeaderMap::with_capacity(16);
    let mut hosts: Option<Vec<u8>> = None;
    for (index, line) in lines.take_while(|line| !line.is_empty()).enumerate() {
        if index == MOST_HEADERS {
            return Err(TOO_MANY);
        }
        let colon = memchr::memchr(b':', line).ok_or(CODEC_ERROR)?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_error| CODEC_ERROR)?;
        let value = line[colon + 1..].trim_ascii();
        let value = if value.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            // Folded lines, and carriage returns by themselves: they are left out, the blanks behind them are not.
            let kept = value
                .iter()
                .copied()
                .filter(|byte| !matches!(byte, b'\r' | b'\n'));
            kept.collect()
        } else {
            bytes.slice_ref(value)
        };
        if name == header::HOST {
            match &mut hosts {
                Some(hosts) => {
                    hosts.push(b',');
                    hosts.extend_from_slice(&value);
                }
                None => hosts = Some(value.to_vec()),
            }
            continue;
        }
        headers.append(
            name,
            HeaderValue::from_maybe_shared(value).map_err(|_error| CODEC_ERROR)?,
        );
    }
    Ok((headers, hosts))
}

/// Path and authority of a request target (RFC 9112 3.2).
fn target_parts(method: &Method, target: &[u8]) -> Result<(String, Option<String>), Malformed> {
    let target = std::str::from_utf8(target).map_err(|_error| CODEC_ERROR)?;
    if *method == Method::CONNECT {
        return if target.starts_with('/') {
            Err(BAD_URL)
        } else {
            Ok((String::new(), Some(target.to_owned())))
        };
    }
    if target.starts_with('/') || (target == "*" && *method == Method::OPTIONS) {
        return Ok((target.to_owned(), None));
    }
    let after_scheme = ["http://", "https://"].iter().find_map(|scheme| {
        let is_of = target.get(..scheme.len())?.eq_ignore_ascii_case(scheme);
        is_of.then(|| &target[scheme.len()..])
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
        refused("GET x HTTP/1.1\r\nHost: h\r\n\r\n", CODEC_ERROR);
        refused("GET * HTTP/1.1\r\nHost: h\r\n\r\n", BAD_URL);
        refused("GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n", BAD_URL);
        refused("CONNECT /x HTTP/1.1\r\nHost: h\r\n\r\n", BAD_URL);
    }

    #[test]
    fn what_is_malformed_is_told_apart() {
        refused("\u{1}\r\n", CODEC_ERROR);
        refused("this is not HTTP\r\n", CODEC_ERROR);
        refused("FROB / HTTP/1.1\r\n", CODEC_ERROR);
        refused("GET HTTP/1.1\r\n", CODEC_ERROR);
        refused("GET /a b HTTP/1.1\r\n", CODEC_ERROR);
        refused("GET / http/1.1\r\n", CODEC_ERROR);
        for line in ["GET /", "GET / HTTP/1.0", "GET / HTTP/1.2", "GET / HTTP/3.7"] {
            refused(&format!("{line}\r\n"), LOW_VERSION);
        }
        // The first line does not go on in the next, or a line break would be a part of the path.
        refused("GET /\r\n HTTP/1.1\r\nHost: a\r\n\r\n", LOW_VERSION);
        refused("GET http://a\r\n\tHTTP/1.1\r\nHost: a\r\n\r\n", LOW_VERSION);
        refused("GET / HTTP/1.1\r\n x: y\r\nHost: a\r\n\r\n", CODEC_ERROR);
        refused("GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n", CODEC_ERROR);
        refused("GET / HTTP/1.1\r\nx: a\u{0}b\r\n\r\n", CHARACTERS);
        refused("GET / HTTP/1.1\r\nx: a\u{7f}b\r\n\r\n", CHARACTERS);
        refused("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", BAD_AUTHORITY);
        for line in ["x", ": y", "x : y", "x(y): z", " x: y"] {
            refused(&format!("GET / HTTP/1.1\r\n{line}\r\n\r\n"), CODEC_ERROR);
        }
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

    /// As Envoy was seen to read them.
    #[test]
    fn some_things_are_read_with_patience() {
        let head = |text: &str| parse(text).unwrap().unwrap().head;
        for line in ["GET  / HTTP/1.1", "GET\t/ HTTP/1.1", "GET / HTTP/1.1 "] {
            assert_eq!(head(&format!("{line}\r\nHost: a\r\n\r\n")).path, "/", "{line}");
        }
        assert_eq!(
            head("GET / HTTP/1.1\nHost: a\n\n").authority.as_deref(),
            Some("a")
        );
        assert_eq!(
            head("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
                .authority
                .as_deref(),
            Some("a,b")
        );
        assert_eq!(
            head("GET / HTTP/1.1\r\nHost:\r\n\r\n").authority.as_deref(),
            Some("")
        );
        let value = |text: &str| head(&format!("GET / HTTP/1.1\r\nx: {text}\r\n\r\n")).headers["x"].clone();
        assert_eq!(value("b\r\n c"), "b c");
        assert_eq!(value("b\r\n\tc"), "b\tc");
        assert_eq!(value("b\rc"), "bc");
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
        assert_eq!(framing("HTTP/1.1 200 OK\r\n x: y\r\n\r\n", false), Err(Garbage));
    }
}
