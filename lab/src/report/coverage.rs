//! Which rules of each pod the connections of which steps met, and which none did, over all files of a run: as a table for
//! people, as Markdown, and as JSON.
//!
//! The rules are those that the kernel had at the end of a scenario; the meetings are its trace's.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::human::count;
use super::{HopReport, PodRules, RuleReport, ScenarioReport, StepReport};

/// What a run's steps met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Every pod that had rules, in the order of files and pods.
    pub pods: Vec<PodCoverage>,
    /// Scenarios that did not come to their end, so that their rules are not known.
    pub unknown: Vec<String>,
}

/// The rules of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCoverage {
    /// The scenario's name.
    pub scenario: String,
    /// Its file.
    pub file: String,
    /// The pod.
    pub pod: String,
    /// `iptables` or `nftables`.
    pub backend: String,
    /// Its rules, in the kernel's order.
    pub rules: Vec<RuleCoverage>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCoverage {
    /// Its table's family, as nft names it.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its number in the chain, from 1.
    pub number: u16,
    /// The rule, as its tool lists it.
    pub text: String,
    /// The steps whose connections met it, in their order; empty = never.
    pub steps: Vec<Met>,
}

/// A step that met a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// The step.
    pub step: String,
    /// How many of its connections did.
    pub connections: usize,
    /// All of these were opened by an earlier step, and ridden again.
    pub reused: bool,
}

impl Coverage {
    /// Of all these.
    pub fn of(reports: &[ScenarioReport]) -> Self {
        let unknown = reports.iter().filter(|report| report.error.is_some());
        Self {
            pods: reports
                .iter()
                .filter(|report| report.error.is_none())
                .flat_map(|report| report.rules.iter().map(|rules| pod(report, rules)))
                .collect(),
            unknown: unknown.map(|report| report.name.clone()).collect(),
        }
    }

    fn hit(&self) -> (usize, usize) {
        let rules = || self.pods.iter().flat_map(|pod| &pod.rules);
        (
            rules().filter(|rule| !rule.steps.is_empty()).count(),
            rules().count(),
        )
    }

    /// Pods whose rules are the same, rule by rule.
    fn groups(&self) -> Vec<Vec<&PodCoverage>> {
        let texts = |pod: &PodCoverage| -> Vec<[String; 4]> {
            let text =
                |rule: &RuleCoverage| [&rule.family, &rule.table, &rule.chain, &rule.text].map(Clone::clone);
            pod.rules.iter().map(text).collect()
        };
        let mut groups: Vec<Vec<&PodCoverage>> = Vec::new();
        for pod in &self.pods {
            let same = groups
                .iter_mut()
                .find(|group| group[0].backend == pod.backend && texts(group[0]) == texts(pod));
            match same {
                Some(group) => group.push(pod),
                None => groups.push(vec![pod]),
            }
        }
        groups
    }
}

/// A rule's place: family, table, chain and number.
type Place = (String, String, String, u16);

fn pod(report: &ScenarioReport, rules: &PodRules) -> PodCoverage {
    let mut met: BTreeMap<Place, Vec<Met>> = BTreeMap::new();
    for step in &report.steps {
        add(&mut met, step, &rules.pod);
    }
    let mut counts: BTreeMap<(&str, &str, &str), u16> = BTreeMap::new();
    let rules_of = rules.rules.iter().map(|rule| {
        let number = counts
            .entry((&rule.family, &rule.table, &rule.chain))
            .or_default();
        *number = number.saturating_add(1);
        let RuleReport {
            family,
            table,
            chain,
            text,
        } = rule.clone();
        let place = (family.clone(), table.clone(), chain.clone(), *number);
        RuleCoverage {
            number: *number,
            steps: met.remove(&place).unwrap_or_default(),
            family,
            table,
            chain,
            text,
        }
    });
    PodCoverage {
        scenario: report.name.clone(),
        file: report.file.clone(),
        pod: rules.pod.clone(),
        backend: rules.backend.clone(),
        rules: rules_of.collect(),
    }
}

/// What a step's connections met in a pod. A step that holds others says it of them.
fn add(met: &mut BTreeMap<Place, Vec<Met>>, step: &StepReport, pod: &str) {
    for inner in &step.inner {
        add(met, inner, pod);
    }
    if !step.inner.is_empty() {
        return;
    }
    for leg in step.path.iter().filter(|leg| leg.pod == pod) {
        for hop in &leg.hops {
            let Some(place) = place_of(hop) else { continue };
            let all = met.entry(place).or_default();
            match all.iter_mut().find(|known| known.step == step.name) {
                Some(known) => {
                    known.connections += 1;
                    known.reused &= leg.reused;
                }
                None => all.push(Met {
                    step: step.name.clone(),
                    connections: 1,
                    reused: leg.reused,
                }),
            }
        }
    }
}

/// Where a hop that is a rule stands.
fn place_of(hop: &HopReport) -> Option<Place> {
    let (family, table, chain) = (hop.family.clone()?, hop.table.clone()?, hop.chain.clone()?);
    Some((family, table, chain, hop.rule?))
}

/// As a person reads it; `all` names every step, else the first of each pod.
pub fn human(coverage: &Coverage, all: bool) -> String {
    let (hit, total) = coverage.hit();
    let mut text = format!(
        "{:>12} {hit} of {} met, in {}\n",
        "Coverage",
        count(total, "rule"),
        count(coverage.pods.len(), "pod")
    );
    for group in coverage.groups() {
        let names: Vec<String> = group.iter().map(|pod| name(pod)).collect();
        push(
            &mut text,
            format_args!("    {}: {}\n", group[0].backend, names.join(", ")),
        );
        for (index, rule) in group[0].rules.iter().enumerate() {
            push(&mut text, format_args!("      {}  {}\n", place(rule), rule.text));
            let mut is_met = false;
            for pod in &group {
                let steps: Vec<String> = pod.rules[index].steps.iter().map(step).collect();
                let Some((first, rest)) = steps.split_first() else {
                    continue;
                };
                is_met = true;
                let steps = match rest.len() {
                    0 => first.clone(),
                    _ if all => steps.join("; "),
                    more => format!("{first}; {more} more"),
                };
                push(&mut text, format_args!("        {}: {steps}\n", name(pod)));
            }
            if !is_met {
                text.push_str("        never\n");
            }
        }
    }
    for name in &coverage.unknown {
        push(
            &mut text,
            format_args!("    {name}: not known, it did not come to its end\n"),
        );
    }
    text
}

/// As a document: which scenarios met each rule, and by how many of their steps.
pub fn markdown(coverage: &Coverage) -> String {
    let (hit, total) = coverage.hit();
    let mut text = format!(
        "# Which rules the scenarios meet\n\n\
         Written by `lab run --coverage=FILE`: the rules are those that the kernel had at the end of each scenario, and a rule is met \
         if its trace says so of a connection that a step followed. Pods with the same rules stand together. {hit} of {} of {} were \
         met.\n",
        count(total, "rule"),
        count(coverage.pods.len(), "pod")
    );
    for group in coverage.groups() {
        let mut scenarios: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for pod in &group {
            scenarios.entry(&pod.scenario).or_default().push(&pod.pod);
        }
        let pods = scenarios
            .iter()
            .map(|(name, pods)| format!("{name} ({})", pods.join(", ")));
        let pods: Vec<String> = pods.collect();
        push(
            &mut text,
            format_args!("\n## {}: {}\n\n", group[0].backend, pods.join("; ")),
        );
        text.push_str("| rule | | met by |\n| --- | --- | --- |\n");
        for (index, rule) in group[0].rules.iter().enumerate() {
            let mut by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for pod in &group {
                for met in &pod.rules[index].steps {
                    let steps = by.entry(&pod.scenario).or_default();
                    if !steps.contains(&met.step.as_str()) {
                        steps.push(&met.step);
                    }
                }
            }
            let by = by.iter().map(|(scenario, steps)| match steps.as_slice() {
                [one] => format!("{scenario}: {one}"),
                [first, rest @ ..] => format!("{scenario}: {first}; {} more", rest.len()),
                [] => (*scenario).to_owned(),
            });
            let by: Vec<String> = by.collect();
            let by = if by.is_empty() {
                "**never**".to_owned()
            } else {
                by.join("<br>")
            };
            push(
                &mut text,
                format_args!("| `{}` | `{}` | {} |\n", place(rule), cell(&rule.text), cell(&by)),
            );
        }
    }
    for name in &coverage.unknown {
        push(
            &mut text,
            format_args!("\n{name} did not come to its end: its rules are not known.\n"),
        );
    }
    text
}

/// As a value of the run's document.
pub fn document(coverage: &Coverage) -> Value {
    let rule = |rule: &RuleCoverage| {
        json!({ "family": rule.family, "table": rule.table, "chain": rule.chain, "rule": rule.number, "text": rule.text,
            "steps": rule.steps.iter().map(|met| json!({ "step": met.step, "connections": met.connections,
                "reused": met.reused })).collect::<Vec<_>>() })
    };
    let pod = |pod: &PodCoverage| {
        json!({ "scenario": pod.scenario, "file": pod.file, "pod": pod.pod, "backend": pod.backend,
            "rules": pod.rules.iter().map(rule).collect::<Vec<_>>() })
    };
    let (hit, total) = coverage.hit();
    json!({ "rules": total, "met": hit, "pods": coverage.pods.iter().map(pod).collect::<Vec<_>>(),
        "unknown": coverage.unknown })
}

fn name(pod: &PodCoverage) -> String {
    format!("{}/{}", pod.scenario, pod.pod)
}

fn place(rule: &RuleCoverage) -> String {
    let RuleCoverage {
        family,
        table,
        chain,
        number,
        ..
    } = rule;
    // IPv4's, and those that are both's, go without saying.
    match family.as_str() {
        "ip" | "inet" => format!("{table} {chain}#{number}"),
        other => format!("{other} {table} {chain}#{number}"),
    }
}

fn step(met: &Met) -> String {
    if met.reused {
        format!("{} (reused)", met.step)
    } else {
        met.step.clone()
    }
}

/// A `|` ends a cell of a Markdown table, in code too.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _infallible = text.write_fmt(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{LegReport, Outcome};

    fn leg(pod: &str, chain: &str, number: Option<u16>, reused: bool) -> LegReport {
        LegReport {
            pod: pod.to_owned(),
            reused,
            hops: vec![HopReport {
                kind: "rule".to_owned(),
                name: chain.to_owned(),
                family: Some("ip".to_owned()),
                table: Some("nat".to_owned()),
                chain: Some(chain.to_owned()),
                rule: number,
                verdict: None,
                role: None,
                port: None,
                pid: None,
                hidden: false,
            }],
            text: String::new(),
        }
    }

    fn step(name: &str, path: Vec<LegReport>, inner: Vec<StepReport>) -> StepReport {
        StepReport {
            path,
            inner,
            ..StepReport::bare(name, Outcome::Pass)
        }
    }

    fn report(name: &str, steps: Vec<StepReport>) -> ScenarioReport {
        let rule = |chain: &str, text: &str| RuleReport {
            family: "ip".to_owned(),
            table: "nat".to_owned(),
            chain: chain.to_owned(),
            text: text.to_owned(),
        };
        let rules = |pod: &str| PodRules {
            pod: pod.to_owned(),
            backend: "iptables".to_owned(),
            rules: vec![rule("X", "-j Y"), rule("Y", "-p tcp"), rule("X", "-j RETURN")],
        };
        ScenarioReport {
            name: name.to_owned(),
            file: format!("{name}.yaml"),
            proxies: Vec::new(),
            up_seconds: None,
            seconds: 0.0,
            steps,
            error: None,
            rules: vec![rules("a"), rules("b")],
        }
    }

    #[test]
    fn a_rule_is_met_by_its_pods_table_chain_and_number() {
        let inner = step("inner", vec![leg("a", "X", Some(2), true)], Vec::new());
        let outer = step("outer", vec![leg("a", "X", Some(2), true)], vec![inner]);
        let first = step(
            "first",
            vec![
                leg("a", "X", Some(1), false),
                leg("a", "X", Some(1), true),
                leg("c", "Y", Some(1), false),
            ],
            Vec::new(),
        );
        let ended = step("ended", vec![leg("a", "Y", None, false)], Vec::new());
        let coverage = Coverage::of(&[report("s", vec![first, outer, ended])]);
        let steps: Vec<Vec<(&str, usize, bool)>> = coverage.pods[0]
            .rules
            .iter()
            .map(|rule| {
                rule.steps
                    .iter()
                    .map(|met| (met.step.as_str(), met.connections, met.reused))
                    .collect()
            })
            .collect();
        assert_eq!(
            steps,
            [vec![("first", 2, false)], vec![], vec![("inner", 1, true)]]
        );
        assert!(coverage.pods[1].rules.iter().all(|rule| rule.steps.is_empty()));
        assert_eq!(coverage.hit(), (2, 6));
    }

    #[test]
    fn pods_with_the_same_rules_stand_together() {
        let mut other = report("other", Vec::new());
        other.rules[1].rules.pop();
        let coverage = Coverage::of(&[report("s", Vec::new()), other]);
        let groups = coverage.groups();
        let names: Vec<Vec<String>> = groups
            .iter()
            .map(|group| group.iter().map(|pod| name(pod)).collect())
            .collect();
        assert_eq!(names, [vec!["s/a", "s/b", "other/a"], vec!["other/b"]]);
        assert!(markdown(&coverage).contains("| `nat X#2` | `-j RETURN` | **never** |"));
        assert!(human(&coverage, false).contains("      nat X#2  -j RETURN\n        never\n"));
    }
}
