//! Two data planes' facts of one step, compared.

use std::collections::BTreeSet;

use crate::facts::Facts;

/// How much longer one may take than the other, in seconds. A pause of Envoy's own is a second.
const SLACK: f64 = 0.75;

/// A fact that is not the same.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) fact: String,
    pub(crate) envoy: String,
    pub(crate) builtin: String,
}

/// All facts that are not the same.
pub(crate) fn differences(envoy: &Facts, builtin: &Facts) -> Vec<Difference> {
    let names: BTreeSet<&String> = envoy.named.keys().chain(builtin.named.keys()).collect();
    let other_entries = envoy.log != builtin.log;
    let value = |facts: &Facts, name: &str| {
        facts
            .named
            .get(name)
            .cloned()
            .unwrap_or_else(|| "nothing".to_owned())
    };
    let mut found: Vec<Difference> = names
        .into_iter()
        // If the entries are not of the same requests, what each says is no more to compare.
        .filter(|name| {
            !(other_entries
                && envoy.log.len() != builtin.log.len()
                && name.starts_with("log ")
                && *name != "log entries")
        })
        .map(|name| Difference {
            fact: name.clone(),
            envoy: value(envoy, name),
            builtin: value(builtin, name),
        })
        .filter(|difference| difference.envoy != difference.builtin)
        .collect();
    if let (Some(of_envoy), Some(of_builtin)) = (envoy.seconds, builtin.seconds)
        && (of_envoy - of_builtin).abs() > SLACK
    {
        found.push(Difference {
            fact: "seconds".to_owned(),
            envoy: format!("{of_envoy:.1}"),
            builtin: format!("{of_builtin:.1}"),
        });
    }
    found
}

#[test]
fn only_what_is_not_the_same_is_a_difference() {
    let facts = |status: &str, seconds: f64| Facts {
        named: [("status".to_owned(), status.to_owned())].into(),
        seconds: Some(seconds),
        log: Vec::new(),
    };
    assert!(differences(&facts("200", 0.1), &facts("200", 0.5)).is_empty());
    let found = differences(&facts("200", 0.1), &facts("503", 1.2));
    let names: Vec<&str> = found.iter().map(|difference| difference.fact.as_str()).collect();
    assert_eq!(names, ["status", "seconds"]);
}
