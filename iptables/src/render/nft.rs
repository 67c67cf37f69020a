//! A ruleset as `nft -f` input, in Istio's layout: tables `inet istio-proxy-nat`, `-mangle`, `-raw`.
//!
//! Conditions stand in one order whatever the rule: interfaces, protocol, state, marks, addresses, ports, owner. Istio
//! writes a few rules in another order, leaves out a protocol that a port implies, or the quotes of an interface; nft makes
//! the same of both.

use std::fmt::Display;

use ipnet::IpNet;

use super::Line;
use crate::options::Interface;
use crate::rule::{Is, Mark, Match, Protocol, Rule, Target};
use crate::ruleset::{ChainId, Family, Hook, Place, Ruleset, Table};

/// The tables in the order in which Istio writes them.
const TABLES: [Table; 3] = [Table::Nat, Table::Mangle, Table::Raw];

/// A table's chains in the order in which Istio declares them.
const CHAINS: [&str; 12] = [
    "prerouting",
    "input",
    "output",
    "postrouting",
    "istio-divert",
    "istio-tproxy",
    "istio-inbound",
    "istio-drop",
    "istio-redirect",
    "istio-in-redirect",
    "istio-output",
    "istio-output-dns",
];

/// The name of a table in Istio's layout.
pub fn table_name(table: Table) -> String {
    format!("istio-proxy-{table}")
}

/// The names of all tables that a ruleset can have.
pub fn table_names() -> impl Iterator<Item = String> {
    TABLES.into_iter().map(table_name)
}

/// The whole input, one transaction; empty for a ruleset without rules for `inet`.
pub fn render(ruleset: &Ruleset) -> String {
    lines(ruleset).into_iter().map(|line| line.text + "\n").collect()
}

/// The input line by line.
pub fn lines(ruleset: &Ruleset) -> Vec<Line<'_>> {
    let used = ruleset.tables(Family::Inet);
    let mut lines = Vec::new();
    for table in TABLES.into_iter().filter(|table| used.contains(table)) {
        let name = table_name(table);
        lines.push(Line::bare(format!("add table inet {name}")));
        lines.push(Line::bare(format!("flush table inet {name}")));
        let mut chains = ruleset.chains(Family::Inet, table);
        chains.sort_by_key(|chain| CHAINS.iter().position(|name| *name == chain.name()));
        lines.extend(chains.iter().map(|chain| Line::bare(declaration(&name, chain))));
        lines.extend(rules(ruleset, table, &name));
    }
    lines
}

fn rules<'a>(ruleset: &'a Ruleset, table: Table, name: &str) -> Vec<Line<'a>> {
    let mut counts = std::collections::HashMap::<&ChainId, usize>::new();
    let recorded = ruleset.recorded(Family::Inet).iter();
    recorded
        .filter(|each| each.chain.table() == table)
        .map(|each| {
            let count = counts.entry(&each.chain).or_default();
            let place = format!("inet {name} {}", each.chain.name());
            let text = rule_text(&each.rule);
            // nft refuses an index at which no rule stands.
            let text = match each.place {
                Place::At(position) if position.get() <= *count => {
                    format!("insert rule {place} index {} {text}", position.get() - 1)
                }
                Place::At(_) | Place::End => format!("add rule {place} {text}"),
            };
            *count += 1;
            Line {
                text,
                rule: Some(&each.rule),
            }
        })
        .collect()
}

fn declaration(table: &str, chain: &ChainId) -> String {
    let name = chain.name();
    match chain.hook() {
        None => format!("add chain inet {table} {name}"),
        Some(hook) => {
            let late = matches!(hook, Hook::Input | Hook::Postrouting);
            let (kind, priority) = match chain.table() {
                Table::Nat if late => ("nat", 100),
                Table::Nat => ("nat", -100),
                // A changed mark has to lead to another route.
                Table::Mangle if hook == Hook::Output => ("route", -150),
                Table::Mangle => ("filter", -150),
                Table::Raw => ("filter", -300),
                Table::Filter => ("filter", 0),
            };
            format!("add chain inet {table} {name} {{ type {kind} hook {name} priority {priority} ; }}")
        }
    }
}

/// A rule without its chain: `meta l4proto tcp tcp dport 15008 counter return`.
pub fn rule_text(rule: &Rule) -> String {
    let protocol = protocol_of(rule);
    let has_port = rule.matches.iter().any(|each| rank(each) == PORTS);
    let mut matches: Vec<&Match> = rule.matches.iter().collect();
    matches.sort_by_key(|each| rank(each));
    let mut words: Vec<String> = matches
        .into_iter()
        .filter(|each| !(has_port && matches!(each, Match::Protocol(Is::Exactly(Protocol::Udp)))))
        .map(|each| match_text(each, protocol))
        .collect();
    let target = target_text(&rule.target, family_of(rule));
    // The statement that finds the socket is itself a condition.
    words.push(if matches!(rule.target, Target::Tproxy { .. }) {
        format!("{target} counter accept")
    } else {
        format!("counter {target}")
    });
    words.join(" ")
}

/// One condition of a rule.
pub fn condition_text(condition: &Match, rule: &Rule) -> String {
    match_text(condition, protocol_of(rule))
}

fn protocol_of(rule: &Rule) -> Option<Protocol> {
    rule.matches.iter().find_map(|each| {
        if let Match::Protocol(Is::Exactly(protocol)) = each {
            return Some(*protocol);
        }
        None
    })
}

const PORTS: u8 = 5;

fn rank(each: &Match) -> u8 {
    match each {
        Match::InInterface(_) | Match::OutInterface(_) => 0,
        Match::Protocol(_) => 1,
        Match::State(_) => 2,
        Match::Mark(_) | Match::Connmark(_) | Match::OneIn(_) => 3,
        Match::Source(_) | Match::Destination(_) => 4,
        Match::SourcePort(_) | Match::DestinationPort(_) | Match::DestinationPorts(_) => PORTS,
        Match::OwnerUid(_) | Match::OwnerGid(_) => 6,
        Match::Comment(_) | Match::Unknown(_) => 7,
    }
}

/// `ip` or `ip6`, by the first address of the rule.
fn family_of(rule: &Rule) -> &'static str {
    let address = |each: &Match| {
        if let Match::Source(is) | Match::Destination(is) = each {
            let (Is::Exactly(net) | Is::Not(net)) = is;
            return Some(keyword(net));
        }
        None
    };
    rule.matches.iter().find_map(address).unwrap_or("ip")
}

fn keyword(net: &IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    }
}

fn either<T: Display>(key: &str, is: &Is<T>) -> String {
    match is {
        Is::Exactly(value) => format!("{key} {value}"),
        Is::Not(value) => format!("{key} != {value}"),
    }
}

/// An interface may be called `tcp` or `mark`, which bare are words of nft's own.
fn quoted(is: &Is<Interface>) -> Is<String> {
    match is {
        Is::Exactly(name) => Is::Exactly(format!("\"{name}\"")),
        Is::Not(name) => Is::Not(format!("\"{name}\"")),
    }
}

fn address(key: &str, is: &Is<IpNet>) -> String {
    let (Is::Exactly(net) | Is::Not(net)) = is;
    either(&format!("{} {key}", keyword(net)), is)
}

fn match_text(each: &Match, protocol: Option<Protocol>) -> String {
    let transport = protocol.map_or("th".to_owned(), |protocol| protocol.to_string());
    match each {
        Match::InInterface(is) => either("iifname", &quoted(is)),
        Match::OutInterface(is) => either("oifname", &quoted(is)),
        Match::Source(is) => address("saddr", is),
        Match::Destination(is) => address("daddr", is),
        Match::Protocol(is) => either("meta l4proto", is),
        Match::SourcePort(is) => either(&format!("{transport} sport"), is),
        Match::DestinationPort(is) => either(&format!("{transport} dport"), is),
        Match::DestinationPorts(is) => {
            let set = |ports: &[crate::options::Port]| format!("{{ {} }}", joined(ports, ", "));
            let is = match is {
                Is::Exactly(ports) => Is::Exactly(set(ports)),
                Is::Not(ports) => Is::Not(set(ports)),
            };
            either(&format!("{transport} dport"), &is)
        }
        Match::OwnerUid(is) => either("skuid", is),
        Match::OwnerGid(is) => either("skgid", is),
        Match::Mark(is) => mark("mark", is),
        Match::Connmark(is) => mark("ct mark", is),
        Match::State(is) => {
            let list = |states: &[crate::rule::State]| joined(states, ",").to_ascii_lowercase();
            let is = match is {
                Is::Exactly(states) => Is::Exactly(list(states)),
                Is::Not(states) => Is::Not(list(states)),
            };
            either("ct state", &is)
        }
        Match::OneIn(count) => format!("numgen random mod {count} 0"),
        Match::Comment(text) => format!("comment {text:?}"),
        Match::Unknown(text) => text.clone(),
    }
}

fn mark(key: &str, is: &Is<Mark>) -> String {
    let (Is::Exactly(mark) | Is::Not(mark)) = is;
    let key = mark
        .mask
        .map_or(key.to_owned(), |mask| format!("{key} & {mask:#x}"));
    match is {
        Is::Exactly(mark) => format!("{key} {}", mark.value),
        Is::Not(mark) => format!("{key} != {}", mark.value),
    }
}

fn joined<T: Display>(values: &[T], by: &str) -> String {
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(by)
}

fn target_text(target: &Target, family: &str) -> String {
    match target {
        Target::Return => "return".to_owned(),
        Target::Accept => "accept".to_owned(),
        Target::Drop => "drop".to_owned(),
        Target::Reject => "reject".to_owned(),
        Target::Jump(chain) => format!("jump {}", chain.name()),
        Target::Redirect(port) => format!("redirect to :{port}"),
        Target::Tproxy { port, mark } => format!("tproxy {family} to :{port} meta mark set {mark}"),
        Target::SetMark(mark) => format!("meta mark set {mark}"),
        Target::OrMark(bits) => format!("meta mark set mark or {bits:#x}"),
        Target::XorMark(bits) => format!("meta mark set mark xor {bits:#x}"),
        Target::SaveMark => "ct mark set mark".to_owned(),
        Target::RestoreMark => "meta mark set ct mark".to_owned(),
        Target::Zone(zone) => format!("ct zone set {zone}"),
        Target::Dnat(to) => format!("dnat {family} to {to}"),
        Target::Masquerade => "masquerade random".to_owned(),
        Target::Continue => String::new(),
        Target::Unknown(text) => text.clone(),
    }
}
