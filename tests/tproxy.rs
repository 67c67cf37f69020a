//! `mode: TPROXY` in a running lab, with either data plane.

use crate::support::{Ended, Lab};

const PROXIES: [&str; 2] = ["--proxy=builtin", "--proxy=envoy"];

/// The table of the six types, as README and scenario have it; a change of the file must not change what is true.
const TRUTH: [(&str, &str, &[&str]); 11] = [
    (
        "Type 1: remote pod -> local pod",
        "reviews-v1",
        &[
            "PREROUTING -> ISTIO_INBOUND#8 -> ISTIO_TPROXY#1 -> INPUT -> sidecar:15006",
            "sidecar -> OUTPUT -> OUTPUT#1 -> ISTIO_OUTPUT#3 -> POSTROUTING -> ISTIO_INBOUND#1 -> reviews:9080",
        ],
    ),
    (
        "Type 2: local pod -> remote pod",
        "productpage-v1",
        &[
            "productpage -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> ISTIO_INBOUND#3 -> sidecar:15001",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#7 -> POSTROUTING",
        ],
    ),
    (
        "Type 3: Prometheus -> local pod",
        "reviews-v1",
        &[
            "PREROUTING -> ISTIO_INBOUND#4 -> INPUT -> sidecar:15090",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#3 -> POSTROUTING -> ISTIO_INBOUND#3 -> sidecar:15000",
        ],
    ),
    (
        "Type 4: local pod -> local pod, new connections",
        "ratings-v1",
        &[
            "ratings -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> ISTIO_INBOUND#3 -> sidecar:15001",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#3 -> POSTROUTING -> ISTIO_INBOUND#8 -> ISTIO_TPROXY#1 -> sidecar:15006",
            "sidecar -> OUTPUT -> OUTPUT#1 -> ISTIO_OUTPUT#3 -> POSTROUTING -> ISTIO_INBOUND#1 -> ratings:9080",
        ],
    ),
    (
        "Type 5: agent -> data plane",
        "reviews-v1",
        &["agent -> OUTPUT -> ISTIO_OUTPUT#3 -> POSTROUTING -> ISTIO_INBOUND#3 -> sidecar:15000"],
    ),
    (
        "Type 6: agent -> istiod, the xDS stream itself",
        "reviews-v1",
        &["agent -> OUTPUT -> ISTIO_OUTPUT#7 -> POSTROUTING"],
    ),
    (
        "Self call by pod address",
        "ratings-v1",
        &["ratings -> OUTPUT -> ISTIO_OUTPUT#3 -> POSTROUTING -> ISTIO_INBOUND#3 -> ratings:9080"],
    ),
    (
        "DNS over UDP",
        "ratings-v1",
        &["ratings -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#end -> POSTROUTING"],
    ),
    (
        "No sidecar",
        "held-v1",
        &["PREROUTING -> ISTIO_INBOUND#8 -> ISTIO_TPROXY#1 -> dropped"],
    ),
    (
        "UID 1337, type 6",
        "legacy-v1",
        &["agent -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING"],
    ),
    (
        "UID 1337, type 1",
        "legacy-v1",
        &[
            "PREROUTING -> ISTIO_INBOUND#8 -> ISTIO_TPROXY#1 -> INPUT -> sidecar:15006",
            "sidecar -> OUTPUT -> OUTPUT#1 -> ISTIO_OUTPUT#2 -> ISTIO_IN_REDIRECT#1 -> POSTROUTING -> ISTIO_INBOUND#1 -> sidecar:15006",
        ],
    ),
];

#[test]
fn the_six_types_have_the_same_paths_with_either_data_plane() {
    for proxy in PROXIES {
        let ended = Lab::shipped("interception/tproxy.yaml").arg(proxy).status(0);
        for (step, pod, legs) in TRUTH {
            assert_eq!(ended.legs(step, pod), legs, "{proxy}: {step}");
        }
    }
}

const PODS: &str = "services:\n\
    \x20 - {name: web, ports: [{name: http, port: 80, targetPort: 8080}]}\n\
    \x20 - {name: sniffed, ports: [{name: any, port: 7000}]}\n\
    pods:\n\
    \x20 - {name: web-v1, WEB labels: {app: web}, containers: [{name: web, app: {http: 8080}}]}\n\
    \x20 - {name: other-v1, OTHER labels: {app: sniffed}, containers: [{name: other, app: {http: 7000}}]}\n\
    \x20 - {name: client, sidecar: false, containers: [{name: client}]}\n\
    steps:\n";

/// Pods with these options; `mesh` is the mesh's.
fn pods(mesh: &str, web: &str, other: &str, steps: &str) -> String {
    let text = PODS.replace("WEB ", web).replace("OTHER ", other);
    format!("name: t\nmesh: {{{mesh}}}\n{text}{steps}")
}

fn both(text: &str, status: i32) -> [Ended; 2] {
    PROXIES.map(|proxy| Lab::scenario(text).arg("--output=json").arg(proxy).status(status))
}

/// Whose address the app is to see.
fn peer(name: &str, request: &str, peer: &str) -> String {
    format!(
        "  - {{name: {name}, request: {{{request}}}, expect: {{status: 200, body: {{contains: '\"peer\":\"{peer}\"'}}}}}}\n"
    )
}

#[test]
fn mesh_pod_and_annotation_each_set_the_mode_for_the_pods_that_they_speak_of() {
    const TPROXY: &str = "interception: {mode: TPROXY}";
    const ANNOTATED: &str = "annotations: {sidecar.istio.io/interceptionMode: ";
    let web = "from: client, url: 'http://web/'";
    let sniffed = "from: client, url: 'http://sniffed:7000/'";
    let (client, redirected) = ("${client.ip}", "127.0.0.6");
    let cases = [
        (TPROXY, String::new(), String::new(), client, client),
        (
            TPROXY,
            format!("{ANNOTATED}REDIRECT}},"),
            String::new(),
            redirected,
            client,
        ),
        ("", format!("{TPROXY},"), String::new(), client, redirected),
        (
            "",
            String::new(),
            format!("{ANNOTATED}TPROXY}},"),
            redirected,
            client,
        ),
    ];
    for (mesh, own, other, to_web, to_sniffed) in cases {
        let steps = peer("web", web, to_web) + &peer("sniffed", sniffed, to_sniffed);
        both(&pods(mesh, &own, &other, &steps), 0);
    }
}

#[test]
fn http2_worker_threads_and_a_sidecar_that_was_killed_keep_the_clients_address() {
    let h2 = "from: client, http2: true, url: 'http://${other-v1.ip}:7000/'";
    let web = "from: client, url: 'http://${web-v1.ip}:8080/'";
    let steps = peer("h2", h2, "${client.ip}")
        + &peer("h2 once more", h2, "${client.ip}")
        + &peer("web", web, "${client.ip}")
        + "  - {kill: {pod: web-v1, process: sidecar}}\n  - {wait: {ready: web-v1, timeout: 10s}}\n"
        + &peer("again", web, "${client.ip}");
    both(
        &pods("interception: {mode: TPROXY}, concurrency: 2", "", "", &steps),
        0,
    );
    // Which of several threads gets a connection is left to chance, and so whether it finds one to ride again.
    for ended in both(&pods("interception: {mode: TPROXY}", "", "", &steps), 0) {
        let legs = ended.legs("h2 once more", "other-v1");
        assert!(legs[1].ends_with("other:7000 (reused)"), "{legs:?}");
    }
}

/// A rule that is not the one is a failure, as with REDIRECT; so is another's address.
#[test]
fn a_wrong_rule_and_a_wrong_address_fail() {
    let steps = "  - name: wrong rule\n\
        \x20   request: {from: client, url: 'http://${web-v1.ip}:8080/'}\n\
        \x20   expect: {path: {web-v1: [\n\
        \x20     PREROUTING -> ISTIO_INBOUND#7 -> ISTIO_TPROXY#1 -> INPUT -> sidecar:15006,\n\
        \x20     'sidecar -> OUTPUT -> OUTPUT#1 -> ISTIO_OUTPUT#3 -> POSTROUTING -> ISTIO_INBOUND#1 -> web:8080']}}\n"
        .to_owned()
        + &peer("wrong address", "from: client, url: 'http://${web-v1.ip}:8080/'", "127.0.0.6");
    for ended in both(&pods("interception: {mode: TPROXY}", "", "", &steps), 1) {
        let document = ended.json();
        let steps = document["scenarios"][0]["steps"].as_array().unwrap();
        assert!(steps.iter().all(|step| step["result"] == "fail"), "{document:#}");
    }
}

/// The kernel has no route for an answer of 127.0.0.1's to a client elsewhere, before the rules could mark it.
#[test]
fn the_older_inbound_cluster_is_not_answered() {
    let steps = "  - name: to 127.0.0.1\n\
        \x20   request: {from: client, url: 'http://${web-v1.ip}:8080/', timeout: 500ms}\n\
        \x20   expect: {outcome: timeout, path: {web-v1: [\n\
        \x20     PREROUTING -> ISTIO_INBOUND#8 -> ISTIO_TPROXY#1 -> INPUT -> sidecar:15006,\n\
        \x20     'sidecar -> OUTPUT -> OUTPUT#1 -> ISTIO_OUTPUT#3 -> POSTROUTING -> ISTIO_INBOUND#1 -> web:8080']}}\n";
    both(
        &pods("interception: {mode: TPROXY}, inbound: localhost", "", "", steps),
        0,
    );
}

/// Of every process of the sidecar that runs, and of one that is started in its container.
#[test]
fn the_sidecar_has_one_capability_and_is_istios_user() {
    let web = "interception: {mode: TPROXY},";
    // A process's name, and its user, group and capabilities; the lab's PID namespace shows all pods' processes.
    let all = "for status in /proc/[0-9]*/status; do sed -n -e 1p -e /^[UG]id/p -e /^Cap/p -e /^NoNew/p $status 2>/dev/null \
        | cut -f2 | tr \"\\n\" \" \"; echo; done";
    let own = "sed -n -e /^[UG]id/p -e /^Cap/p -e /^NoNew/p /proc/self/status | cut -f2 | tr \"\\n\" \" \"";
    let none = "0000000000000000 ".repeat(5) + "1";
    let one = "0000000000001000 ".repeat(5) + "1";
    let step = |from: &str, command: &str, wanted: &str| {
        format!(
            "  - {{exec: {{from: {from}, command: [sh, -c, '{command}']}}, expect: {{body: {{contains: '{wanted}'}}}}}}\n"
        )
    };
    for (proxy, data_plane) in [("builtin", "data-plane"), ("envoy", "envoy")] {
        let steps = step("web-v1/agent", own, &format!("0 1337 {one}"))
            + &step("other-v1/agent", own, &format!("1337 1337 {none}"))
            + &step("web-v1/agent", all, &format!("agent 0 1337 {one}"))
            + &step("web-v1/agent", all, &format!("agent 1337 1337 {none}"))
            + &step("web-v1/agent", all, &format!("{data_plane} 0 1337 {one}"))
            + &step("web-v1/agent", all, &format!("{data_plane} 1337 1337 {none}"))
            + &step("web-v1/web", own, &format!("1000 1000 {none}"));
        let mesh = format!("proxy: {proxy}");
        Lab::scenario(pods(&mesh, web, "", &steps)).status(0);
    }
}

#[test]
fn the_marks_route_is_there_once_however_often_the_rules_are_installed() {
    for backend in ["iptables", "nftables"] {
        let again = "  - {rules: {pod: web-v1, again: verify}}\n";
        let look = |ip: &str| {
            let look =
                format!("{ip} rule list lookup 133; {ip} route show table 133; {ip} rule list | wc -l");
            format!(
                "  - {{name: look, exec: {{from: web-v1, command: [sh, -c, '{look}']}}, expect: {{body: {{contains: '?!'}}}}}}\n"
            )
        };
        let both = look("ip") + &look("ip -6");
        let own = format!("interception: {{mode: TPROXY, backend: {backend}}},");
        let text = pods(
            "ipFamilies: [IPv4, IPv6]",
            &own,
            "",
            &format!("{both}{again}{both}"),
        );
        let document = Lab::scenario(text).arg("--output=json").status(1).json();
        let steps = document["scenarios"][0]["steps"].as_array().unwrap();
        let seen = |step: usize| steps[step]["expected"][0]["observed"][0].as_str().unwrap();
        // The kernel has three rules of its own in IPv4, two in IPv6.
        for (step, rules) in [(0, "4"), (1, "3")] {
            let lines = seen(step);
            assert!(lines.contains("from all fwmark 0x539 lookup 133"), "{lines}");
            assert!(lines.contains("local default dev lo"), "{lines}");
            assert_eq!(
                lines.lines().rfind(|line| !line.is_empty()),
                Some(rules),
                "{lines}"
            );
            assert_eq!(lines, seen(step + 3), "{backend}");
        }
    }
}

/// In IPv6 the kernel knows a way back from `::1`, so what IPv4 leaves unanswered goes round until somebody gives up. The
/// lab ends all the same, and says so.
#[test]
fn what_goes_round_is_told_and_not_followed_for_ever() {
    let web = "containers: [{name: istio-proxy, image: auto, securityContext: {runAsUser: 1337, runAsGroup: 1337}}, \
        {name: web, app: {http: 8080}}]";
    let text = format!(
        "name: t\nmesh: {{ipFamilies: [IPv6], interception: {{mode: TPROXY}}}}\n\
        pods:\n  - {{name: web-v1, {web}}}\n  - {{name: client, sidecar: false, containers: [{{name: client}}]}}\n\
        steps:\n  - name: round\n    request: {{from: client, url: 'http://${{web-v1.ip}}:8080/', timeout: 1s}}\n    expect: {{outcome: timeout}}\n"
    );
    for ended in both(&text, 5) {
        let document = ended.json();
        assert!(ended.stdout.contains("goes round and round"), "{document:#}");
        let legs = ended.legs("round", "web-v1");
        assert_eq!(
            legs[1..3],
            ["sidecar -> OUTPUT -> OUTPUT#1 -> ISTIO_OUTPUT#2 -> ISTIO_IN_REDIRECT#1 -> POSTROUTING -> ISTIO_INBOUND#1 -> sidecar:15006";
                2]
        );
        assert_eq!(legs.len(), 99, "{legs:#?}");
    }
}

/// Each rule in either back end and family, and the same paths with either data plane.
#[test]
fn every_rule_decides_in_some_step() {
    for proxy in PROXIES {
        let document = Lab::shipped("interception/every-rule-tproxy.yaml")
            .arg(proxy)
            .status(0)
            .json();
        assert_eq!(document["scenarios"][0]["steps"].as_array().unwrap().len(), 42);
    }
}
