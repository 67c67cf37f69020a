//! Bad files: the right exit code, every mistake at once, with line and column, and nothing is created.

use crate::support::Lab;

const HEAD: &str = "name: x\npods: [{name: a, labels: {app: a}, containers: [{name: a}]}]\n";
const STEP: &str = "steps: [{name: s, request: {from: a, url: 'http://a:1/'}}]\n";

#[track_caller]
fn refused(text: impl AsRef<[u8]>, wanted: &[&str]) {
    let ended = Lab::scenario(text).status(2);
    for part in wanted {
        assert!(ended.stderr.contains(part), "no `{part}` in:\n{}", ended.stderr);
    }
    assert_eq!(
        ended.stdout, "",
        "a refused file prints nothing on standard output"
    );
}

#[test]
fn files_that_are_no_scenarios() {
    refused("", &["empty"]);
    refused([0x7f, b'E', b'L', b'F', 0, 1, 2, 0], &["binary"]);
    refused([b'n', b'a', 0xff, 0xfe], &["UTF-8"]);
    refused("just some words", &["1:1"]);
    refused("name: [", &["1 mistake"]);
    refused("x".repeat(10 * 1024 * 1024), &["MiB"]);
    let ended = Lab::new("run").arg("/no/such/file.yaml").status(2);
    assert!(ended.stderr.contains("/no/such/file.yaml"), "{}", ended.stderr);
    let ended = Lab::new("run").arg("/etc").status(2);
    assert!(ended.stderr.contains("/etc"), "{}", ended.stderr);
}

#[test]
fn an_unreadable_file_is_named_with_the_reason() {
    let lab = Lab::scenario(format!("{HEAD}{STEP}"));
    let file = lab.file();
    let ended = lab.by_user(1000).status(2);
    assert!(
        ended.stderr.contains(&file) && ended.stderr.contains("ermission denied"),
        "{}",
        ended.stderr
    );
}

#[test]
fn all_mistakes_at_once_with_line_and_column() {
    let text = "name: x\n\
                services:\n\
                \x20 - {name: web, pots: [{name: http, port: 80}]}\n\
                \x20 - {name: idle, ports: []}\n\
                pods:\n\
                \x20 - {name: a, containers: [{name: a}]}\n\
                \x20 - {name: a, containers: [{name: a}]}\n\
                steps:\n\
                \x20 - name: s\n\
                \x20   request: {from: b, url: 'http://web/'}\n\
                \x20   expect: {path: {reviews-v4: [OUTPUT -> ISTIO_OUTPUT#0]}}\n";
    refused(
        text,
        &[
            ":3:17",
            "unknown field `pots`",
            "did you mean `ports`?",
            ":4:",
            ":7:",
            "`a`",
            ":10:",
            "`b`",
            ":11:",
            "reviews-v4",
            "nothing was created",
        ],
    );
}

#[test]
fn unknown_options_and_steps_are_usage() {
    Lab::new("run").status(2);
    Lab::new("run").arg("--no-such-option").arg("x").status(2);
    Lab::new("run").arg("--output=html").arg("x").status(2);
    let ended = Lab::scenario(format!("{HEAD}{STEP}"))
        .arg("--only=nothing-like-this")
        .status(2);
    assert!(ended.stderr.contains("steps are:"), "{}", ended.stderr);
}

/// A pipe or a device stays what it is.
#[test]
fn a_report_is_written_into_what_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).unwrap()
    });
    let quiet = "name: x\npods: [{name: a, sidecar: false, containers: [{name: a}]}]\n\
                 steps: [{name: s, exec: {from: a, command: ['true']}}]\n";
    Lab::scenario(quiet)
        .arg(&format!("--output=json={}", pipe.display()))
        .status(0);
    let document: serde_json::Value = serde_json::from_str(&reader.join().unwrap()).unwrap();
    assert_eq!(document["version"], 1);
    let kind = std::fs::metadata(&pipe).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));
}

#[test]
fn help_and_version_are_no_failure() {
    assert!(Lab::new("--help").status(0).stdout.contains("Usage:"));
    assert!(Lab::new("--version").status(0).stdout.starts_with("lab "));
    let schema = Lab::new("schema").status(0).json();
    assert!(schema["properties"]["steps"].is_object(), "{schema}");
    assert!(
        Lab::new("completions")
            .arg("bash")
            .status(0)
            .stdout
            .contains("lab")
    );
}
