//! The access log that every listener of Istio's has here: JSON on standard output, with the listener's name in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use envoy_types::util::pack_any;
use proxy::bootstrap::LOG_FIELDS;

/// The access log of a listener. It is encoded once: the fields are a map without order, so that each encoding of them
/// would be another text, and every push of listeners look like a change.
pub(super) fn access_log(listener: &str) -> AccessLog {
    static MADE: Mutex<BTreeMap<String, AccessLog>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(listener.to_owned())
        .or_insert_with(|| encode(listener))
        .clone()
}

fn encode(listener: &str) -> AccessLog {
    let text = |text: &str| Value {
        kind: Some(value::Kind::StringValue(text.to_owned())),
    };
    let mut fields: HashMap<String, Value> = LOG_FIELDS
        .iter()
        .map(|(name, operator)| ((*name).to_owned(), text(operator)))
        .collect();
    fields.insert("listener".to_owned(), text(listener));
    let format = SubstitutionFormatString {
        format: Some(substitution_format_string::Format::JsonFormat(Struct { fields })),
        ..SubstitutionFormatString::default()
    };
    let file = FileAccessLog {
        path: "/dev/stdout".to_owned(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format)),
    };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack_any(file))),
        ..AccessLog::default()
    }
}
