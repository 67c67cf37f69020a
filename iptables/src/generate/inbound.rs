//! What happens to connections from outside.

use super::{IN_REDIRECT, INBOUND, Scope, TCP, jump, tproxy};
use crate::options::{InboundPorts, Mode};
use crate::rule::{Is, Match, Rule, Target};
use crate::ruleset::{Rules, Table};

pub(super) fn add(scope: &Scope<'_>, rules: &mut Rules) {
    let (excluded, included): (&[u16], Vec<Option<u16>>) = match &scope.options.inbound_ports {
        InboundPorts::AllBut(ports) => (ports, vec![None]),
        InboundPorts::Only(ports) => (&[], ports.iter().copied().map(Some).collect()),
    };
    if included.is_empty() {
        return;
    }
    let tproxy = scope.options.mode == Mode::Tproxy;
    let table = if tproxy { Table::Mangle } else { Table::Nat };
    if tproxy {
        tproxy::add_chains(scope, rules);
    }
    let to_port = |port: u16| Match::DestinationPort(Is::Exactly(port));
    rules.append(
        table,
        "PREROUTING",
        Rule::new("includeInboundPorts", vec![TCP], jump(INBOUND)),
    );
    for port in excluded {
        let rule = Rule::new("excludeInboundPorts", vec![TCP, to_port(*port)], Target::Return);
        rules.append(table, INBOUND, rule);
    }
    for port in included {
        let matches: Vec<Match> = [TCP].into_iter().chain(port.map(to_port)).collect();
        if tproxy {
            tproxy::capture(&matches, rules);
        } else {
            rules.append(
                table,
                INBOUND,
                Rule::new("includeInboundPorts", matches, jump(IN_REDIRECT)),
            );
        }
    }
}
