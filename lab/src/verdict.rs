//! Expectation and observation compared. Pure: the same two values always give the same verdict.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::path::{Hop, HopPattern, LegPattern, contains_in_order, leg_text};
use crate::scenario::lifecycle::{Phase, container_name};
use crate::scenario::model::{BodyMatch, Expect, Outcome, PodId, Restarts, Scenario, StringMatch};

/// What is known of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was expected was seen.
    Held,
    /// Something could not be seen, and nothing that was seen contradicts the scenario.
    Unobserved(Vec<String>),
    /// Something else was seen than expected.
    Failed(Vec<Finding>),
}

/// One thing that was seen and not expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A plain value.
    Value {
        /// What: `status`, `outcome`, `body`…
        what: String,
        /// As the scenario has it.
        expected: String,
        /// As it was seen.
        observed: String,
    },
    /// The legs of a pod.
    Path {
        /// The pod's name.
        pod: String,
        /// As the scenario has them.
        expected: Vec<String>,
        /// As they were seen.
        observed: Vec<String>,
        /// The first difference: index of the leg, and of the hop within it.
        differs_at: (usize, usize),
    },
    /// A hop that must not be there.
    Never {
        /// The pod's name.
        pod: String,
        /// The hop.
        hop: String,
        /// The leg that has it.
        observed: String,
    },
    /// Hops that are nowhere in the legs of a pod.
    Missing {
        /// The pod's name.
        pod: String,
        /// The hops.
        expected: String,
        /// The pod's legs.
        observed: Vec<String>,
    },
}

/// A leg as it was seen, reduced to what is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenLeg {
    /// The pod's name.
    pub pod: String,
    /// The hops that are shown.
    pub hops: Vec<Hop>,
    /// True if an earlier request opened it.
    pub reused: bool,
}

impl SeenLeg {
    fn text(&self) -> String {
        leg_text(&self.hops, self.reused)
    }
}

/// What a step was seen to do.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How the request ended; none for steps that are no request.
    pub outcome: Option<Outcome>,
    /// Words for the outcome (an errno, a resolver's answer), empty if none.
    pub error: String,
    /// The HTTP status.
    pub status: Option<u16>,
    /// Response headers by lower-case name, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// Response flags of the outermost sidecar; none if no sidecar was on the way.
    pub flags: Option<String>,
    /// Exit code of an `exec` step.
    pub exit_code: Option<i32>,
    /// The legs, in the order in which the request went.
    pub legs: Vec<SeenLeg>,
    /// Why something could not be seen; empty if all was.
    pub unobserved: Vec<String>,
    /// The pods that the expectation speaks of, as they were at the end.
    pub pods: Vec<PodFacts>,
}

/// What is so of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Its name.
    pub pod: String,
    /// Its phase.
    pub phase: Phase,
    /// Whether it is ready.
    pub ready: bool,
    /// Containers, and how often they were started again.
    pub restarts: Vec<(String, u32)>,
    /// What has happened to it, in order.
    pub events: Vec<String>,
}

/// Compares what a step expects with what was seen.
pub fn judge(scenario: &Scenario, expect: &Expect, seen: &Seen) -> Verdict {
    let mut findings = Vec::new();
    judge_outcome(expect, seen, &mut findings);
    judge_response(expect, seen, &mut findings);
    judge_pods(scenario, expect, seen, &mut findings);
    for (pod, expected) in &expect.path {
        judge_path(pod_name(scenario, *pod), expected, seen, &mut findings);
    }
    for (pod, wanted) in &expect.contains {
        judge_contains(pod_name(scenario, *pod), wanted, seen, &mut findings);
    }
    for (pod, banned) in &expect.never {
        judge_never(pod_name(scenario, *pod), banned, seen, &mut findings);
    }
    // A path that was not fully seen can neither hold nor fail.
    if !seen.unobserved.is_empty() {
        let certain = |finding: &Finding| matches!(finding, Finding::Value { .. } | Finding::Never { .. });
        findings.retain(certain);
        if findings.is_empty() {
            return Verdict::Unobserved(seen.unobserved.clone());
        }
    }
    if findings.is_empty() {
        Verdict::Held
    } else {
        Verdict::Failed(findings)
    }
}

fn pod_name(scenario: &Scenario, pod: PodId) -> &str {
    &scenario.pod(pod).name
}

fn value(what: &str, expected: impl ToString, observed: impl ToString) -> Finding {
    Finding::Value {
        what: what.to_owned(),
        expected: expected.to_string(),
        observed: observed.to_string(),
    }
}

fn judge_pods(scenario: &Scenario, expect: &Expect, seen: &Seen, findings: &mut Vec<Finding>) {
    let facts = |pod: PodId| {
        let name = pod_name(scenario, pod);
        seen.pods.iter().find(|facts| facts.pod == name)
    };
    for (pod, expected) in &expect.phase {
        let observed = facts(*pod).map(|facts| facts.phase);
        if observed != Some(*expected) {
            let what = format!("phase of {}", pod_name(scenario, *pod));
            findings.push(value(
                &what,
                expected.name(),
                observed.map_or("unknown", Phase::name),
            ));
        }
    }
    for (pod, expected) in &expect.ready {
        let observed = facts(*pod).map(|facts| facts.ready);
        if observed != Some(*expected) {
            let what = format!("readiness of {}", pod_name(scenario, *pod));
            findings.push(value(&what, expected, observed.unwrap_or(!expected)));
        }
    }
    for (target, expected) in &expect.restarts {
        let name = container_name(scenario.pod(target.pod), target.process);
        let found =
            facts(target.pod).and_then(|facts| facts.restarts.iter().find(|(other, _)| other == name));
        let observed = found.map_or(0, |(_, number)| *number);
        let (holds, wanted) = match expected {
            Restarts::Exactly(number) => (observed == *number, number.to_string()),
            Restarts::AtLeast(number) => (observed >= *number, format!("{number} or more")),
        };
        if !holds {
            let what = format!("restarts of {}/{name}", pod_name(scenario, target.pod));
            findings.push(value(&what, wanted, observed));
        }
    }
    for (pod, expected) in &expect.events {
        let happened = facts(*pod)
            .map(|facts| facts.events.as_slice())
            .unwrap_or_default();
        let mut rest = happened.iter();
        if !expected
            .iter()
            .all(|wanted| rest.any(|event| is_event(wanted, event)))
        {
            let what = format!("events of {}, in this order", pod_name(scenario, *pod));
            findings.push(value(&what, expected.join("; "), happened.join("; ")));
        }
    }
    for (pod, banned) in &expect.never_events {
        let happened = facts(*pod)
            .map(|facts| facts.events.as_slice())
            .unwrap_or_default();
        for event in happened
            .iter()
            .filter(|event| banned.iter().any(|it| is_event(it, event)))
        {
            let what = format!("an event that {} must never have", pod_name(scenario, *pod));
            findings.push(value(&what, format!("no `{event}`"), happened.join("; ")));
        }
    }
}

/// `web ended` stands for any status.
pub fn is_event(wanted: &str, event: &str) -> bool {
    event == wanted || (wanted.ends_with(" ended") && event.starts_with(&format!("{wanted} ")))
}

fn judge_outcome(expect: &Expect, seen: &Seen, findings: &mut Vec<Finding>) {
    let observed = || match (seen.outcome, seen.error.as_str()) {
        (None, _) => "none".to_owned(),
        (Some(outcome), "") => outcome.name().to_owned(),
        (Some(outcome), error) => format!("{} ({error})", outcome.name()),
    };
    // A step that asks for nothing else still asks that its request ends well.
    let implied = [Outcome::Ok];
    let expected = match expect.outcome.as_slice() {
        [] if seen.outcome.is_some() => &implied,
        expected => expected,
    };
    if !expected.is_empty() && !seen.outcome.is_some_and(|outcome| expected.contains(&outcome)) {
        let names: Vec<&str> = expected.iter().map(|outcome| outcome.name()).collect();
        findings.push(value("outcome", names.join(" or "), observed()));
    }
    if let Some(observed) = seen.exit_code {
        let expected = expect.exit_code.unwrap_or(0);
        if observed != expected {
            findings.push(value("exit code", expected, observed));
        }
    }
}

fn judge_response(expect: &Expect, seen: &Seen, findings: &mut Vec<Finding>) {
    if let Some(expected) = expect.status
        && seen.status != Some(expected)
    {
        let observed = seen
            .status
            .map_or_else(|| "no response".to_owned(), |status| status.to_string());
        findings.push(value("status", expected, observed));
    }
    if let Some(expected) = &expect.response_flags
        && seen.flags.as_deref().map(flag_set) != Some(flag_set(expected))
    {
        let observed = seen
            .flags
            .clone()
            .unwrap_or_else(|| "no access log on the way".to_owned());
        findings.push(value("response flags", expected, observed));
    }
    match &expect.body {
        Some(BodyMatch::Exact(expected)) if without_newline(&seen.body) != without_newline(expected) => {
            findings.push(value("body", expected, &seen.body));
        }
        Some(BodyMatch::Contains(part)) if !seen.body.contains(part.as_str()) => {
            findings.push(value("body", format!("something with `{part}`"), &seen.body));
        }
        _ => {}
    }
    judge_headers(&expect.headers, &seen.headers, findings);
}

fn judge_headers(
    expected: &BTreeMap<String, StringMatch>,
    seen: &[(String, String)],
    findings: &mut Vec<Finding>,
) {
    for (name, wanted) in expected {
        let found: Vec<&str> = seen
            .iter()
            .filter(|(seen, _)| seen.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect();
        if !found.iter().any(|value| string_matches(wanted, value)) {
            let observed = if found.is_empty() {
                "absent".to_owned()
            } else {
                found.join(", ")
            };
            findings.push(value(&format!("header {name}"), describe(wanted), observed));
        }
    }
}

fn string_matches(wanted: &StringMatch, value: &str) -> bool {
    match wanted {
        StringMatch::Exact(text) => text == value,
        StringMatch::Prefix(text) => value.starts_with(text.as_str()),
        // `resolve` has compiled it before; a pattern that does not compile matches nothing.
        StringMatch::Regex(text) => {
            Regex::new(&format!("^(?:{text})$")).is_ok_and(|regex| regex.is_match(value))
        }
    }
}

fn describe(wanted: &StringMatch) -> String {
    match wanted {
        StringMatch::Exact(text) => text.clone(),
        StringMatch::Prefix(text) => format!("{text}…"),
        StringMatch::Regex(text) => format!("/{text}/"),
    }
}

/// Envoy writes flags in the order in which they were set, so they compare as a set.
fn flag_set(flags: &str) -> BTreeSet<&str> {
    flags
        .split(',')
        .map(str::trim)
        .filter(|flag| !flag.is_empty() && *flag != "-")
        .collect()
}

fn without_newline(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

fn legs_of<'a>(seen: &'a Seen, pod: &'a str) -> impl Iterator<Item = &'a SeenLeg> {
    seen.legs.iter().filter(move |leg| leg.pod == pod)
}

fn judge_path(pod: &str, expected: &[LegPattern], seen: &Seen, findings: &mut Vec<Finding>) {
    let legs: Vec<&SeenLeg> = legs_of(seen, pod).collect();
    let holds = legs.len() == expected.len()
        && expected
            .iter()
            .zip(&legs)
            .all(|(pattern, leg)| pattern.matches(&leg.hops, leg.reused));
    if holds {
        return;
    }
    findings.push(Finding::Path {
        pod: pod.to_owned(),
        expected: expected.iter().map(ToString::to_string).collect(),
        observed: legs.iter().map(|leg| leg.text()).collect(),
        differs_at: first_difference(expected, &legs),
    });
}

fn first_difference(expected: &[LegPattern], legs: &[&SeenLeg]) -> (usize, usize) {
    for (index, (pattern, leg)) in expected.iter().zip(legs).enumerate() {
        if pattern.matches(&leg.hops, leg.reused) {
            continue;
        }
        let differs = |(pattern, hop): (&HopPattern, &Hop)| !pattern.matches(hop);
        let hop = pattern.hops.iter().zip(&leg.hops).position(differs);
        return (
            index,
            hop.unwrap_or_else(|| pattern.hops.len().min(leg.hops.len())),
        );
    }
    (expected.len().min(legs.len()), 0)
}

fn judge_contains(pod: &str, wanted: &[Vec<HopPattern>], seen: &Seen, findings: &mut Vec<Finding>) {
    for patterns in wanted {
        if legs_of(seen, pod).any(|leg| contains_in_order(&leg.hops, patterns)) {
            continue;
        }
        findings.push(Finding::Missing {
            pod: pod.to_owned(),
            expected: leg_text(patterns, false),
            observed: legs_of(seen, pod).map(SeenLeg::text).collect(),
        });
    }
}

fn judge_never(pod: &str, banned: &[HopPattern], seen: &Seen, findings: &mut Vec<Finding>) {
    for leg in legs_of(seen, pod) {
        for pattern in banned {
            if let Some(hop) = leg.hops.iter().find(|hop| pattern.matches(hop)) {
                findings.push(Finding::Never {
                    pod: pod.to_owned(),
                    hop: hop.to_string(),
                    observed: leg.text(),
                });
            }
        }
    }
}
