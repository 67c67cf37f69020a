//! `listed.yaml`: which cases differ for a reason, and which facts of a case vary from run to run with Envoy alone.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::cases::Case;
use crate::runs::root;
use crate::table::Outcome;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Cases that differ, each with its reason.
    #[serde(default)]
    differ: BTreeMap<String, String>,
    /// Facts that are not compared, since they are not the same in two runs of Envoy either.
    #[serde(default)]
    vary: Vec<Varying>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Varying {
    /// Cases, by name.
    cases: Vec<String>,
    /// The ends of the facts' names.
    facts: Vec<String>,
    /// Why.
    because: String,
}

/// What is known of differences.
pub(crate) struct Lists(File);

impl Lists {
    /// Reads the file; each name in it must be a case's, if `all` are here.
    pub(crate) fn read(cases: &[Case], all: bool) -> Self {
        let path = root().join("tests/conformance/listed.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        let file: File =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let named = file
            .vary
            .iter()
            .flat_map(|varying| &varying.cases)
            .chain(file.differ.keys());
        for name in named.filter(|_| all) {
            assert!(
                cases.iter().any(|case| case.name == *name),
                "listed.yaml: no case is called `{name}`"
            );
        }
        for varying in &file.vary {
            assert!(
                !varying.because.is_empty(),
                "listed.yaml: no reason for {:?}",
                varying.cases
            );
        }
        Self(file)
    }

    /// What a case came to.
    pub(crate) fn judge(&self, case: &Case) -> Outcome {
        let varies = |fact: &str| {
            let of_case = self
                .0
                .vary
                .iter()
                .filter(|varying| varying.cases.contains(&case.name));
            of_case
                .flat_map(|varying| &varying.facts)
                .any(|end| fact == end || fact.ends_with(&format!(" {end}")))
        };
        let facts: Vec<usize> = (0..case.differences.len())
            .filter(|index| !varies(&case.differences[*index].fact))
            .collect();
        match (facts.is_empty(), self.0.differ.get(&case.name)) {
            (true, None) => Outcome::Equal,
            (true, Some(_)) => Outcome::NoLonger,
            (false, Some(reason)) => Outcome::Listed {
                reason: reason.clone(),
            },
            (false, None) => Outcome::Differs { facts },
        }
    }
}
