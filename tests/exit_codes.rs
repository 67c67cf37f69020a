//! The exit codes that are not about expectations: this machine cannot run it, signals.

use std::io::{BufRead as _, BufReader};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Lab;

const IDLE: &str = "name: idle\n\
    pods: [{name: a, sidecar: false, containers: [{name: a}]}]\n\
    steps: [{name: long, exec: {from: a, command: [sleep, '60'], timeout: 60s}}]\n";

#[test]
fn without_root_it_says_so() {
    let ended = Lab::new("run").arg("/proc/self/mounts").by_user(1000).status(2);
    assert!(!ended.stderr.is_empty());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("idle.yaml");
    std::fs::write(&file, IDLE).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let ended = Lab::new("run")
        .arg(file.to_str().unwrap())
        .by_user(1000)
        .status(3);
    assert!(
        ended.stderr.contains("root") && ended.stderr.contains("sudo"),
        "{}",
        ended.stderr
    );
}

/// A machine without iptables: empty directories in the place of those that have it, in a mount namespace of the test's.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the test makes a machine without iptables"
)]
fn without_iptables_it_says_what_to_install() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("idle.yaml");
    std::fs::write(&file, IDLE).unwrap();
    let hide = "for dir in /usr/sbin /sbin; do mount -t tmpfs none $dir; done; PATH=/usr/bin:/bin exec \"$0\" run \"$1\"";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-ec", hide, env!("CARGO_BIN_EXE_lab")])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("iptables") && said.contains("apt-get install"),
        "{said}"
    );
}

#[track_caller]
fn ends_on(signal: Signal, expected: i32) {
    let lab = Lab::scenario(IDLE);
    let mut child = lab.spawn();
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // The line that says that the lab is up; the long step follows.
    let up = lines
        .by_ref()
        .map(|line| line.unwrap())
        .find(|line| line.contains("up in"));
    assert!(up.is_some());
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(expected), "{status}");
}

#[test]
fn ctrl_c_is_130() {
    ends_on(Signal::SIGINT, 130);
}

#[test]
fn sigterm_is_143() {
    ends_on(Signal::SIGTERM, 143);
}
