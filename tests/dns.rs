//! DNS capture on the real binary: what the agent answers, what it passes on, and by which rules.

use crate::backends::in_nft;
use crate::support::Lab;

/// What every leg to and from `lo` passes beside the rules that decide.
const IN: &str = "POSTROUTING -> ISTIO_INBOUND#end";
const ON: &str = "agent -> OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#4 -> POSTROUTING";

/// A leg of a captured question, by the deciding rule of `ISTIO_OUTPUT_DNS`.
fn captured(who: &str, rule: u8) -> String {
    format!(
        "{who} -> OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#8 -> ISTIO_OUTPUT_DNS#{rule} -> {IN} -> agent:15053"
    )
}

/// Stands here a second time on purpose: a change of the scenario file must not change what is true.
fn check_shipped(proxy: &str) {
    let ended = Lab::shipped("interception/dns-capture.yaml")
        .arg("--proxy")
        .arg(proxy)
        .status(0);
    let check = |step: &str, pod: &str, legs: &[String]| {
        assert_eq!(ended.legs(step, pod), legs, "{step} with {proxy}");
    };
    let on = ON.to_owned();
    check("UDP: the agent", "shop", &[captured("shop", 2)]);
    check("TCP: the agent", "shop", &[captured("shop", 1)]);
    check("UDP: what istiod", "shop", &[captured("shop", 2), on.clone()]);
    check("TCP: what istiod", "shop", &[captured("shop", 1), on.clone()]);
    check(
        "a service that istiod",
        "shop",
        &[captured("shop", 2), on.clone()],
    );
    check("the agent answers for it", "shop", &[captured("shop", 2)]);
    check("captureAllDNS: the same", "all", &[captured("all", 2)]);
    check("captureAllDNS: passed on", "all", &[captured("all", 2), on]);
    check("no name table: SERVFAIL", "nameless", &[captured("nameless", 2)]);
    let sidecar = "sidecar -> OUTPUT -> ISTIO_OUTPUT_DNS#end -> ";
    let loopback = "OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#8 -> ISTIO_OUTPUT_DNS#end -> ";
    check(
        "Type 2",
        "shop",
        &[
            format!("shop -> {loopback}ISTIO_OUTPUT#10 -> ISTIO_REDIRECT#1 -> {IN} -> sidecar:15001"),
            format!("{sidecar}ISTIO_OUTPUT#4 -> POSTROUTING"),
        ],
    );
    check(
        "with it, TCP to port 53 of 127.0.0.1",
        "shop",
        &[format!("shop -> {loopback}ISTIO_OUTPUT#9 -> {IN} -> refused:53")],
    );
    check(
        "by group: #7",
        "tproxy",
        &[
            captured("tproxy", 2),
            "agent -> OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#7 -> POSTROUTING".to_owned(),
        ],
    );
    check(
        "by group: and those",
        "shop",
        &["shop -> OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#7 -> POSTROUTING".to_owned()],
    );
}

#[test]
fn the_shipped_scenario_holds_with_the_built_in_data_plane() {
    check_shipped("builtin");
}

#[test]
fn the_shipped_scenario_holds_with_envoy() {
    check_shipped("envoy");
}

const MESH: &str = "name: d\n\
    services: [{name: web, ports: [{name: http, port: 80, targetPort: 8080}]}]\n\
    pods:\n\
    \x20 - {name: web-v1, labels: {app: web}, containers: [{name: web, app: {http: 8080}}]}\n\
    \x20 - {name: shop, POD containers: [{name: shop}]}\n\
    steps:\n";

fn shop(pod: &str, steps: &str) -> String {
    MESH.replace("POD", pod) + steps
}

const CAPTURED: &str = "interception: {redirectDNS: true},";

#[test]
fn a_wrong_rule_is_told() {
    let step = "  - {request: {from: shop, dns: web}, expect: {path: {shop: [SHOP]}}}\n";
    let right = captured("shop", 2);
    Lab::scenario(shop(CAPTURED, &step.replace("SHOP", &right))).status(0);
    for wrong in [
        captured("shop", 1),
        ON.to_owned(),
        right.replace("agent:15053", "refused:15053"),
    ] {
        let ended = Lab::scenario(shop(CAPTURED, &step.replace("SHOP", &wrong))).status(1);
        assert!(ended.stdout.contains("observed"), "{}", ended.stdout);
    }
}

#[test]
fn without_capture_the_agent_answers_nobody() {
    let steps = "  - {request: {from: shop, tcp: '127.0.0.1:15053'}, expect: {outcome: connection-refused}}\n\
        \x20 - {request: {from: shop, dns: web}, expect: {path: {shop: [shop -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#end -> POSTROUTING]}}}\n";
    Lab::scenario(shop("", steps)).status(0);
}

/// Servers that are named have a rule each, TCP's first; that of resolv.conf is one only if it is named too.
#[test]
fn named_servers_are_captured_and_no_others() {
    let step = |server: &str, over: &str, legs: &str| {
        format!(
            "  - {{request: {{from: shop, dns: web., server: {server}, over: {over}}}, expect: {{outcome: ok, path: {{shop: [{legs}]}}}}}}\n"
        )
    };
    let past = "shop -> OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#8 -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#10 -> \
        ISTIO_REDIRECT#end -> POSTROUTING";
    let steps = step("10.96.0.10", "udp", past)
        + &step("10.96.0.11", "tcp", &captured("shop", 1))
        + &step("10.96.0.12", "tcp", &captured("shop", 2))
        + &step("10.96.0.11", "udp", &captured("shop", 3))
        + &step("10.96.0.12", "udp", &captured("shop", 4));
    let pod = "interception: {redirectDNS: true, dnsServersV4: [10.96.0.11, 10.96.0.12]},";
    Lab::scenario(shop(pod, &steps)).status(0);
}

#[test]
fn rules_that_nft_loads_do_the_same() {
    let step = |name: &str, over: &str, rule: u8, on: bool| {
        let mut legs = captured("shop", rule);
        if on {
            legs = format!("{legs}, {ON}");
        }
        let legs = legs
            .replace("ISTIO_", "istio-")
            .replace("OUTPUT_DNS", "output-dns");
        let legs = legs
            .replace("istio-OUTPUT", "istio-output")
            .replace("istio-INBOUND", "istio-inbound");
        format!(
            "  - {{request: {{from: shop, dns: {name}, over: {over}}}, expect: {{outcome: ok, path: {{shop: [{legs}]}}}}}}\n"
        )
    };
    let steps = step("web", "udp", 2, false)
        + &step("web", "tcp", 1, false)
        + &step("kube-dns", "udp", 2, true)
        + &step("kube-dns", "tcp", 1, true);
    for all in ["false", "true"] {
        let pod = format!("interception: {{redirectDNS: true, captureAllDNS: {all}, backend: nftables}},");
        Lab::scenario(shop(&pod, &steps)).status(0);
    }
}

/// By Istio's own means: the injector captures by server, the CNI plugin altogether.
#[test]
fn the_annotation_asks_for_it_too() {
    let annotated =
        "annotations: {proxy.istio.io/config: 'proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}'},";
    let elsewhere = "  - {request: {from: shop, dns: web., server: 10.96.0.11, timeout: 300ms}, expect: {outcome: OUTCOME}}\n";
    let own = "  - {request: {from: shop, dns: web}, expect: {outcome: ok, contains: {shop: ['ISTIO_OUTPUT_DNS#2 -> POSTROUTING -> ISTIO_INBOUND#end -> agent:15053']}}}\n";
    let by_server = own.to_owned() + &elsewhere.replace("OUTCOME", "timeout");
    Lab::scenario(shop(annotated, &by_server)).status(0);
    let altogether = own.to_owned() + &elsewhere.replace("OUTCOME", "ok");
    Lab::scenario(shop(&format!("cni: true, {annotated}"), &altogether)).status(0);
}

#[test]
fn names_stay_while_istiod_is_gone_and_a_new_agent_asks_again() {
    let steps = "  - {istiod: down}\n\
        \x20 - {request: {from: shop, dns: web}, expect: {outcome: ok, path: {shop: [SHOP]}}}\n\
        \x20 - {kill: {pod: shop, process: agent, signal: SIGKILL}}\n\
        \x20 - {wait: {exited: shop/agent}}\n\
        \x20 - {request: {from: shop, dns: web, over: tcp}, expect: {outcome: connection-refused}}\n\
        \x20 - {start: {pod: shop, process: agent}}\n\
        \x20 - {wait: {started: shop/agent}}\n\
        \x20 - {istiod: up}\n\
        \x20 - {wait: {ready: shop}}\n\
        \x20 - {request: {from: shop, dns: web}, expect: {outcome: ok, path: {shop: [SHOP]}}}\n";
    Lab::scenario(shop(CAPTURED, &steps.replace("SHOP", &captured("shop", 2)))).status(0);
}

/// Any program's own resolver is served, not only the built-in client: it asks for A and AAAA, and searches.
#[test]
fn the_c_library_understands_the_agent() {
    let step = |name: &str, words: &str| {
        format!(
            "  - {{exec: {{from: shop, command: [getent, ahosts, {name}]}}, expect: {{exitCode: 0, body: {{contains: '{words}'}}}}}}\n"
        )
    };
    let steps = step("web", "10.96.1.1 ")
        + &step("web.default", "STREAM web.default")
        + &step("kube-dns", "10.96.0.10 ");
    Lab::scenario(shop(CAPTURED, &steps)).status(0);
}

/// Joined by what the agent tells of each question, not by time.
#[test]
fn side_by_side_each_question_has_its_own_way() {
    let here = "{request: {from: shop, dns: web}, expect: {path: {shop: [HERE]}}}";
    let passed_on = "{request: {from: shop, dns: kube-dns}, expect: {path: {shop: [HERE, ON]}}}";
    let pairs = format!("{here}, {passed_on}, {here}, {passed_on}");
    let step = format!("  - {{parallel: [{pairs}]}}\n");
    let step = step
        .replace("HERE", &captured("shop", 2))
        .replace("ON]", &format!("{ON}]"));
    Lab::scenario(shop(CAPTURED, &step)).status(0);
}

/// A service that is held is none of the mesh's yet, and a sidecar is ready only with the names.
#[test]
fn a_sidecar_without_names_is_no_endpoint() {
    let text = "name: d\n\
        mesh: {interception: {redirectDNS: true}}\n\
        services: [{name: web, ports: [{name: http, port: 80, targetPort: 8080}]}]\n\
        pods:\n\
        \x20 - {name: web-v1, labels: {app: web}, hold: [xds.nds], containers: [{name: web, app: {http: 8080}}]}\n\
        \x20 - {name: shop, containers: [{name: shop}]}\n\
        steps:\n\
        \x20 - {request: {from: shop, url: 'http://web/'}, expect: {status: 503, responseFlags: UH}}\n\
        \x20 - {release: {pod: web-v1, gates: [xds.nds]}}\n\
        \x20 - {wait: {ready: web-v1}}\n\
        \x20 - {request: {from: shop, url: 'http://web/'}, expect: {status: 200}}\n";
    Lab::scenario(text).status(0);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let step = "  - {request: {from: shop, dns: web, server: nowhere}}\n";
    let ended = Lab::scenario(shop("hold: [xds.nds],", step)).status(2);
    let said = anstream::adapter::strip_str(&ended.stderr).to_string();
    for words in [
        "gate `xds.nds`: pod `shop` does not capture DNS",
        "`nowhere` is no address",
        "write `server: 127.0.0.1:5353`",
        ".yaml:5:",
        ".yaml:7:",
    ] {
        assert!(said.contains(words), "no `{words}` in {said}");
    }
}

/// Of `ISTIO_OUTPUT`'s ten rules #6 alone is never reached; without capture #5 and, by usual routing, #8 are not either.
#[test]
fn capture_brings_rules_to_life() {
    let mut config = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut config, b"redirectDNS: true\ndnsServersV4: 10.96.0.10\n").unwrap();
    let ended = Lab::new("rules")
        .arg("explain")
        .arg("--unreachable")
        .arg("--output=json")
        .arg("--config")
        .arg(config.path().to_str().unwrap())
        .status(0);
    let document = ended.json();
    let dead: Vec<u64> = document["unreachable"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|each| each["chain"] == "ISTIO_OUTPUT")
        .map(|each| each["position"].as_u64().unwrap())
        .collect();
    assert_eq!(dead, [6], "{document:#}");
}

/// nftables' rules and IPv6's are those of iptables and IPv4, at the same places where they stand in tables of their own.
#[test]
fn capture_is_the_same_in_either_back_end_and_family() {
    for proxy in ["--proxy=builtin", "--proxy=envoy"] {
        let usual = Lab::shipped("interception/dns-capture.yaml").arg(proxy).status(0);
        let others = Lab::shipped("interception/dns-capture-everywhere.yaml")
            .arg(proxy)
            .status(0);
        for step in [
            "UDP: the agent answers for a service",
            "TCP: the agent answers for a service",
            "UDP: what istiod does not have is passed on",
            "TCP: what istiod does not have is passed on, by TCP",
            "Type 2: local pod -> remote pod",
        ] {
            let legs = usual.legs(step, "shop");
            assert!(!legs.is_empty(), "{step}");
            let in_ipv6 = others.legs(&format!("{step}; iptables, IPv6"), "ip6-shop");
            assert_eq!(in_ipv6, legs, "{step}, {proxy}");
            let of_nft: Vec<String> = legs.iter().map(|leg| in_nft(leg)).collect();
            let seen = others.legs(&format!("{step}; nftables, IPv4"), "nft-shop");
            assert_eq!(seen, of_nft, "{step}, {proxy}");
        }
    }
}

/// A sidecar of UID 0 and GID 1337: the rules for the group, #5 and #7, in the place of those for the user.
#[test]
fn a_sidecar_that_is_known_by_its_group() {
    for proxy in ["--proxy=builtin", "--proxy=envoy"] {
        let ended = Lab::shipped("interception/dns-capture-by-group.yaml")
            .arg(proxy)
            .status(0);
        let last = |step: &str, pod: &str| ended.legs(step, pod).pop().unwrap();
        let out =
            |who: &str| format!("{who} -> OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#7 -> POSTROUTING");
        for (mode, pod) in [("REDIRECT", "redirect"), ("TPROXY", "tproxy")] {
            assert_eq!(
                last(&format!("{mode}: the agent passes"), pod),
                out("agent"),
                "{proxy}"
            );
            assert_eq!(last(&format!("{mode}, type 2"), pod), out("sidecar"), "{proxy}");
            assert_eq!(last(&format!("{mode}, type 6"), pod), out("agent"), "{proxy}");
        }
        let back = "ISTIO_OUTPUT#5 -> ISTIO_IN_REDIRECT#1 -> POSTROUTING -> ISTIO_INBOUND#end ->";
        let own = ended.legs("REDIRECT, type 4, port 53", "redirect");
        assert!(own[1].ends_with(&format!("{back} sidecar:15006")), "{own:?}");
        let lost = ended.legs("TPROXY, type 1, port 53", "tproxy");
        assert!(
            lost[1].ends_with(&format!("{back} ISTIO_INBOUND#1 -> sidecar:15006")),
            "{lost:?}"
        );
        assert_eq!(lost.len(), 2, "{lost:?}");
    }
}
