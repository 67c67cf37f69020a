//! Access-log formats: Envoy's command operators, as text or as JSON.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an operator that is missing reads as a dash, any other value as itself"
)]

use std::time::UNIX_EPOCH;

use envoy_types::pb::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string};
use envoy_types::pb::google::protobuf::{Struct, Value as ProtoValue, value};
use serde_json::{Map, Value, json};

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
    Constant(Value),
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

impl Format {
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

    /// One line, without its newline unless a text format has it.
    pub(super) fn line(&self, record: &Record<'_>) -> String {
        match &self.0 {
            Shape::Text(parts) => text(parts, record),
            Shape::Json(fields) => Value::Object(fill(fields, record)).to_string(),
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
        Some(value::Kind::NullValue(_) | value::Kind::ListValue(_)) | None => Node::Constant(Value::Null),
    })
}

fn fill(fields: &[(String, Node)], record: &Record<'_>) -> Map<String, Value> {
    let value = |node: &Node| match node {
        Node::Parts(parts) => match parts.as_slice() {
            // A lone operator keeps its type; what is missing is null.
            [Part::Operator(operator)] => value_of(operator, record),
            parts => Value::String(text(parts, record)),
        },
        Node::Object(fields) => Value::Object(fill(fields, record)),
        Node::Constant(value) => value.clone(),
    };
    fields
        .iter()
        .map(|(name, node)| (name.clone(), value(node)))
        .collect()
}

fn text(parts: &[Part], record: &Record<'_>) -> String {
    let part = |part: &Part| match part {
        Part::Literal(text) => text.clone(),
        Part::Operator(operator) => match value_of(operator, record) {
            Value::Null => "-".to_owned(),
            Value::String(text) => text,
            other => other.to_string(),
        },
    };
    parts.iter().map(part).collect()
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

fn value_of(operator: &Operator, record: &Record<'_>) -> Value {
    match operator {
        Operator::StartTime => json!(start_time(record)),
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
) -> Value {
    let found = get(main).or_else(|| other.and_then(&get));
    found.map_or(Value::Null, |text| {
        let longest = length.unwrap_or(usize::MAX);
        Value::String(text.chars().take(longest).collect())
    })
}

fn request_header<'a>(record: &'a Record<'_>, name: &str) -> Option<&'a str> {
    match name {
        ":method" => record.method,
        ":path" => record.path,
        ":authority" => record.authority,
        _ => record.request_headers?.get(name)?.to_str().ok(),
    }
}

fn plain_value(plain: Plain, record: &Record<'_>) -> Value {
    let address =
        |address: Option<std::net::SocketAddr>| address.map_or(Value::Null, |it| json!(it.to_string()));
    let text = |text: Option<&str>| {
        text.filter(|text| !text.is_empty())
            .map_or(Value::Null, |text| json!(text))
    };
    match plain {
        Plain::Protocol => text(record.protocol),
        Plain::ResponseCode => json!(record.response_code),
        Plain::ResponseFlags => json!(record.flags.to_string()),
        Plain::ResponseCodeDetails => text(record.details),
        Plain::ConnectionTerminationDetails => text(record.connection_termination_details),
        Plain::UpstreamTransportFailureReason => text(record.upstream_transport_failure_reason),
        Plain::BytesReceived => json!(record.bytes_received),
        Plain::BytesSent => json!(record.bytes_sent),
        Plain::Duration => json!(u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX)),
        Plain::UpstreamHost => address(record.upstream_host),
        Plain::UpstreamCluster | Plain::UpstreamClusterRaw => text(record.upstream_cluster),
        Plain::UpstreamLocalAddress => address(record.upstream_local_address),
        Plain::UpstreamConnectionId => record.upstream_connection_id.map_or(Value::Null, |id| json!(id)),
        Plain::UpstreamRequestAttemptCount => json!(record.attempts),
        Plain::DownstreamLocalAddress => address(Some(record.downstream_local_address)),
        Plain::DownstreamRemoteAddress | Plain::DownstreamDirectRemoteAddress => {
            address(Some(record.downstream_remote_address))
        }
        Plain::ConnectionId => json!(record.connection_id),
        Plain::RouteName => text(record.route_name),
        Plain::FilterChainName => text(record.filter_chain_name),
        Plain::RequestedServerName | Plain::VirtualClusterName => Value::Null,
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
