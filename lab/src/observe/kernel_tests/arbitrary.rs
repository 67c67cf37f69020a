//! Random rules that are nobody's: every table and hook, every condition and target that the kernel takes there.

use std::mem::discriminant;

use iptables::options::{Group, Interface, Port};
use iptables::rule::{Is, Mark, Match, Protocol, Rule, State, Target};
use iptables::ruleset::{ChainId, Family, Hook, Owns, Place, Ruleset, Table};

const CHAINS: [(Table, Hook); 14] = [
    (Table::Raw, Hook::Prerouting),
    (Table::Raw, Hook::Output),
    (Table::Mangle, Hook::Prerouting),
    (Table::Mangle, Hook::Input),
    (Table::Mangle, Hook::Forward),
    (Table::Mangle, Hook::Output),
    (Table::Mangle, Hook::Postrouting),
    (Table::Nat, Hook::Prerouting),
    (Table::Nat, Hook::Input),
    (Table::Nat, Hook::Output),
    (Table::Nat, Hook::Postrouting),
    (Table::Filter, Hook::Input),
    (Table::Filter, Hook::Forward),
    (Table::Filter, Hook::Output),
];

/// A ruleset for both families.
pub(super) fn ruleset(random: &mut fastrand::Rng) -> Ruleset {
    let mut ruleset = Ruleset::new(Owns::NewChains);
    for family in [Family::V4, Family::V6] {
        for (table, hook) in CHAINS {
            if random.bool() {
                continue;
            }
            let base = Ruleset::chain(table, hook.name());
            // A chain for each depth, each called by those before it alone.
            let users = [1, 2].map(|depth| Ruleset::chain(table, &format!("{}_{depth}", hook.name())));
            for (depth, chain) in [&base, &users[0], &users[1]].into_iter().enumerate() {
                if depth > 0 {
                    ruleset.declare(family, chain.clone());
                }
                for _ in 0..random.usize(1..5) {
                    let rule = rule(random, family, table, hook, &users[depth.min(2)..]);
                    ruleset.record(family, chain.clone(), Place::End, rule);
                }
            }
            if table == Table::Filter && random.u8(..4) == 0 {
                ruleset.drop_by_policy(family, base);
            }
        }
    }
    ruleset
}

fn rule(random: &mut fastrand::Rng, family: Family, table: Table, hook: Hook, deeper: &[ChainId]) -> Rule {
    let mut matches = Vec::new();
    let target = target(random, table, hook, deeper);
    let needs_tcp = matches!(target, Target::Redirect(_) | Target::Tproxy { .. });
    if needs_tcp || random.bool() {
        matches.push(Match::Protocol(Is::Exactly(if needs_tcp || random.bool() {
            Protocol::Tcp
        } else {
            Protocol::Udp
        })));
        if random.bool() {
            matches.push(ports(random));
        }
    }
    for _ in 0..random.u8(..3) {
        // The tool takes each kind of condition once.
        let more = condition(random, family, hook);
        let is_new = |more: &Match| {
            matches
                .iter()
                .all(|each| discriminant(each) != discriminant(more))
        };
        matches.extend(more.filter(is_new));
    }
    Rule {
        matches,
        target,
        option: "none",
    }
}

fn either<T>(random: &mut fastrand::Rng, value: T) -> Is<T> {
    if random.u8(..3) == 0 {
        Is::Not(value)
    } else {
        Is::Exactly(value)
    }
}

fn pick<T: Clone>(random: &mut fastrand::Rng, of: &[T]) -> T {
    of[random.usize(..of.len())].clone()
}

fn ports(random: &mut fastrand::Rng) -> Match {
    let port = |random: &mut fastrand::Rng| Port::new(pick(random, &[53, 80, 8080, 9080, 15006])).unwrap();
    if random.bool() {
        let port = port(random);
        return Match::DestinationPort(either(random, port));
    }
    let two = vec![port(random), port(random)];
    Match::DestinationPorts(either(random, two))
}

/// None where the kernel takes no such condition.
fn condition(random: &mut fastrand::Rng, family: Family, hook: Hook) -> Option<Match> {
    let arrives = !matches!(hook, Hook::Output | Hook::Postrouting);
    let leaves = matches!(hook, Hook::Output | Hook::Postrouting | Hook::Forward);
    let interface = Interface::parse(pick(random, &["lo", "eth0", "eth1"])).unwrap();
    let net = match family {
        Family::V6 => pick(random, &["::1/128", "fd00::/16", "2001:db8::/32"]),
        Family::V4 | Family::Inet => pick(
            random,
            &["127.0.0.0/8", "10.244.0.0/16", "10.96.0.0/12", "10.99.0.7/32"],
        ),
    };
    let net = net.parse().unwrap();
    let id = pick(random, &[1337, 1000, 0]);
    let mark = Mark {
        value: pick(random, &[0, 7, 8]),
        mask: pick(random, &[None, None, std::num::NonZeroU32::new(0xf)]),
    };
    match random.u8(..8) {
        0 if arrives => Some(Match::InInterface(either(random, interface))),
        1 if leaves => Some(Match::OutInterface(either(random, interface))),
        2 => Some(Match::Source(either(random, net))),
        3 => Some(Match::Destination(either(random, net))),
        4 if leaves && hook != Hook::Forward => Some(Match::OwnerUid(either(random, id))),
        5 if leaves && hook != Hook::Forward => Some(Match::OwnerGid(either(random, Group::Id(id)))),
        6 => Some(Match::Mark(either(random, mark))),
        7 if random.bool() => Some(Match::Connmark(either(random, mark))),
        7 => {
            let states = pick(
                random,
                &[
                    vec![State::New],
                    vec![State::Invalid],
                    vec![State::Established, State::New],
                ],
            );
            Some(Match::State(either(random, states)))
        }
        _ => None,
    }
}

fn target(random: &mut fastrand::Rng, table: Table, hook: Hook, deeper: &[ChainId]) -> Target {
    let port = Port::new(pick(random, &[15001, 15006, 80])).unwrap();
    let bits = std::num::NonZeroU32::new(pick(random, &[1, 6, 8])).unwrap();
    match (random.u8(..12), table) {
        (0..=2, _) if !deeper.is_empty() => Target::Jump(pick(random, deeper)),
        (3, Table::Raw | Table::Mangle | Table::Filter) if random.u8(..3) == 0 => Target::Drop,
        (4, Table::Filter) if random.u8(..3) == 0 => Target::Reject,
        (5 | 6, Table::Nat) if matches!(hook, Hook::Prerouting | Hook::Output) => Target::Redirect(port),
        (5, Table::Mangle) => Target::SetMark(pick(random, &[7, 8])),
        (6, Table::Mangle) => pick(random, &[Target::OrMark(bits), Target::XorMark(bits)]),
        (7, Table::Mangle) => pick(random, &[Target::SaveMark, Target::RestoreMark]),
        (8, Table::Mangle) if hook == Hook::Prerouting => Target::Tproxy {
            port: Port::new(15006).unwrap(),
            mark: std::num::NonZeroU32::new(1337).unwrap(),
        },
        (5, Table::Raw) => Target::Zone(pick(random, &[1, 2])),
        (9, _) => Target::Accept,
        (10, _) => Target::Continue,
        _ => Target::Return,
    }
}
