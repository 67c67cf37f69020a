//! The run as a person reads it: a line a step, its path below, and, where something differs, both side by side.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::{FindingReport, LegReport, Outcome, ProxyReport, ScenarioReport, StepReport};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();

/// Where the text of a step's details begins.
const INDENT: &str = "    ";

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The notation.
    Brief,
    /// Also what the notation leaves out: re-entered hooks, base chains, tables, verdicts, process ids.
    Verbose,
}

/// The line that opens a scenario.
pub fn heading(name: &str, file: &str, pods: usize, steps: usize, proxies: &[ProxyReport]) -> String {
    format!(
        "{BOLD}{name}{BOLD:#}  {DIM}{file}: {}, {}{}{DIM:#}\n",
        count(pods, "pod"),
        count(steps, "step"),
        envoy(proxies)
    )
}

/// `, Envoy 1.40.0`, if a sidecar runs it.
pub fn envoy(proxies: &[ProxyReport]) -> String {
    let envoy = proxies.iter().find(|proxy| proxy.kind == "envoy");
    envoy.map_or_else(String::new, |envoy| format!(", Envoy {}", envoy.version))
}

/// The line that says that the lab is up.
pub fn up(seconds: f64) -> String {
    format!("{:>12} in {:.0} ms\n", "up", seconds * 1e3)
}

/// A step that has ended.
pub fn step(step: &StepReport, detail: Detail) -> String {
    let style = match step.result {
        Outcome::Pass => GREEN,
        Outcome::Fail | Outcome::Error => RED,
        Outcome::Unobserved => YELLOW,
    };
    let mut text = format!(
        "{style}{:>12}{style:#} [{:>7.3}s] {}{}\n",
        step.result.word(),
        step.seconds,
        step.name,
        answer(step)
    );
    for leg in &step.path {
        push_leg(&mut text, leg, detail);
    }
    if let Some(article) = &step.article {
        push_article(&mut text, article, step);
    }
    for finding in &step.findings {
        push_finding(&mut text, finding);
    }
    for note in &step.notes {
        for line in note.lines() {
            push(
                &mut text,
                format_args!("{INDENT}{YELLOW}note:{YELLOW:#} {line}\n"),
            );
        }
    }
    text
}

/// The lines that close a run.
pub fn summary(report: &ScenarioReport) -> String {
    let passed = number_of(report, Outcome::Pass);
    let mut parts = vec![format!("{passed} passed")];
    for (outcome, word) in [
        (Outcome::Fail, "failed"),
        (Outcome::Unobserved, "unobserved"),
        (Outcome::Error, "in error"),
    ] {
        match number_of(report, outcome) {
            0 => {}
            number => parts.push(format!("{number} {word}")),
        }
    }
    let mut text = String::new();
    if let Some(error) = &report.error {
        push(&mut text, format_args!("{RED}error:{RED:#} {}\n", error.message));
    }
    let style = if passed == report.steps.len() && report.error.is_none() {
        GREEN
    } else {
        RED
    };
    push(
        &mut text,
        format_args!(
            "{style}{:>12}{style:#} [{:>7.3}s] {} of {}: {}\n",
            "Summary",
            report.seconds,
            count(report.steps.len(), "step"),
            report.name,
            parts.join(", ")
        ),
    );
    text
}

/// `1 pod`, `2 pods`.
pub fn count(number: usize, thing: &str) -> String {
    if number == 1 {
        format!("1 {thing}")
    } else {
        format!("{number} {thing}s")
    }
}

fn number_of(report: &ScenarioReport, outcome: Outcome) -> usize {
    report.steps.iter().filter(|step| step.result == outcome).count()
}

/// Writing to a string cannot fail.
fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    #[expect(clippy::expect_used, reason = "invariant: a String takes every write")]
    text.write_fmt(arguments).expect("a String takes every write");
}

fn answer(step: &StepReport) -> String {
    let mut parts = Vec::new();
    match (step.status, &step.outcome) {
        (Some(status), _) => parts.push(status.to_string()),
        (None, Some(outcome)) => parts.push(outcome.clone()),
        (None, None) => {}
    }
    if let Some(flags) = step
        .flags
        .as_deref()
        .filter(|flags| *flags != "-" && !flags.is_empty())
    {
        parts.push(flags.to_owned());
    }
    if parts.is_empty() {
        String::new()
    } else {
        format!("  {DIM}{}{DIM:#}", parts.join(" "))
    }
}

fn push_leg(text: &mut String, leg: &LegReport, detail: Detail) {
    push(
        text,
        format_args!("{INDENT}{DIM}{}:{DIM:#} {}\n", leg.pod, leg.text),
    );
    if detail == Detail::Brief {
        return;
    }
    for hop in &leg.hops {
        let mut facts = vec![hop.kind.clone()];
        facts.extend(hop.table.as_ref().map(|table| format!("table {table}")));
        facts.extend(hop.verdict.as_ref().map(|verdict| format!("verdict {verdict}")));
        facts.extend(hop.pid.map(|pid| format!("pid {pid}")));
        facts.extend(hop.hidden.then(|| "not in the notation".to_owned()));
        push(
            text,
            format_args!(
                "{INDENT}{INDENT}{DIM}{:<28} {}{DIM:#}\n",
                hop.name,
                facts.join(", ")
            ),
        );
    }
}

/// The published explanation and what the kernel reported, one below the other.
fn push_article(text: &mut String, article: &str, step: &StepReport) {
    push(
        text,
        format_args!("{INDENT}{YELLOW}article:{YELLOW:#} {}\n", article.trim()),
    );
    let legs: Vec<&str> = step.path.iter().map(|leg| leg.text.as_str()).collect();
    push(
        text,
        format_args!("{INDENT}{YELLOW}kernel: {YELLOW:#} {}\n", legs.join("; ")),
    );
}

fn push_finding(text: &mut String, finding: &FindingReport) {
    push(text, format_args!("{INDENT}{RED}{}{RED:#}\n", finding.what));
    if let Some(place) = finding.differs_at {
        push_difference(text, finding, place);
    } else {
        push_lines(text, "expected", &finding.expected);
        push_lines(text, "observed", &finding.observed);
    }
}

fn push_lines(text: &mut String, label: &str, lines: &[String]) {
    if lines.is_empty() {
        push(text, format_args!("{INDENT}  {label:<8}  (nothing)\n"));
    }
    for (index, line) in lines.iter().flat_map(|line| line.lines()).enumerate() {
        let label = if index == 0 { label } else { "" };
        push(text, format_args!("{INDENT}  {label:<8}  {line}\n"));
    }
}

/// Leg below leg, expected over observed, and a mark under the first hop that differs.
fn push_difference(text: &mut String, finding: &FindingReport, (at_leg, at_hop): (usize, usize)) {
    for index in 0..finding.expected.len().max(finding.observed.len()) {
        let expected = finding
            .expected
            .get(index)
            .map_or("(no such leg expected)", String::as_str);
        let observed = finding
            .observed
            .get(index)
            .map_or("(no such leg observed)", String::as_str);
        if index != at_leg && expected == observed {
            push(
                text,
                format_args!("{INDENT}  {DIM}as expected  {observed}{DIM:#}\n"),
            );
            continue;
        }
        push(text, format_args!("{INDENT}  expected     {expected}\n"));
        push(text, format_args!("{INDENT}  observed     {observed}\n"));
        if index == at_leg {
            let (column, width) = hop_columns(observed, at_hop);
            push(
                text,
                format_args!(
                    "{INDENT}               {}{RED}{}{RED:#}\n",
                    " ".repeat(column),
                    "^".repeat(width)
                ),
            );
        }
    }
}

/// Where the n-th hop of a leg's text stands: its first column and its width.
fn hop_columns(leg: &str, hop: usize) -> (usize, usize) {
    const JOINT: &str = " -> ";
    let mut column = 0;
    for (index, part) in leg.split(JOINT).enumerate() {
        let width = part.chars().count();
        if index == hop {
            return (column, width.max(1));
        }
        column += width + JOINT.len();
    }
    (leg.chars().count() + 1, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stands_under_the_differing_hop() {
        let leg = "app -> OUTPUT -> ISTIO_OUTPUT#9 -> POSTROUTING";
        let (column, width) = hop_columns(leg, 2);
        assert_eq!(&leg[column..column + width], "ISTIO_OUTPUT#9");
        assert_eq!(hop_columns(leg, 9), (leg.len() + 1, 1));
    }

    #[test]
    fn things_are_counted_in_english() {
        assert_eq!(count(1, "step"), "1 step");
        assert_eq!(count(0, "step"), "0 steps");
    }
}
