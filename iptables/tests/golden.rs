//! Istio's own expected rules, case by case, found on disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use iptables::annotations::{Container, from_annotations};
use iptables::generate::generate;
use iptables::options::{Raw, Start};
use iptables::raw::Text;
use iptables::render::nft;
use iptables::render::restore::render;
use iptables::ruleset::Family;

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/istio");
    let mut cases: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    cases
}

/// The part for each family: tables come sorted, so a header not greater than its predecessor starts IPv6.
fn split(golden: &str) -> [Vec<String>; 2] {
    let (mut parts, mut family, mut last) = ([vec![], vec![]], 0, String::new());
    for line in golden
        .lines()
        .filter(|line| !line.ends_with("tables-save") && !line.is_empty())
    {
        if let Some(table) = line.strip_prefix("* ") {
            if !last.is_empty() && table <= last.as_str() {
                family = 1;
            }
            table.clone_into(&mut last);
        }
        parts[family].push(same(line));
    }
    parts
}

/// One spelling for what the tool reads as one: `* nat`, the abbreviation `--to-port`, and an address's form.
fn same(line: &str) -> String {
    let line = line.replace("* ", "*").replace("--to-port ", "--to-ports ");
    let word = |word: &str| {
        word.parse::<IpNet>()
            .map_or(word.to_owned(), |net| net.to_string())
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn rendered(raw: &Raw) -> [Vec<String>; 2] {
    let ruleset = generate(&raw.resolve(Start::Bare).unwrap());
    [Family::V4, Family::V6].map(|family| render(&ruleset, family).lines().map(str::to_owned).collect())
}

#[test]
fn every_iptables_golden_is_reproduced() {
    let mut compared = 0;
    for case in cases() {
        let Ok(golden) = fs::read_to_string(case.join("iptables.golden")) else {
            continue;
        };
        let raw = serde_yaml::from_str(&fs::read_to_string(case.join("interception.yaml")).unwrap()).unwrap();
        assert_eq!(rendered(&raw), split(&golden), "{}", case.display());
        compared += 1;
    }
    assert_eq!(compared, 28, "cases with an iptables.golden");
}

/// What nft reads as one, in one spelling: a protocol that a port implies (`meta l4proto tcp tcp dport 80`), `meta skuid`,
/// a port before the address, an interface's quotes, and an address's form. Rules keep their order.
fn same_in_nft(line: &str) -> String {
    let mut line = same(line).replace("meta sk", "sk").replace('"', "");
    for protocol in ["tcp", "udp"] {
        for port in ["dport", "sport"] {
            let implied = format!("{protocol} {port} ");
            if line.contains(&implied) {
                line = line.replace(&format!("meta l4proto {protocol} "), "");
            }
        }
    }
    let words: Vec<&str> = line.split(' ').collect();
    for at in 0..words.len().saturating_sub(5) {
        if words[at].ends_with("dp")
            && matches!(words[at + 3], "ip" | "ip6")
            && words[at + 1].ends_with("port")
        {
            let (port, address) = (words[at..at + 3].join(" "), words[at + 3..at + 6].join(" "));
            return line.replace(&format!("{port} {address}"), &format!("{address} {port}"));
        }
    }
    line
}

#[test]
fn every_nftables_golden_is_reproduced() {
    let mut compared = 0;
    for case in cases() {
        let Ok(golden) = fs::read_to_string(case.join("nftables.golden")) else {
            continue;
        };
        let raw: Raw =
            serde_yaml::from_str(&fs::read_to_string(case.join("interception.yaml")).unwrap()).unwrap();
        let raw = Raw {
            backend: Some(Text("nftables".to_owned())),
            ..raw
        };
        let ours = nft::render(&generate(&raw.resolve(Start::Bare).unwrap()));
        let one_spelling = |text: &str| text.lines().map(same_in_nft).collect::<Vec<_>>();
        assert_eq!(one_spelling(&ours), one_spelling(&golden), "{}", case.display());
        compared += 1;
    }
    assert_eq!(compared, 21, "cases with an nftables.golden");
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CniPod {
    annotations: std::collections::BTreeMap<String, String>,
    proxy_env: std::collections::BTreeMap<String, String>,
    run_as_user: Option<u32>,
    run_as_group: Option<u32>,
}

#[test]
fn annotations_arrive_at_the_same_rules() {
    let mut compared = 0;
    for case in cases() {
        let Ok(pod) = fs::read_to_string(case.join("annotations.yaml")) else {
            continue;
        };
        let pod: CniPod = serde_yaml::from_str(&pod).unwrap();
        let mut raw = from_annotations(&pod.annotations).unwrap();
        raw = Container {
            env: &pod.proxy_env,
            run_as_user: pod.run_as_user,
            run_as_group: pod.run_as_group,
        }
        .under_cni(raw);
        let golden = fs::read_to_string(case.join("iptables.golden")).unwrap();
        assert_eq!(rendered(&raw), split(&golden), "{}", case.display());
        compared += 1;
    }
    assert_eq!(compared, 8, "cases with annotations.yaml");
}
