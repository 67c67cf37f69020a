//! `lab rules mutate`: which step notices that a rule is wrong, and which rules none defends.

use std::io::{BufRead as _, BufReader};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::host::Host;
use crate::support::{Ended, Lab, root};

/// What comes in is defended, what goes out is not.
const INBOUND: &str = "name: inbound\n\
    pods:\n\
    \x20 - {name: web, containers: [{name: web, app: {http: 8080}}]}\n\
    \x20 - {name: twin, containers: [{name: twin, app: {http: 8080}}]}\n\
    \x20 - {name: nft, interception: {backend: nftables}, containers: [{name: nft, app: {http: 8080}}]}\n\
    \x20 - {name: client, sidecar: false, containers: [{name: client}]}\n\
    steps:\n\
    \x20 - {name: first, request: {from: client, url: 'http://${web.ip}:8080/', timeout: 1s}, \
    expect: {contains: {web: ['ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT -> sidecar:15006']}}}\n\
    \x20 - {name: metrics, request: {from: client, url: 'http://${twin.ip}:15020/healthz/ready', timeout: 1s}, \
    expect: {outcome: ok, path: {twin: ['PREROUTING -> ISTIO_INBOUND#4 -> INPUT -> agent:15020']}}}\n";

struct Case {
    file: tempfile::NamedTempFile,
}

impl Case {
    fn new(text: &str) -> Self {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Self { file }
    }

    fn lab(&self) -> Lab {
        Lab::new("rules")
            .arg("mutate")
            .arg(self.file.path().to_str().unwrap())
    }
}

/// Of the pods, a rule and a change: what became of it, and why.
fn fate(document: &Value, pod: &str, rule: &str, change: &str) -> (String, Option<String>) {
    let mutants = document["mutants"].as_array().unwrap();
    let found = mutants.iter().find(|mutant| {
        let name = format!("{}#{}", mutant["chain"].as_str().unwrap(), mutant["rule"]);
        mutant["pods"].as_array().unwrap().iter().any(|name| name == pod)
            && name == rule
            && mutant["change"] == change
    });
    let found = found.unwrap_or_else(|| panic!("no {pod} {rule} {change} in {document:#}"));
    let because = found["because"].as_str().map(str::to_owned);
    (found["result"].as_str().unwrap().to_owned(), because)
}

fn noticed(step: &str) -> (String, Option<String>) {
    ("noticed".to_owned(), Some(step.to_owned()))
}

#[test]
fn each_rule_is_noticed_or_listed() {
    let case = Case::new(INBOUND);
    let document = case
        .lab()
        .arg("--only=web")
        .arg("--only=twin")
        .arg("--output=json")
        .status(1)
        .json();
    let of = |rule, change| fate(&document, "web", rule, change);
    assert_eq!(of("PREROUTING#1", "drop"), noticed("first"));
    assert_eq!(of("ISTIO_INBOUND#5", "drop"), noticed("first"));
    assert_eq!(of("ISTIO_IN_REDIRECT#1", "drop"), noticed("first"));
    assert_eq!(of("ISTIO_INBOUND#4", "drop"), noticed("metrics"));
    // The numbers 4 and 5 change places in the expectations too: only the agent's port is led astray.
    assert_eq!(of("ISTIO_INBOUND#4", "swap"), noticed("metrics"));
    assert_eq!(of("ISTIO_INBOUND#1", "drop").0, "missed");
    assert_eq!(of("ISTIO_OUTPUT#9", "drop").0, "missed");
    assert_eq!(of("ISTIO_OUTPUT#5", "drop").0, "unreachable");
    let mutants = document["mutants"].as_array().unwrap();
    // 18 rules and two orders, of both pods at once.
    assert_eq!(mutants.len(), 20, "{document:#}");
    assert_eq!(mutants[0]["pods"], serde_json::json!(["web", "twin"]));
}

#[test]
fn one_pod_alone_and_rules_of_nft() {
    let case = Case::new(INBOUND);
    let document = case.lab().arg("--only=nft").arg("--output=json").status(1).json();
    let mutants = document["mutants"].as_array().unwrap();
    assert!(
        mutants
            .iter()
            .all(|mutant| mutant["pods"] == serde_json::json!(["nft"]))
    );
    // Nothing asks this pod for anything.
    assert_eq!(fate(&document, "nft", "istio-inbound#5", "drop").0, "missed");
    assert!(
        mutants.iter().all(|mutant| mutant["result"] != "noticed"),
        "{document:#}"
    );
    assert_eq!(mutants[0]["table"], "istio-proxy-nat");
}

/// A step over IPv6 holds to IPv6's rules: IPv4's in each other's place are nothing to it.
#[test]
fn a_swap_is_of_one_family() {
    let case = Case::new(
        "name: both\nmesh: {ipFamilies: [IPv4, IPv6]}\n\
        pods:\n  - {name: web, containers: [{name: web, app: {http: 8080}}]}\n\
        \x20 - {name: client, sidecar: false, containers: [{name: client}]}\n\
        steps:\n  - {name: six, request: {from: client, url: 'http://${web.ipv6}:15020/healthz/ready', timeout: 1s}, \
        expect: {path: {web: ['PREROUTING -> ISTIO_INBOUND#4 -> INPUT -> agent:15020']}}}\n",
    );
    let document = case.lab().arg("--output=json").status(1).json();
    let swapped = document["mutants"].as_array().unwrap().iter().filter(|mutant| {
        mutant["chain"] == "ISTIO_INBOUND" && mutant["rule"] == 4 && mutant["change"] == "swap"
    });
    let results: Vec<[&str; 2]> = swapped
        .map(|mutant| ["family", "result"].map(|field| mutant[field].as_str().unwrap()))
        .collect();
    assert_eq!(results, [["ip", "missed"], ["ip6", "noticed"]], "{document:#}");
}

#[test]
fn people_read_what_is_not_defended() {
    let Ended { stdout, .. } = Case::new(INBOUND).lab().arg("--only=web").status(1);
    for part in [
        "NOTICED [",
        "inbound: nat PREROUTING#1 dropped: first\n",
        "\nno step defends:\n",
        "  inbound: nat ISTIO_INBOUND#1 dropped (web)\n    -p tcp --dport 15008 -j RETURN\n",
        "Summary 20 mutants: ",
    ] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}

#[test]
fn every_rule_decides_with_envoy_too() {
    let ended = Lab::shipped("interception/every-rule.yaml")
        .arg("--proxy=envoy")
        .status(0);
    assert_eq!(
        ended.legs("outbound, as another user", "web-v1"),
        ["web -> OUTPUT -> ISTIO_OUTPUT#7 -> POSTROUTING"]
    );
}

/// A step for each rule that a packet can reach: nothing is missed, and all is well.
#[test]
fn a_scenario_that_defends_every_rule_ends_well() {
    let file = root().join("scenarios/interception/every-rule.yaml");
    let lab = Lab::new("rules")
        .arg("mutate")
        .arg(file.to_str().unwrap())
        .arg("--output=json");
    let document = lab.status(0).json();
    let mutants = document["mutants"].as_array().unwrap();
    let unreachable: Vec<String> = mutants
        .iter()
        .filter(|mutant| mutant["result"] == "unreachable")
        .map(|mutant| format!("{}#{}", mutant["chain"].as_str().unwrap(), mutant["rule"]))
        .collect();
    assert_eq!(
        unreachable,
        ["ISTIO_OUTPUT#5", "ISTIO_OUTPUT#6", "ISTIO_OUTPUT#8"]
    );
    assert_eq!(mutants.len(), 20, "{document:#}");
    assert_eq!(
        fate(&document, "web-v1", "ISTIO_OUTPUT#7", "drop"),
        noticed("outbound, as another user of the sidecar's group: past the sidecar")
    );
}

#[test]
fn what_cannot_be_changed_is_told() {
    let case = Case::new(INBOUND);
    let said = case.lab().arg("--only=client").status(2).stderr;
    assert!(
        said.contains("--only `client`") && said.contains("web, twin, nft"),
        "{said}"
    );
    let none = "pods: [{name: a, sidecar: false, containers: [{name: a}]}]\n\
                steps: [{name: s, exec: {from: a, command: ['true']}}]\n";
    let said = Case::new(none).lab().status(2).stderr;
    assert!(said.contains("no pod has rules that are generated"), "{said}");
}

/// Interrupted while a changed lab is up: all of it goes, and what was not judged is not told.
#[test]
fn an_interruption_ends_it() {
    let before = Host::now();
    let case = Case::new(INBOUND);
    let mut child = case.lab().spawn();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("inbound: "));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("Summary")), "{rest:?}");
    assert_eq!(Host::now(), before);
}

#[test]
fn a_file_has_to_hold_as_it_is() {
    let case = Case::new(&INBOUND.replace("ISTIO_INBOUND#5", "ISTIO_INBOUND#3"));
    let Ended { stdout, stderr } = case.lab().status(1);
    assert!(
        stderr.contains("must hold as it is") && stderr.contains("FAIL"),
        "{stderr}"
    );
    assert!(!stdout.contains("mutants"), "{stdout}");
}
