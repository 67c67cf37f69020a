//! Istio's own expected outputs: every case, table by table, rule by rule, in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use iptables::annotations;
use iptables::generate::generate;
use iptables::options::Interception;
use iptables::raw::Raw;
use iptables::render::restore::render;

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/istio");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    cases
}

fn text(value: &serde_yaml::Value) -> String {
    match value {
        serde_yaml::Value::Null => String::new(),
        serde_yaml::Value::Sequence(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        serde_yaml::Value::String(text) => text.clone(),
        serde_yaml::Value::Bool(flag) => flag.to_string(),
        serde_yaml::Value::Number(number) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

fn options(case: &Path) -> Interception {
    let yaml = std::fs::read_to_string(case.join("interception.yaml")).unwrap();
    let values: BTreeMap<String, serde_yaml::Value> = serde_yaml::from_str(&yaml).unwrap();
    let mut raw = Raw::default();
    for (name, value) in &values {
        raw.set(name, text(value));
    }
    raw.or(&Raw::empty())
        .check()
        .unwrap_or_else(|mistakes| panic!("{}: {mistakes:?}", case.display()))
}

/// The golden without what the tool would only look at, IPv4 apart from IPv6: the tables come sorted for the one, then
/// for the other, so the first header that is not greater than the one before begins IPv6.
///
/// One spelling differs and means the same: an address of which the last 32 bits are an IPv4 address may be written with
/// dots (RFC 4291 2.2), as the golden has it, or in hexadecimal, as Rust does.
fn split(golden: &str) -> [String; 2] {
    let golden = golden.replace("::127.0.0.53", "::7f00:35");
    let mut parts = [String::new(), String::new()];
    let (mut part, mut last) = (0, String::new());
    for line in golden
        .lines()
        .filter(|line| !line.is_empty() && !line.ends_with("tables-save"))
    {
        if let Some(table) = line.strip_prefix("* ") {
            if !last.is_empty() && table <= last.as_str() {
                part = 1;
            }
            table.clone_into(&mut last);
        }
        parts[part].push_str(line);
        parts[part].push('\n');
    }
    parts
}

#[test]
fn every_iptables_golden_is_reproduced() {
    let mut seen = 0;
    for case in cases() {
        let Ok(golden) = std::fs::read_to_string(case.join("iptables.golden")) else {
            continue;
        };
        let ruleset = generate(&options(&case));
        let [v4, v6] = split(&golden);
        assert_eq!(render(&ruleset.v4), v4, "{} IPv4", case.display());
        assert_eq!(render(&ruleset.v6), v6, "{} IPv6", case.display());
        seen += 1;
    }
    assert!(seen >= 28, "{seen} cases");
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    annotations: BTreeMap<String, String>,
    proxy_env: BTreeMap<String, String>,
    run_as_user: Option<u32>,
    run_as_group: Option<u32>,
}

/// What Istio's CNI plugin adds to a pod's annotations: its own always-excluded ports, the proxy's user and group, and
/// two settings of the proxy's environment (cni/pkg/plugin/sidecar_redirect.go).
fn as_cni_plugin(pod: &Pod) -> Interception {
    let mut raw = annotations::options(&pod.annotations).unwrap();
    let own = pod
        .annotations
        .get("traffic.sidecar.istio.io/excludeInboundPorts")
        .map_or("15020", String::as_str);
    let mut ports: Vec<&str> = own.split(',').collect();
    for port in ["15020", "15021", "15090"] {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    raw.set("excludeInboundPorts", ports.join(","));
    if raw.get("excludeOutboundPorts").is_none() {
        raw.set("excludeOutboundPorts", "15020");
    }
    let own_or_default = |id: Option<u32>| id.filter(|id| *id != 0).unwrap_or(1337);
    raw.set("proxyUID", own_or_default(pod.run_as_user));
    raw.set("proxyGID", own_or_default(pod.run_as_group));
    if pod
        .proxy_env
        .get("ISTIO_META_DNS_CAPTURE")
        .is_some_and(|value| value == "true")
    {
        raw.set("redirectDNS", true);
        raw.set("captureAllDNS", true);
    }
    if pod
        .proxy_env
        .get("INVALID_DROP")
        .is_some_and(|value| value == "true")
    {
        raw.set("dropInvalid", true);
    }
    raw.or(&Raw::sidecar()).or(&Raw::empty()).check().unwrap()
}

#[test]
fn annotations_lead_to_the_same_rules() {
    let mut seen = 0;
    for case in cases() {
        let Ok(yaml) = std::fs::read_to_string(case.join("annotations.yaml")) else {
            continue;
        };
        let pod: Pod =
            serde_yaml::from_str(&yaml).unwrap_or_else(|error| panic!("{}: {error}", case.display()));
        let golden = std::fs::read_to_string(case.join("iptables.golden")).unwrap();
        assert_eq!(
            render(&generate(&as_cni_plugin(&pod)).v4),
            split(&golden)[0],
            "{}",
            case.display()
        );
        seen += 1;
    }
    assert!(seen >= 8, "{seen} cases");
}
