//! Rules that nft loads: the same rules at the same places, in nft's own spelling.

use crate::scenarios::TRUTH;
use crate::support::{Lab, root};

/// Istio's chains as its nftables layout spells them.
pub(crate) fn in_nft(leg: &str) -> String {
    let hops: Vec<String> = leg
        .split(" -> ")
        .map(|hop| match hop.strip_prefix("ISTIO_") {
            Some(_) => hop.to_ascii_lowercase().replace('_', "-"),
            None => hop.to_owned(),
        })
        .collect();
    hops.join(" -> ")
}

fn shows_the_six_types(proxy: &str) {
    let ended = Lab::shipped("interception/redirect-nftables.yaml")
        .arg(&format!("--proxy={proxy}"))
        .status(0);
    for (step, pod, legs) in TRUTH {
        // The article's path has no part in this file's names.
        let step = step.replace("the article's path", "any other user");
        let legs: Vec<String> = legs.iter().map(|leg| in_nft(leg)).collect();
        assert_eq!(ended.legs(&step, pod), legs, "{step}");
    }
}

#[test]
fn the_six_types_have_the_same_rules() {
    shows_the_six_types("builtin");
}

#[test]
fn the_six_types_have_the_same_rules_with_envoy() {
    shows_the_six_types("envoy");
}

#[test]
fn late_rules_are_late_and_a_second_time_does_no_harm() {
    let ended = Lab::shipped("interception/late-and-again-nftables.yaml").status(0);
    let document = ended.json();
    let steps = document["scenarios"][0]["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["result"] == "pass"), "{document:#}");
}

/// One pod whose rules are nft's by `WHERE`, and an expectation.
const ONE_POD: &str = "name: one\n\
    services: [{name: web, ports: [{name: http, port: 8080}]}]\n\
    pods:\n\
    \x20 - {name: web-v1, labels: {app: web}, interception: {backend: nftables}, containers: [{name: web, app: {http: 8080}}]}\n\
    \x20 - {name: old, containers: [{name: old, app: {http: 8080}}]}\n\
    \x20 - {name: client, sidecar: false, containers: [{name: client}]}\n\
    steps:\n\
    \x20 - {name: nft, request: {from: client, url: 'http://web:8080/'}, expect: {EXPECT}}\n\
    \x20 - {name: iptables, request: {from: client, url: 'http://${old.ip}:8080/'}, expect: {contains: {old: [ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT]}}}\n";

fn one_pod(expect: &str) -> String {
    ONE_POD.replace("EXPECT", expect)
}

/// In one scenario each pod may have its own.
#[test]
fn an_expectation_of_an_nft_rule_holds_or_fails() {
    for (expect, status) in [
        (
            "contains: {web-v1: ['istio-inbound#5 -> istio-in-redirect#1']}",
            0,
        ),
        ("contains: {web-v1: [istio-inbound -> istio-in-redirect]}", 0),
        ("contains: {web-v1: ['istio-inbound#4']}", 1),
        ("contains: {web-v1: [ISTIO_INBOUND]}", 1),
        ("never: {web-v1: [istio-in-redirect]}", 1),
        ("never: {web-v1: [istio-redirect]}", 0),
    ] {
        Lab::scenario(one_pod(expect)).status(status);
    }
}

#[test]
fn a_name_that_can_be_no_chain_is_a_mistake() {
    for (expect, said) in [
        (
            "never: {old: [istio-redirect]}",
            "a hop names container `istio-redirect`, which pod `old` has not",
        ),
        (
            "contains: {old: [OUTPUT -> istio-output]}",
            "without a port can only begin a leg",
        ),
        (
            "contains: {web-v1: [OUTPUT -> web]}",
            "without a port can only begin a leg",
        ),
        (
            "contains: {web-v1: [OUTPUT -> sidecar]}",
            "without a port can only begin a leg",
        ),
    ] {
        let ended = Lab::scenario(one_pod(expect)).status(2);
        assert!(ended.stderr.contains(said), "{expect}: {}", ended.stderr);
    }
}

#[test]
fn without_nft_only_a_scenario_that_needs_it_is_refused() {
    let ended = Lab::scenario(one_pod("status: 200")).without("nft").status(3);
    for said in ["pod `web-v1`", "backend: nftables", "apt-get install nftables"] {
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
    }
    let doctor = Lab::new("doctor").without("nft").status(0).stdout;
    assert!(
        doctor.contains("no `backend: nftables`: looked for nft in"),
        "{doctor}"
    );
    let iptables = one_pod("status: 200").replace("backend: nftables", "backend: iptables");
    Lab::scenario(iptables).without("nft").status(0);
    let file = root().join("scenarios/bookinfo.yaml");
    Lab::new("run")
        .arg(file.to_str().unwrap())
        .without("nft")
        .status(0);
}
