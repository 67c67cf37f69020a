//! `lab run --coverage`: which rules the connections of which steps met, and which none did.

use serde_json::Value;

use crate::support::{Lab, root};

const TWO_PODS: &str = "name: two\n\
    pods:\n\
    \x20 - {name: new, interception: {backend: nftables}, containers: [{name: it, app: {http: 8080}}]}\n\
    \x20 - {name: old, containers: [{name: it, app: {http: 8080}}]}\n\
    \x20 - {name: client, sidecar: false, containers: [{name: client}]}\n\
    steps:\n\
    \x20 - {name: in, request: {from: client, url: 'http://${new.ip}:8080/'}, expect: {status: 200}}\n\
    \x20 - {name: again, request: {from: client, url: 'http://${new.ip}:8080/'}, expect: {status: 200}}\n\
    \x20 - {name: both, parallel: [\
    {name: self, request: {from: old, url: 'http://${self.ip}:8080/'}, expect: {status: 200}}]}\n";

/// The steps that met a rule: name, connections, and whether all were older.
fn steps(coverage: &Value, pod: &str, chain: &str, number: u64) -> Vec<(String, u64, bool)> {
    let pods = coverage["pods"].as_array().unwrap();
    let pod = pods.iter().find(|found| found["pod"] == pod).unwrap();
    let rules = pod["rules"].as_array().unwrap();
    let rule = rules
        .iter()
        .find(|rule| rule["chain"] == chain && rule["rule"] == number);
    let rule = rule.unwrap_or_else(|| panic!("no {chain}#{number} in {pod:#}"));
    let one = |step: &Value| {
        let name = step["step"].as_str().unwrap().to_owned();
        (
            name,
            step["connections"].as_u64().unwrap(),
            step["reused"].as_bool().unwrap(),
        )
    };
    rule["steps"].as_array().unwrap().iter().map(one).collect()
}

fn met(name: &str, reused: bool) -> (String, u64, bool) {
    (name.to_owned(), 1, reused)
}

#[test]
fn each_rule_has_the_steps_that_met_it() {
    let lab = Lab::scenario(TWO_PODS).arg("--coverage").arg("--output=json");
    let document = lab.status(0).json();
    let coverage = &document["coverage"];
    let of = |pod, chain, number| steps(coverage, pod, chain, number);
    assert_eq!(
        of("new", "istio-inbound", 5),
        [met("in", false), met("again", false)]
    );
    assert_eq!(
        of("new", "istio-output", 1),
        [met("in", false), met("again", true)]
    );
    assert_eq!(of("new", "istio-output", 9), []);
    assert_eq!(of("old", "ISTIO_OUTPUT", 3), [met("self", false)]);
    // The jump from the hook's own chain is a rule as well.
    assert_eq!(of("old", "OUTPUT", 1), [met("self", false)]);
    assert_eq!(of("old", "ISTIO_INBOUND", 5), []);
    assert_eq!(coverage["pods"].as_array().unwrap().len(), 2, "{coverage:#}");
    assert_eq!(coverage["rules"], 36, "{coverage:#}");
    let document = Lab::scenario(TWO_PODS).arg("--output=json").status(0).json();
    assert_eq!(document["coverage"], Value::Null);
}

#[test]
fn people_read_it_behind_the_steps_or_in_a_file() {
    let text = Lab::scenario(TWO_PODS).arg("--coverage").status(0).stdout;
    for line in [
        "    nftables: two/new\n",
        "      nat ISTIO_OUTPUT#3  -o lo -m owner ! --uid-owner 1337 -j RETURN\n        two/old: self\n",
        "      nat ISTIO_OUTPUT#8  -d 127.0.0.1/32 -j RETURN\n        never\n",
        "        two/new: in; 1 more\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    let text = Lab::scenario(TWO_PODS)
        .arg("--coverage")
        .arg("--verbose")
        .status(0)
        .stdout;
    assert!(text.contains("        two/new: in; again (reused)\n"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("coverage.md");
    let arg = format!("--coverage={}", file.display());
    let stdout = Lab::scenario(TWO_PODS).arg(&arg).status(0).stdout;
    assert!(!stdout.contains("never"), "{stdout}");
    let text = std::fs::read_to_string(&file).unwrap();
    for line in [
        "| `istio-proxy-nat istio-output#9` | `counter jump istio-redirect` | **never** |",
        "| `nat ISTIO_OUTPUT#3` | `-o lo -m owner ! --uid-owner 1337 -j RETURN` | two: self |",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

/// Rules of a lab that failed are not called unmet.
#[test]
fn what_did_not_come_to_its_end_is_not_known() {
    let broken = TWO_PODS.replace("{name: client}]", "{name: client, command: [/no/such/program]}]");
    let lab = Lab::scenario(broken).arg("--coverage").arg("--output=json");
    let coverage = lab.status(4).json()["coverage"].clone();
    assert_eq!(coverage["unknown"], serde_json::json!(["two"]));
    assert_eq!(coverage["pods"], serde_json::json!([]));
}

#[test]
fn the_document_names_every_scenario_that_it_is_made_of() {
    let text = std::fs::read_to_string(root().join("docs/rule-coverage.md")).unwrap();
    for dir in ["scenarios", "scenarios/interception"] {
        for entry in std::fs::read_dir(root().join(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "yaml") {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                assert!(
                    text.contains(&format!("{name} (")),
                    "docs/rule-coverage.md does not have {name}: run ./x coverage"
                );
            }
        }
    }
}
