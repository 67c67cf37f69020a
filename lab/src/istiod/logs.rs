//! The access log that every listener of Istio's has here: JSON on standard output, with the listener's name in it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use proxy::bootstrap::json_log;

/// The access log of a listener. It is encoded once: the fields are a map without order, so that each encoding of them
/// would be another text, and every push of listeners look like a change.
pub(super) fn access_log(listener: &str) -> AccessLog {
    static MADE: Mutex<BTreeMap<String, AccessLog>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(listener.to_owned())
        .or_insert_with(|| json_log(listener))
        .clone()
}
