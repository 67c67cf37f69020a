//! Whole files: what is read of good ones, what is said of bad ones.

use super::model::ProxyKind;
use std::time::Duration;

use super::model::{Action, Body, Piece, Read, Request, RequestKind, Then, Workload};
use super::*;

const GOOD: &str = r#"
name: good
mesh: {proxy: envoy, concurrency: 2}
services:
  - {name: web, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-x, port: 81}]}
destinationRules:
  - {host: web, subsets: [{name: v1, labels: {version: v1}}]}
virtualServices:
  - hosts: [web.default.svc.cluster.local]
    http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: web, subset: v1}}], timeout: 500ms}]
pods:
  - name: web-v1
    labels: {app: web, version: v1}
    annotations: {traffic.sidecar.istio.io/excludeOutboundPorts: "3306"}
    hold: [sidecar, web.listen]
    proxy: builtin
    containers:
      - {name: web, app: {http: 8080, calls: ["http://other:80/"]}, securityContext: {runAsUser: 5}}
      - {name: helper, command: [sleep, "1"]}
  - {name: client, sidecar: false, containers: [{name: client}]}
steps:
  - name: a step
    request: {from: client, url: "http://${web-v1.ip}:8080/", headers: {x-a: b}}
    expect: {status: 200, path: {web-v1: [PREROUTING -> ISTIO_INBOUND -> sidecar:15006]}, never: {web-v1: [ISTIO_OUTPUT#9]}}
  - exec: {from: web-v1/web, command: [id]}
  - release: {pod: web-v1, gates: [sidecar]}
  - wait: {connection: {from: web-v1/agent, port: 15010}, timeout: 1s}
"#;

#[test]
fn a_good_file_is_read_whole() {
    let loaded = parse("good.yaml", GOOD).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
    let scenario = loaded.scenario;
    assert_eq!(scenario.pods[0].containers[0].run_as_user, 5);
    assert_eq!(scenario.pods[0].containers[1].run_as_user, 1000);
    assert_eq!(scenario.pods[0].hold.len(), 2);
    let options = &scenario.pods[0].sidecar.as_ref().unwrap().interception;
    assert_eq!(options.exclude_outbound_ports.len(), 1);
    let proxies = scenario
        .pods
        .iter()
        .map(|pod| pod.sidecar.as_ref().map(|it| it.proxy));
    assert_eq!(proxies.collect::<Vec<_>>(), [Some(ProxyKind::Builtin), None]);
    assert_eq!(
        (scenario.mesh.proxy, scenario.mesh.concurrency.get()),
        (ProxyKind::Envoy, 2)
    );
    assert_eq!(scenario.services[0].ports[0].target_port.get(), 8080);
    assert_eq!(scenario.steps.len(), 4);
    assert_eq!(scenario.steps[1].name, "step 2");
    assert_eq!(scenario.steps[0].location.line, 22);
}

/// Replaces a part of a good file, and wants this said; gives the text and all that was said.
#[track_caller]
pub(super) fn refused_in(good: &str, part: &str, by: &str, wanted: &str) -> (String, String) {
    assert!(good.contains(part), "{part}");
    let text = good.replacen(part, by, 1);
    assert_ne!(text, good, "{part}");
    let said = match parse("x.yaml", &text) {
        Ok(_) => panic!("`{by}` was taken"),
        Err(mistakes) => anstream::adapter::strip_str(&mistakes.render()).to_string(),
    };
    assert!(said.contains(wanted), "`{by}`: no `{wanted}` in\n{said}");
    (text, said)
}

/// The same of the good file of these tests, and at this line.
#[track_caller]
fn refused(part: &str, by: &str, wanted: &str) {
    let (text, said) = refused_in(GOOD, part, by, wanted);
    let line = text
        .lines()
        .position(|line| line.contains(by.lines().next().unwrap_or_default()))
        .unwrap()
        + 1;
    assert!(said.contains(&format!("x.yaml:{line}:")), "line {line}:\n{said}");
}

#[test]
fn each_mistake_is_told_at_its_place() {
    refused("name: web, ports", "name: web, pots", "did you mean `ports`?");
    refused("name: http, port: 80,", "name: http, port: 0,", "1 to 65535");
    refused("{proxy: envoy,", "{proxy: envoi,", "did you mean `envoy`?");
    refused("proxy: builtin", "proxy: nginx", "is none of: builtin, envoy");
    refused("concurrency: 2", "concurrency: 0", "worker threads, from 1");
    refused(
        "concurrency: 2",
        "protocolDetectionTimeout: 500us",
        "not a whole number of milliseconds",
    );
    let pool = |pool: &str| format!("host: web, trafficPolicy: {{connectionPool: {{{pool}}}}}, subsets");
    for (wrong, said) in [
        ("http: {idleTimeout: 500us}", "not a whole number of milliseconds"),
        ("tcp: {idleTimeout: 5}", "is not a duration"),
        ("tcp: {idleTimeot: 5s}", "did you mean `idleTimeout`?"),
    ] {
        refused("host: web, subsets", &pool(wrong), said);
    }
    refused("host: web, subsets", "host: wep, subsets", "did you mean `web`?");
    refused("subset: v1}}]", "subset: v9}}]", "has no subset `v9`");
    refused("timeout: 500ms}]", "timeout: 500}]", "is not a duration");
    refused("name: web-v1\n", "name: Web_V1\n", "cannot name a pod");
    refused(
        "excludeOutboundPorts: \"3306\"",
        "excludeOutboundPorts: \"a\"",
        "excludeOutboundPorts",
    );
    refused(
        "hold: [sidecar, web.listen]",
        "hold: [sidecar, web.lisen]",
        "unknown gate `web.lisen`",
    );
    refused("{name: helper,", "{name: reset,", "a word of the path notation");
    refused("app: {http: 8080", "app: {http: 15001", "is the sidecar's");
    refused("from: client, url", "from: clint, url", "did you mean `client`?");
    refused(
        "http://${web-v1.ip}:8080/",
        "http://${web-v2.ip}:8080/",
        "names pod `web-v2`",
    );
    refused("http://other:80/", "https://other:80/", "is no URL");
    refused("sidecar:15006]", "sidecar:99999]", "is not a port");
    refused("never: {web-v1:", "never: {web-v4:", "pods are: web-v1, client");
    refused(
        "exec: {from: web-v1/web,",
        "exec: {from: web-v1,",
        "several containers",
    );
    refused("gates: [sidecar]", "gates: [xds.sds]", "not supported yet");
    refused("{status: 200,", "{status: 99,", "100 to 599");
    refused(
        "- exec: {",
        "- {name: x, status: 1}\n  - exec: {",
        "unknown field `status`",
    );
    refused(
        "release: {pod: web-v1, gates: [sidecar]}",
        "expect: {status: 200}\n    release: {pod: web-v1, gates: [sidecar]}",
        "could never hold",
    );
    refused(
        "  - {name: client, sidecar",
        "  - {name: web-v1, sidecar",
        "is there already",
    );
    refused(
        "sidecar: false,",
        "sidecar: false, customRules: {},",
        "unknown field `customRules`",
    );
    refused(
        "sidecar: false,",
        "interception: {mode: TPROXI},",
        "write REDIRECT, TPROXY or NONE",
    );
    refused(
        "expect: {status: 200,",
        "expect: {status: 200, body: {contains: '${web-v9.ip}'},",
        "`${web-v9.ip}` names pod `web-v9`",
    );
}

/// Istio's injector: root in mode TPROXY, 1337 otherwise, its group always 1337; a container `istio-proxy` is merged in.
#[test]
fn the_sidecars_user_depends_on_the_mode_and_on_istio_proxy() {
    const POD: &str =
        "pods: [{name: a, POD containers: [CONTAINER {name: a}]}]\nsteps: [{wait: {ready: a}}]\n";
    let user = |mesh: &str, pod: &str, container: &str| {
        let text = POD.replace("POD ", pod).replace("CONTAINER ", container);
        let text = format!("mesh: {{interception: {{mode: {mesh}}}}}\n{text}");
        let loaded = parse("x.yaml", &text).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
        let sidecar = loaded.scenario.pods[0].sidecar.clone().unwrap();
        (sidecar.run_as_user, sidecar.run_as_group)
    };
    let annotated = "annotations: {sidecar.istio.io/interceptionMode: TPROXY}, ";
    let own =
        |security: &str| format!("{{name: istio-proxy, image: auto, securityContext: {{{security}}}}}, ");
    assert_eq!(user("REDIRECT", "", ""), (1337, 1337));
    assert_eq!(user("TPROXY", "", ""), (0, 1337));
    assert_eq!(user("REDIRECT", annotated, ""), (0, 1337));
    assert_eq!(user("TPROXY", "interception: {mode: NONE}, ", ""), (1337, 1337));
    // The pod's own is not the injected container's.
    assert_eq!(user("TPROXY", "securityContext: {runAsUser: 7}, ", ""), (0, 1337));
    assert_eq!(user("TPROXY", "", &own("runAsUser: 1337")), (1337, 1337));
    assert_eq!(user("REDIRECT", "", &own("runAsUser: 7, runAsGroup: 8")), (7, 8));
}

#[test]
fn many_mistakes_come_at_once_in_order() {
    let text = GOOD
        .replace("port: 80,", "port: x,")
        .replace("from: client", "from: nobody")
        .replace("[id]", "[]");
    let mistakes = parse("x.yaml", &text).unwrap_err();
    let lines: Vec<usize> = mistakes.locations().map(|location| location.line).collect();
    assert!(lines.len() >= 3, "{}", mistakes.render());
    assert!(lines.is_sorted(), "{lines:?}");
}

#[test]
fn a_mistake_is_rendered_with_its_line_and_a_mark() {
    let text =
        "pods: [{name: a, containers: [{name: a}]}]\nsteps: [{request: {from: b, url: 'http://a/'}}]\n";
    let said = parse("s.yaml", text).unwrap_err().render();
    insta::assert_snapshot!(anstream::adapter::strip_str(&said).to_string(), @r"
    error: `from` names pod `b`, which is not there
     --> s.yaml:2:26
      |
    2 | steps: [{request: {from: b, url: 'http://a/'}}]
      |                          ^
      = help: pods are: a

    error: 1 mistake in s.yaml; nothing was created
    ");
}

#[test]
fn a_pasted_kubernetes_object_is_taken() {
    let text = r"
services:
  - apiVersion: v1
    kind: Service
    metadata: {name: web, namespace: default}
    spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
pods:
  - apiVersion: v1
    kind: Pod
    metadata: {name: web, labels: {app: web}}
    spec: {containers: [{name: web, image: nginx, command: [sleep, '1']}]}
steps: [{exec: {from: web, command: ['true']}}]
";
    let loaded = parse("k.yaml", text).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
    assert_eq!(loaded.scenario.services[0].name, "web");
    assert_eq!(loaded.scenario.pods[0].labels["app"], "web");
}

#[test]
fn shipped_scenarios_have_no_mistakes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut number = 0;
    for dir in [
        "scenarios",
        "scenarios/races",
        "scenarios/interception",
        "tests/conformance/cases",
    ] {
        for entry in std::fs::read_dir(root.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_string_lossy();
            if !name.ends_with(".yaml") || name.ends_with(".race.yaml") {
                continue;
            }
            let (_, loaded) = load(&path).unwrap_or_else(|error| panic!("{}", error.render()));
            assert_eq!(loaded.warnings, [], "{}", path.display());
            number += 1;
        }
    }
    assert!(number >= 15);
}

const RAW: &str = r#"
services: [{name: hand, ports: [{name: http, port: 80}]}]
pods:
  - name: hand
    containers:
      - {name: hand, app: {rawHttp: 80, routes: {/x: {raw: ["HTTP/1.1 200 OK\r\n\r\n", {bytes: 5}], then: reset, early: true}}}}
  - {name: client, containers: [{name: client}]}
steps:
  - request: {from: client, tcp: "hand:80", send: ["a\r\n", {hex: "0d 0A"}, {bytes: 7}, {await: ok}, {pause: 20ms}, {hex: "6f", times: 3}, {await: {hex: "fF 00"}}], halfClose: true, read: end, slowly: {bytes: 10, every: 1ms}}
  - request: {from: client, url: "http://hand/", method: POST, bodyBytes: 100, chunked: true, trailers: {x-t: v}}
"#;

#[test]
fn raw_exchanges_and_answers_are_read_whole() {
    let loaded = parse("raw.yaml", RAW).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
    let steps = &loaded.scenario.steps;
    let Action::Request(Request {
        kind: RequestKind::Tcp { exchange, .. },
        ..
    }) = &steps[0].action
    else {
        panic!("{:?}", steps[0]);
    };
    let pieces = [
        Piece::Text("a\r\n".to_owned()),
        Piece::Raw(vec![13, 10]),
        Piece::Generated(7),
        Piece::Await("ok".to_owned()),
        Piece::Pause(Duration::from_millis(20)),
        Piece::Raw(vec![0x6f; 3]),
        Piece::AwaitRaw(vec![0xff, 0]),
    ];
    assert_eq!(exchange.send, pieces);
    assert!(exchange.half_close && exchange.read == Read::End && exchange.slowly.is_some());
    let Action::Request(Request {
        kind:
            RequestKind::Http {
                body,
                chunked,
                trailers,
                ..
            },
        ..
    }) = &steps[1].action
    else {
        panic!("{:?}", steps[1]);
    };
    assert_eq!((body, *chunked, trailers.len()), (&Body::Generated(100), true, 1));
    let Workload::App(app) = &loaded.scenario.pods[0].containers[0].workload else {
        panic!("no app");
    };
    let raw = app.routes["/x"].raw.as_ref().unwrap();
    assert_eq!((raw.pieces.len(), raw.then, raw.early), (2, Then::Reset, true));
}

#[test]
fn mistakes_in_raw_exchanges_are_told() {
    for (part, by, wanted) in [
        (
            "{hex: \"0d 0A\"}",
            "{hex: \"0d 0\"}",
            "is no bytes in hexadecimal",
        ),
        ("{bytes: 7}", "{bytes: x}", "write a number of bytes"),
        ("{await: ok}", "{awate: ok}", "did you mean `await`?"),
        ("{pause: 20ms}", "{pause: 20}", "is not a duration"),
        ("{bytes: 7}", "{bytes: 7, hex: \"00\"}", "a piece is one thing"),
        ("read: end", "read: all", "is none of: first, end, nothing"),
        ("slowly: {bytes: 10,", "slowly: {bytes: 0,", "a pace needs"),
        (
            "bodyBytes: 100,",
            "bodyBytes: 100, body: x,",
            "both `body` and `bodyBytes`",
        ),
        ("then: reset,", "then: leave,", "is none of: keep, close, reset"),
        ("{bytes: 5}]", "{await: x}]", "an answer that awaits something"),
        ("rawHttp: 80,", "http: 80,", "unknown field `raw`"),
        (
            "{raw: [\"HTTP/1.1 200 OK\\r\\n\\r\\n\", {bytes: 5}],",
            "{",
            "a route of `rawHttp` without `raw`",
        ),
    ] {
        refused_in(RAW, part, by, wanted);
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        drop(parse("x.yaml", &text));
    }

    #[test]
    fn no_change_of_a_good_file_panics(at in 0..GOOD.len(), with in "[ -~\\n]{0,3}") {
        let at = (at..GOOD.len()).find(|at| GOOD.is_char_boundary(*at)).unwrap_or(0);
        let text = format!("{}{with}{}", &GOOD[..at], &GOOD[(at + 1).min(GOOD.len())..]);
        drop(parse("x.yaml", &text));
    }
}
