//! The outcome of a race: a row for each order, and what decides; as text and as JSON.

use serde_json::{Value, json};

use super::{LegReport, Outcome, StepReport};

/// A race that was run.
#[derive(Debug, Clone)]
pub struct RaceReport {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// The pod whose start was explored.
    pub pod: String,
    /// Orders that the constraints admit.
    pub orders: u128,
    /// Of these, those that can differ.
    pub kinds: usize,
    /// Which of them were run.
    pub ran: Ran,
    /// Those that were run.
    pub rows: Vec<Row>,
    /// For each request, what decides how it ends.
    pub decides: Vec<(String, String)>,
}

/// Which orders were run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// One of each kind.
    All,
    /// Some, drawn with this seed.
    Drawn(u64),
    /// The one that was asked for.
    Replayed,
}

/// One order.
#[derive(Debug, Clone)]
pub struct Row {
    /// Names of the events, in order.
    pub order: String,
    /// How its requests ended; an error if the lab failed.
    pub requests: Result<Vec<StepReport>, String>,
}

/// One request's end, in a few words.
fn outcome(step: &StepReport) -> String {
    let answer = match (step.status, &step.outcome) {
        (Some(status), _) => status.to_string(),
        (None, Some(outcome)) => outcome.clone(),
        (None, None) => "nothing".to_owned(),
    };
    match step.flags.as_deref() {
        None | Some("-" | "") => answer,
        Some(flags) => format!("{answer} {flags}"),
    }
}

/// The way that a request took in the race's pod: where each of its connections came to.
fn path_class(pod: &str, legs: &[LegReport]) -> String {
    let ends: Vec<String> = legs.iter().filter(|leg| leg.pod == pod).map(end).collect();
    if ends.is_empty() {
        "never there".to_owned()
    } else {
        ends.join(", ")
    }
}

fn end(leg: &LegReport) -> String {
    let hops = leg.text.strip_suffix(" (reused)").unwrap_or(&leg.text);
    let last = hops.rsplit(" -> ").next().unwrap_or(hops);
    let by_sidecar = hops.starts_with("sidecar ");
    match last {
        "POSTROUTING" if by_sidecar => "out".to_owned(),
        "POSTROUTING" => "out past the sidecar".to_owned(),
        other => other.to_owned(),
    }
}

fn mark(result: Outcome) -> &'static str {
    match result {
        Outcome::Pass => "good",
        Outcome::Fail => "bad",
        Outcome::Unobserved => "unobserved",
        Outcome::Error => "error",
    }
}

/// As text.
pub fn human(report: &RaceReport) -> String {
    let mut text = format!("{}  {}\n", report.name, report.file);
    text.push_str(&format!(
        "          {} orders, {} that can differ",
        report.orders, report.kinds
    ));
    match report.ran {
        Ran::Drawn(seed) => text.push_str(&format!(
            "; {} of these drawn with seed {seed}, the others not run\n",
            report.rows.len()
        )),
        Ran::All => text.push_str("; all of these run\n"),
        Ran::Replayed => text.push_str("; one of them run\n"),
    }
    for row in &report.rows {
        text.push_str(&format!("    {}\n", row.order));
        match &row.requests {
            Err(why) => text.push_str(&format!("        error: {why}\n")),
            Ok(requests) => {
                for step in requests {
                    text.push_str(&format!(
                        "        {:<10}  {}: {}  [{}]\n",
                        mark(step.result),
                        step.name,
                        outcome(step),
                        path_class(&report.pod, &step.path)
                    ));
                }
            }
        }
    }
    for (request, words) in &report.decides {
        text.push_str(&format!("    {request}: {words}\n"));
    }
    text
}

/// As one JSON document.
pub fn document(report: &RaceReport) -> Value {
    let row = |row: &Row| match &row.requests {
        Err(why) => json!({ "order": row.order, "error": why }),
        Ok(requests) => {
            let requests: Vec<Value> = requests
                .iter()
                .map(|step| {
                    json!({
                        "name": step.name, "result": mark(step.result), "outcome": step.outcome,
                        "status": step.status, "flags": step.flags,
                        "class": path_class(&report.pod, &step.path),
                        "path": step.path.iter().map(|leg| format!("{}: {}", leg.pod, leg.text)).collect::<Vec<_>>(),
                    })
                })
                .collect();
            json!({ "order": row.order, "requests": requests })
        }
    };
    let decides: Vec<Value> = report
        .decides
        .iter()
        .map(|(request, words)| json!({ "request": request, "decides": words }))
        .collect();
    let seed = match report.ran {
        Ran::Drawn(seed) => Some(seed),
        Ran::All | Ran::Replayed => None,
    };
    json!({
        "version": 1,
        "race": {
            "name": report.name, "file": report.file, "pod": report.pod, "orders": report.orders.to_string(),
            "kinds": report.kinds, "seed": seed, "decides": decides,
            "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
        }
    })
}
