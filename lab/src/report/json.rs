//! The JSON document of a run: the contract's shape, one document on standard output.

use serde_json::{Value, json};

use super::{AnswerReport, FindingReport, HopReport, LegReport, ScenarioReport, StepReport};
use crate::exit::Exit;

/// All scenarios of a run as one document.
pub fn document(scenarios: &[ScenarioReport]) -> Value {
    json!({ "version": 1, "scenarios": scenarios.iter().map(scenario).collect::<Vec<_>>() })
}

fn scenario(report: &ScenarioReport) -> Value {
    let result = match report.exit() {
        Exit::Held => "pass",
        Exit::Failed => "fail",
        Exit::Usage | Exit::Machine | Exit::Lab | Exit::Unobserved | Exit::Interrupted | Exit::Terminated => {
            "error"
        }
    };
    json!({
        "name": report.name,
        "file": report.file,
        "proxies": report.proxies,
        "result": result,
        "seconds": seconds(report.seconds),
        "up_seconds": report.up_seconds.map(seconds),
        "steps": report.steps.iter().map(step).collect::<Vec<_>>(),
        "error": report.error.as_ref().map(|error| &error.message),
    })
}

fn step(report: &StepReport) -> Value {
    let findings: Vec<Value> = report.findings.iter().map(finding).collect();
    let mut value = json!({
        "name": report.name,
        "result": report.result,
        "seconds": seconds(report.seconds),
        "line": report.line,
        "column": report.column,
        "outcome": report.outcome,
        "status": report.status,
        "flags": report.flags,
        "path": report.path.iter().map(leg).collect::<Vec<_>>(),
        "expected": if findings.is_empty() { Value::Null } else { Value::Array(findings) },
        "article": report.article,
        "message": message(report),
    });
    if let Some(answer) = &report.answer {
        value["answer"] = self::answer(answer);
    }
    if !report.inner.is_empty() {
        value["steps"] = report.inner.iter().map(step).collect();
    }
    value
}

fn answer(answer: &AnswerReport) -> Value {
    json!({
        "error": answer.error,
        "headers": answer.headers,
        "body": answer.body,
        "body_hex": answer.body_hex,
        "body_length": answer.body_length,
        "body_sha256": answer.body_sha256,
        "trailers": answer.trailers,
        "end": answer.end,
        "seconds": seconds(answer.seconds),
        "access_log": answer.access_log.iter().map(|entry| json!({ "pod": entry.pod, "fields": entry.fields })).collect::<Vec<_>>(),
    })
}

fn message(report: &StepReport) -> Option<String> {
    let mut lines: Vec<String> = report.findings.iter().map(finding_line).collect();
    lines.extend(report.notes.iter().cloned());
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn finding_line(finding: &FindingReport) -> String {
    let FindingReport {
        what,
        expected,
        observed,
        ..
    } = finding;
    format!(
        "{what}: expected {}, observed {}",
        expected.join("; "),
        observed.join("; ")
    )
}

fn finding(finding: &FindingReport) -> Value {
    json!({
        "what": finding.what,
        "expected": finding.expected,
        "observed": finding.observed,
        "differs_at": finding.differs_at.map(|(leg, hop)| json!({ "leg": leg, "hop": hop })),
    })
}

fn leg(leg: &LegReport) -> Value {
    json!({
        "pod": leg.pod,
        "reused": leg.reused,
        "hops": leg.hops.iter().map(hop).collect::<Vec<_>>(),
        "text": leg.text,
    })
}

fn hop(hop: &HopReport) -> Value {
    json!({
        "kind": hop.kind, "name": hop.name, "table": hop.table, "chain": hop.chain, "rule": hop.rule,
        "verdict": hop.verdict, "role": hop.role, "port": hop.port, "pid": hop.pid, "hidden": hop.hidden,
    })
}

/// Microseconds are as fine as the clock's meaning here.
fn seconds(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}
