//! Rules of this repository that no compiler checks.

use std::path::{Path, PathBuf};

use crate::support::root;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|kind| kind == "rs") {
            found.push(entry);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in ["lab/src", "proxy/src", "iptables/src", "tests", "benches"] {
        sources(&root().join(dir), &mut found);
    }
    found
}

#[test]
fn every_file_says_what_it_holds() {
    for file in all_sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("//! "),
            "{} does not begin with `//!`",
            file.display()
        );
    }
}

/// Which modules of `lab` may use which: each those above it, as ARCHITECTURE.md has it.
const LAYERS: [&[&str]; 13] = [
    &["causes", "path", "within", "exit"],
    &["sys"],
    &["net", "scenario"],
    &["istiod", "plan", "client", "race"],
    &["app", "dns"],
    &["world"],
    &["observe"],
    &["verdict"],
    &["report"],
    &["engine"],
    &["cmd"],
    &["lib"],
    &["main"],
];

/// Uses that go up all the same, each with its reason.
const EXCEPTIONS: [(&str, &str); 4] = [
    // Roles of their own process, and they have to say what went wrong.
    ("app", "report"),
    ("client", "report"),
    ("istiod", "report"),
    // A warning about selectors needs to know what a selector selects.
    ("scenario", "plan"),
];

#[test]
fn no_module_uses_one_above_it() {
    let layer = |name: &str| LAYERS.iter().position(|names| names.contains(&name));
    let source = root().join("lab/src");
    for file in all_sources().into_iter().filter(|file| file.starts_with(&source)) {
        let inside = file.strip_prefix(&source).unwrap();
        let own = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_string_lossy()
            .into_owned();
        let own = own.trim_end_matches(".rs");
        let own_layer = layer(own).unwrap_or_else(|| panic!("ARCHITECTURE does not place module `{own}`"));
        let text = std::fs::read_to_string(&file).unwrap();
        for used in text.split("crate::").skip(1) {
            let used: String = used
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let Some(used_layer) = layer(&used) else { continue };
            let excepted = EXCEPTIONS.contains(&(own, used.as_str()));
            assert!(
                used_layer <= own_layer || excepted,
                "{}: `{own}` uses `{used}`, which is above it",
                file.display()
            );
        }
    }
}

#[test]
fn the_map_names_every_module() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let lib = std::fs::read_to_string(root().join("lab/src/lib.rs")).unwrap();
    for module in lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
    {
        assert!(
            map.contains(&format!("`{module}`")),
            "ARCHITECTURE.md does not name `{module}`"
        );
    }
}

#[test]
fn nothing_sleeps() {
    // Assembled here, so that this file does not name it.
    let word = ["sle", "ep("].concat();
    for file in all_sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        let is_wrapper = file.ends_with("proxy/src/within.rs");
        assert!(
            is_wrapper || !text.contains(&word),
            "{}: await an event, with a deadline",
            file.display()
        );
    }
}
