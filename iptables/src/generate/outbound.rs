//! What happens to connections from inside: ISTIO_OUTPUT.

use super::{IN_REDIRECT, OUTPUT, REDIRECT, Scope, TCP, UDP, dns, jump, to_lo};
use crate::options::{Group, OutboundRanges, OwnerGroups};
use crate::rule::{Is, Match, Rule, Target};
use crate::ruleset::{Rules, Table};

pub(super) fn add(scope: &Scope<'_>, rules: &mut Rules) {
    let options = scope.options;
    rules.append(Table::Nat, "OUTPUT", Rule::new("mode", Vec::new(), jump(OUTPUT)));
    let mut add =
        |option, matches, target| rules.append(Table::Nat, OUTPUT, Rule::new(option, matches, target));
    for port in &options.exclude_outbound_ports {
        for protocol in [TCP, UDP] {
            let to_port = Match::DestinationPort(Is::Exactly(*port));
            add("excludeOutboundPorts", vec![protocol, to_port], Target::Return);
        }
    }
    add(
        "mode",
        vec![to_lo(), Match::Source(Is::Exactly(scope.passthrough()))],
        Target::Return,
    );
    for uid in &options.proxy_uids {
        let dns_too = options.captures_dns();
        sidecar(
            scope,
            "proxyUID",
            &|negated| Match::OwnerUid(is(*uid, negated)),
            dns_too,
            &mut add,
        );
    }
    for gid in &options.proxy_gids {
        // Istio leaves port 53 in the groups' first rule also when DNS is captured.
        sidecar(
            scope,
            "proxyGID",
            &|negated| Match::OwnerGid(is(Group::Id(*gid), negated)),
            false,
            &mut add,
        );
    }
    owner_groups(&options.owner_groups, &mut add);
    dns::add(scope, rules);
    destinations(scope, rules);
}

type Add<'a> = dyn FnMut(&'static str, Vec<Match>, Target) + 'a;

fn is<T>(value: T, negated: bool) -> Is<T> {
    if negated {
        Is::Not(value)
    } else {
        Is::Exactly(value)
    }
}

/// The three rules of one of the sidecar's users or groups.
fn sidecar(
    scope: &Scope<'_>,
    option: &'static str,
    owner: &dyn Fn(bool) -> Match,
    dns: bool,
    add: &mut Add<'_>,
) {
    let options = scope.options;
    let not_local = Match::Destination(Is::Not(scope.loopback()));
    let tunnel = options.inbound_tunnel_port;
    let not_ports = if dns {
        Match::DestinationPorts(Is::Not(vec![53, tunnel]))
    } else {
        Match::DestinationPort(Is::Not(tunnel))
    };
    add(
        option,
        vec![to_lo(), not_local, TCP, not_ports, owner(false)],
        jump(IN_REDIRECT),
    );
    if !options.includes_loopback() {
        let not_dns = [TCP, Match::DestinationPort(Is::Not(53))];
        let mut matches = vec![to_lo()];
        if options.captures_dns() {
            matches.extend(not_dns);
        }
        matches.push(owner(true));
        add(option, matches, Target::Return);
    }
    add(option, vec![owner(false)], Target::Return);
}

fn owner_groups(groups: &OwnerGroups, add: &mut Add<'_>) {
    match groups {
        OwnerGroups::AllBut(groups) => {
            for group in groups {
                let owner = Match::OwnerGid(Is::Exactly(group.clone()));
                add("excludeOutboundOwnerGroups", vec![owner], Target::Return);
            }
        }
        OwnerGroups::Only(groups) => {
            let others = groups
                .iter()
                .map(|group| Match::OwnerGid(Is::Not(group.clone())))
                .collect();
            add("includeOutboundOwnerGroups", others, Target::Return);
        }
    }
}

fn destinations(scope: &Scope<'_>, rules: &mut Rules) {
    let options = scope.options;
    let to = |range| Match::Destination(Is::Exactly(range));
    let mut add =
        |option, matches, target| rules.append(Table::Nat, OUTPUT, Rule::new(option, matches, target));
    add("hostIPv4LoopbackCidr", vec![to(scope.loopback())], Target::Return);
    for range in scope.own(&options.exclude_outbound_ranges) {
        add("excludeOutboundIPRanges", vec![to(*range)], Target::Return);
    }
    for port in &options.include_outbound_ports {
        let to_port = Match::DestinationPort(Is::Exactly(*port));
        add("includeOutboundPorts", vec![TCP, to_port], jump(REDIRECT));
    }
    const OPTION: &str = "includeOutboundIPRanges";
    let rerouted = |rules: &mut Rules, range: Option<Match>| {
        for interface in &options.reroute_interfaces {
            let from = Match::InInterface(Is::Exactly(interface.clone()));
            let matches = [from].into_iter().chain(range.clone()).collect();
            rules.insert(
                Table::Nat,
                "PREROUTING",
                1,
                Rule::new(OPTION, matches, jump(REDIRECT)),
            );
        }
    };
    match &options.outbound_ranges {
        OutboundRanges::All => {
            rules.append(Table::Nat, OUTPUT, Rule::new(OPTION, Vec::new(), jump(REDIRECT)));
            rerouted(rules, None);
        }
        OutboundRanges::Only(ranges) => {
            for range in scope.own(ranges) {
                rerouted(rules, Some(to(*range)));
                rules.append(
                    Table::Nat,
                    OUTPUT,
                    Rule::new(OPTION, vec![to(*range)], jump(REDIRECT)),
                );
            }
        }
    }
}
