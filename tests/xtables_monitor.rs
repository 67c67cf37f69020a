//! The kernel's own tool beside the lab: what `xtables-monitor --trace` says in a pod's namespace while a request
//! passes is what the lab prints.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
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
    // Opening for writing returns once `cat` has opened it for reading: the lab is up, and the first step runs.
    let mut gate = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let cat = crate::support::host::descendants(child.id())
        .into_iter()
        .find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "cat")
        })
        .expect("cat runs in the pod");
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
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(monitor.id().cast_signed()),
        nix::sys::signal::SIGTERM,
    );
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
