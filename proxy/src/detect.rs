//! What a client speaks, from its first bytes: TLS, HTTP/1, HTTP/2, or something else.

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Too few bytes to say.
    More,
    /// A TLS handshake record (RFC 8446 5.1).
    Tls,
    /// HTTP, in this version, as Envoy's `http_inspector` names it.
    Http(&'static str),
    /// Neither.
    Other,
}

/// The HTTP/2 connection preface (RFC 9113 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest request line that is waited for; Envoy's inspector reads up to 64 KiB.
const LONGEST: usize = 64 * 1024;
/// The longest method that is waited for.
const LONGEST_METHOD: usize = 32;

/// Looks at the first bytes of a connection.
pub fn look(bytes: &[u8], for_tls: bool, for_http: bool) -> Seen {
    let Some(first) = bytes.first() else {
        return Seen::More;
    };
    if for_tls && *first == 0x16 {
        return match bytes.get(1) {
            None => Seen::More,
            Some(3) => Seen::Tls,
            Some(_) => Seen::Other,
        };
    }
    if !for_http {
        return Seen::Other;
    }
    if PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) {
        return if bytes.len() >= PREFACE.len() {
            Seen::Http("h2c")
        } else {
            Seen::More
        };
    }
    request_line(bytes)
}

fn request_line(bytes: &[u8]) -> Seen {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = bytes.iter().take_while(|byte| token(byte)).count();
    match bytes.get(method) {
        _ if method > LONGEST_METHOD => return Seen::Other,
        None => return Seen::More,
        Some(b' ') if method > 0 => {}
        Some(_) => return Seen::Other,
    }
    let Some(end) = bytes.iter().take(LONGEST).position(|byte| *byte == b'\n') else {
        return if bytes.len() >= LONGEST {
            Seen::Other
        } else {
            Seen::More
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    if line.ends_with(b" HTTP/1.1") {
        Seen::Http("http/1.1")
    } else if line.ends_with(b" HTTP/1.0") {
        Seen::Http("http/1.0")
    } else {
        Seen::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], wanted: Seen) {
        assert_eq!(
            look(bytes, true, true),
            wanted,
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }

    #[test]
    fn first_bytes_tell() {
        check(b"", Seen::More);
        check(b"GE", Seen::More);
        check(b"GET / HTTP/1.1\r", Seen::More);
        check(b"GET / HTTP/1.1\r\nHost: x", Seen::Http("http/1.1"));
        check(b"GET / HTTP/1.0\r\n", Seen::Http("http/1.0"));
        check(b"PRI * HTT", Seen::More);
        check(PREFACE, Seen::Http("h2c"));
        check(b"PROPFIND /x HTTP/1.1\r\n", Seen::Http("http/1.1"));
        check(&[0x16], Seen::More);
        check(&[0x16, 3, 1], Seen::Tls);
        check(&[0x16, 9], Seen::Other);
        check(b"hello world\r\n", Seen::Other);
        check(b"\0\0", Seen::Other);
    }

    /// However the bytes arrive.
    #[test]
    fn more_bytes_change_nothing_that_was_seen() {
        let method = "M".repeat(LONGEST_METHOD + 1);
        check(&method.as_bytes()[1..], Seen::More);
        check(method.as_bytes(), Seen::Other);
        check(format!("{method} / HTTP/1.1\r\n").as_bytes(), Seen::Other);
        let line = format!("GET /{} HTTP/1.1\r\n", "a".repeat(LONGEST));
        check(&line.as_bytes()[..LONGEST - 1], Seen::More);
        check(&line.as_bytes()[..LONGEST], Seen::Other);
        check(line.as_bytes(), Seen::Other);
    }
}
