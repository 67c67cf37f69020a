//! DNS capture: queries go to the agent, and conntrack keeps the agent's own queries apart from the pod's.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{INBOUND, OUTPUT, OUTPUT_DNS, Scope, TCP, UDP, jump};
use crate::options::{DnsCapture, Group};
use crate::rule::{Is, Match, Rule, Target};
use crate::ruleset::{Rules, Table};

/// Where the agent answers DNS; Istio has no option for it.
const AGENT_DNS: u16 = 15053;

const OPTION: &str = "redirectDNS";

/// The zone of the agent's own queries and their answers.
const UPSTREAM: u16 = 1;
/// The zone of the pod's queries and the agent's answers.
const DOWNSTREAM: u16 = 2;

pub(super) fn add(scope: &Scope<'_>, rules: &mut Rules) {
    let servers = scope.dns_servers();
    let all = match &scope.options.dns {
        DnsCapture::Off => return,
        DnsCapture::Servers(_) => false,
        DnsCapture::All => true,
    };
    rules.append(
        Table::Raw,
        "OUTPUT",
        Rule::new(OPTION, Vec::new(), jump(OUTPUT_DNS)),
    );
    if all || !servers.is_empty() {
        rules.append(
            Table::Nat,
            OUTPUT,
            Rule::new(OPTION, Vec::new(), jump(OUTPUT_DNS)),
        );
    }
    let query = Match::DestinationPort(Is::Exactly(53));
    for (protocol, target) in [
        (TCP, Target::Redirect(AGENT_DNS)),
        (UDP, Target::RedirectUdp(AGENT_DNS)),
    ] {
        for server in each(&servers, all) {
            let to = server.map(|server| Match::Destination(Is::Exactly(server)));
            let matches = [protocol.clone(), query.clone()].into_iter().chain(to).collect();
            rules.append(Table::Nat, OUTPUT_DNS, Rule::new(OPTION, matches, target.clone()));
        }
    }
    zones(scope, &servers, all, rules);
}

/// One rule for all destinations, or one for each server.
fn each(servers: &[IpAddr], all: bool) -> Vec<Option<IpNet>> {
    if all {
        vec![None]
    } else {
        servers.iter().map(|server| Some(IpNet::from(*server))).collect()
    }
}

fn zones(scope: &Scope<'_>, servers: &[IpAddr], all: bool, rules: &mut Rules) {
    let options = scope.options;
    let query = || Match::DestinationPort(Is::Exactly(53));
    let uids = options
        .proxy_uids
        .iter()
        .map(|uid| Match::OwnerUid(Is::Exactly(*uid)));
    let gids = options
        .proxy_gids
        .iter()
        .map(|gid| Match::OwnerGid(Is::Exactly(Group::Id(*gid))));
    let mut add = |chain: &str, matches, zone| {
        rules.append(Table::Raw, chain, Rule::new(OPTION, matches, Target::Zone(zone)));
    };
    for owner in uids.chain(gids) {
        add(OUTPUT_DNS, vec![UDP, query(), owner.clone()], UPSTREAM);
        let answer = Match::SourcePort(Is::Exactly(AGENT_DNS));
        add(OUTPUT_DNS, vec![UDP, answer, owner], DOWNSTREAM);
    }
    if all || !servers.is_empty() {
        rules.append(
            Table::Raw,
            "PREROUTING",
            Rule::new(OPTION, Vec::new(), jump(INBOUND)),
        );
    }
    for server in each(servers, all) {
        let to = server.map(|server| Match::Destination(Is::Exactly(server)));
        let from = server.map(|server| Match::Source(Is::Exactly(server)));
        let zone = |chain: &str, port, address: Option<Match>, zone| {
            let matches = [UDP, port].into_iter().chain(address).collect();
            (chain.to_owned(), Rule::new(OPTION, matches, Target::Zone(zone)))
        };
        let answer = Match::SourcePort(Is::Exactly(53));
        for (chain, rule) in [
            zone(OUTPUT_DNS, query(), to, DOWNSTREAM),
            zone(INBOUND, answer, from, UPSTREAM),
        ] {
            rules.append(Table::Raw, &chain, rule);
        }
    }
}
