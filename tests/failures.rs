//! What does not hold is said: exit 1, expected beside observed, the differing hop marked.

use crate::support::Lab;

const ONE_POD: &str = r#"
name: one-pod
services: [{name: web, ports: [{name: http, port: 8080}]}]
pods:
  - {name: web-v1, labels: {app: web}, containers: [{name: web, app: {http: 8080, routes: {/: {body: hello}}}}]}
  - {name: client, sidecar: false, containers: [{name: client}]}
steps:
  - name: inbound
    request: {from: client, url: "http://web:8080/"}
    expect: EXPECT
"#;

fn one_pod(expect: &str) -> String {
    ONE_POD.replace("EXPECT", expect)
}

const RIGHT: &str = "{status: 200, body: hello, path: {web-v1: [\
    PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT -> sidecar:15006, \
    'sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> web:8080']}}";

#[test]
fn the_right_expectation_holds() {
    Lab::scenario(one_pod(RIGHT)).status(0);
}

#[test]
fn a_wrong_rule_number_fails_and_is_marked() {
    let wrong = RIGHT.replace("ISTIO_OUTPUT#1", "ISTIO_OUTPUT#4");
    let ended = Lab::scenario(one_pod(&wrong)).status(1);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let observed = lines
        .iter()
        .position(|line| line.contains("observed"))
        .expect("an observed leg");
    assert!(
        lines[observed - 1].contains("expected     sidecar -> OUTPUT -> ISTIO_OUTPUT#4"),
        "{}",
        ended.stdout
    );
    assert!(
        lines[observed].contains("observed     sidecar -> OUTPUT -> ISTIO_OUTPUT#1"),
        "{}",
        ended.stdout
    );
    let mark = lines[observed + 1];
    let column = mark.find('^').expect("a mark");
    assert!(
        lines[observed][column..].starts_with("ISTIO_OUTPUT#1"),
        "{}",
        ended.stdout
    );
    assert_eq!(mark.matches('^').count(), "ISTIO_OUTPUT#1".len());
}

#[test]
fn a_wrong_expectation_is_in_the_json() {
    let wrong = RIGHT.replace("ISTIO_OUTPUT#1", "ISTIO_OUTPUT#2");
    let document = Lab::scenario(one_pod(&wrong))
        .arg("--output=json")
        .status(1)
        .json();
    let scenario = &document["scenarios"][0];
    assert_eq!(scenario["result"], "fail");
    let step = &scenario["steps"][0];
    assert_eq!(step["result"], "fail");
    assert_eq!(step["expected"][0]["what"], "path of web-v1");
    assert_eq!(step["expected"][0]["differs_at"]["leg"], 1);
    assert_eq!(step["expected"][0]["differs_at"]["hop"], 2);
    // What was observed is reported whether it was expected or not.
    assert_eq!(step["path"].as_array().map(Vec::len), Some(3));
}

#[test]
fn each_kind_of_expectation_can_fail() {
    for (expect, what) in [
        ("{status: 201}", "status"),
        ("{body: goodbye}", "body"),
        ("{body: {contains: goodbye}}", "body"),
        ("{outcome: timeout}", "outcome"),
        ("{responseFlags: UF}", "response flags"),
        ("{headers: {server: nginx}}", "header server"),
        ("{path: {client: []}}", "path of client"),
        (
            "{contains: {web-v1: [ISTIO_OUTPUT#9]}}",
            "hops that a leg of web-v1 must have",
        ),
        (
            "{never: {web-v1: [ISTIO_IN_REDIRECT]}}",
            "a hop that web-v1 must never have",
        ),
    ] {
        let document = Lab::scenario(one_pod(expect))
            .arg("--output=json")
            .status(1)
            .json();
        let finding = &document["scenarios"][0]["steps"][0]["expected"][0];
        assert_eq!(finding["what"], what, "{expect}: {document:#}");
    }
}

#[test]
fn an_app_that_cannot_be_executed_is_named_with_its_user() {
    let ended = Lab::scenario(
        "name: x\npods: [{name: a, sidecar: false, containers: [{name: a, command: [/root/no-such-program]}]}]\n\
         steps: [{name: s, exec: {from: a, command: ['true']}}]\n",
    )
    .status(4);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("/root/no-such-program"), "{said}");
    assert!(said.contains("1000"), "the user is named: {said}");
}

#[test]
fn exec_reports_its_exit_code() {
    let file = |code: &str| {
        format!(
            "name: x\npods: [{{name: a, sidecar: false, containers: [{{name: a}}]}}]\n\
             steps: [{{name: s, exec: {{from: a, command: [sh, -c, 'id -u; exit 7']}}, expect: {{exitCode: {code}, body: \"1000\"}}}}]\n"
        )
    };
    Lab::scenario(file("7")).status(0);
    Lab::scenario(file("0")).status(1);
}
