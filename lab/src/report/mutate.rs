//! What became of scenarios whose rules were changed, one at a time; as text and as JSON.

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use super::human::count;

const GREEN: Style = AnsiColor::Green.on_default().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();

/// A change of a rule, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct MutantReport {
    /// The scenario's file.
    pub file: String,
    /// Its name.
    pub scenario: String,
    /// The pods whose rules were changed.
    pub pods: Vec<String>,
    /// The rule's family, as nft names it.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its number there, from 1.
    pub rule: usize,
    /// The rule.
    pub text: String,
    /// It and the next one stood in each other's place; else it had no effect.
    pub is_swap: bool,
    /// How long it took.
    pub seconds: f64,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a changed scenario.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// This step did not pass.
    Noticed(String),
    /// The lab did not come up, and why.
    NeverUp(String),
    /// It was not over in time: what was under way, and the limit in seconds.
    Timeout(String, f64),
    /// Every step passed.
    Missed,
    /// Every step passed, or would: no packet, such as routing sends them, reaches the rule.
    Unreachable,
    /// It could not be run.
    Failed(String),
}

impl Fate {
    const fn name(&self) -> &'static str {
        match self {
            Self::Noticed(_) => "noticed",
            Self::NeverUp(_) => "never-up",
            Self::Timeout(..) => "timeout",
            Self::Missed => "missed",
            Self::Unreachable => "unreachable",
            Self::Failed(_) => "failed",
        }
    }

    fn because(&self) -> Option<String> {
        match self {
            Self::Noticed(what) | Self::NeverUp(what) | Self::Failed(what) => Some(what.clone()),
            Self::Timeout(what, seconds) => Some(format!("{what}: not over after {seconds:.0} s")),
            Self::Unreachable => Some("no packet that routing sends as usual reaches it".to_owned()),
            Self::Missed => None,
        }
    }
}

/// One that has ended.
pub fn line(report: &MutantReport) -> String {
    let style = match report.fate {
        Fate::Noticed(_) | Fate::NeverUp(_) => GREEN,
        Fate::Missed | Fate::Failed(_) => RED,
        Fate::Timeout(..) | Fate::Unreachable => YELLOW,
    };
    let because = report
        .fate
        .because()
        .map_or_else(String::new, |why| format!(": {why}"));
    format!(
        "{style}{:>12}{style:#} [{:>7.3}s] {}{because}\n",
        report.fate.name().to_ascii_uppercase(),
        report.seconds,
        change(report)
    )
}

/// `bookinfo: nat ISTIO_OUTPUT#1 dropped`.
fn change(report: &MutantReport) -> String {
    let MutantReport {
        scenario,
        family,
        table,
        chain,
        rule,
        is_swap,
        ..
    } = report;
    let what = if *is_swap {
        format!("swapped with #{}", rule + 1)
    } else {
        "dropped".to_owned()
    };
    // IPv4's, and those that are both's, go without saying.
    let family = if *family == "ip6" { "ip6 " } else { "" };
    format!("{scenario}: {family}{table} {chain}#{rule} {what}")
}

/// The lines that close a run: what no step defends.
pub fn summary(reports: &[MutantReport]) -> String {
    let mut text = String::new();
    let missed = || reports.iter().filter(|report| report.fate == Fate::Missed);
    if missed().next().is_some() {
        text.push_str("\nno step defends:\n");
    }
    for report in missed() {
        text.push_str(&format!(
            "  {} ({})\n    {}\n",
            change(report),
            report.pods.join(", "),
            report.text
        ));
    }
    let parts: Vec<String> = [
        "noticed",
        "never-up",
        "timeout",
        "missed",
        "unreachable",
        "failed",
    ]
    .into_iter()
    .filter_map(|name| {
        let number = reports.iter().filter(|report| report.fate.name() == name).count();
        (number > 0).then(|| format!("{number} {name}"))
    })
    .collect();
    let style = if missed().next().is_some() { RED } else { GREEN };
    text.push_str(&format!(
        "{style}{:>12}{style:#} {}: {}\n",
        "Summary",
        count(reports.len(), "mutant"),
        parts.join(", ")
    ));
    text
}

/// All of it as one document.
pub fn document(reports: &[MutantReport]) -> Value {
    let one = |report: &MutantReport| {
        json!({ "file": report.file, "scenario": report.scenario, "pods": report.pods, "family": report.family,
            "table": report.table, "chain": report.chain, "rule": report.rule, "text": report.text,
            "change": if report.is_swap { "swap" } else { "drop" }, "result": report.fate.name(),
            "because": report.fate.because(), "seconds": (report.seconds * 1e3).round() / 1e3 })
    };
    json!({ "version": 1, "mutants": reports.iter().map(one).collect::<Vec<_>>() })
}
