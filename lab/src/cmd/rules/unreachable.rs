//! `lab rules explain --unreachable`: the rules that no packet reaches, and which rules stand in their way.

use iptables::evaluate::{At, Program};
use iptables::explain;
use iptables::reach::{Cause, Dead, Scope, dead};
use serde_json::{Value, json};

/// Every dead rule with its proof.
pub(super) fn human(program: &Program) -> String {
    let found = dead(program);
    let mut text = "worked out from the rules, not observed\n".to_owned();
    if found.is_empty() {
        text.push_str("every rule can be reached\n");
    }
    for each in &found {
        text.push_str(&format!(
            "\n{}  {}\n",
            place(program, each.at),
            rule(program, each.at)
        ));
        text.push_str(&format!("  {}\n", because(each)));
        if let Cause::Shadowed(by) = &each.cause {
            let places: Vec<String> = by.iter().map(|at| place(program, *at)).collect();
            let width = places.iter().map(String::len).max().unwrap_or_default();
            for (at, place) in by.iter().zip(places) {
                text.push_str(&format!("    {place:width$}  {}\n", rule(program, *at)));
            }
        }
    }
    text
}

/// The same as one document.
pub(super) fn document(program: &Program) -> Value {
    let rules: Vec<Value> = dead(program)
        .iter()
        .map(|each| {
            let by: &[At] = match &each.cause {
                Cause::Shadowed(by) => by,
                Cause::NoWayIn | Cause::Contradiction => &[],
            };
            json!({
                "table": program.chain(each.at).table().to_string(),
                "chain": program.chain(each.at).name(),
                "position": each.at.position().get(),
                "rule": rule(program, each.at),
                "scope": match each.scope { Scope::Always => "always", Scope::UsualRouting => "usual-routing" },
                "cause": because(each),
                "shadowedBy": by.iter().map(|at| at.position().get()).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "version": 1, "predicted": true, "unreachable": rules })
}

fn because(dead: &Dead) -> &'static str {
    match (&dead.cause, dead.scope) {
        (Cause::NoWayIn, _) => "no packet enters its chain",
        (Cause::Contradiction, _) => "no packet that enters its chain is such as it asks for",
        (Cause::Shadowed(_), Scope::Always) => "every packet that it would match is taken before it by",
        (Cause::Shadowed(_), Scope::UsualRouting) => {
            "every packet that it would match is taken before it, unless one to a loopback address leaves by another \
             link than lo (SO_BINDTODEVICE, policy routing), by"
        }
    }
}

fn place(program: &Program, at: At) -> String {
    let chain = program.chain(at);
    format!("{} {}#{}", chain.table(), chain.name(), at.position())
}

fn rule(program: &Program, at: At) -> String {
    explain::rule(program, at).unwrap_or_default()
}
