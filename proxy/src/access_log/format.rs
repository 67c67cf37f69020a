//! Access-log formats: Envoy's command operators, as text or as JSON.

use std::cell::RefCell;
use std::io::Write as _;
use std::rc::{Rc, Weak};
use std::time::UNIX_EPOCH;

use envoy_types::pb::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string};
use envoy_types::pb::google::protobuf::{Struct, Value as ProtoValue, value};
use serde_json::json;

use super::Record;

/// A format.
#[derive(Debug, Clone)]
pub struct Format(Shape);

#[derive(Debug, Clone)]
enum Shape {
    Text(Vec<Part>),
    Json(Vec<(String, Node)>),
}

#[derive(Debug, Clone)]
enum Node {
    Parts(Vec<Part>),
    Object(Vec<(String, Node)>),
    Constant(serde_json::Value),
}

#[derive(Debug, Clone)]
enum Part {
    Literal(String),
    Operator(Operator),
}

/// A command operator.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    StartTime,
    /// Header, alternative, longest.
    Request(String, Option<String>, Option<usize>),
    Response(String, Option<String>, Option<usize>),
    Plain(Plain),
}

macro_rules! plain {
    ($($name:ident $text:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Plain { $($name),* }
        const PLAIN: &[(&str, Plain)] = &[$(($text, Plain::$name)),*];
    };
}

plain! {
    Protocol "PROTOCOL",
    ResponseCode "RESPONSE_CODE",
    ResponseFlags "RESPONSE_FLAGS",
    ResponseCodeDetails "RESPONSE_CODE_DETAILS",
    ConnectionTerminationDetails "CONNECTION_TERMINATION_DETAILS",
    UpstreamTransportFailureReason "UPSTREAM_TRANSPORT_FAILURE_REASON",
    BytesReceived "BYTES_RECEIVED",
    BytesSent "BYTES_SENT",
    Duration "DURATION",
    UpstreamHost "UPSTREAM_HOST",
    UpstreamCluster "UPSTREAM_CLUSTER",
    UpstreamClusterRaw "UPSTREAM_CLUSTER_RAW",
    UpstreamLocalAddress "UPSTREAM_LOCAL_ADDRESS",
    UpstreamConnectionId "UPSTREAM_CONNECTION_ID",
    UpstreamRequestAttemptCount "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    DownstreamLocalAddress "DOWNSTREAM_LOCAL_ADDRESS",
    DownstreamRemoteAddress "DOWNSTREAM_REMOTE_ADDRESS",
    DownstreamDirectRemoteAddress "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    ConnectionId "CONNECTION_ID",
    RequestedServerName "REQUESTED_SERVER_NAME",
    RouteName "ROUTE_NAME",
    FilterChainName "FILTER_CHAIN_NAME",
    VirtualClusterName "VIRTUAL_CLUSTER_NAME",
}

/// What is wrong with a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// An operator that this proxy does not have.
    #[error("access log format: unknown operator `%{0}%`")]
    Unknown(String),
    /// A `%` without its end.
    #[error("access log format: `%` without end in `{0}`")]
    Open(String),
    /// A kind of format that this proxy does not have.
    #[error("access log format: neither text_format, text_format_source.inline_string nor json_format")]
    Kind,
}

thread_local! {
    static IN_USE: RefCell<Vec<(SubstitutionFormatString, Weak<Format>)>> = const { RefCell::new(Vec::new()) };
}

impl Format {
    /// From configuration; one that is in use already is shared. A control plane gives each filter chain the same.
    pub fn shared(proto: &SubstitutionFormatString) -> Result<Rc<Self>, FormatError> {
        IN_USE.with_borrow_mut(|all| {
            all.retain(|(_, format)| format.strong_count() > 0);
            let same = all.iter().find(|(known, _)| known == proto);
            if let Some(format) = same.and_then(|(_, format)| format.upgrade()) {
                return Ok(format);
            }
            let format = Rc::new(Self::from_proto(proto)?);
            all.push((proto.clone(), Rc::downgrade(&format)));
            Ok(format)
        })
    }

    /// From configuration.
    pub fn from_proto(proto: &SubstitutionFormatString) -> Result<Self, FormatError> {
        use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
        let shape = match &proto.format {
            Some(substitution_format_string::Format::JsonFormat(json)) => Shape::Json(object(json)?),
            Some(substitution_format_string::Format::TextFormatSource(source)) => match &source.specifier {
                Some(Specifier::InlineString(text)) => Shape::Text(parts(text)?),
                _ => return Err(FormatError::Kind),
            },
            #[expect(deprecated, reason = "Istio and hand-written configurations still use it")]
            Some(substitution_format_string::Format::TextFormat(text)) => Shape::Text(parts(text)?),
            None => return Err(FormatError::Kind),
        };
        Ok(Self(shape))
    }

    /// Adds one line, with its newline.
    pub(super) fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match &self.0 {
            Shape::Text(parts) => text(parts, record, out),
            Shape::Json(fields) => object_of(fields, record, out),
        }
        if out.last() != Some(&b'\n') {
            out.push(b'\n');
        }
    }
}

fn object(proto: &Struct) -> Result<Vec<(String, Node)>, FormatError> {
    let mut fields: Vec<(String, Node)> = proto
        .fields
        .iter()
        .map(|(name, value)| Ok((name.clone(), node(value)?)))
        .collect::<Result<_, _>>()?;
    // A protobuf map has no order of its own.
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(fields)
}

fn node(proto: &ProtoValue) -> Result<Node, FormatError> {
    Ok(match &proto.kind {
        Some(value::Kind::StringValue(text)) => Node::Parts(parts(text)?),
        Some(value::Kind::StructValue(inner)) => Node::Object(object(inner)?),
        Some(value::Kind::NumberValue(number)) => Node::Constant(json!(number)),
        Some(value::Kind::BoolValue(flag)) => Node::Constant(json!(flag)),
        Some(value::Kind::NullValue(_) | value::Kind::ListValue(_)) | None => {
            Node::Constant(serde_json::Value::Null)
        }
    })
}

fn object_of(fields: &[(String, Node)], record: &Record<'_>, out: &mut Vec<u8>) {
    for (index, (name, node)) in fields.iter().enumerate() {
        out.push(if index == 0 { b'{' } else { b',' });
        json_text(name, out);
        out.push(b':');
        match node {
            // A lone operator keeps its type; what is missing is null.
            Node::Parts(parts) => match parts.as_slice() {
                [Part::Operator(operator)] => value_of(operator, record).write_json(out),
                parts => {
                    let mut plain = Vec::new();
                    text(parts, record, &mut plain);
                    json_text(&String::from_utf8_lossy(&plain), out);
                }
            },
            Node::Object(fields) => object_of(fields, record, out),
            Node::Constant(value) => to_json(value, out),
        }
    }
    if fields.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
}

/// A value that is serialised into memory, which takes every write.
fn to_json(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).unwrap_or_default();
}

fn json_text(text: &str, out: &mut Vec<u8>) {
    let is_plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        to_json(&text, out);
    }
}

fn text(parts: &[Part], record: &Record<'_>, out: &mut Vec<u8>) {
    for part in parts {
        match part {
            Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Part::Operator(operator) => value_of(operator, record).write_text(out),
        }
    }
}

/// What an operator stands for in one record.
enum Value<'a> {
    Missing,
    Text(&'a str),
    Owned(String),
    Number(u64),
    Address(std::net::SocketAddr),
}

impl Value<'_> {
    fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Missing => out.extend_from_slice(b"null"),
            Self::Text(text) => json_text(text, out),
            Self::Owned(text) => json_text(text, out),
            Self::Number(_) => self.write_text(out),
            Self::Address(_) => {
                out.push(b'"');
                self.write_text(out);
                out.push(b'"');
            }
        }
    }

    fn write_text(&self, out: &mut Vec<u8>) {
        // Memory takes every write.
        match self {
            Self::Missing => out.push(b'-'),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Owned(text) => out.extend_from_slice(text.as_bytes()),
            Self::Number(number) => write!(out, "{number}").unwrap_or_default(),
            Self::Address(address) => write!(out, "{address}").unwrap_or_default(),
        }
    }
}

fn parts(text: &str) -> Result<Vec<Part>, FormatError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        if !before.is_empty() {
            parts.push(Part::Literal(before.to_owned()));
        }
        if let Some(after) = after.strip_prefix('%') {
            parts.push(Part::Literal("%".to_owned()));
            rest = after;
            continue;
        }
        let (name, after) = after
            .split_once('%')
            .ok_or_else(|| FormatError::Open(text.to_owned()))?;
        parts.push(Part::Operator(operator(name)?));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

fn operator(text: &str) -> Result<Operator, FormatError> {
    let unknown = || FormatError::Unknown(text.to_owned());
    if let Some((_, plain)) = PLAIN.iter().find(|(name, _)| *name == text) {
        return Ok(Operator::Plain(*plain));
    }
    if text == "START_TIME" {
        return Ok(Operator::StartTime);
    }
    let (name, after) = text.split_once('(').ok_or_else(unknown)?;
    let (headers, length) = after.rsplit_once(')').ok_or_else(unknown)?;
    let length = match length.strip_prefix(':') {
        Some(length) => Some(length.parse().map_err(|_error| unknown())?),
        None if length.is_empty() => None,
        None => return Err(unknown()),
    };
    let (main, other) = match headers.split_once('?') {
        Some((main, other)) => (main, Some(other.to_ascii_lowercase())),
        None => (headers, None),
    };
    let main = main.to_ascii_lowercase();
    match name {
        "REQ" => Ok(Operator::Request(main, other, length)),
        "RESP" => Ok(Operator::Response(main, other, length)),
        _ => Err(unknown()),
    }
}

fn value_of<'a>(operator: &Operator, record: &'a Record<'_>) -> Value<'a> {
    match operator {
        Operator::StartTime => Value::Owned(start_time(record)),
        Operator::Request(main, other, length) => header(main, other.as_deref(), *length, |name| {
            request_header(record, name)
        }),
        Operator::Response(main, other, length) => {
            let get = |name: &str| record.response_headers?.get(name)?.to_str().ok();
            header(main, other.as_deref(), *length, get)
        }
        Operator::Plain(plain) => plain_value(*plain, record),
    }
}

fn header<'a>(
    main: &str,
    other: Option<&str>,
    length: Option<usize>,
    get: impl Fn(&str) -> Option<&'a str>,
) -> Value<'a> {
    let found = get(main).or_else(|| other.and_then(&get));
    match (found, length) {
        (None, _) => Value::Missing,
        (Some(text), None) => Value::Text(text),
        (Some(text), Some(longest)) => Value::Owned(text.chars().take(longest).collect()),
    }
}

fn request_header<'a>(record: &'a Record<'_>, name: &str) -> Option<&'a str> {
    match name {
        ":method" => record.method,
        ":path" => record.path,
        ":authority" => record.authority,
        _ => record.request_headers?.get(name)?.to_str().ok(),
    }
}

fn plain_value<'a>(plain: Plain, record: &'a Record<'_>) -> Value<'a> {
    let address = |address: Option<std::net::SocketAddr>| address.map_or(Value::Missing, Value::Address);
    let text = |text: Option<&'a str>| {
        text.filter(|text| !text.is_empty())
            .map_or(Value::Missing, Value::Text)
    };
    match plain {
        Plain::Protocol => text(record.protocol),
        Plain::ResponseCode => Value::Number(record.response_code.into()),
        Plain::ResponseFlags => {
            let flags = record.flags.to_string();
            if flags == "-" {
                Value::Text("-")
            } else {
                Value::Owned(flags)
            }
        }
        Plain::ResponseCodeDetails => text(record.details),
        Plain::ConnectionTerminationDetails => text(record.connection_termination_details),
        Plain::UpstreamTransportFailureReason => text(record.upstream_transport_failure_reason),
        Plain::BytesReceived => Value::Number(record.bytes_received),
        Plain::BytesSent => Value::Number(record.bytes_sent),
        Plain::Duration => Value::Number(u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX)),
        Plain::UpstreamHost => address(record.upstream_host),
        Plain::UpstreamCluster | Plain::UpstreamClusterRaw => text(record.upstream_cluster),
        Plain::UpstreamLocalAddress => address(record.upstream_local_address),
        Plain::UpstreamConnectionId => record
            .upstream_connection_id
            .map_or(Value::Missing, Value::Number),
        Plain::UpstreamRequestAttemptCount => Value::Number(record.attempts.into()),
        Plain::DownstreamLocalAddress => address(Some(record.downstream_local_address)),
        Plain::DownstreamRemoteAddress => address(Some(record.downstream_remote_address)),
        Plain::DownstreamDirectRemoteAddress => address(Some(record.downstream_direct_remote_address)),
        Plain::ConnectionId => Value::Number(record.connection_id),
        Plain::RouteName => text(record.route_name),
        Plain::FilterChainName => text(record.filter_chain_name),
        Plain::RequestedServerName | Plain::VirtualClusterName => Value::Missing,
    }
}

/// RFC 3339 in UTC with milliseconds, as Envoy's default is.
fn start_time(record: &Record<'_>) -> String {
    let since = record.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(i64::try_from(days).unwrap_or_default());
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        since.subsec_millis()
    )
}

/// The date of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted in eras of 400 years (146,097 days) that begin on the first of March, so that a leap day is a year's last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_gregorian() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_777), (2026, 11, 20));
    }

    #[test]
    fn the_same_format_is_one() {
        let text = |text: &str| SubstitutionFormatString {
            #[expect(deprecated, reason = "the shortest there is")]
            format: Some(substitution_format_string::Format::TextFormat(text.to_owned())),
            ..SubstitutionFormatString::default()
        };
        let one = Format::shared(&text("%PROTOCOL%")).unwrap();
        let same = Format::shared(&text("%PROTOCOL%")).unwrap();
        let other = Format::shared(&text("%DURATION%")).unwrap();
        assert!(Rc::ptr_eq(&one, &same) && !Rc::ptr_eq(&one, &other));
        drop((one, same));
        Format::shared(&text("%BYTES_SENT%")).unwrap();
        assert_eq!(
            IN_USE.with_borrow(Vec::len),
            2,
            "what nobody uses any more is forgotten"
        );
    }

    #[test]
    fn unknown_operators_are_named() {
        assert_eq!(
            parts("%NO_SUCH%").unwrap_err(),
            FormatError::Unknown("NO_SUCH".into())
        );
        assert_eq!(
            parts("x %REQ(A)").unwrap_err(),
            FormatError::Open("x %REQ(A)".into())
        );
        assert_eq!(
            parts("%REQ(A?B):x%").unwrap_err(),
            FormatError::Unknown("REQ(A?B):x".into())
        );
        assert_eq!(
            operator("REQ(X-A?:PATH):5").unwrap(),
            Operator::Request("x-a".into(), Some(":path".into()), Some(5))
        );
    }
}
