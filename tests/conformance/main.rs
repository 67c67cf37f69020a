//! The conformance suite: every case runs with the built-in data plane and with unmodified Envoy, on the same xDS, and
//! everything that a user can see of it is compared. Needs root, and Envoy 1.40 (`lab run --help` says where it is looked for).
//!
//! `CONFORMANCE=NAME` runs the files whose names contain it; `BLESS=1` writes `docs/conformance.md`; `CONFORMANCE_OUT=FILE`
//! writes every difference with its request and all that was seen; `CONFORMANCE_SELF=1` runs Envoy beside Envoy, to find
//! facts that vary by themselves.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeSet;

mod cases;
mod compare;
mod facts;
mod frames;
mod listed;
mod normal;
mod runs;
mod table;
mod views;

use cases::Case;
use listed::Lists;
use table::Outcome;

/// How many cases there are at least.
const FEWEST: usize = 120;

/// At most one case in so many may differ for a reason.
const LISTED_ONE_IN: usize = 20;

#[test]
fn both_data_planes_are_the_same_to_a_user() {
    let filter = std::env::var("CONFORMANCE").unwrap_or_default();
    let mut cases: Vec<Case> = cases::run(&filter);
    let lists = Lists::read(&cases, filter.is_empty());
    let differing: BTreeSet<String> = cases
        .iter()
        .filter(|case| matches!(lists.judge(case), Outcome::Differs { .. }))
        .map(|case| case.name.clone())
        .collect();
    if !differing.is_empty() {
        cases::run_again(&mut cases, &differing);
    }
    let outcomes: Vec<(&Case, Outcome)> = cases.iter().map(|case| (case, lists.judge(case))).collect();
    if let Ok(file) = std::env::var("CONFORMANCE_OUT") {
        std::fs::write(file, table::differences(&outcomes)).unwrap();
    }
    print!("{}", table::summary(&outcomes));
    let wrong: Vec<String> = outcomes
        .iter()
        .filter_map(|(case, outcome)| outcome.complaint(case))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    if filter.is_empty() {
        assert!(cases.len() >= FEWEST, "{} cases are too few", cases.len());
        let differing = outcomes
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Outcome::Listed { .. }))
            .count();
        assert!(
            differing * LISTED_ONE_IN <= cases.len(),
            "{differing} of {} cases are listed, which is more than one in {LISTED_ONE_IN}",
            cases.len()
        );
        table::hold_document(&outcomes);
    }
}
