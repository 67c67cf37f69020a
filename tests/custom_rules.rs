//! `customRules`: a user's own rules in a pod, with a sidecar or without, and what is said of wrong ones.

use std::path::PathBuf;

use crate::support::{Lab, root};

#[test]
fn linkerds_rules_lead_to_its_proxys_ports() {
    for proxy in ["builtin", "envoy"] {
        let ended = Lab::shipped("interception/linkerd.yaml")
            .arg(&format!("--proxy={proxy}"))
            .status(0);
        assert_eq!(
            ended.legs("inbound: to the proxy", "web"),
            [
                "PREROUTING -> PROXY_INIT_REDIRECT#2 -> INPUT -> proxy-in:4143",
                "proxy-in -> OUTPUT -> PROXY_INIT_OUTPUT#1 -> POSTROUTING -> web:8080"
            ]
        );
        assert_eq!(
            ended.legs("outbound: to the proxy", "web")[0],
            "web -> OUTPUT -> PROXY_INIT_OUTPUT#4 -> POSTROUTING -> proxy-out:4140"
        );
    }
}

/// A directory with a scenario and a file of rules.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new(rules: &str, scenario: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rules")).unwrap();
        std::fs::write(dir.path().join("rules/own.rules"), rules).unwrap();
        std::fs::write(dir.path().join("s.yaml"), scenario).unwrap();
        Self { dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("s.yaml")
    }

    #[track_caller]
    fn status(&self, expected: i32) -> String {
        let ended = Lab::new("run")
            .arg(self.file().to_str().unwrap())
            .status(expected);
        let both = format!("{}{}", ended.stdout, ended.stderr);
        anstream::adapter::strip_str(&both).to_string()
    }
}

/// Two sidecars under rules of the mesh's, beside a pod that keeps its own.
fn meshed(mesh: &str, chain: &str) -> String {
    format!(
        "mesh: {{interception: {{{mesh}}}}}\n\
         pods:\n\
         \x20 - {{name: web, containers: [{{name: web, app: {{http: 8080}}}}]}}\n\
         \x20 - {{name: client, sidecar: false, containers: [{{name: client}}]}}\n\
         steps:\n\
         \x20 - {{request: {{from: client, url: 'http://${{web.ip}}:8080/'}}, expect: {{status: 200, path: {{\
         web: ['PREROUTING -> {chain}#1 -> INPUT -> sidecar:15006', 'sidecar -> OUTPUT -> POSTROUTING -> web:8080']}}}}}}\n\
         \x20 - {{rules: {{pod: web, again: verify}}, expect: {{exitCode: 0, body: already there}}}}\n"
    )
}

#[test]
fn a_meshs_own_rules_stand_in_for_istios() {
    let rules = "*nat\n:MINE - [0:0]\n-A PREROUTING -p tcp -j MINE\n-A MINE -p tcp --dport 8080 -j REDIRECT --to-ports 15006\nCOMMIT\n";
    Case::new(rules, &meshed("customRules: rules/own.rules", "MINE")).status(0);
    let rules = "table inet mine {\n  chain in {\n    type nat hook prerouting priority -100;\n    jump way\n  }\n  \
                 chain way {\n    tcp dport 8080 redirect to :15006\n  }\n}\n";
    let mesh = "customRules: rules/own.rules, backend: nftables";
    Case::new(rules, &meshed(mesh, "way")).status(0);
}

const ALONE: &str = "pods:\n\
    \x20 - {name: a, sidecar: false, interception: {customRules: FILE}, containers: [{name: a}]}\n\
    steps: [{name: s, exec: {from: a, command: ['true']}}]\n";

fn alone(file: &str) -> String {
    ALONE.replace("FILE", file)
}

#[test]
fn a_wrong_file_is_told_with_its_line_before_anything_is_created() {
    for (rules, file, said) in [
        (
            "*nat\n-A OUTPUT\nnonsense\nCOMMIT\n",
            "rules/own.rules",
            "rules/own.rules:3: `nonsense`",
        ),
        ("*nat\n-A OUTPUT\n", "rules/own.rules", "its COMMIT is missing"),
        (
            "# nothing\n",
            "rules/own.rules",
            "rules/own.rules:1: not one rule",
        ),
        ("x", "rules/none.rules", "rules/none.rules: No such file"),
        ("x", "rules", "rules is no file"),
        (
            "table inet a {}\nflush ruleset\n",
            "rules/own.rules, backend: nftables",
            "rules/own.rules:2: `flush ruleset`",
        ),
        (
            "*nat\n-A OUTPUT\nCOMMIT\n",
            "rules/own.rules, mode: NONE",
            "both customRules and mode NONE",
        ),
    ] {
        let text = Case::new(rules, &alone(file)).status(2);
        assert!(
            text.contains(said) && text.contains("nothing was created"),
            "{text}"
        );
        assert!(text.contains("s.yaml:2:"), "{text}");
    }
}

/// Also in a pasted pod.
#[test]
fn a_file_that_is_not_there_is_told_where_it_is_named() {
    let pasted = "pods:\n\
        \x20 - kind: Pod\n\
        \x20   metadata: {name: a}\n\
        \x20   spec:\n\
        \x20     containers: [{name: a}]\n\
        \x20     interception:\n\
        \x20       customRules: rules/none.rules\n\
        steps: [{name: s, exec: {from: a, command: ['true']}}]\n";
    assert!(Case::new("x", pasted).status(2).contains("s.yaml:7:22"));
    let meshed = meshed("customRules: rules/none.rules", "X");
    assert!(Case::new("x", &meshed).status(2).contains("s.yaml:1:36"));
}

#[test]
fn what_the_tool_refuses_is_told_in_its_words() {
    for (rules, backend, said) in [
        (
            "*nat\n-A OUTPUT -m nosuch -j RETURN\nCOMMIT\n",
            "iptables",
            "Couldn't load match `nosuch'",
        ),
        (
            "table inet a {\n  chain b {\n    tcp dport nonsense\n  }\n}\n",
            "nftables",
            "/dev/stdin:3:",
        ),
    ] {
        let case = Case::new(rules, &alone(&format!("rules/own.rules, backend: {backend}")));
        let text = case.status(2);
        for said in [
            said,
            "pod a: customRules `rules/own.rules`",
            "option: customRules",
        ] {
            assert!(text.contains(said), "{text}");
        }
    }
}

#[test]
fn the_gate_of_a_pod_without_a_sidecar_holds_its_rules() {
    let rules = "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 9\nCOMMIT\n";
    let held = alone("rules/own.rules").replace("name: a, sidecar", "name: a, hold: [rules], sidecar");
    let steps = held.replace(
        "steps: [{name: s, exec: {from: a, command: ['true']}}]\n",
        "  - {name: far, sidecar: false, containers: [{name: far, app: {http: 8081}}]}\nsteps:\n\
         \x20 - {request: {from: a, url: 'http://${far.ip}:8081/'}, expect: {status: 200}}\n\
         \x20 - {release: {pod: a, gates: [rules]}}\n\
         \x20 - {request: {from: a, url: 'http://${far.ip}:8081/'}, expect: {outcome: connection-refused, \
         path: {a: ['a -> OUTPUT -> OUTPUT#1 -> POSTROUTING -> refused:9']}}}\n",
    );
    Case::new(rules, &steps).status(0);
    // A pod without rules has no such gate.
    let without = steps.replace("interception: {customRules: rules/own.rules}, ", "");
    assert!(Case::new(rules, &without).status(2).contains("has no sidecar"));
}

/// The rules of a race's pods come from files too.
#[test]
fn a_race_may_have_them() {
    let rules = "*nat\n-A OUTPUT -p tcp --dport 8081 -j REDIRECT --to-ports 9\nCOMMIT\n";
    let case = Case::new(
        rules,
        "pods:\n\
         \x20 - {name: a, sidecar: false, interception: {customRules: rules/own.rules}, containers: [{name: a}]}\n\
         \x20 - {name: far, sidecar: false, containers: [{name: far, app: {http: 8081}}]}\n\
         race:\n  pod: a\n  events: [rules]\n  requests: [{name: call, request: {from: a, url: 'http://${far.ip}:8081/'}}]\n",
    );
    let ended = Lab::new("race").arg(case.file().to_str().unwrap()).status(0);
    assert!(ended.stdout.contains("connection-refused"), "{}", ended.stdout);
}

#[test]
fn the_shipped_files_lie_beside_their_scenarios() {
    assert!(root().join("scenarios/interception/linkerd.rules").is_file());
}
