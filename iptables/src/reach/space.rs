//! The packets that a ruleset can tell apart: for each thing that its rules look at, the values that they name, and one
//! value for all the others.

use ipnet::IpNet;

use super::Scope;
use crate::evaluate::Program;
use crate::options::{Group, Interface};
use crate::rule::{Is, Mark, Match, Protocol, Rule, State, Target};
use crate::ruleset::{ChainId, Hook, Table};

const SIDES: usize = 12;
const PROTOCOL: usize = 0;
const IN: usize = 1;
const OUT: usize = 2;
const SOURCE: usize = 3;
const DESTINATION: usize = 4;
const SOURCE_PORT: usize = 5;
const DESTINATION_PORT: usize = 6;
const UID: usize = 7;
const GID: usize = 8;
const MARK: usize = 9;
const CONNMARK: usize = 10;
const STATE: usize = 11;

const STATES: [State; 5] = [
    State::New,
    State::Related,
    State::Established,
    State::Invalid,
    State::Untracked,
];

/// Some of the values of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn of(size: usize, holds: impl Fn(usize) -> bool) -> Self {
        let mut words = vec![0; size.div_ceil(64)];
        for value in (0..size).filter(|value| holds(*value)) {
            words[value / 64] |= 1 << (value % 64);
        }
        Self(words)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & !b).collect())
    }
}

/// The packets whose every side is in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region([Set; SIDES]);

impl Region {
    /// The packets in both.
    pub(super) fn meet(&self, other: &Self) -> Option<Self> {
        self.meets(other)
            .then(|| Self(std::array::from_fn(|side| self.0[side].and(&other.0[side]))))
    }

    fn meets(&self, other: &Self) -> bool {
        (0..SIDES).all(|side| self.0[side].meets(&other.0[side]))
    }

    /// The packets not in `other`, in pieces without overlap.
    pub(super) fn minus(self, other: &Self) -> Vec<Self> {
        if !self.meets(other) {
            return vec![self];
        }
        let (mut rest, mut pieces) = (self, Vec::new());
        for side in 0..SIDES {
            let outside = rest.0[side].minus(&other.0[side]);
            if !outside.is_empty() {
                let mut piece = rest.clone();
                piece.0[side] = outside;
                pieces.push(piece);
            }
            rest.0[side] = rest.0[side].and(&other.0[side]);
        }
        pieces
    }
}

/// The values of every side. Where a rule can name values, the last one stands for all that none names.
#[derive(Debug)]
pub(super) struct Space {
    protocols: Vec<Protocol>,
    /// The first value is "none".
    interfaces: Vec<Interface>,
    /// A value is the addresses of a range that are in no smaller range of this list.
    ranges: Vec<IpNet>,
    ports: Vec<u16>,
    /// The first value is "no socket".
    uids: Vec<u32>,
    gids: Vec<u32>,
    marks: Vec<u32>,
    strangers_are_not_owners: bool,
}

impl Space {
    pub(super) fn of(program: &Program) -> Self {
        let mut space = Self {
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            interfaces: vec![Interface::loopback()],
            ranges: ["0.0.0.0/0", "::/0", "127.0.0.0/8", "::1/128"]
                .iter()
                .filter_map(|range| range.parse().ok())
                .collect(),
            ports: Vec::new(),
            uids: Vec::new(),
            gids: Vec::new(),
            marks: vec![0],
            strangers_are_not_owners: program.strangers_are_not_owners(),
        };
        for (chain, _) in program.chains() {
            for (_, rule, _) in program.entries(chain) {
                rule.matches.iter().for_each(|each| space.name(each));
                space.name_mark(&rule.target);
            }
        }
        let (mut v4, mut v6) = (false, false);
        match program.is_v6() {
            None => (v4, v6) = (true, true),
            Some(true) => v6 = true,
            Some(false) => v4 = true,
        }
        space
            .ranges
            .retain(|range| if range.addr().is_ipv4() { v4 } else { v6 });
        space
    }

    fn name(&mut self, each: &Match) {
        match each {
            Match::InInterface(Is::Exactly(name) | Is::Not(name))
            | Match::OutInterface(Is::Exactly(name) | Is::Not(name)) => {
                add(&mut self.interfaces, name.clone());
            }
            Match::Source(Is::Exactly(net) | Is::Not(net))
            | Match::Destination(Is::Exactly(net) | Is::Not(net)) => add(&mut self.ranges, net.trunc()),
            Match::Protocol(Is::Exactly(protocol) | Is::Not(protocol)) => add(&mut self.protocols, *protocol),
            Match::SourcePort(Is::Exactly(port) | Is::Not(port))
            | Match::DestinationPort(Is::Exactly(port) | Is::Not(port)) => add(&mut self.ports, port.get()),
            Match::DestinationPorts(Is::Exactly(ports) | Is::Not(ports)) => {
                for port in ports {
                    add(&mut self.ports, port.get());
                }
            }
            Match::OwnerUid(Is::Exactly(uid) | Is::Not(uid)) => add(&mut self.uids, *uid),
            Match::OwnerGid(Is::Exactly(Group::Id(gid)) | Is::Not(Group::Id(gid))) => {
                add(&mut self.gids, *gid);
            }
            Match::Mark(Is::Exactly(mark) | Is::Not(mark))
            | Match::Connmark(Is::Exactly(mark) | Is::Not(mark)) => add(&mut self.marks, mark.value),
            Match::OwnerGid(_)
            | Match::State(_)
            | Match::OneIn(_)
            | Match::Comment(_)
            | Match::Unknown(_) => {}
        }
    }

    fn name_mark(&mut self, target: &Target) {
        if let Target::SetMark(mark) = target {
            add(&mut self.marks, *mark);
        }
        if let Target::Tproxy { mark, .. } = target {
            add(&mut self.marks, mark.get());
        }
    }

    fn size(&self, side: usize) -> usize {
        match side {
            PROTOCOL => self.protocols.len() + 1,
            IN | OUT => self.interfaces.len() + 2,
            SOURCE | DESTINATION => self.ranges.len(),
            SOURCE_PORT | DESTINATION_PORT => self.ports.len() + 1,
            UID => self.uids.len() + 2,
            GID => self.gids.len() + 2,
            MARK | CONNMARK => self.marks.len() + 1,
            _ => STATES.len(),
        }
    }

    fn set(&self, side: usize, holds: impl Fn(usize) -> bool) -> Set {
        Set::of(self.size(side), holds)
    }

    fn everything(&self) -> Region {
        Region(std::array::from_fn(|side| self.set(side, |_| true)))
    }

    /// The packets that a rule's conditions admit, and whether it is exactly those.
    pub(super) fn region(&self, table: Table, rule: &Rule) -> (Region, bool) {
        let (mut region, mut is_exact) = (self.everything(), true);
        for each in &rule.matches {
            if matches!(each, Match::State(_) | Match::Connmark(_)) && table == Table::Raw {
                // Before conntrack, what these see is not the connection.
                is_exact = false;
                continue;
            }
            if matches!(each, Match::Connmark(_)) {
                let tracked = self.set(STATE, |value| {
                    !matches!(STATES[value], State::Invalid | State::Untracked)
                });
                region.0[STATE] = region.0[STATE].and(&tracked);
            }
            match self.side_of(each) {
                Some((side, set)) => region.0[side] = region.0[side].and(&set),
                None => is_exact &= matches!(each, Match::Comment(_)),
            }
        }
        (region, is_exact)
    }

    fn side_of(&self, each: &Match) -> Option<(usize, Set)> {
        let interface = |side, is: &Is<Interface>| {
            let named = |value: usize| value.checked_sub(1).and_then(|index| self.interfaces.get(index));
            (
                side,
                self.either(side, is, |value, name| named(value) == Some(name)),
            )
        };
        let port = |side, is: &Is<crate::options::Port>| {
            let is_it =
                |value: usize, port: &crate::options::Port| self.ports.get(value) == Some(&port.get());
            (side, self.either(side, is, is_it))
        };
        Some(match each {
            Match::InInterface(is) => interface(IN, is),
            Match::OutInterface(is) => interface(OUT, is),
            Match::Source(is) => (SOURCE, self.addresses(SOURCE, is)),
            Match::Destination(is) => (DESTINATION, self.addresses(DESTINATION, is)),
            Match::Protocol(is) => {
                let is_it = |value: usize, protocol: &Protocol| self.protocols.get(value) == Some(protocol);
                (PROTOCOL, self.either(PROTOCOL, is, is_it))
            }
            Match::SourcePort(is) => port(SOURCE_PORT, is),
            Match::DestinationPort(is) => port(DESTINATION_PORT, is),
            Match::DestinationPorts(is) => {
                let among = |value: usize, ports: &Vec<crate::options::Port>| {
                    ports
                        .iter()
                        .any(|port| self.ports.get(value) == Some(&port.get()))
                };
                (DESTINATION_PORT, self.either(DESTINATION_PORT, is, among))
            }
            Match::OwnerUid(is) => {
                let is_it = |value: usize, uid: &u32| {
                    value.checked_sub(1).and_then(|index| self.uids.get(index)) == Some(uid)
                };
                (UID, self.owners(UID, is, is_it))
            }
            Match::OwnerGid(is) => {
                let (Is::Exactly(Group::Id(_)) | Is::Not(Group::Id(_))) = is else {
                    return None;
                };
                let is_it = |value: usize, group: &Group| {
                    let gid = value.checked_sub(1).and_then(|index| self.gids.get(index));
                    gid.is_some_and(|gid| *group == Group::Id(*gid))
                };
                (GID, self.owners(GID, is, is_it))
            }
            Match::Mark(is) => (MARK, self.mark(MARK, is)?),
            Match::Connmark(is) => (CONNMARK, self.mark(CONNMARK, is)?),
            Match::State(is) => {
                let among = |value: usize, states: &Vec<State>| states.contains(&STATES[value]);
                (STATE, self.either(STATE, is, among))
            }
            Match::OneIn(_) | Match::Comment(_) | Match::Unknown(_) => return None,
        })
    }

    fn either<T>(&self, side: usize, is: &Is<T>, is_it: impl Fn(usize, &T) -> bool) -> Set {
        self.set(side, |value| match is {
            Is::Exactly(wanted) => is_it(value, wanted),
            Is::Not(unwanted) => !is_it(value, unwanted),
        })
    }

    fn owners<T>(&self, side: usize, is: &Is<T>, is_it: impl Fn(usize, &T) -> bool) -> Set {
        let all = self.either(side, is, is_it);
        if self.strangers_are_not_owners {
            all
        } else {
            all.minus(&self.set(side, |value| value == 0))
        }
    }

    /// `None` for a mask: its values cannot be told apart here.
    fn mark(&self, side: usize, is: &Is<Mark>) -> Option<Set> {
        let (Is::Exactly(mark) | Is::Not(mark)) = is;
        if mark.mask.is_some() {
            return None;
        }
        Some(self.either(side, is, |value, mark: &Mark| {
            self.marks.get(value) == Some(&mark.value)
        }))
    }

    fn addresses(&self, side: usize, is: &Is<IpNet>) -> Set {
        let (Is::Exactly(net) | Is::Not(net)) = is;
        let family = self.set(side, |value| {
            self.ranges[value].addr().is_ipv4() == net.addr().is_ipv4()
        });
        let within = |value: usize, net: &IpNet| net.contains(&self.ranges[value]);
        // A condition on one family's addresses is not for the other's packets.
        self.either(side, is, within).and(&family)
    }

    /// The packets that can enter a base chain.
    pub(super) fn entering(&self, hook: Hook, chain: &ChainId, scope: Scope) -> Vec<Region> {
        let mut all = self.everything();
        let (some, none) = (self.set(IN, |value| value != 0), self.set(IN, |value| value == 0));
        (all.0[IN], all.0[OUT]) = match hook {
            Hook::Prerouting | Hook::Input => (some, none),
            Hook::Output | Hook::Postrouting => (none, some),
            Hook::Forward => (some.clone(), some),
        };
        if chain.table() == Table::Nat {
            all.0[STATE] = self.set(STATE, |value| {
                matches!(STATES[value], State::New | State::Related)
            });
        }
        let mut pieces = vec![all];
        pieces = split(pieces, |piece| self.one_family(piece));
        pieces = split(pieces, |piece| self.owned_or_not(piece, hook));
        // Table filter sees a redirected packet's new address beside its old interface.
        let is_routed = matches!(hook, Hook::Output | Hook::Postrouting) && chain.table() != Table::Filter;
        if scope == Scope::UsualRouting && is_routed {
            pieces = split(pieces, |piece| self.loopback_by_lo(piece));
        }
        pieces
    }

    fn one_family(&self, piece: &Region) -> Vec<Region> {
        let of = |is_v4: bool| {
            let family = self.set(SOURCE, |value| self.ranges[value].addr().is_ipv4() == is_v4);
            let mut piece = piece.clone();
            piece.0[SOURCE] = piece.0[SOURCE].and(&family);
            piece.0[DESTINATION] = piece.0[DESTINATION].and(&family);
            piece
        };
        vec![of(true), of(false)]
    }

    /// A packet has a socket's user and group, or neither; what arrives has neither.
    fn owned_or_not(&self, piece: &Region, hook: Hook) -> Vec<Region> {
        let mut stranger = piece.clone();
        stranger.0[UID] = self.set(UID, |value| value == 0);
        stranger.0[GID] = self.set(GID, |value| value == 0);
        if !matches!(hook, Hook::Output | Hook::Postrouting) {
            return vec![stranger];
        }
        let mut owned = piece.clone();
        owned.0[UID] = self.set(UID, |value| value != 0);
        owned.0[GID] = self.set(GID, |value| value != 0);
        vec![stranger, owned]
    }

    fn loopback_by_lo(&self, piece: &Region) -> Vec<Region> {
        let loopback = self.set(DESTINATION, |value| self.ranges[value].addr().is_loopback());
        let lo = self.set(OUT, |value| {
            value.checked_sub(1).and_then(|index| self.interfaces.get(index)) == Some(&Interface::loopback())
        });
        let (mut local, mut other) = (piece.clone(), piece.clone());
        local.0[DESTINATION] = local.0[DESTINATION].and(&loopback);
        local.0[OUT] = local.0[OUT].and(&lo);
        other.0[DESTINATION] = other.0[DESTINATION].minus(&loopback);
        vec![local, other]
    }

    /// The packets that go on to the next rule, with what the target changed.
    pub(super) fn after(&self, target: &Target, taken: Vec<Region>) -> Vec<Region> {
        let with = |side: usize, set: Set| {
            let changed = taken.iter().cloned().map(move |mut piece| {
                piece.0[side] = set.clone();
                piece
            });
            changed.collect()
        };
        match target {
            Target::SetMark(mark) => with(MARK, self.set(MARK, |value| self.marks.get(value) == Some(mark))),
            Target::OrMark(_) | Target::XorMark(_) | Target::RestoreMark => {
                with(MARK, self.set(MARK, |_| true))
            }
            Target::SaveMark => with(CONNMARK, self.set(CONNMARK, |_| true)),
            Target::Zone(_) | Target::Continue | Target::Unknown(_) | Target::Jump(_) => taken,
            Target::Return
            | Target::Accept
            | Target::Drop
            | Target::Reject
            | Target::Redirect(_)
            | Target::Tproxy { .. }
            | Target::Dnat(_)
            | Target::Masquerade => Vec::new(),
        }
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}

fn split(pieces: Vec<Region>, by: impl Fn(&Region) -> Vec<Region>) -> Vec<Region> {
    let all = pieces.iter().flat_map(by);
    all.filter(|piece| !piece.0.iter().any(Set::is_empty)).collect()
}
