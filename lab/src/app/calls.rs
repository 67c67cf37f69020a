//! Calls that a workload makes before it answers, each on a connection of its own, told before it is opened.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};

use super::App;
use super::wire::AppEvent;
use crate::client::connect::Attempts;
use crate::client::wire::{Body, Kind, Spec};
use crate::client::{self};

/// Headers that Bookinfo's services pass on, by which traces and logs are joined.
const PASSED_ON: [&str; 12] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "end-user",
    "user-agent",
    "cookie",
];

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Calls one URL, and tells what came.
pub(super) async fn call(app: &App, url: &str, headers: &HeaderMap) -> Value {
    let passed = PASSED_ON.iter().filter_map(|name| {
        let value = headers.get(*name)?.to_str().ok()?;
        Some(((*name).to_owned(), value.to_owned()))
    });
    let spec = Spec {
        kind: Kind::Http {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: passed.collect(),
            body: Body::default(),
            http2: false,
        },
        timeout_ms: u64::try_from(LIMIT.as_millis()).unwrap_or(u64::MAX),
        ip_family: None,
    };
    let mut attempts = Attempts::telling(|proto: &str, local_port: u16, remote: SocketAddr| {
        app.tell(&AppEvent::Connecting {
            proto: proto.to_owned(),
            local_port,
            remote,
        });
    });
    let result = client::perform_with(&spec, &mut attempts).await;
    let body = serde_json::from_str::<Value>(&result.body).unwrap_or(Value::String(result.body));
    json!({ "url": url, "outcome": result.outcome, "status": result.status, "body": body })
}
