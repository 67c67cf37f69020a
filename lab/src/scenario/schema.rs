//! The JSON Schema of scenario files, for editors.

use serde_json::{Value, json};

use super::expect;
use super::model::{Outcome, ProxyKind};

fn object(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// The schema.
pub fn schema() -> Value {
    let text = json!({ "type": "string" });
    let number = json!({ "type": "integer" });
    let port = json!({ "type": "integer", "minimum": 1, "maximum": 65535 });
    let flag = json!({ "type": "boolean" });
    let texts =
        json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } });
    let duration = json!({ "type": "string", "pattern": "^[0-9.]+(us|ms|s|m|h)$" });
    let interception: serde_json::Map<String, Value> = iptables::raw::Raw::NAMES
        .iter()
        .map(|name| ((*name).to_owned(), json!({})))
        .collect();
    let interception = object(Value::Object(interception), &[]);
    let piece = object(
        json!({ "hex": text, "bytes": number, "await": text, "pause": duration }),
        &[],
    );
    let pieces = json!({ "anyOf": [text, list(json!({ "anyOf": [text, piece] }))] });
    let route = object(
        json!({ "status": number, "body": text, "calls": list(text.clone()),
            "raw": pieces, "then": { "enum": ["keep", "close", "reset"] }, "early": flag }),
        &[],
    );
    let proxy = json!({ "enum": ProxyKind::ALL.map(ProxyKind::name) });
    let app = object(
        json!({ "http": port, "tcp": port, "tcpServerFirst": port, "rawHttp": port, "bind": text,
            "calls": list(text.clone()), "routes": { "type": "object", "additionalProperties": route } }),
        &[],
    );
    let container = json!({ "type": "object", "required": ["name"], "properties": {
        "name": text, "app": app, "command": list(text.clone()), "args": list(text.clone()),
        "env": list(object(json!({ "name": text, "value": {} }), &["name"])),
        "securityContext": { "type": "object" }, "image": text } });
    let pod = json!({ "type": "object", "properties": {
        "name": text, "labels": texts, "annotations": texts, "sidecar": flag, "interception": interception,
        "proxy": proxy, "hold": list(text.clone()), "containers": list(container),
        "securityContext": { "type": "object" } } });
    let service = json!({ "type": "object", "properties": {
        "name": text, "selector": texts,
        "ports": list(json!({ "type": "object", "required": ["port"], "properties": {
            "name": text, "port": port, "targetPort": port, "appProtocol": text, "protocol": { "enum": ["TCP"] } } })) } });
    let legs = json!({ "type": "object", "additionalProperties": list(text.clone()) });
    let expect = json!({
        "outcome": { "enum": Outcome::ALL.map(Outcome::name) }, "status": number, "responseFlags": text,
        "body": {}, "headers": { "type": "object" }, "exitCode": number, "path": legs, "contains": { "type": "object" },
        "never": { "type": "object" }, "eventually": object(json!({ "within": duration }), &["within"]) });
    debug_assert!(expect::FIELDS.iter().all(|field| expect.get(field).is_some()));
    let gates = object(
        json!({ "pod": text, "gates": list(text.clone()) }),
        &["pod", "gates"],
    );
    let process = object(json!({ "pod": text, "process": text }), &["pod", "process"]);
    let step = object(
        json!({
            "name": text, "article": text, "expect": object(expect, &[]),
            "request": object(json!({ "from": text, "url": text, "tcp": text, "dns": text, "method": text,
                "headers": { "type": "object" }, "body": text, "bodyBytes": number, "chunked": flag,
                "trailers": { "type": "object" }, "send": pieces, "halfClose": flag,
                "read": { "enum": ["first", "end", "nothing"] },
                "slowly": object(json!({ "bytes": number, "every": duration }), &["bytes", "every"]), "http2": flag,
                "over": { "enum": ["udp", "tcp"] }, "asUser": number, "asGroup": number, "timeout": duration }), &["from"]),
            "scrape": object(json!({ "from": text, "pod": text, "port": port, "path": text, "timeout": duration }), &["from", "pod"]),
            "exec": object(json!({ "from": text, "command": list(text.clone()), "asUser": number, "asGroup": number, "timeout": duration }), &["from", "command"]),
            "hold": gates, "release": gates, "start": process, "stop": process,
            "kill": object(json!({ "pod": text, "process": text, "signal": text }), &["pod", "process"]),
            "wait": object(json!({ "ready": text, "exited": text,
                "connection": object(json!({ "from": text, "port": port }), &["from", "port"]), "timeout": duration }), &[]),
            "parallel": list(json!({ "$ref": "#/$defs/step" })),
            "repeat": object(json!({ "times": number, "steps": list(json!({ "$ref": "#/$defs/step" })) }), &["times", "steps"]),
        }),
        &[],
    );
    let mut root = object(
        json!({
            "name": text, "description": text,
            "mesh": object(json!({ "outboundTrafficPolicy": { "enum": ["ALLOW_ANY", "REGISTRY_ONLY"] },
                "proxy": proxy, "inbound": { "enum": ["pod-ip", "localhost"] }, "retries": number,
                "concurrency": { "type": "integer", "minimum": 1, "maximum": 65535 },
                "accessLogFile": { "enum": ["/dev/stdout", ""] },
                "interception": interception }), &[]),
            "services": list(service), "destinationRules": list(json!({ "type": "object" })),
            "virtualServices": list(json!({ "type": "object" })), "pods": list(pod),
            "steps": list(json!({ "$ref": "#/$defs/step" })),
        }),
        &["pods", "steps"],
    );
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("lab scenario");
    root["$defs"] = json!({ "step": step });
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_level_is_what_is_read() {
        let schema = schema();
        let mut names: Vec<&str> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut known = super::super::FIELDS.to_vec();
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
    }
}
