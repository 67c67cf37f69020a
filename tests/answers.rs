//! What a client gets from the built-in sidecar, row by row as it was measured with Envoy 1.40, and from Envoy itself:
//! status, body, response flags, by way of real rules, real xDS and real sockets.

use serde_json::Value;

use crate::support::Lab;

/// `web` answers by path (`/close`, `/hang`, …); `gone` has a port on which nobody listens; `empty` selects a pod that is
/// never ready; `db` speaks first.
const MESH: &str = r#"
name: answers
mesh: {retries: RETRIES, outboundTrafficPolicy: POLICY}
services:
  - {name: web, ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc-h2, port: 81, targetPort: 8080}]}
  - {name: gone, ports: [{name: http, port: 80, targetPort: 9999}], selector: {app: web}}
  - {name: gone-tcp, ports: [{name: tcp, port: 3307, targetPort: 9999}], selector: {app: web}}
  - {name: empty, ports: [{name: http, port: 80}, {name: tcp, port: 3308}], selector: {app: late}}
  - {name: db, ports: [{name: tcp, port: 3306}]}
  - {name: routed, ports: [{name: http, port: 80, targetPort: 8080}], selector: {app: web}}
virtualServices:
  - hosts: [routed]
    http:
      - {match: [{uri: {exact: /direct}}], directResponse: {status: 418, body: teapot}}
      - {match: [{uri: {prefix: /hang}}], route: [{destination: {host: web}}], timeout: 200ms}
      - {match: [{uri: {regex: "/re[0-9]+"}, headers: {x-k: {exact: v}}}], route: [{destination: {host: web}}]}
pods:
  - name: web-v1
    labels: {app: web}
    sidecar: false
    containers: [{name: web, app: {http: 8080, routes: {/: {body: hello}, /re7: {body: matched}}}}]
  - name: db-v1
    labels: {app: db}
    containers: [{name: db, app: {tcpServerFirst: 3306}}]
  - {name: late-v1, labels: {app: late}, sidecar: false, hold: [late], containers: [{name: late}]}
  - {name: client, containers: [{name: client}]}
  - {name: outside, sidecar: false, containers: [{name: outside}]}
steps:
"#;

fn run(retries: u32, policy: &str, steps: &[(&str, &str)]) {
    let mut text = MESH
        .replace("RETRIES", &retries.to_string())
        .replace("POLICY", policy);
    for (request, expect) in steps {
        text.push_str(&format!(
            "  - {{name: '{}', request: {request}, expect: {expect}}}\n",
            request.replace('\'', "")
        ));
    }
    for proxy in ["--proxy=builtin", "--proxy=envoy"] {
        let lab = Lab::scenario(&text).arg("--output=json").arg(proxy);
        let document = lab.status_or_show(0);
        assert_eq!(
            document["scenarios"][0]["steps"].as_array().map(Vec::len),
            Some(steps.len())
        );
    }
}

impl Lab {
    /// As `status`, but what failed is shown step by step.
    fn status_or_show(self, expected: i32) -> Value {
        let ended = self.any_status();
        let document = ended.1.json();
        let steps = document["scenarios"][0]["steps"].as_array().into_iter().flatten();
        let failed: Vec<(&Value, &Value)> = steps
            .filter(|step| step["result"] != "pass")
            .map(|step| (&step["name"], &step["message"]))
            .collect();
        assert_eq!(
            ended.0,
            Some(expected),
            "{failed:#?}\n{}",
            document["scenarios"][0]["error"]
        );
        document
    }
}

const RESET: &str = "upstream connect error or disconnect/reset before headers.";

#[test]
fn without_retries() {
    let body = |reason: &str| format!("'{RESET} reset reason: {reason}'");
    let get = |url: &str| format!("{{from: client, url: 'http://{url}'}}");
    let steps = [
        (
            get("web/"),
            "{status: 200, body: hello, responseFlags: '-', headers: {server: istio-envoy}}".to_owned(),
        ),
        (get("web:81/"), "{status: 200, body: hello}".to_owned()),
        (
            get("gone/"),
            format!(
                "{{status: 503, responseFlags: UF, body: {}}}",
                body("remote connection failure")
            ),
        ),
        (
            get("empty/"),
            "{status: 503, responseFlags: UH, body: no healthy upstream}".to_owned(),
        ),
        (
            get("web/close"),
            format!(
                "{{status: 503, responseFlags: UC, body: {}}}",
                body("connection termination")
            ),
        ),
        (
            get("web/reset"),
            format!(
                "{{status: 503, responseFlags: UC, body: {}}}",
                body("connection termination")
            ),
        ),
        (
            get("web/garbage"),
            format!(
                "{{status: 502, responseFlags: UPE, body: {}}}",
                body("protocol error")
            ),
        ),
        (
            get("web/truncate"),
            "{outcome: connection-closed, status: 200, responseFlags: UPE}".to_owned(),
        ),
        (
            get("routed/direct"),
            "{status: 418, body: teapot, responseFlags: '-'}".to_owned(),
        ),
        (
            get("routed/hang"),
            "{status: 504, responseFlags: UT, body: upstream request timeout}".to_owned(),
        ),
        (
            get("routed/nowhere"),
            "{status: 404, responseFlags: NR, body: ''}".to_owned(),
        ),
        (get("routed/re7"), "{status: 404, responseFlags: NR}".to_owned()),
        (
            "{from: client, url: 'http://routed/re7', headers: {x-k: v}}".to_owned(),
            "{status: 200, body: matched}".to_owned(),
        ),
        (
            get("web/status/503"),
            "{status: 503, responseFlags: '-'}".to_owned(),
        ),
        (get("web/bytes/100000"), "{status: 200}".to_owned()),
        (
            "{from: client, url: 'http://web/echo', method: POST, body: ping}".to_owned(),
            "{status: 200, body: {contains: '\"body\":\"ping\"'}}".to_owned(),
        ),
        (
            "{from: client, url: 'http://web/', http2: true}".to_owned(),
            "{status: 200, body: hello}".to_owned(),
        ),
        // A host that no service has, on a port that some service has: passed through by its name.
        (
            "{from: client, url: 'http://${web-v1.ip}:80/', headers: {host: unknown.example}}".to_owned(),
            "{status: 503, responseFlags: UF}".to_owned(),
        ),
        // A port that no service has: passed through as bytes.
        (get("${web-v1.ip}:8080/"), "{status: 200, body: hello}".to_owned()),
        (
            "{from: client, tcp: 'db:3306'}".to_owned(),
            "{outcome: ok, body: lab-greeting}".to_owned(),
        ),
        (
            "{from: outside, tcp: 'db:3306'}".to_owned(),
            "{outcome: ok, body: lab-greeting}".to_owned(),
        ),
        (
            "{from: client, tcp: 'gone-tcp:3307'}".to_owned(),
            "{outcome: connection-closed, responseFlags: 'UF,URX'}".to_owned(),
        ),
        (
            "{from: client, tcp: 'empty:3308'}".to_owned(),
            "{outcome: connection-closed, responseFlags: UH}".to_owned(),
        ),
        (
            "{from: client, tcp: '127.0.0.1:15001'}".to_owned(),
            "{outcome: connection-closed}".to_owned(),
        ),
        (
            "{from: client, dns: nothing.example.}".to_owned(),
            "{outcome: no-such-host}".to_owned(),
        ),
        (
            "{from: client, dns: web, over: tcp}".to_owned(),
            "{outcome: ok, body: {contains: '10.96.'}}".to_owned(),
        ),
    ];
    let steps: Vec<(&str, &str)> = steps.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    run(0, "ALLOW_ANY", &steps);
}

#[test]
fn with_istios_retries() {
    let body = format!("'{RESET} retried and the latest reset reason: remote connection failure'");
    let expect = format!("{{status: 503, responseFlags: 'URX,UF', body: {body}}}");
    run(
        2,
        "ALLOW_ANY",
        &[
            ("{from: client, url: 'http://gone/'}", &expect),
            (
                "{from: client, url: 'http://web/close'}",
                "{status: 503, responseFlags: UC}",
            ),
            (
                "{from: client, url: 'http://empty/'}",
                "{status: 503, responseFlags: UH}",
            ),
            (
                "{from: client, url: 'http://web/'}",
                "{status: 200, headers: {x-envoy-upstream-service-time: {regex: '[0-9]+'}}}",
            ),
        ],
    );
}

#[test]
fn registry_only_blocks_what_is_unknown() {
    run(
        0,
        "REGISTRY_ONLY",
        &[
            (
                "{from: client, url: 'http://${web-v1.ip}:80/', headers: {host: unknown.example}}",
                "{status: 502, body: '', responseFlags: '-'}",
            ),
            (
                "{from: client, tcp: '${web-v1.ip}:8080'}",
                "{outcome: connection-closed, responseFlags: UH}",
            ),
            ("{from: client, url: 'http://web/'}", "{status: 200}"),
        ],
    );
}

/// A server that changes the protocol when asked to, and then says everything backwards.
const UPGRADING: &str = r#"use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 5, ReuseAddr => 1); while ($c = $s->accept) { while (defined($l = <$c>) && $l ne "\r\n") {} print $c "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"; $c->flush; while (defined($l = <$c>)) { chomp $l; print $c scalar(reverse $l), "\n"; $c->flush } }"#;

/// A client that asks for it, and prints the status line and what came back of one line.
const ASKING: &str = r#"use IO::Socket::INET; $c = IO::Socket::INET->new(PeerAddr => "chat:80") or die "connect: $!"; print $c "GET /chat HTTP/1.1\r\nHost: chat\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"; $c->flush; $status = <$c>; while (defined($l = <$c>) && $l ne "\r\n") {} print $c "stressed\n"; $c->flush; $answer = <$c>; print $status, $answer;"#;

#[test]
fn an_upgrade_passes_through_both_sidecars() {
    let document = serde_json::json!({
        "services": [{ "name": "chat", "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] }],
        "pods": [
            { "name": "chat-v1", "labels": { "app": "chat" },
              "containers": [{ "name": "chat", "command": ["perl", "-e", UPGRADING] }] },
            { "name": "client", "containers": [{ "name": "client" }] },
        ],
        "steps": [{
            "exec": { "from": "client", "command": ["perl", "-e", ASKING], "timeout": "5s" },
            "expect": { "body": { "contains": "desserts" }, "eventually": { "within": "5s" } },
        }],
    });
    Lab::scenario(document.to_string())
        .arg("--output=json")
        .status_or_show(0);
}
