//! What a step was seen to do, as a report.

use std::time::Duration;

use crate::observe::{self, ObservedHop, ObservedLeg};
use crate::path::{End, Hop, Position};
use crate::report::{FindingReport, HopReport, LegReport, Outcome, StepReport};
use crate::scenario::model::Step;
use crate::scenario::mutate::Swap;
use crate::verdict::{Finding, Seen, SeenLeg, Verdict};

/// The part of a leg that is compared, with the numbers that its rules have where none has changed its place.
pub(super) fn seen_leg(leg: &ObservedLeg, swaps: &[Swap]) -> SeenLeg {
    let swap = swaps.iter().find(|swap| swap.pod == leg.pod());
    let hops = leg.hops().iter().filter(|hop| !hop.is_hidden()).map(|observed| {
        let mut hop = observed.hop().clone();
        if let (
            Some(swap),
            Some(family),
            Some(table),
            Hop::Rule {
                chain,
                position: Position::Rule(number),
            },
        ) = (swap, observed.family(), observed.table(), &mut hop)
        {
            *number = swap.number(family, table, chain, *number);
        }
        hop
    });
    SeenLeg {
        pod: leg.pod().to_owned(),
        hops: hops.collect(),
        reused: leg.reused(),
    }
}

/// A step that has ended; `verdict` is an error if the lab could not do what it asks.
pub(super) fn step(
    step: &Step,
    took: Duration,
    seen: &Seen,
    legs: &[ObservedLeg],
    verdict: Result<Verdict, String>,
) -> StepReport {
    let (result, findings, notes) = match verdict {
        Ok(Verdict::Held) => (Outcome::Pass, Vec::new(), Vec::new()),
        Ok(Verdict::Unobserved(why)) => (Outcome::Unobserved, Vec::new(), why),
        Ok(Verdict::Failed(findings)) => (
            Outcome::Fail,
            findings.into_iter().map(finding).collect(),
            seen.unobserved.clone(),
        ),
        Err(why) => (Outcome::Error, Vec::new(), vec![why]),
    };
    StepReport {
        name: step.name.clone(),
        result,
        seconds: took.as_secs_f64(),
        line: step.location.line,
        column: step.location.column,
        outcome: seen.outcome.map(|outcome| outcome.name().to_owned()),
        status: seen.status,
        flags: seen.flags.clone(),
        path: legs.iter().map(leg).collect(),
        findings,
        article: step.article.clone(),
        notes,
        answer: None,
        inner: Vec::new(),
    }
}

/// Adds the steps inside a `parallel` or `repeat` to the step that holds them: the worst result is its own.
pub(super) fn take_in(report: &mut StepReport, inner: Vec<StepReport>) {
    report.inner.clone_from(&inner);
    for step in inner {
        if report.result.exit().worse(step.result.exit()) != report.result.exit() {
            report.result = step.result;
        }
        report.path.extend(step.path);
        let named = |finding: FindingReport| FindingReport {
            what: format!("{}: {}", step.name, finding.what),
            ..finding
        };
        report.findings.extend(step.findings.into_iter().map(named));
        report
            .notes
            .extend(step.notes.iter().map(|note| format!("{}: {note}", step.name)));
    }
}

fn finding(finding: Finding) -> FindingReport {
    match finding {
        Finding::Value {
            what,
            expected,
            observed,
        } => FindingReport {
            what,
            expected: vec![expected],
            observed: vec![observed],
            differs_at: None,
        },
        Finding::Path {
            pod,
            expected,
            observed,
            differs_at,
        } => FindingReport {
            what: format!("path of {pod}"),
            expected,
            observed,
            differs_at: Some(differs_at),
        },
        Finding::Never { pod, hop, observed } => FindingReport {
            what: format!("a hop that {pod} must never have"),
            expected: vec![format!("no {hop}")],
            observed: vec![observed],
            differs_at: None,
        },
        Finding::Missing {
            pod,
            expected,
            observed,
        } => FindingReport {
            what: format!("hops that a leg of {pod} must have"),
            expected: vec![expected],
            observed,
            differs_at: None,
        },
    }
}

fn leg(leg: &ObservedLeg) -> LegReport {
    LegReport {
        pod: leg.pod().to_owned(),
        reused: leg.reused(),
        hops: leg.hops().iter().map(hop).collect(),
        text: leg.text(),
    }
}

fn hop(observed: &ObservedHop) -> HopReport {
    let empty = HopReport {
        kind: String::new(),
        name: observed.hop().to_string(),
        family: observed.family().map(str::to_owned),
        table: observed.table().map(str::to_owned),
        chain: None,
        rule: None,
        verdict: observed.verdict().map(verdict_text),
        role: None,
        port: None,
        pid: observed.owner().and_then(|owner| owner.pid),
        hidden: observed.is_hidden(),
    };
    let kind = |kind: &str| kind.to_owned();
    match observed.hop() {
        Hop::Hook(_) => HopReport {
            kind: kind("hook"),
            ..empty
        },
        Hop::Rule { chain, position } => HopReport {
            kind: kind("rule"),
            chain: Some(chain.clone()),
            rule: match position {
                Position::Rule(number) => Some(number.get()),
                Position::End => None,
            },
            ..empty
        },
        Hop::Origin { role } => HopReport {
            kind: kind("socket"),
            role: Some(role.clone()),
            ..empty
        },
        Hop::Socket { role, port } => HopReport {
            kind: kind("socket"),
            role: Some(role.clone()),
            port: Some(*port),
            ..empty
        },
        Hop::End(end) => HopReport {
            kind: kind("end"),
            port: match end {
                End::Refused(port) => Some(*port),
                End::Reset | End::Dropped | End::Timeout => None,
            },
            ..empty
        },
    }
}

fn verdict_text(verdict: &observe::Verdict) -> String {
    match verdict {
        observe::Verdict::Accept => "accept".to_owned(),
        observe::Verdict::Drop => "drop".to_owned(),
        observe::Verdict::Continue => "continue".to_owned(),
        observe::Verdict::Jump(chain) => format!("jump {chain}"),
        observe::Verdict::Goto(chain) => format!("goto {chain}"),
        observe::Verdict::Return => "return".to_owned(),
        observe::Verdict::Other(code) => format!("code {code}"),
    }
}
