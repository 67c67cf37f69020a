//! The JSON Schema of scenario files, for editors.

use serde_json::{Value, json};

use super::expect;
use super::lifecycle::{Phase, ProbeKind};
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
        .map(|name| {
            let value = match *name {
                "mode" => json!({ "enum": ["REDIRECT", "TPROXY", "NONE"] }),
                "backend" => json!({ "enum": ["iptables", "nftables"] }),
                "customRules" => {
                    json!({ "type": "string", "description": "A file of rules, from the scenario's directory" })
                }
                _ => json!({}),
            };
            ((*name).to_owned(), value)
        })
        .collect();
    let interception = object(Value::Object(interception), &[]);
    let piece = object(
        json!({ "hex": text, "times": number, "bytes": number, "pause": duration,
            "await": { "anyOf": [text, object(json!({ "hex": text }), &["hex"])] } }),
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
            "calls": list(text.clone()), "atStart": list(text.clone()), "atStop": list(text.clone()),
            "exits": flag, "routes": { "type": "object", "additionalProperties": route } }),
        &[],
    );
    let count = json!({ "type": "integer", "minimum": 0 });
    let family = json!({ "enum": ["IPv4", "IPv6"] });
    let families =
        json!({ "type": "array", "items": family, "minItems": 1, "maxItems": 2, "uniqueItems": true });
    let handlers = json!({
        "exec": object(json!({ "command": list(text.clone()) }), &["command"]),
        "httpGet": object(json!({ "port": {}, "path": text, "scheme": { "enum": ["HTTP"] },
            "httpHeaders": list(object(json!({ "name": text, "value": text }), &["name"])) }), &["port"]),
        "tcpSocket": object(json!({ "port": {} }), &["port"]) });
    let with = |more: Value| {
        let mut all = handlers.clone();
        if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
            all.extend(more);
        }
        object(all, &[])
    };
    let probe = with(
        json!({ "initialDelaySeconds": count, "periodSeconds": count, "timeoutSeconds": count,
        "successThreshold": count, "failureThreshold": count }),
    );
    let hook = with(json!({ "sleep": object(json!({ "seconds": count }), &["seconds"]) }));
    let lifecycle = object(json!({ "postStart": hook, "preStop": hook }), &[]);
    let policy = json!({ "enum": ["Always", "OnFailure", "Never"] });
    let container = json!({ "type": "object", "required": ["name"], "properties": {
        "name": text, "app": app, "command": list(text.clone()), "args": list(text.clone()),
        "env": list(object(json!({ "name": text, "value": {} }), &["name"])),
        "securityContext": { "type": "object" }, "image": text, "lifecycle": lifecycle, "startupProbe": probe,
        "readinessProbe": probe, "livenessProbe": probe, "restartPolicy": { "enum": ["Always"] } } });
    let pod = json!({ "type": "object", "properties": {
        "name": text, "labels": texts, "annotations": texts, "sidecar": flag, "interception": interception,
        "proxy": proxy, "hold": list(text.clone()), "ipFamilies": families, "containers": list(container.clone()),
        "initContainers": list(container), "restartPolicy": policy, "terminationGracePeriodSeconds": count, "cni": flag,
        "securityContext": { "type": "object" } } });
    let service = json!({ "type": "object", "properties": {
        "name": text, "selector": texts, "hold": flag, "ipFamilies": families,
        "ipFamilyPolicy": { "enum": ["SingleStack", "PreferDualStack", "RequireDualStack"] },
        "ports": list(json!({ "type": "object", "required": ["port"], "properties": {
            "name": text, "port": port, "targetPort": port, "appProtocol": text, "protocol": { "enum": ["TCP"] } } })) } });
    let legs = json!({ "type": "object", "additionalProperties": list(text.clone()) });
    let outcome = json!({ "enum": Outcome::ALL.map(Outcome::name) });
    let expect = json!({
        "outcome": { "anyOf": [outcome, list(outcome.clone())] }, "status": number, "responseFlags": text,
        "body": {}, "headers": { "type": "object" }, "exitCode": number, "path": legs, "contains": { "type": "object" },
        "never": { "type": "object" }, "eventually": object(json!({ "within": duration }), &["within"]),
        "phase": { "type": "object" }, "ready": { "type": "object" }, "restarts": { "type": "object" },
        "events": { "type": "object" }, "neverEvents": { "type": "object" } });
    debug_assert!(expect::FIELDS.iter().all(|field| expect.get(field).is_some()));
    let gates = object(
        json!({ "pod": text, "gates": list(text.clone()) }),
        &["pod", "gates"],
    );
    let process = object(json!({ "pod": text, "process": text }), &["pod", "process"]);
    let power = json!({ "enum": ["up", "down"] });
    let step = object(
        json!({
            "name": text, "article": text, "expect": object(expect, &[]),
            "request": object(json!({ "from": text, "url": text, "tcp": text, "dns": text, "method": text,
                "headers": { "type": "object" }, "body": text, "bodyBytes": number, "chunked": flag,
                "trailers": { "type": "object" }, "send": pieces, "halfClose": flag,
                "read": { "enum": ["first", "end", "nothing"] },
                "slowly": object(json!({ "bytes": number, "every": duration }), &["bytes", "every"]), "http2": flag,
                "over": { "enum": ["udp", "tcp"] }, "server": text, "ipFamily": family, "asUser": number, "asGroup": number,
                "timeout": duration }), &["from"]),
            "scrape": object(json!({ "from": text, "pod": text, "port": port, "path": text, "ipFamily": family,
                "timeout": duration }), &["from", "pod"]),
            "exec": object(json!({ "from": text, "command": list(text.clone()), "asUser": number, "asGroup": number, "timeout": duration }), &["from", "command"]),
            "hold": gates, "release": gates, "start": process, "stop": process,
            "invalidSegment": object(json!({ "from": text, "port": port }), &["from", "port"]),
            "restart": process, "freeze": process, "thaw": process, "istiod": power,
            "delete": object(json!({ "pod": text, "service": text, "virtualService": text, "destinationRule": text }), &[]),
            "apply": object(json!({ "service": { "anyOf": [text, service] }, "virtualService": { "type": "object" },
                "destinationRule": { "type": "object" } }), &[]),
            "link": object(json!({ "pod": text, "state": power }), &["pod", "state"]),
            "netem": object(json!({ "pod": text, "delay": duration, "jitter": duration, "loss": text }), &["pod"]),
            "rules": object(json!({ "pod": text, "again": { "enum": ["verify", "blindly"] } }), &["pod", "again"]),
            "probe": object(json!({ "pod": text, "container": text,
                "probe": { "enum": ProbeKind::ALL.map(ProbeKind::name) } }), &["pod", "container", "probe"]),
            "kill": object(json!({ "pod": text, "process": text, "signal": text }), &["pod", "process"]),
            "wait": object(json!({ "ready": text, "notReady": text, "started": text, "exited": text, "terminated": text,
                "phase": object(json!({ "pod": text, "is": { "enum": Phase::ALL.map(|(name, _)| name) } }), &["pod", "is"]),
                "event": object(json!({ "pod": text, "is": text }), &["pod", "is"]),
                "connection": object(json!({ "from": text, "port": port }), &["from", "port"]), "timeout": duration }), &[]),
            "parallel": list(json!({ "$ref": "#/$defs/step" })),
            "repeat": object(json!({ "times": number, "steps": list(json!({ "$ref": "#/$defs/step" })) }), &["times", "steps"]),
        }),
        &[],
    );
    let mut root = object(
        json!({
            "name": text, "description": text,
            "clock": object(json!({ "scale": { "type": "number", "exclusiveMinimum": 0, "maximum": 1 } }), &["scale"]),
            "mesh": object(json!({ "cni": flag, "outboundTrafficPolicy": { "enum": ["ALLOW_ANY", "REGISTRY_ONLY"] },
                "proxy": proxy, "inbound": { "enum": ["pod-ip", "localhost"] }, "retries": number, "protocolDetectionTimeout": duration,
                "concurrency": { "type": "integer", "minimum": 1, "maximum": 65535 },
                "accessLogFile": { "enum": ["/dev/stdout", ""] }, "ipFamilies": families,
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
