//! The cases: steps of the scenario files in `cases/`, each with what both data planes made of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::compare::{Difference, differences};
use crate::facts::{Facts, of_step};
use crate::runs::{root, steps};

/// How many files run at once, each with both data planes.
const AT_ONCE: usize = 2;

/// A case, run.
pub(crate) struct Case {
    /// `FILE/STEP`.
    pub(crate) name: String,
    /// What was asked, as the scenario file has it.
    pub(crate) request: Value,
    pub(crate) envoy: Facts,
    pub(crate) differences: Vec<Difference>,
}

/// Runs the files whose names contain `filter`.
pub(crate) fn run(filter: &str) -> Vec<Case> {
    run_files(|stem| stem.contains(filter))
}

/// Runs the files of these cases again, and keeps of their differences what differs again. A fact that differs in one of
/// two runs is a race between client and proxy; it is told.
pub(crate) fn run_again(cases: &mut [Case], which: &BTreeSet<String>) {
    let files: BTreeSet<&str> = which.iter().filter_map(|name| name.split('/').next()).collect();
    let again = run_files(|stem| files.contains(stem));
    for case in cases.iter_mut().filter(|case| which.contains(&case.name)) {
        let second = again
            .iter()
            .find(|it| it.name == case.name)
            .expect("the same file");
        case.differences.retain(|difference| {
            let stays = second.differences.iter().any(|it| it.fact == difference.fact);
            if !stays {
                println!("{}: {} differed in one of two runs", case.name, difference.fact);
            }
            stays
        });
    }
}

fn run_files(wanted: impl Fn(&str) -> bool) -> Vec<Case> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("tests/conformance/cases"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| wanted(stem(path)))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no file of cases has such a name");
    // Most of the time goes by in waiting for an end, a second for each of Envoy's delayed ones.
    let (next, cases) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let of_file = of_file(file);
                    cases.lock().unwrap().extend(of_file);
                }
            });
        }
    });
    let mut cases = cases.into_inner().unwrap();
    // By file; the order within a file stays.
    cases.sort_by(|a, b| a.file().cmp(b.file()));
    cases
}

impl Case {
    /// The file that it is of.
    pub(crate) fn file(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}

fn stem(path: &Path) -> &str {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .expect("names here are UTF-8")
}

fn of_file(file: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(file).unwrap();
    let scenario: Value =
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    // Envoy beside Envoy shows which facts vary by themselves.
    let other = if std::env::var_os("CONFORMANCE_SELF").is_some() {
        "envoy"
    } else {
        "builtin"
    };
    let (envoy, builtin) = thread::scope(|scope| {
        let envoy = scope.spawn(|| steps(file, "envoy"));
        let builtin = steps(file, other);
        (envoy.join().expect("Envoy's run"), builtin)
    });
    let written = scenario["steps"].as_array().expect("steps");
    assert_eq!(envoy.len(), builtin.len(), "{}", file.display());
    assert_eq!(envoy.len(), written.len(), "{}", file.display());
    let mut names = BTreeSet::new();
    let cases = written
        .iter()
        .zip(envoy.iter().zip(&builtin))
        .filter(|(written, _)| is_case(written));
    cases
        .map(|(written, (envoy, builtin))| {
            let name = format!("{}/{}", stem(file), envoy["name"].as_str().expect("a name"));
            assert!(names.insert(name.clone()), "{name} is there twice");
            let envoy = of_step(written, envoy, stem(file));
            let builtin = of_step(written, builtin, stem(file));
            Case {
                differences: differences(&envoy, &builtin),
                request: written.clone(),
                name,
                envoy,
            }
        })
        .collect()
}

/// Steps that send something; the others only prepare.
fn is_case(step: &Value) -> bool {
    ["request", "scrape", "parallel", "repeat"]
        .iter()
        .any(|kind| step.get(kind).is_some())
}
