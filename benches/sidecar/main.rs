//! The built-in sidecar beside Envoy beside no sidecar: the same pods, the same nginx, the same xDS, in one lab and one
//! run, round by round in turn. Prints medians, ratios, and the limit that each ratio is held to.
//!
//! `./x bench --bench sidecar`, as root. Needs wrk, h2load, nginx and Envoy; every load is bounded in time. The loads come
//! from a pod without sidecar, so each figure is one inbound pass through a sidecar. It asserts only that all ran.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and one that cannot go on fails"
)]

mod measure;
mod scenario;
mod table;

use std::path::Path;
use std::process::Command;

use measure::Measured;

/// Rounds of each load; medians are printed.
const ROUNDS: usize = 5;

/// Worker threads of each sidecar.
const WORKERS: usize = 2;

fn main() {
    let rounds = std::env::var("ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS);
    // The pods' users can read it: only /tmp is a pod's own.
    let dir = tempfile::Builder::new()
        .prefix("lab-bench-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in("/var/tmp")
        .expect("a directory under /var/tmp");
    let file = scenario::write(dir.path(), rounds, WORKERS);
    let steps = run(&file);
    let measured = Measured::read(&steps);
    println!(
        "one inbound pass through a sidecar, {WORKERS} workers each on {} cores, medians of {rounds} interleaved rounds, TCP with {}\n",
        std::thread::available_parallelism().map_or(0, usize::from),
        scenario::CONGESTION_CONTROL
    );
    print!("{}", table::render(&measured));
}

/// Runs the scenario with the real binary; all steps' names and what they printed.
#[expect(clippy::disallowed_methods, reason = "the benchmark runs the real binary")]
fn run(file: &Path) -> Vec<(String, f64, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["run", "--output=json"])
        .arg(file)
        .output()
        .expect("running lab");
    let text = String::from_utf8_lossy(&output.stdout);
    let document: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}\n{text}{}", String::from_utf8_lossy(&output.stderr)));
    let scenario = &document["scenarios"][0];
    let steps = scenario["steps"].as_array().expect("steps");
    let failed: Vec<String> = steps
        .iter()
        .filter(|step| step["result"] != "pass")
        .map(|step| format!("{}: {}", step["name"], step["message"]))
        .collect();
    assert!(output.status.success(), "{failed:#?}\n{}", scenario["error"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    steps
        .iter()
        .map(|step| {
            let seconds = step["seconds"].as_f64().unwrap_or_default();
            (text(&step["name"]), seconds, text(&step["answer"]["body"]))
        })
        .collect()
}
