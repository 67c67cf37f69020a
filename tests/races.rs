//! The catalogue of races: each file reproduces the bug and shows each thing that mends it, on every run.

use crate::support::{Lab, root};

/// The entries of the catalogue that are shipped, as `scenarios/races/NN-name.yaml`.
fn shipped() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root().join("scenarios/races"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(|first: char| first.is_ascii_digit()))
        .collect();
    names.sort();
    names
}

#[test]
fn each_race_is_reproduced_and_mended() {
    let names = shipped();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let document = Lab::shipped(&format!("races/{name}")).status(0).json();
        let steps = document["scenarios"][0]["steps"].as_array().unwrap().clone();
        let passed = steps.iter().filter(|step| step["result"] == "pass").count();
        assert_eq!(passed, steps.len(), "{name}");
        assert!(passed >= 2, "{name} shows next to nothing");
    }
}

/// What users saw, why, and where they told of it: the first three lines of each file.
#[test]
fn each_race_says_what_users_saw() {
    for name in shipped() {
        let text = std::fs::read_to_string(root().join("scenarios/races").join(&name)).unwrap();
        let lines: Vec<&str> = text.lines().take(3).collect();
        for (line, beginning) in lines.iter().zip(["# Users saw: ", "# Why: ", "# Reported: "]) {
            assert!(line.starts_with(beginning), "{name}: `{line}`");
        }
        let stem = name.trim_end_matches(".yaml");
        let (_, entry) = stem.split_once('-').unwrap();
        assert!(
            text.contains(&format!("\nname: {entry}\n")),
            "{name} has another name inside"
        );
    }
}

/// A race of two gates and a call: without its rules the call goes past the sidecar, with them it needs the sidecar.
const RACE: &str = "name: small
services: [{name: web, ports: [{name: http, port: 80, targetPort: 8080}]}]
pods:
  - {name: web-v1, labels: {app: web}, containers: [{name: web, app: {http: 8080}}]}
  - {name: shop, containers: [{name: shop}]}
race:
  pod: shop
  events: [rules, sidecar]
  requests:
    - {name: first call, request: {from: shop, url: 'http://web/'}, expect: {status: 200}}
";

fn race(text: &str, args: &[&str]) -> (Option<i32>, crate::support::Ended) {
    let mut file = tempfile::Builder::new().suffix(".race.yaml").tempfile().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let mut lab = Lab::new("race").arg(file.path().to_str().unwrap());
    for arg in args {
        lab = lab.arg(arg);
    }
    lab.any_status()
}

#[test]
fn a_race_runs_every_order_and_says_what_decides() {
    let (status, ended) = race(RACE, &["--output", "json"]);
    assert_eq!(status, Some(0), "{}{}", ended.stdout, ended.stderr);
    let document = ended.json();
    let rows = document["race"]["rows"].as_array().unwrap();
    let of = |order: &str| {
        let row = rows
            .iter()
            .find(|row| row["order"] == order)
            .unwrap_or_else(|| panic!("no {order} in {document:#}"));
        row["requests"][0].clone()
    };
    assert_eq!(rows.len(), 4, "{document:#}");
    assert_eq!(of("rules, sidecar, first call")["class"], "sidecar:15001, out");
    assert_eq!(of("rules, first call, sidecar")["outcome"], "connection-refused");
    assert_eq!(of("rules, first call, sidecar")["class"], "refused:15001");
    assert_eq!(of("sidecar, first call, rules")["class"], "out past the sidecar");
    assert_eq!(of("first call, rules, sidecar")["result"], "good");
    let words = document["race"]["decides"][0]["decides"].as_str().unwrap();
    assert!(
        words.contains("first call before rules") && words.contains("sidecar before first call"),
        "{words}"
    );
}

#[test]
fn an_order_can_be_replayed_and_orders_be_drawn() {
    let (status, ended) = race(RACE, &["--replay", "rules, first call, sidecar"]);
    assert_eq!(status, Some(0), "{}", ended.stderr);
    assert!(
        ended.stdout.contains("connection-refused  [refused:15001]"),
        "{}",
        ended.stdout
    );
    let (status, ended) = race(RACE, &["--replay", "rules, sidecar, second call"]);
    assert_eq!(status, Some(2));
    assert!(
        ended.stderr.contains("is no event of this race"),
        "{}",
        ended.stderr
    );
    let (status, ended) = race(RACE, &["--max", "1", "--seed", "7"]);
    assert_eq!(status, Some(0), "{}", ended.stderr);
    assert!(
        ended.stdout.contains("1 of these drawn with seed 7"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_race_with_a_circle_is_refused_with_its_place() {
    let text = RACE.replace(
        "  requests:",
        "  order: [[rules, sidecar], [sidecar, rules]]\n  requests:",
    );
    let (status, ended) = race(&text, &[]);
    assert_eq!(status, Some(2));
    let said = anstream::adapter::strip_str(&ended.stderr).to_string();
    assert!(
        said.contains("makes a circle: ") && said.contains(".race.yaml:9:"),
        "{said}"
    );
}

#[test]
fn the_shipped_race_shows_its_first_order() {
    let file = root().join("scenarios/races/startup.race.yaml");
    let order = "rules, sidecar, xds.cds, xds.eds, xds.lds, xds.rds, shop.listen, first call, first caller";
    let lab = Lab::new("race")
        .arg(file.to_str().unwrap())
        .arg("--replay")
        .arg(order);
    let ended = lab.status(0);
    assert_eq!(ended.stdout.matches("    good  ").count(), 2, "{}", ended.stdout);
}

/// All of its orders take a minute; these forty are enough to tell what decides, but for the sidecar before the first call.
#[test]
fn the_shipped_race_says_what_decides() {
    let file = root().join("scenarios/races/startup.race.yaml");
    let drawn = ["--max", "40", "--seed", "1", "--output", "json"];
    let lab = drawn
        .iter()
        .fold(Lab::new("race").arg(file.to_str().unwrap()), |lab, arg| {
            lab.arg(arg)
        });
    let document = lab.status(0).json();
    assert_eq!(
        (&document["race"]["orders"], &document["race"]["kinds"]),
        (&"7560".into(), &405.into())
    );
    let rows = document["race"]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 40);
    let decides = |request: usize| document["race"]["decides"][request]["decides"].clone();
    assert_eq!(
        decides(0),
        "good if and only if rules before first call and xds.rds (after xds.cds, xds.eds, xds.lds) before first call"
    );
    assert_eq!(
        decides(1),
        "good if and only if rules before first caller and sidecar before first caller and xds.rds (after xds.cds, \
         xds.eds, xds.lds) before first caller and shop.listen before first caller"
    );
    let past = rows
        .iter()
        .filter(|row| row["requests"][0]["class"] == "out past the sidecar");
    for row in past {
        let order = row["order"].as_str().unwrap();
        assert!(
            order.find("first call").unwrap() < order.find("rules").unwrap(),
            "{order}"
        );
    }
}
