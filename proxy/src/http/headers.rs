//! What a proxy changes of headers, both ways.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::h1::encode;
use super::h1::parse::has_token;
use crate::config::listener::HttpConfig;

/// Headers that are for one connection alone (RFC 9110 7.6.1).
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The request id that Istio's logs and traces join by.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// What a request asks of its connection's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgrade {
    /// Nothing.
    No,
    /// To change to this one, which passes through.
    To(HeaderValue),
    /// To change to one that does not pass through.
    Refused,
}

/// What a request asks of its connection's protocol.
pub fn upgrade(config: &HttpConfig, headers: &HeaderMap) -> Upgrade {
    let Some(asked) = headers.get(header::UPGRADE) else {
        return Upgrade::No;
    };
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return Upgrade::No;
    }
    let allowed = |it: &String| it.as_bytes().eq_ignore_ascii_case(asked.as_bytes());
    if config.upgrades.iter().any(allowed) {
        Upgrade::To(asked.clone())
    } else {
        Upgrade::Refused
    }
}

/// Takes away what is for one connection alone, also what `Connection` names. What stays keeps its order.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let of_one_connection = |name: &HeaderName| HOP_BY_HOP.contains(name) || *name == header::TE;
    if !headers.keys().any(of_one_connection) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    retain(headers, |name, value| {
        let goes =
            HOP_BY_HOP.contains(name) || named.contains(name) || (*name == header::TE && value != "trailers");
        !goes
    });
}

/// Keeps headers in their order: removing one from the map would put the last in its place.
fn retain(headers: &mut HeaderMap, keep: impl Fn(&HeaderName, &HeaderValue) -> bool) {
    let mut kept = HeaderMap::with_capacity(headers.len());
    let mut current = None;
    for (name, value) in std::mem::take(headers) {
        // The second and later values of a name come without it.
        current = name.or(current);
        if let Some(name) = current.as_ref().filter(|name| keep(name, &value)) {
            kept.append(name.clone(), value);
        }
    }
    *headers = kept;
}

/// Marks a request as it comes in: its id, its scheme.
pub fn on_arrival(config: &HttpConfig, headers: &mut HeaderMap) {
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    let keep = config.preserve_request_id && headers.contains_key(REQUEST_ID);
    if config.generate_request_id && !keep {
        headers.insert(REQUEST_ID, new_id());
    }
}

/// A random UUID, version 4 (RFC 9562 5.4).
fn new_id() -> HeaderValue {
    let random = fastrand::u128(..);
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let text = format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    );
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("00000000-0000-4000-8000-000000000000"))
}

/// What a request is like as it goes upstream; `upgrade` is the protocol that it asks for and that passes through.
pub fn to_upstream(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    if headers.contains_key(header::EXPECT) {
        retain(headers, |name, _| *name != header::EXPECT);
    }
    strip_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
}

/// The request says how often it was tried.
pub fn count_attempt(headers: &mut HeaderMap, attempt: u32) {
    headers.insert(ATTEMPT_COUNT, HeaderValue::from(attempt));
}

/// Unreserved characters need no escape (RFC 3986 6.2.2.2).
fn unescaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let code = after
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte));
                rest = &after[2..];
            }
            _ => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Resolves `.` and `..` (RFC 3986 5.2.4, `HttpConnectionManager.normalize_path`); false if there is no such path.
pub fn normalize(path: &mut String) -> bool {
    if path.contains('#') {
        return false;
    }
    let end = path.find('?').unwrap_or(path.len());
    let (plain, rest) = path.split_at(end);
    if !plain.starts_with('/') {
        return true;
    }
    if !plain.contains(['\\', '%']) && !plain.contains("/.") {
        return true;
    }
    let plain = unescaped(&plain.replace('\\', "/"));
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = plain[1..].split('/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    segments.pop();
                }
                if is_last {
                    segments.push("");
                }
            }
            _ => segments.push(part),
        }
    }
    *path = format!("/{}{rest}", segments.join("/"));
    true
}

/// The response as it goes to the client.
pub fn to_downstream(config: &HttpConfig, headers: &mut HeaderMap, took: Option<Duration>, upgraded: bool) {
    if !upgraded {
        strip_hop_by_hop(headers);
    }
    if let Some(took) = took {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        headers.insert(SERVICE_TIME, HeaderValue::from(millis));
    }
    headers.entry(header::DATE).or_insert_with(encode::date);
    own_server(config, headers);
}

/// The `server` header (`HttpConnectionManager.server_header_transformation` OVERWRITE).
pub fn own_server(config: &HttpConfig, headers: &mut HeaderMap) {
    if let Ok(name) = HeaderValue::from_str(&config.server_name) {
        headers.insert(header::SERVER, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_names_what_else_is_dropped() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-own"),
            ("x-own", "1"),
            ("keep-alive", "5"),
            ("x-kept", "1"),
            ("te", "gzip"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-kept"]
        );
    }

    #[test]
    fn dots_are_resolved() {
        let normal = |path: &str| {
            let mut path = path.to_owned();
            assert!(normalize(&mut path));
            path
        };
        assert_eq!(normal("/a/./b/../c?x=/../y"), "/a/c?x=/../y");
        assert_eq!(normal("/a/%2E%2e/b"), "/b");
        assert_eq!(normal("/../a/.."), "/");
        assert_eq!(normal("/a//b"), "/a//b");
        assert_eq!(normal("*"), "*");
        assert_eq!(normal("/%6eo%2Frm%zz"), "/no%2Frm%zz");
    }

    #[test]
    fn ids_are_uuids_of_version_4() {
        let id = new_id();
        let text = id.to_str().unwrap();
        assert_eq!(text.len(), 36);
        assert_eq!(&text[14..15], "4");
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "{text}");
        assert_ne!(id, new_id());
    }
}
