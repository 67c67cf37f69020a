//! `lab run` of a file of cases, with one data plane.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

/// What is reported of each step. A step that fails is no failure here: it is compared.
#[expect(clippy::disallowed_methods, reason = "the tests start the real binary")]
pub(crate) fn steps(file: &Path, proxy: &str) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["run", "--output=json", "--proxy", proxy])
        .arg(file)
        .output()
        .expect("running lab");
    // 1: an expectation failed; 5: something could not be observed.
    assert!(
        matches!(output.status.code(), Some(0 | 1 | 5)),
        "lab run --proxy {proxy} {}: {}\n{}\n{}",
        file.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let document: Value = serde_json::from_slice(&output.stdout).expect("a JSON document");
    let steps = &document["scenarios"][0]["steps"];
    steps.as_array().expect("steps").clone()
}
