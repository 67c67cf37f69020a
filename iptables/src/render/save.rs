//! A ruleset as `iptables-save` prints it once it is loaded: the kernel's order, the tool's own spelling.

use super::restore::{match_text, rule_text};
use crate::diff::canonical;
use crate::rule::{Is, Match, Rule, Target};
use crate::ruleset::{ChainId, Family, Hook, Ruleset, Table};

/// The tables with their chains and rules, without counters and comments; empty when the family has no rules.
pub fn render(ruleset: &Ruleset, family: Family) -> String {
    let mut text = String::new();
    for table in ruleset.tables(family) {
        let chains = ruleset.chains(family, table);
        text.push_str(&format!("*{table}\n"));
        for hook in hooks(table) {
            let chain = Ruleset::chain(table, hook.name());
            let policy = if ruleset.drops_by_policy(family, &chain) {
                "DROP"
            } else {
                "ACCEPT"
            };
            text.push_str(&format!(":{} {policy}\n", hook.name()));
        }
        let mut own: Vec<&str> = chains
            .iter()
            .filter(|chain| !chain.is_built_in())
            .map(ChainId::name)
            .collect();
        own.sort_unstable();
        let built_in = hooks(table).iter().map(|hook| hook.name());
        let order: Vec<&str> = built_in.chain(own.iter().copied()).collect();
        text.extend(own.iter().map(|name| format!(":{name} -\n")));
        for name in order {
            let rules = ruleset.rules(family, &Ruleset::chain(table, name)).into_iter();
            text.extend(rules.map(|rule| format!("-A {name} {}\n", saved(rule, family))));
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The built-in chains of a table, in the tool's order.
fn hooks(table: Table) -> &'static [Hook] {
    match table {
        Table::Filter => &[Hook::Input, Hook::Forward, Hook::Output],
        Table::Mangle => &Hook::ALL,
        Table::Nat => &[Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting],
        Table::Raw => &[Hook::Prerouting, Hook::Output],
    }
}

fn saved(rule: &Rule, family: Family) -> String {
    let rule = canonical(rule);
    let mut words: Vec<String> = Vec::new();
    let protocol = rule.matches.iter().find_map(|each| {
        if let Match::Protocol(Is::Exactly(protocol)) = each {
            return Some(*protocol);
        }
        None
    });
    let mut names_module = true;
    for each in &rule.matches {
        let is_port = matches!(each, Match::SourcePort(_) | Match::DestinationPort(_));
        if let (true, true, Some(protocol)) = (is_port, names_module, protocol) {
            words.push(format!("-m {protocol}"));
            names_module = false;
        }
        words.push(mark(each).unwrap_or_else(|| match_text(each)));
    }
    let alone = Rule {
        matches: Vec::new(),
        ..rule.clone()
    };
    words.push(target(&rule.target, family).unwrap_or_else(|| rule_text(&alone)));
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// A whole mark, which the tool prints in hexadecimal.
fn mark(each: &Match) -> Option<String> {
    let (module, is) = if let Match::Mark(is) = each {
        ("mark", is)
    } else if let Match::Connmark(is) = each {
        ("connmark", is)
    } else {
        return None;
    };
    match is {
        Is::Exactly(mark) if mark.mask.is_none() => Some(format!("-m {module} --mark {:#x}", mark.value)),
        Is::Not(mark) if mark.mask.is_none() => Some(format!("-m {module} ! --mark {:#x}", mark.value)),
        Is::Exactly(_) | Is::Not(_) => None,
    }
}

/// A target that the tool spells otherwise than its input.
fn target(target: &Target, family: Family) -> Option<String> {
    let masks = "--nfmask 0xffffffff --ctmask 0xffffffff";
    match target {
        Target::SetMark(mark) => Some(format!("-j MARK --set-xmark {mark:#x}/0xffffffff")),
        Target::OrMark(bits) => Some(format!("-j MARK --set-xmark {bits:#x}/{bits:#x}")),
        Target::XorMark(bits) => Some(format!("-j MARK --set-xmark {bits:#x}/0x0")),
        Target::SaveMark => Some(format!("-j CONNMARK --save-mark {masks}")),
        Target::RestoreMark => Some(format!("-j CONNMARK --restore-mark {masks}")),
        Target::Tproxy { port, mark } => {
            let any = if family == Family::V6 { "::" } else { "0.0.0.0" };
            Some(format!(
                "-j TPROXY --on-port {port} --on-ip {any} --tproxy-mark {mark:#x}/0xffffffff"
            ))
        }
        Target::Reject if family == Family::V6 => {
            Some("-j REJECT --reject-with icmp6-port-unreachable".to_owned())
        }
        Target::Reject => Some("-j REJECT --reject-with icmp-port-unreachable".to_owned()),
        Target::Return
        | Target::Accept
        | Target::Drop
        | Target::Jump(_)
        | Target::Redirect(_)
        | Target::Zone(_)
        | Target::Dnat(_)
        | Target::Masquerade
        | Target::Continue
        | Target::Unknown(_) => None,
    }
}
