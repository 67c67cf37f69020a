//! The kernel's own tool beside the lab: what `xtables-monitor --trace` says in a pod's namespace while a request
//! passes is what the lab prints.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use crate::support::Lab;

/// The first step waits at a named pipe until the monitor runs.
fn scenario(pipe: &str) -> String {
    format!(
        r#"
name: beside
mesh: {{retries: 0}}
services: [{{name: web, ports: [{{name: http, port: 8080}}]}}]
pods:
  - {{name: web-v1, labels: {{app: web}}, containers: [{{name: web, app: {{http: 8080}}}}]}}
steps:
  - {{name: gate, exec: {{from: web-v1, command: [cat, "{pipe}"], timeout: 30s}}}}
  - {{name: through, request: {{from: web-v1, url: "http://web:8080/"}}, expect: {{status: 200}}}}
"#
    )
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the test runs the kernel's own tool beside the lab"
)]
fn the_printed_path_equals_the_monitors() {
    use std::os::unix::fs::PermissionsExt as _;
    // Not /tmp: a pod has one of its own.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let pipe = dir.path().join("gate");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let lab = Lab::scenario(scenario(pipe.to_str().unwrap()))
        .arg("--output=json")
        .arg("--output=human=/dev/null");
    let mut child = lab.spawn();
    let cat = wait_for_cat(&mut child);
    let mut gate = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let enter = |args: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--net", "-t", &cat.to_string()]).args(args);
        command
    };
    let rules = enter(&["iptables-save", "-t", "nat"]).output().unwrap();
    let positions = positions(&String::from_utf8_lossy(&rules.stdout));
    let mut monitor = enter(&["xtables-monitor", "--trace"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("xtables-monitor comes with the package iptables");
    wait_for_subscription(monitor.id());
    gate.write_all(b"go\n").unwrap();
    drop(gate);
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{output}");
    let pid = nix::unistd::Pid::from_raw(monitor.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
    let mut seen = String::new();
    monitor.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    monitor.wait().unwrap();
    let document: serde_json::Value = serde_json::from_str(&output).unwrap();
    let legs = document["scenarios"][0]["steps"][1]["path"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(legs.len(), 3, "{document:#}");
    let printed: Vec<Vec<String>> = legs.iter().map(rules_of).collect();
    let monitored = monitored(&seen, &positions);
    for leg in &printed {
        assert!(
            monitored.contains(leg),
            "the lab: {leg:?}\nthe monitor: {monitored:?}\n{seen}"
        );
    }
}

/// The position of each rule of ISTIO chains, by its text.
fn positions(save: &str) -> HashMap<String, String> {
    let mut count: HashMap<&str, usize> = HashMap::new();
    let mut found = HashMap::new();
    for line in save.lines().filter(|line| line.starts_with("-A ")) {
        let chain = line.split(' ').nth(1).unwrap();
        let number = count.entry(chain).or_default();
        *number += 1;
        found.insert(line.to_owned(), format!("{chain}#{number}"));
    }
    found
}

/// The rules that a leg of the lab's shows, hidden ones aside.
fn rules_of(leg: &serde_json::Value) -> Vec<String> {
    let hops = leg["hops"].as_array().unwrap().iter();
    let shown = hops.filter(|hop| hop["kind"] == "rule" && hop["hidden"] == false);
    shown
        .map(|hop| hop["name"].as_str().unwrap().to_owned())
        .collect()
}

/// What the monitor saw: for each packet, the nat rules that it matched, jumps from base chains aside. Lines are
/// ` TRACE: 2 ID nat:CHAIN:rule:HANDLE:VERDICT  -4 -t nat -A CHAIN …`.
fn monitored(text: &str, positions: &HashMap<String, String>) -> Vec<Vec<String>> {
    let mut packets: Vec<(String, Vec<String>)> = Vec::new();
    for line in text
        .lines()
        .filter(|line| line.contains(" nat:ISTIO_") && line.contains(":rule:"))
    {
        let id = line.split_whitespace().nth(2).unwrap().to_owned();
        let rule = line
            .split(" -t nat ")
            .nth(1)
            .unwrap_or_else(|| panic!("{line}"))
            .trim();
        let position = positions
            .get(rule)
            .unwrap_or_else(|| panic!("no rule `{rule}` in {positions:?}"))
            .clone();
        match packets.iter_mut().find(|(of, _)| *of == id) {
            Some((_, rules)) => rules.push(position),
            None => packets.push((id, vec![position])),
        }
    }
    packets.into_iter().map(|(_, rules)| rules).collect()
}

/// The process of the first step, which has the pipe open, or is about to.
fn wait_for_cat(lab: &mut std::process::Child) -> i32 {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let is_cat = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "cat")
    };
    loop {
        if let Some(pid) = crate::support::host::descendants(lab.id())
            .into_iter()
            .find(is_cat)
        {
            return pid;
        }
        assert!(
            lab.try_wait().unwrap().is_none(),
            "the lab ended before its first step"
        );
        assert!(std::time::Instant::now() < deadline, "no step within 30 s");
        std::thread::yield_now();
    }
}

/// The monitor listens as soon as its netlink socket has joined a group: /proc/net/netlink says so.
fn wait_for_subscription(pid: u32) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let table = format!("/proc/{pid}/net/netlink");
    // Protocol 12 is NETLINK_NETFILTER; the fourth field is the mask of groups, of which 9 is NFNLGRP_NFTRACE. One of
    // the listeners is the lab's own.
    let joined = || {
        let text = std::fs::read_to_string(&table).unwrap_or_default();
        let listens = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let mask = fields
                .get(3)
                .and_then(|mask| u32::from_str_radix(mask, 16).ok())
                .unwrap_or(0);
            fields.get(1) == Some(&"12") && mask & (1 << 8) != 0
        };
        text.lines().filter(listens).count() >= 2
    };
    while !joined() {
        assert!(
            std::time::Instant::now() < deadline,
            "{}",
            std::fs::read_to_string(&table).unwrap_or_default()
        );
        std::thread::yield_now();
    }
}
