//! Admin and metrics pages, reduced to what both data planes can be held to: which names, keys and lines there are. Their
//! numbers are a run's own, and Envoy has a thousand statistics that nobody asks for.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use crate::normal::normal;

/// The metrics that Istio's documentation and dashboards name, of those that Envoy itself has.
const METRICS: [&str; 24] = [
    "envoy_cluster_upstream_cx_total",
    "envoy_cluster_upstream_cx_active",
    "envoy_cluster_upstream_cx_connect_fail",
    "envoy_cluster_upstream_cx_destroy",
    "envoy_cluster_upstream_cx_rx_bytes_total",
    "envoy_cluster_upstream_cx_tx_bytes_total",
    "envoy_cluster_upstream_rq_total",
    "envoy_cluster_upstream_rq_active",
    "envoy_cluster_upstream_rq_pending_total",
    "envoy_cluster_upstream_rq_retry",
    "envoy_cluster_upstream_rq_timeout",
    "envoy_cluster_upstream_rq_xx",
    "envoy_cluster_upstream_rq",
    "envoy_cluster_upstream_rq_time",
    "envoy_cluster_membership_healthy",
    "envoy_cluster_membership_total",
    "envoy_http_downstream_rq_total",
    "envoy_http_downstream_rq_xx",
    "envoy_http_downstream_cx_total",
    "envoy_listener_downstream_cx_total",
    "envoy_listener_downstream_cx_active",
    "envoy_server_live",
    "envoy_server_state",
    "envoy_listener_manager_lds_update_success",
];

/// What is compared of this page; none if it is no page of this kind.
pub(crate) fn view(url: &str, body: &str) -> Option<String> {
    let (path, query) = url
        .strip_prefix("http://")?
        .split_once('/')
        .map(|(_, path)| path.split_once('?').unwrap_or((path, "")))?;
    match (path, query) {
        ("stats/prometheus", _) => Some(metrics(body)),
        ("stats", _) if !query.starts_with("filter") => Some(statistics(body)),
        ("server_info" | "memory", _) => Some(keys(body)),
        ("config_dump", _) => Some(kinds(body)),
        ("clusters", "") => Some(shapes(body)),
        // What follows is the list of all pages.
        ("nothing", _) => Some(body.lines().next().unwrap_or_default().to_owned()),
        (_, "format=json") => Some(paths(body)),
        _ => None,
    }
}

fn lines(lines: BTreeSet<String>) -> String {
    lines.into_iter().collect::<Vec<String>>().join("\n")
}

fn metrics(body: &str) -> String {
    let valid = Regex::new(r"^(#.*|[a-zA-Z_:][a-zA-Z0-9_:]*(\{.*\})? [^ ]+)?$").unwrap();
    let names: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(|name| {
            name.trim_end_matches("_bucket")
                .trim_end_matches("_count")
                .trim_end_matches("_sum")
        })
        .collect();
    let known = METRICS
        .into_iter()
        .filter(|name| names.contains(name))
        .map(str::to_owned);
    let wrong = body
        .lines()
        .find(|line| !valid.is_match(line))
        .map(|line| format!("not valid: {line}"));
    lines(known.chain(wrong).collect())
}

fn statistics(body: &str) -> String {
    let names: BTreeSet<&str> = body.lines().filter_map(|line| line.split(": ").next()).collect();
    let ends: BTreeSet<String> = METRICS
        .into_iter()
        .filter_map(|name| {
            let name = name.trim_start_matches("envoy_");
            let (scope, rest) = name.split_once('_')?;
            let found = names
                .iter()
                .any(|stat| stat.starts_with(scope) && stat.ends_with(&format!(".{rest}")));
            found.then(|| format!("{scope}…{rest}"))
        })
        .collect();
    lines(ends)
}

fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or(Value::Null)
}

fn keys(body: &str) -> String {
    lines(
        json(body)
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .collect(),
    )
}

fn kinds(body: &str) -> String {
    let document = json(body);
    let configs = document["configs"].as_array().into_iter().flatten();
    lines(
        configs
            .filter_map(|config| config["@type"].as_str().map(str::to_owned))
            .collect(),
    )
}

/// `NAME::ADDRESS::KEY` of each line, without its value.
fn shapes(body: &str) -> String {
    let shape = |line: &str| line.rsplit_once("::").map(|(names, _)| normal(names));
    lines(body.lines().filter_map(shape).collect())
}

/// The ways to all values of a document, without the places in lists.
fn paths(body: &str) -> String {
    fn walk(value: &Value, at: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    walk(value, &format!("{at}.{name}"), found);
                }
            }
            Value::Array(items) => {
                for item in items {
                    walk(item, &format!("{at}[]"), found);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                found.insert(at.to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&json(body), "", &mut found);
    lines(found)
}
