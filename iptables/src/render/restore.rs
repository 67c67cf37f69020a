//! A ruleset as `iptables-restore --noflush` input, in the shape of Istio's `builder.BuildV4Restore`.

use std::fmt::Display;

use super::Line;
use crate::rule::{Is, Match, Rule, Target};
use crate::ruleset::{ChainId, Family, Owns, Place, Recorded, Ruleset, Table};

/// The whole input for one family; empty when the family has no rules.
pub fn render(ruleset: &Ruleset, family: Family) -> String {
    lines(ruleset, family)
        .into_iter()
        .map(|line| line.text + "\n")
        .collect()
}

/// The input line by line.
pub fn lines(ruleset: &Ruleset, family: Family) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for table in ruleset.tables(family) {
        lines.push(Line::bare(format!("*{table}")));
        lines.extend(declarations(ruleset, family, table).into_iter().map(Line::bare));
        let recorded = ruleset
            .recorded(family)
            .iter()
            .filter(|each| each.chain.table() == table);
        lines.extend(recorded.map(|each| Line {
            text: recorded_text(each),
            rule: Some(&each.rule),
        }));
        lines.extend(
            ruleset
                .retired(family, table)
                .map(|chain| Line::bare(format!("-X {}", chain.name()))),
        );
        lines.push(Line::bare("COMMIT".to_owned()));
    }
    lines
}

fn declarations(ruleset: &Ruleset, family: Family, table: Table) -> Vec<String> {
    let chains = ruleset.chains(family, table);
    let emptied = |chain: &ChainId| {
        // With --noflush a `:CHAIN` line empties the user's own chains only; a built-in one needs -F.
        if chain.is_built_in() {
            format!("-F {}", chain.name())
        } else {
            format!(":{} - [0:0]", chain.name())
        }
    };
    match ruleset.owns() {
        Owns::NewChains => chains
            .iter()
            .filter_map(|chain| {
                if !chain.is_built_in() {
                    return Some(format!("-N {}", chain.name()));
                }
                let drops = ruleset.drops_by_policy(family, chain);
                drops.then(|| format!(":{} DROP [0:0]", chain.name()))
            })
            .collect(),
        Owns::Contents => {
            let (built_in, own): (Vec<_>, Vec<_>) = chains.iter().partition(|chain| chain.is_built_in());
            own.into_iter()
                .chain(ruleset.retired(family, table))
                .chain(built_in)
                .map(emptied)
                .collect()
        }
    }
}

fn recorded_text(each: &Recorded) -> String {
    let chain = each.chain.name();
    let rule = rule_text(&each.rule);
    match each.place {
        Place::End => format!("-A {chain} {rule}"),
        Place::At(position) => format!("-I {chain} {position} {rule}"),
    }
}

/// A rule without its chain: `-p tcp --dport 15008 -j RETURN`.
pub fn rule_text(rule: &Rule) -> String {
    let mut words: Vec<String> = rule.matches.iter().map(match_text).collect();
    if let Target::Unknown(text) = &rule.target {
        words.push(text.clone());
    } else if rule.target != Target::Continue {
        words.push(format!("-j {}", target_text(&rule.target)));
    }
    words.join(" ")
}

fn either<T>(prefix: &str, option: &str, is: &Is<T>, show: impl Fn(&T) -> String) -> String {
    match is {
        Is::Exactly(value) => format!("{prefix}{option} {}", show(value)),
        Is::Not(value) => format!("{prefix}! {option} {}", show(value)),
    }
}

/// A condition: `! -d 127.0.0.1/32`.
pub fn match_text(each: &Match) -> String {
    match each {
        Match::InInterface(is) => either("", "-i", is, ToString::to_string),
        Match::OutInterface(is) => either("", "-o", is, ToString::to_string),
        Match::Source(is) => either("", "-s", is, ToString::to_string),
        Match::Destination(is) => either("", "-d", is, ToString::to_string),
        Match::Protocol(is) => either("", "-p", is, ToString::to_string),
        Match::SourcePort(is) => either("", "--sport", is, ToString::to_string),
        Match::DestinationPort(is) => either("", "--dport", is, ToString::to_string),
        Match::DestinationPorts(is) => either("-m multiport ", "--dports", is, |ports| commas(ports)),
        Match::OwnerUid(is) => either("-m owner ", "--uid-owner", is, ToString::to_string),
        Match::OwnerGid(is) => either("-m owner ", "--gid-owner", is, ToString::to_string),
        Match::Mark(is) => either("-m mark ", "--mark", is, ToString::to_string),
        Match::Connmark(is) => either("-m connmark ", "--mark", is, ToString::to_string),
        Match::State(is) => either("-m conntrack ", "--ctstate", is, |states| commas(states)),
        // Ten digits, as kube-proxy writes it (proxier.go, computeProbability).
        Match::OneIn(count) => format!(
            "-m statistic --mode random --probability {:.10}",
            1.0 / f64::from(count.get())
        ),
        Match::Comment(text) => format!("-m comment --comment {text:?}"),
        Match::Unknown(text) => text.clone(),
    }
}

fn commas<T: Display>(values: &[T]) -> String {
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn target_text(target: &Target) -> String {
    match target {
        Target::Return => "RETURN".to_owned(),
        Target::Accept => "ACCEPT".to_owned(),
        Target::Drop => "DROP".to_owned(),
        // The tool's default in either family: port unreachable.
        Target::Reject => "REJECT".to_owned(),
        Target::Jump(chain) => chain.name().to_owned(),
        Target::Redirect(port) => format!("REDIRECT --to-ports {port}"),
        Target::Tproxy { port, mark } => format!("TPROXY --tproxy-mark {mark}/0xffffffff --on-port {port}"),
        Target::SetMark(mark) => format!("MARK --set-mark {mark}"),
        Target::OrMark(bits) => format!("MARK --or-mark {bits:#x}"),
        Target::XorMark(bits) => format!("MARK --xor-mark {bits:#x}"),
        Target::SaveMark => "CONNMARK --save-mark".to_owned(),
        Target::RestoreMark => "CONNMARK --restore-mark".to_owned(),
        Target::Zone(zone) => format!("CT --zone {zone}"),
        Target::Dnat(to) => format!("DNAT --to-destination {to}"),
        Target::Masquerade => "MASQUERADE --random-fully".to_owned(),
        Target::Continue => String::new(),
        Target::Unknown(text) => text.clone(),
    }
}
