//! Raw exchanges, answers written byte for byte, and the whole of an answer in the JSON report.

use crate::support::Lab;

const SCENARIO: &str = r#"
services:
  - {name: hand, ports: [{name: http, port: 80, targetPort: 8080}]}
  - {name: web, ports: [{name: http, port: 80, targetPort: 8081}], selector: {app: hand}}
pods:
  - name: hand-v1
    labels: {app: hand}
    sidecar: false
    containers:
      - {name: hand, app: {rawHttp: 8080, routes: {/raw: {raw: "HTTP/1.1 200 OK\r\nX-Odd: v\r\nContent-Length: 2\r\n\r\nhi"}}}}
      - {name: web, app: {http: 8081}}
  - {name: client, containers: [{name: client}]}
steps:
  - name: two requests on one connection
    request:
      from: client
      tcp: hand:80
      send: ["POST /a HTTP/1.1\r\nHost: hand\r\nContent-Length: 3\r\n\r\nabc", {await: sha256}, "GET /raw HTTP/1.1\r\nHost: hand\r\nConnection: close\r\n\r\n"]
      read: end
  - name: a long body
    request: {from: client, url: "http://web/sink", method: POST, bodyBytes: 3000000, chunked: true}
  - name: rounds
    repeat: {times: 2, steps: [{name: one, request: {from: client, url: "http://web/bytes/5"}}]}
"#;

#[test]
fn an_answer_is_reported_whole() {
    let document = Lab::scenario(SCENARIO).arg("--output=json").status(0).json();
    let steps = &document["scenarios"][0]["steps"];

    let raw = &steps[0]["answer"];
    let body = raw["body"].as_str().expect("a body");
    assert!(
        body.contains("[content-length: 3 bytes, sha256 ba7816bf"),
        "{body}"
    );
    assert!(body.contains("x-odd: v") && body.ends_with("hi"), "{body}");
    assert_eq!(raw["end"], "fin");
    let paths: Vec<&str> = raw["access_log"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|entry| {
            assert_eq!(entry["pod"], "client");
            entry["fields"]["path"].as_str().expect("a path")
        })
        .collect();
    assert_eq!(paths, ["/a", "/raw"]);

    let told = steps[1]["answer"]["body"].as_str().expect("a body");
    assert!(told.contains("\"length\":3000000"), "{told}");
    assert_eq!(
        steps[1]["answer"]["access_log"][0]["fields"]["bytes_received"],
        3_000_000
    );

    let rounds = steps[2]["steps"].as_array().expect("the steps inside");
    assert_eq!(rounds.len(), 2);
    assert_eq!(rounds[1]["answer"]["body_length"], 5);
}
