//! The access log of a listener: JSON lines on standard output, with Istio's keys and a few more.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use envoy_types::pb::google::protobuf::{Any, Value};
use prost::{Message, Name as _};

/// The keys of Istio's JSON log, and what the lab needs beside them to join connections: the filter chain, the ids of
/// the two connections, and the client's own address. `listener` is added to them, as a literal.
const FIELDS: [(&str, &str); 28] = [
    ("start_time", "%START_TIME%"),
    ("filter_chain", "%FILTER_CHAIN_NAME%"),
    ("connection_id", "%CONNECTION_ID%"),
    ("upstream_connection_id", "%UPSTREAM_CONNECTION_ID%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    // The one above is what `x-forwarded-for` says, if the client sent that.
    (
        "downstream_direct_remote_address",
        "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    ),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
];

// The same messages as `FileAccessLog`, `SubstitutionFormatString` and `Struct`, but with a map that keeps its order:
// the generated `Struct` has a hash map, and one listener would be encoded in different bytes each time, which would
// look like a change and be pushed.

#[derive(Clone, PartialEq, Message)]
struct OrderedFile {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(message, optional, tag = "5")]
    log_format: Option<OrderedFormat>,
}

#[derive(Clone, PartialEq, Message)]
struct OrderedFormat {
    #[prost(message, optional, tag = "2")]
    json_format: Option<OrderedStruct>,
}

#[derive(Clone, PartialEq, Message)]
struct OrderedStruct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

/// The log of a listener with this name. Envoy's JSON values keep their types: numbers are numbers, what is absent is
/// null (response flags: `-`).
pub(super) fn of(listener: &str) -> Vec<AccessLog> {
    let text = |text: &str| Value {
        kind: Some(ValueKind::StringValue(text.to_owned())),
    };
    let mut fields: BTreeMap<String, Value> = FIELDS
        .iter()
        .map(|(key, value)| ((*key).to_owned(), text(value)))
        .collect();
    fields.insert("listener".to_owned(), text(listener));
    let file = OrderedFile {
        path: "/dev/stdout".to_owned(),
        log_format: Some(OrderedFormat {
            json_format: Some(OrderedStruct { fields }),
        }),
    };
    vec![AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter: None,
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: FileAccessLog::type_url(),
            value: file.encode_to_vec(),
        })),
    }]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
    use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;

    use super::*;

    /// What Envoy's own message makes of the bytes.
    fn decoded(listener: &str) -> (String, BTreeMap<String, String>) {
        let Some(ConfigType::TypedConfig(any)) = &of(listener)[0].config_type else {
            panic!("no typed config");
        };
        let file = FileAccessLog::decode(any.value.as_slice()).unwrap();
        let Some(AccessLogFormat::LogFormat(format)) = file.access_log_format else {
            panic!("no log_format");
        };
        let Some(Format::JsonFormat(json)) = format.format else {
            panic!("no json_format");
        };
        let fields = json.fields.into_iter().map(|(key, value)| match value.kind {
            Some(ValueKind::StringValue(text)) => (key, text),
            other => panic!("{key} is {other:?}"),
        });
        (file.path, fields.collect())
    }

    #[test]
    fn envoy_reads_the_keys_that_the_lab_reads() {
        let (path, fields) = decoded("0.0.0.0_9080");
        assert_eq!(path, "/dev/stdout");
        assert_eq!(fields["listener"], "0.0.0.0_9080");
        assert_eq!(fields["upstream_cluster"], "%UPSTREAM_CLUSTER_RAW%");
        assert_eq!(fields["request_id"], "%REQ(X-REQUEST-ID)%");
        let keys: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
        assert_eq!(keys.len(), FIELDS.len() + 1);
        for (key, _) in FIELDS {
            assert!(keys.contains(key), "{key}");
        }
    }

    #[test]
    fn the_same_listener_is_the_same_bytes() {
        assert_eq!(of("virtualInbound"), of("virtualInbound"));
        assert_ne!(of("virtualInbound"), of("virtualOutbound"));
    }
}
