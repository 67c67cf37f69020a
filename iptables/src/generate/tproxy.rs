//! TPROXY: inbound interception without a change of address, and the marks by which the sidecar's own packets are told.

use super::{DIVERT, INBOUND, Scope, TCP, TPROXY, jump, to_lo};
use crate::options::Group;
use crate::rule::{ConntrackState, Is, Match, Rule, Target};
use crate::ruleset::{Rules, Table};

/// The mark of the sidecar's packets to its own pod; a constant in Istio.
const OUTBOUND_MARK: u32 = 1338;

const OPTION: &str = "mode";

pub(super) fn add_chains(scope: &Scope<'_>, rules: &mut Rules) {
    let mark = scope.options.tproxy_mark;
    let mut add = |chain: &str, matches, target| {
        rules.append(Table::Mangle, chain, Rule::new(OPTION, matches, target));
    };
    add(DIVERT, Vec::new(), Target::SetMark(mark));
    add(DIVERT, Vec::new(), Target::Accept);
    let not_local = Match::Destination(Is::Not(scope.loopback()));
    add(
        TPROXY,
        vec![not_local, TCP],
        Target::Tproxy {
            port: scope.options.inbound_capture_port,
            mark,
        },
    );
}

/// Packets of a connection that is there already keep to it; first ones go to the sidecar.
pub(super) fn capture(matches: &[Match], rules: &mut Rules) {
    let known = Match::ConntrackState(vec![ConntrackState::Related, ConntrackState::Established]);
    let with_state = matches.iter().cloned().chain([known]).collect();
    rules.append(
        Table::Mangle,
        INBOUND,
        Rule::new(OPTION, with_state, jump(DIVERT)),
    );
    rules.append(
        Table::Mangle,
        INBOUND,
        Rule::new(OPTION, matches.to_vec(), jump(TPROXY)),
    );
}

pub(super) fn add_marks(scope: &Scope<'_>, rules: &mut Rules) {
    let options = scope.options;
    let mark = options.tproxy_mark;
    let marked = || Match::Mark(Is::Exactly(mark));
    let mut add = |chain: &str, matches, target| {
        rules.append(Table::Mangle, chain, Rule::new(OPTION, matches, target));
    };
    add("PREROUTING", vec![TCP, marked()], Target::SaveMark);
    add("OUTPUT", vec![TCP, to_lo(), marked()], Target::Return);
    let uids = options
        .proxy_uids
        .iter()
        .map(|uid| Match::OwnerUid(Is::Exactly(*uid)));
    let gids = options
        .proxy_gids
        .iter()
        .map(|gid| Match::OwnerGid(Is::Exactly(Group::Id(*gid))));
    for owner in uids.chain(gids) {
        let not_local = Match::Destination(Is::Not(scope.loopback()));
        add(
            "OUTPUT",
            vec![not_local, TCP, to_lo(), owner],
            Target::SetMark(OUTBOUND_MARK),
        );
    }
    add("OUTPUT", vec![TCP, Match::Connmark(mark)], Target::RestoreMark);
    let from_lo = || Match::InInterface(Is::Exactly("lo".to_owned()));
    let passthrough = Match::Source(Is::Exactly(scope.passthrough()));
    let not_outbound = Match::Mark(Is::Not(OUTBOUND_MARK));
    let heads = [
        vec![TCP, marked()],
        vec![TCP, passthrough, from_lo()],
        vec![TCP, from_lo(), not_outbound],
    ];
    for (position, matches) in (1..).zip(heads) {
        rules.insert(
            Table::Mangle,
            INBOUND,
            position,
            Rule::new(OPTION, matches, Target::Return),
        );
    }
}
