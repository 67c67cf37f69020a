//! A ruleset as input of `iptables-restore --noflush`, in the spelling that Istio uses.

use std::fmt::Write as _;

use crate::rule::{ConntrackState, Is, Match, Protocol, Rule, Target};
use crate::ruleset::{Place, Rules};

/// Input for `iptables-restore --noflush` (or `ip6tables-restore`); each table is one transaction.
pub fn render(rules: &Rules) -> String {
    let mut text = String::new();
    for table in rules.tables() {
        push(&mut text, format_args!("* {}\n", table.name()));
        for chain in rules.own_chains(table) {
            push(&mut text, format_args!("-N {chain}\n"));
        }
        for made in rules.made().iter().filter(|made| made.table == table) {
            text.push_str(&line(&made.chain, made.place, &made.rule));
            text.push('\n');
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The same, for chains that are wholly ours: they are emptied first, so that it can be done again and again.
pub fn render_replacing(rules: &Rules) -> String {
    let mut text = String::new();
    for table in rules.tables() {
        push(&mut text, format_args!("*{}\n", table.name()));
        for chain in rules.own_chains(table) {
            push(&mut text, format_args!(":{chain} - [0:0]\n"));
        }
        for made in rules.made().iter().filter(|made| made.table == table) {
            text.push_str(&line(&made.chain, made.place, &made.rule));
            text.push('\n');
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// One rule as a line: `-A CHAIN …`.
pub fn line(chain: &str, place: Place, rule: &Rule) -> String {
    let head = match place {
        Place::Append => format!("-A {chain}"),
        Place::Insert(position) => format!("-I {chain} {position}"),
    };
    match rule_text(rule) {
        Some(text) => format!("{head} {text}"),
        None => head,
    }
}

/// What stands behind `-A CHAIN`; none if there is nothing.
pub fn rule_text(rule: &Rule) -> Option<String> {
    let mut words: Vec<String> = rule.matches.iter().map(match_text).collect();
    words.push(target_text(&rule.target));
    let text = words.join(" ");
    (!text.is_empty()).then_some(text)
}

/// Writing to a string cannot fail.
fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    #[expect(clippy::expect_used, reason = "invariant: a String takes every write")]
    text.write_fmt(arguments).expect("a String takes every write");
}

fn with<T>(is: &Is<T>, text: impl FnOnce(&T) -> String) -> String {
    match is {
        Is::Exactly(value) => text(value),
        Is::Not(value) => format!("! {}", text(value)),
    }
}

/// Owner and mark have the negation behind the module.
fn module<T>(name: &str, is: &Is<T>, text: impl FnOnce(&T) -> String) -> String {
    format!("-m {name} {}", with(is, text))
}

fn match_text(wanted: &Match) -> String {
    match wanted {
        Match::InInterface(is) => with(is, |name| format!("-i {name}")),
        Match::OutInterface(is) => with(is, |name| format!("-o {name}")),
        Match::Source(is) => with(is, |range| format!("-s {range}")),
        Match::Destination(is) => with(is, |range| format!("-d {range}")),
        Match::Protocol(Protocol::Tcp) => "-p tcp".to_owned(),
        Match::Protocol(Protocol::Udp) => "-p udp".to_owned(),
        Match::SourcePort(is) => with(is, |port| format!("--sport {port}")),
        Match::DestinationPort(is) => with(is, |port| format!("--dport {port}")),
        Match::DestinationPorts(is) => module("multiport", is, |ports| {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            format!("--dports {}", ports.join(","))
        }),
        Match::OwnerUid(is) => module("owner", is, |uid| format!("--uid-owner {uid}")),
        Match::OwnerGid(is) => module("owner", is, |gid| format!("--gid-owner {gid}")),
        Match::Mark(is) => module("mark", is, |mark| format!("--mark {mark}")),
        Match::Connmark(mark) => format!("-m connmark --mark {mark}"),
        Match::ConntrackState(states) => {
            let states: Vec<&str> = states.iter().map(|state| state_name(*state)).collect();
            format!("-m conntrack --ctstate {}", states.join(","))
        }
        Match::Random(probability) => {
            let share = f64::from(*probability) / f64::from(1_u32 << 31);
            format!("-m statistic --mode random --probability {share:.10}")
        }
    }
}

const fn state_name(state: ConntrackState) -> &'static str {
    match state {
        ConntrackState::Invalid => "INVALID",
        ConntrackState::Related => "RELATED",
        ConntrackState::Established => "ESTABLISHED",
    }
}

fn target_text(target: &Target) -> String {
    match target {
        Target::Return => "-j RETURN".to_owned(),
        Target::Accept => "-j ACCEPT".to_owned(),
        Target::Drop => "-j DROP".to_owned(),
        Target::Reject => "-j REJECT --reject-with icmp-port-unreachable".to_owned(),
        Target::Jump(chain) => format!("-j {chain}"),
        Target::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Target::RedirectUdp(port) => format!("-j REDIRECT --to-port {port}"),
        Target::Tproxy { port, mark } => {
            format!("-j TPROXY --tproxy-mark {mark}/0xffffffff --on-port {port}")
        }
        Target::SetMark(mark) => format!("-j MARK --set-mark {mark}"),
        Target::SaveMark => "-j CONNMARK --save-mark".to_owned(),
        Target::RestoreMark => "-j CONNMARK --restore-mark".to_owned(),
        Target::Zone(zone) => format!("-j CT --zone {zone}"),
        Target::Dnat(to) => format!("-j DNAT --to-destination {to}"),
    }
}
