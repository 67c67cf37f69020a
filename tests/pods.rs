//! What a process in a pod is and sees, and what steps do to it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{Lab, copy_program};

const POD: &str = "name: p\n\
    services: [{name: web, ports: [{name: http, port: 80, targetPort: 8080}]}]\n\
    pods:\n\
    \x20 - name: web-v1\n\
    \x20   labels: {app: web}\n\
    \x20   securityContext: {supplementalGroups: [4242]}\n\
    \x20   containers: [{name: web, app: {http: 8080, routes: {/: {body: hello}}}, securityContext: {runAsUser: 1234, runAsGroup: 2345}}]\n\
    \x20 - {name: client, sidecar: false, containers: [{name: client, env: [{name: GREETING, value: hi}]}]}\n\
    steps:\n";

fn with(steps: &str) -> String {
    format!("{POD}{steps}")
}

/// What a command prints in a container.
#[track_caller]
fn printed(from: &str, command: &str) -> String {
    // The text is got by an expectation that it cannot meet.
    let step = format!(
        "  - {{exec: {{from: {from}, command: [sh, -c, '{command}']}}, expect: {{body: {{contains: '?!'}}}}}}\n"
    );
    let document = Lab::scenario(with(&step)).arg("--output=json").status(1).json();
    let finding = &document["scenarios"][0]["steps"][0]["expected"][0];
    assert_eq!(finding["what"], "body", "{document:#}");
    finding["observed"][0].as_str().unwrap().to_owned()
}

#[test]
fn a_process_has_its_user_and_no_privilege() {
    let status = printed("web-v1/web", "cat /proc/self/status");
    for line in [
        "Uid:\t1234\t1234\t1234\t1234",
        "Gid:\t2345\t2345\t2345\t2345",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(
            status.lines().any(|seen| seen == line),
            "no `{line}` in\n{status}"
        );
    }
    assert!(
        status
            .lines()
            .any(|line| line.starts_with("Groups:") && line.contains("4242")),
        "{status}"
    );
}

#[test]
fn a_pod_has_its_own_files_links_and_environment() {
    let files = printed(
        "client",
        "cat /etc/resolv.conf /etc/hosts /etc/hostname; ls /sys/class/net; ls /tmp; env",
    );
    for part in [
        "nameserver 10.96.0.10",
        "ndots:5",
        "10.244.0.11\tclient",
        "eth0",
        "lo",
        "POD_NAME=client",
        "GREETING=hi",
    ] {
        assert!(files.contains(part), "no `{part}` in\n{files}");
    }
    assert!(
        !files.contains("CARGO"),
        "nothing of the caller's environment:\n{files}"
    );
}

#[test]
fn the_sidecar_is_two_processes_of_its_own_user() {
    let seen = printed(
        "client",
        "for p in /proc/[0-9]*; do echo $(cat $p/comm) $(stat -c %u:%g $p); done",
    );
    for line in [
        "agent 1337:1337",
        "data-plane 1337:1337",
        "istiod 1337:1337",
        "lab-app 1234:2345",
    ] {
        assert!(seen.lines().any(|found| found == line), "no `{line}` in\n{seen}");
    }
}

/// The program is executed by descriptor: its own directory, and its own mode, may shut other users out.
#[test]
#[expect(clippy::disallowed_methods, reason = "the test runs a copy of the binary")]
fn a_binary_that_other_users_cannot_reach_still_starts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let copy = dir.path().join("lab");
    copy_program(Path::new(env!("CARGO_BIN_EXE_lab")), &copy);
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o700)).unwrap();
    let file = dir.path().join("s.yaml");
    std::fs::write(
        &file,
        with("  - {request: {from: client, url: 'http://web/'}, expect: {status: 200}}\n"),
    )
    .unwrap();
    let output = std::process::Command::new(&copy)
        .arg("run")
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_killed_data_plane_is_started_again_by_its_agent() {
    let steps = "  - {kill: {pod: web-v1, process: sidecar}}\n\
        \x20 - {wait: {ready: web-v1, timeout: 10s}}\n\
        \x20 - {request: {from: client, url: 'http://web/'}, expect: {status: 200, body: hello}}\n";
    Lab::scenario(with(steps)).status(0);
}

#[test]
fn what_is_stopped_can_be_started_again() {
    let steps = "  - {stop: {pod: web-v1, process: web}}\n\
        \x20 - {wait: {exited: web-v1/web}}\n\
        \x20 - {request: {from: client, url: 'http://${web-v1.ip}:8080/'}, expect: {status: 503, responseFlags: 'URX,UF'}}\n\
        \x20 - {request: {from: client, url: 'http://web/'}, expect: {outcome: connection-refused}}\n\
        \x20 - {start: {pod: web-v1, process: web}}\n\
        \x20 - {request: {from: client, url: 'http://web/'}, expect: {status: 200}}\n";
    Lab::scenario(with(steps)).status(0);
}

#[test]
fn rules_held_back_let_traffic_pass_the_sidecar_by() {
    let text = with(
        "  - name: bypass\n\
        \x20   request: {from: client, url: 'http://${web-v1.ip}:8080/'}\n\
        \x20   expect: {status: 200, path: {web-v1: ['PREROUTING -> INPUT -> web:8080']}}\n\
        \x20 - {release: {pod: web-v1, gates: [rules]}}\n\
        \x20 - name: captured\n\
        \x20   request: {from: client, url: 'http://${web-v1.ip}:8080/'}\n\
        \x20   expect: {status: 200, contains: {web-v1: [ISTIO_IN_REDIRECT]}}\n",
    );
    Lab::scenario(text.replace(
        "    labels: {app: web}\n",
        "    labels: {app: web}\n    hold: [rules]\n",
    ))
    .status(0);
}

#[test]
fn parallel_and_repeated_steps_are_each_held_to_what_they_expect() {
    let request = "{request: {from: client, url: 'http://web/'}, expect: {status: STATUS, contains: {web-v1: [ISTIO_IN_REDIRECT]}}}";
    let steps = |status: &str| {
        let request = request.replace("STATUS", status);
        format!(
            "  - {{parallel: [{request}, {request}, {request}]}}\n  - {{repeat: {{times: 3, steps: [{request}]}}}}\n"
        )
    };
    Lab::scenario(with(&steps("200"))).status(0);
    Lab::scenario(with(&steps("201"))).status(1);
}

/// Nothing but admin listens until all of CDS, EDS, LDS and RDS have come.
#[test]
fn a_sidecar_opens_its_ports_when_the_last_resource_type_has_come() {
    for gate in ["xds.cds", "xds.eds", "xds.lds", "xds.rds"] {
        let steps = "  - name: closed\n\
            \x20   request: {from: client, url: 'http://${web-v1.ip}:8080/'}\n\
            \x20   expect: {outcome: connection-refused, path: {web-v1: ['PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT -> refused:15006']}}\n\
            \x20 - name: not ready\n\
            \x20   request: {from: web-v1/agent, url: 'http://127.0.0.1:15000/ready'}\n\
            \x20   expect: {status: 503, body: {contains: INITIALIZING}}\n\
            \x20 - {release: {pod: web-v1, gates: [GATE]}}\n\
            \x20 - {name: open, request: {from: client, url: 'http://web/'}, expect: {status: 200}}\n";
        let text = with(&steps.replace("GATE", gate));
        let held = format!("    labels: {{app: web}}\n    hold: [{gate}]\n");
        Lab::scenario(text.replace("    labels: {app: web}\n", &held)).status(0);
    }
}

/// Whichever of a pod's files the machine has not, the pod has them all.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the test makes a machine whose /etc lacks some files"
)]
fn a_pod_has_its_files_where_the_machine_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("files.yaml");
    let check = "grep -q 10.96.0.10 /etc/resolv.conf && grep -q '^a$' /etc/hostname && grep -q localhost /etc/hosts && test -s /etc/passwd";
    let text = format!(
        "name: files\npods: [{{name: a, sidecar: false, containers: [{{name: a}}]}}]\n\
         steps: [{{exec: {{from: a, command: [sh, -c, \"{check}\"]}}}}]\n"
    );
    std::fs::write(&file, text).unwrap();
    let without = "cp -a /etc \"$2\"; shift 1; etc=$1; shift 1; for name; do rm -f \"$etc/$name\"; done; mount --bind \"$etc\" /etc; exec \"$0\" run \"$FILE\"";
    for names in [
        &["hostname"][..],
        &["nsswitch.conf"],
        &["resolv.conf"],
        &["resolv.conf", "hosts", "hostname", "nsswitch.conf"],
    ] {
        let etc = dir.path().join(names.concat());
        let output = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-ec", without, env!("CARGO_BIN_EXE_lab"), "-"])
            .arg(&etc)
            .args(names)
            .env("FILE", &file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{names:?}: {said}");
    }
}
