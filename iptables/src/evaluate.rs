//! What the kernel would make of a packet: a pure function from rules and a packet to every rule it meets.
//!
//! A prediction, made from the rules alone. It knows netfilter's order of tables, that nat chains see a flow's first packet
//! only, that RETURN leads back, what a redirect does to the route. It does not know routing tables or sockets: a TPROXY rule
//! is taken to find a socket that listens (the kernel drops the packet where there is none), a changed mark to leave the way
//! out as it was, a redirected packet to leave by `lo` (one of a socket that is bound to another device does not), and after
//! DNAT the interface is not known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;

use ipnet::IpNet;

use crate::options::{Group, Interface};
use crate::packet::{Connection, Nat, Packet, Route};
use crate::rule::{Is, Mark, Match, Rule, State, Target};
use crate::ruleset::{ChainId, Family, Hook, Ruleset, Table};

/// How deep jumps may lead (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

/// A ruleset for one family, its jumps resolved: what [`evaluate`] runs.
#[derive(Debug, Clone)]
pub struct Program {
    dialect: Dialect,
    is_v6: Option<bool>,
    /// Whether a rule needs conntrack: without one nothing is tracked, and nat chains see no packet.
    tracks: bool,
    chains: Vec<Chain>,
    /// For each hook, its base chains in the order in which a packet meets them.
    bases: [Vec<usize>; 5],
}

/// Whose words decide about a packet without a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// `! --uid-owner` holds (`xt_owner.c`).
    Iptables,
    /// `skuid !=` ends the rule (`nft_meta.c`).
    Nftables,
}

#[derive(Debug, Clone)]
struct Chain {
    id: ChainId,
    rules: Vec<Entry>,
    drops: bool,
}

#[derive(Debug, Clone)]
struct Entry {
    rule: Rule,
    jump: Option<usize>,
}

/// A rule by its chain and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct At {
    chain: usize,
    index: usize,
}

/// Everything that a packet met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace<'a> {
    /// The base chains in order.
    pub visits: Vec<Visit<'a>>,
    /// What became of it.
    pub outcome: Outcome,
    /// The packet as the last hook left it.
    pub left: Live<'a>,
}

/// A base chain that a packet came through, and all that it met there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit<'a> {
    /// The hook.
    pub hook: Hook,
    /// The chain; `None` for a hook without chains.
    pub base: Option<usize>,
    /// In order.
    pub steps: Vec<Step<'a>>,
}

/// A rule, or a chain's end, that a packet met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// Where; for an end the index is the number of rules.
    pub at: At,
    /// What happened.
    pub event: Event,
    /// The packet as it was there.
    pub packet: Live<'a>,
}

/// What happened at a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The rule did not match: the condition with this index failed first.
    PassedOver(usize),
    /// It matched.
    Hit(Verdict),
    /// The chain's last rule was passed.
    End,
}

/// What a matching rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next base chain.
    Accept,
    /// The packet ends.
    Drop,
    /// The next rule.
    Continue,
    /// A user chain.
    Jump,
    /// Back to the calling chain, or the policy.
    Return,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It came through its hooks.
    Passed,
    /// A rule, or a policy, dropped it.
    Dropped,
    /// A rule says something that is not known here, so nothing is said of what follows.
    Undecided(At),
}

/// The parts of a packet that rules change, beside those that they do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live<'a> {
    /// As it entered.
    pub packet: &'a Packet,
    /// Where it goes now; see [`Live::knows_destination`].
    pub destination: IpAddr,
    /// Whether that is known: redirected on the way in, it goes to an address of the interface's, which is not known here.
    pub knows_destination: bool,
    /// To which port.
    pub destination_port: u16,
    /// Its interface on the way out.
    pub out: Out,
    /// Its mark.
    pub mark: u32,
    /// Its connection's mark.
    pub connection_mark: u32,
    /// What it has of a connection.
    pub seen: Seen,
}

/// What a packet has of a connection: table raw comes before conntrack, and what is invalid has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Nothing,
    /// A template that says which zone it will be in (`xt_CT.c`); to conditions that is a new connection.
    Template,
    /// Its connection.
    Connection,
}

/// By which interface a packet leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// As routing had it.
    AsRouted,
    /// By `lo`, since it was redirected.
    Loopback,
    /// Not known: a rule changed its address, and routing tables are not known here.
    Unknown,
}

/// One hop of the path notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop<'p> {
    /// A hook.
    Hook(Hook),
    /// A rule that decided, by its position from 1, or a chain left at its end.
    Rule(&'p ChainId, Option<NonZeroUsize>),
    /// The packet ended.
    Dropped,
}

impl Program {
    /// The rules of one family, or of `inet`, ready to run.
    pub fn compile(ruleset: &Ruleset, family: Family) -> Self {
        let mut chains = Vec::new();
        for table in ruleset.tables(family) {
            for id in ruleset.chains(family, table) {
                let rules = ruleset.rules(family, &id).into_iter();
                chains.push(Chain {
                    rules: rules
                        .map(|rule| Entry {
                            rule: rule.clone(),
                            jump: None,
                        })
                        .collect(),
                    drops: ruleset.drops_by_policy(family, &id),
                    id,
                });
            }
        }
        let mut rules = chains.iter().flat_map(|chain: &Chain| &chain.rules);
        let tracks = rules.any(|entry| needs_conntrack(&entry.rule));
        let place = |id: &ChainId| chains.iter().position(|chain: &Chain| chain.id == *id);
        let jumps: Vec<Vec<Option<usize>>> = chains
            .iter()
            .map(|chain| {
                let jump = |entry: &Entry| {
                    if let Target::Jump(to) = &entry.rule.target {
                        place(to)
                    } else {
                        None
                    }
                };
                chain.rules.iter().map(jump).collect()
            })
            .collect();
        for (chain, jumps) in chains.iter_mut().zip(jumps) {
            for (entry, jump) in chain.rules.iter_mut().zip(jumps) {
                entry.jump = jump;
            }
        }
        let bases = Hook::ALL.map(|hook| {
            let mut bases: Vec<usize> = (0..chains.len())
                .filter(|&chain| chains[chain].id.hook() == Some(hook))
                .collect();
            bases.sort_by_key(|&chain| priority(chains[chain].id.table(), hook));
            bases
        });
        let (dialect, is_v6) = match family {
            Family::V4 => (Dialect::Iptables, Some(false)),
            Family::V6 => (Dialect::Iptables, Some(true)),
            Family::Inet => (Dialect::Nftables, None),
        };
        Self {
            dialect,
            is_v6,
            tracks,
            chains,
            bases,
        }
    }

    /// The chain of a rule.
    pub fn chain(&self, at: At) -> &ChainId {
        &self.chains[at.chain].id
    }

    /// A rule; `None` for a chain's end.
    pub fn rule(&self, at: At) -> Option<&Rule> {
        self.chains[at.chain].rules.get(at.index).map(|entry| &entry.rule)
    }

    /// A base chain of a visit.
    pub fn base(&self, visit: &Visit<'_>) -> Option<&ChainId> {
        visit.base.map(|chain| &self.chains[chain].id)
    }

    /// The base chains of a hook in order.
    pub(crate) fn bases(&self, hook: Hook) -> &[usize] {
        &self.bases[hook as usize]
    }

    /// The chain with a number.
    pub(crate) fn chain_by_number(&self, number: usize) -> &ChainId {
        &self.chains[number].id
    }

    /// Every chain by its number.
    pub(crate) fn chains(&self) -> impl Iterator<Item = (usize, &ChainId)> {
        self.chains
            .iter()
            .enumerate()
            .map(|(number, chain)| (number, &chain.id))
    }

    /// The rules of a chain, each with the chain that it jumps to.
    pub(crate) fn entries(&self, chain: usize) -> impl Iterator<Item = (At, &Rule, Option<usize>)> {
        let rules = self.chains[chain].rules.iter().enumerate();
        rules.map(move |(index, entry)| (At { chain, index }, &entry.rule, entry.jump))
    }

    /// Whether it sees IPv6 packets alone, or IPv4 alone; `None` if both.
    pub(crate) fn is_v6(&self) -> Option<bool> {
        self.is_v6
    }

    /// Whether `nft` loads these rules.
    pub fn is_nft(&self) -> bool {
        self.dialect == Dialect::Nftables
    }

    /// Whether a packet without a socket passes `! --uid-owner`.
    pub(crate) fn strangers_are_not_owners(&self) -> bool {
        self.dialect == Dialect::Iptables
    }

    /// The hops of a trace, by the rules of the path notation.
    pub fn hops<'p>(&'p self, trace: &Trace<'_>) -> Vec<Hop<'p>> {
        let mut hops = Vec::new();
        let mut hook = None;
        for visit in &trace.visits {
            if hook != Some(visit.hook) {
                hops.push(Hop::Hook(visit.hook));
                hook = Some(visit.hook);
            }
            let first = hops.len();
            for step in &visit.steps {
                let chain = &self.chains[step.at.chain].id;
                let in_base = visit.base == Some(step.at.chain);
                match step.event {
                    Event::PassedOver(_) | Event::Hit(Verdict::Continue) => {}
                    Event::Hit(Verdict::Jump) if in_base => {}
                    Event::Hit(_) => hops.push(Hop::Rule(chain, NonZeroUsize::new(step.at.index + 1))),
                    Event::End => {
                        let stands = |hop: &Hop<'_>| matches!(hop, Hop::Rule(of, _) if *of == chain);
                        if !in_base && !hops[first..].iter().any(stands) {
                            hops.push(Hop::Rule(chain, None));
                        }
                    }
                }
            }
        }
        if trace.outcome == Outcome::Dropped {
            hops.push(Hop::Dropped);
        }
        hops
    }
}

impl At {
    /// The rule's position, from 1.
    pub fn position(self) -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add(self.index)
    }

    /// The number of its chain, and its place there, from 0.
    pub(crate) fn parts(self) -> (usize, usize) {
        (self.chain, self.index)
    }
}

/// Whether loading it makes the kernel track connections (`nf_ct_netns_get`); what is not known may.
fn needs_conntrack(rule: &Rule) -> bool {
    let condition = |each: &Match| matches!(each, Match::State(_) | Match::Connmark(_) | Match::Unknown(_));
    let target = matches!(
        rule.target,
        Target::Redirect(_)
            | Target::Dnat(_)
            | Target::Masquerade
            | Target::SaveMark
            | Target::RestoreMark
            | Target::Zone(_)
            | Target::Unknown(_)
    );
    target || rule.matches.iter().any(condition)
}

/// `linux/netfilter_ipv4.h`; NAT of source addresses comes last.
fn priority(table: Table, hook: Hook) -> i32 {
    match table {
        Table::Raw => -300,
        Table::Mangle => -150,
        Table::Nat if matches!(hook, Hook::Input | Hook::Postrouting) => 100,
        Table::Nat => -100,
        Table::Filter => 0,
    }
}

/// Runs a packet through the rules.
pub fn evaluate<'a>(program: &Program, packet: &'a Packet) -> Trace<'a> {
    let mut run = Run {
        program,
        visits: Vec::with_capacity(4),
        live: Live {
            packet,
            destination: packet.destination,
            destination_port: packet.destination_port,
            knows_destination: true,
            out: Out::AsRouted,
            mark: packet.mark,
            connection_mark: packet.connection.mark,
            seen: Seen::Nothing,
        },
        rerouted: None,
        is_local: packet.route != Route::Through,
    };
    let outcome = run.hooks();
    Trace {
        visits: run.visits,
        outcome,
        left: run.live,
    }
}

impl Trace<'_> {
    /// The packet as it comes back over `lo`, if that is the way it left.
    pub fn reentry(&self) -> Option<Packet> {
        let live = &self.left;
        if live.packet.route != Route::FromSocket || self.outcome != Outcome::Passed {
            return None;
        }
        let lo = Interface::loopback();
        (live.out_interface() == Some(&lo)).then(|| Packet {
            route: Route::ToSocket,
            destination: live.destination,
            destination_port: live.destination_port,
            in_interface: Some(lo),
            out_interface: None,
            owner: None,
            mark: live.mark,
            connection: Connection {
                mark: live.connection_mark,
                nat: Nat::Settled,
                ..live.packet.connection
            },
            ..live.packet.clone()
        })
    }
}

impl Live<'_> {
    /// Its connection's state, as rules see it.
    pub fn state(&self) -> State {
        match (self.seen, self.packet.connection.state) {
            (_, State::Untracked) => State::Untracked,
            (Seen::Connection, state) => state,
            (Seen::Template, _) => State::New,
            // `xt_conntrack.c`: no connection is INVALID.
            (Seen::Nothing, _) => State::Invalid,
        }
    }

    /// The interface by which it leaves, as far as that is known.
    pub fn out_interface(&self) -> Option<&Interface> {
        static LOOPBACK: std::sync::LazyLock<Interface> = std::sync::LazyLock::new(Interface::loopback);
        match self.out {
            Out::AsRouted => self.packet.out_interface.as_ref(),
            Out::Loopback => Some(&LOOPBACK),
            Out::Unknown => None,
        }
    }
}

struct Run<'p, 'a> {
    program: &'p Program,
    visits: Vec<Visit<'a>>,
    live: Live<'a>,
    /// What a rule of this hook did to the route; the rest of the hook still sees the old one.
    rerouted: Option<Out>,
    is_local: bool,
}

/// How a chain was left.
enum Flow {
    Through,
    Accepted,
    Dropped,
    Undecided(At),
}

/// Whether a condition holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    NotKnown,
}

impl From<bool> for Truth {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl Run<'_, '_> {
    fn hooks(&mut self) -> Outcome {
        let first = self.live.packet.route.hooks()[0];
        let outcome = self.hook(first);
        if outcome != Outcome::Passed {
            return outcome;
        }
        let rest: &[Hook] = match (first, self.is_local) {
            (Hook::Prerouting, true) => &Route::ToSocket.hooks()[1..],
            (Hook::Prerouting, false) => &Route::Through.hooks()[1..],
            _ => &Route::FromSocket.hooks()[1..],
        };
        for &hook in rest {
            let outcome = self.hook(hook);
            if outcome != Outcome::Passed {
                return outcome;
            }
        }
        Outcome::Passed
    }

    fn hook(&mut self, hook: Hook) -> Outcome {
        let program = self.program;
        let mut is_empty = true;
        for &base in program.bases(hook) {
            let chain = &program.chains[base];
            let connection = self.live.packet.connection;
            if chain.id.table() == Table::Nat && !(program.tracks && connection.asks_nat()) {
                continue;
            }
            is_empty = false;
            let is_early = chain.id.table() == Table::Raw && matches!(hook, Hook::Prerouting | Hook::Output);
            // Over `lo` it comes back with its connection.
            let is_seen =
                program.tracks && connection.exists() && (connection.nat == Nat::Settled || !is_early);
            self.live.seen = if is_seen { Seen::Connection } else { Seen::Nothing };
            self.visits.push(Visit {
                hook,
                base: Some(base),
                steps: Vec::with_capacity(16),
            });
            match self.chain(base, 0) {
                Flow::Accepted => {}
                Flow::Through if !chain.drops => {}
                Flow::Through | Flow::Dropped => return Outcome::Dropped,
                Flow::Undecided(at) => return Outcome::Undecided(at),
            }
        }
        if is_empty {
            self.visits.push(Visit {
                hook,
                base: None,
                steps: Vec::new(),
            });
        }
        if let Some(out) = self.rerouted.take() {
            self.live.out = out;
        }
        Outcome::Passed
    }

    fn chain(&mut self, chain: usize, depth: usize) -> Flow {
        let program = self.program;
        for (index, entry) in program.chains[chain].rules.iter().enumerate() {
            let at = At { chain, index };
            match self.matches(&entry.rule) {
                Ok(()) => {}
                Err((condition, Truth::NotKnown)) => {
                    self.step(at, Event::PassedOver(condition));
                    return Flow::Undecided(at);
                }
                Err((condition, _)) => {
                    self.step(at, Event::PassedOver(condition));
                    continue;
                }
            }
            let Some(verdict) = verdict(&entry.rule.target) else {
                return Flow::Undecided(at);
            };
            self.step(at, Event::Hit(verdict));
            self.change(&entry.rule.target);
            match verdict {
                Verdict::Accept => return Flow::Accepted,
                Verdict::Drop => return Flow::Dropped,
                Verdict::Return => return Flow::Through,
                Verdict::Continue => {}
                Verdict::Jump => {
                    let Some(to) = entry.jump.filter(|_| depth < DEEPEST) else {
                        return Flow::Undecided(at);
                    };
                    match self.chain(to, depth + 1) {
                        Flow::Through => {}
                        end @ (Flow::Accepted | Flow::Dropped | Flow::Undecided(_)) => return end,
                    }
                }
            }
        }
        let index = program.chains[chain].rules.len();
        self.step(At { chain, index }, Event::End);
        Flow::Through
    }

    fn step(&mut self, at: At, event: Event) {
        let packet = self.live;
        if let Some(visit) = self.visits.last_mut() {
            visit.steps.push(Step { at, event, packet });
        }
    }

    /// Fails with the first condition that does not hold, or is not known to.
    fn matches(&self, rule: &Rule) -> Result<(), (usize, Truth)> {
        let mut unknown = None;
        for (index, each) in rule.matches.iter().enumerate() {
            match holds(each, &self.live, self.program.dialect) {
                Truth::Yes => {}
                Truth::No => return Err((index, Truth::No)),
                // A later condition that fails decides all the same.
                Truth::NotKnown => unknown = unknown.or(Some(index)),
            }
        }
        unknown.map_or(Ok(()), |index| Err((index, Truth::NotKnown)))
    }

    fn change(&mut self, target: &Target) {
        let live = &mut self.live;
        match target {
            Target::Redirect(port) => {
                live.destination_port = port.get();
                if live.packet.route == Route::FromSocket {
                    live.destination = match live.destination {
                        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                    };
                    self.rerouted = Some(Out::Loopback);
                } else {
                    live.knows_destination = false;
                }
                self.is_local = true;
            }
            Target::Tproxy { mark, .. } => {
                live.mark = mark.get();
                self.is_local = true;
            }
            Target::Dnat(to) => {
                live.destination = to.ip();
                live.destination_port = to.port();
                let is_loopback = to.ip().is_loopback();
                self.rerouted = Some(if is_loopback { Out::Loopback } else { Out::Unknown });
            }
            Target::SetMark(mark) => live.mark = *mark,
            Target::OrMark(bits) => live.mark |= bits.get(),
            Target::XorMark(bits) => live.mark ^= bits.get(),
            Target::SaveMark if live.seen == Seen::Connection => live.connection_mark = live.mark,
            Target::RestoreMark if live.seen == Seen::Connection => live.mark = live.connection_mark,
            Target::Zone(_) if live.seen == Seen::Nothing => live.seen = Seen::Template,
            Target::SaveMark
            | Target::RestoreMark
            | Target::Return
            | Target::Accept
            | Target::Drop
            | Target::Reject
            | Target::Jump(_)
            | Target::Zone(_)
            | Target::Masquerade
            | Target::Continue
            | Target::Unknown(_) => {}
        }
    }
}

fn verdict(target: &Target) -> Option<Verdict> {
    Some(match target {
        Target::Return => Verdict::Return,
        Target::Drop | Target::Reject => Verdict::Drop,
        Target::Jump(_) => Verdict::Jump,
        Target::Accept
        | Target::Redirect(_)
        | Target::Tproxy { .. }
        | Target::Dnat(_)
        | Target::Masquerade => Verdict::Accept,
        Target::SetMark(_)
        | Target::OrMark(_)
        | Target::XorMark(_)
        | Target::SaveMark
        | Target::RestoreMark
        | Target::Zone(_)
        | Target::Continue => Verdict::Continue,
        Target::Unknown(_) => return None,
    })
}

fn holds(each: &Match, live: &Live<'_>, dialect: Dialect) -> Truth {
    let packet = live.packet;
    match each {
        Match::InInterface(is) => is.of(packet.in_interface.as_ref()).into(),
        Match::OutInterface(_) if live.out == Out::Unknown => Truth::NotKnown,
        Match::OutInterface(is) => is.of(live.out_interface()).into(),
        Match::Source(is) => contains(is, packet.source, dialect).into(),
        Match::Destination(_) if !live.knows_destination => Truth::NotKnown,
        Match::Destination(is) => contains(is, live.destination, dialect).into(),
        Match::Protocol(is) => is.of(Some(&packet.protocol)).into(),
        Match::SourcePort(is) => is.when(|port| port.get() == packet.source_port).into(),
        Match::DestinationPort(is) => is.when(|port| port.get() == live.destination_port).into(),
        Match::DestinationPorts(is) => is
            .when(|ports| ports.iter().any(|port| port.get() == live.destination_port))
            .into(),
        Match::OwnerUid(is) => owner(is, packet, dialect, |uid, owner| *uid == owner.uid),
        Match::OwnerGid(is) => {
            let (Is::Exactly(group) | Is::Not(group)) = is;
            if matches!(group, Group::Name(_)) && packet.owner.is_some() {
                return Truth::NotKnown;
            }
            owner(is, packet, dialect, |group, owner| *group == Group::Id(owner.gid))
        }
        Match::Mark(is) => is.when(|mark| mark.is(live.mark)).into(),
        // Without a connection it does not hold, negated or not (`xt_connmark.c`).
        Match::Connmark(_) if live.seen == Seen::Nothing => Truth::No,
        Match::Connmark(is) => {
            let seen = if live.seen == Seen::Template {
                0
            } else {
                live.connection_mark
            };
            is.when(|mark| mark.is(seen)).into()
        }
        Match::State(is) => is.when(|states| states.contains(&live.state())).into(),
        Match::Comment(_) => Truth::Yes,
        Match::OneIn(_) | Match::Unknown(_) => Truth::NotKnown,
    }
}

/// In an `inet` table a rule with an address of one family is not for the other family's packets.
fn contains(is: &Is<IpNet>, address: IpAddr, dialect: Dialect) -> bool {
    let (Is::Exactly(net) | Is::Not(net)) = is;
    if dialect == Dialect::Nftables && net.addr().is_ipv4() != address.is_ipv4() {
        return false;
    }
    is.when(|net| net.contains(&address))
}

fn owner<T>(
    is: &Is<T>,
    packet: &Packet,
    dialect: Dialect,
    owns: impl Fn(&T, &crate::packet::Owner) -> bool,
) -> Truth {
    match (&packet.owner, is) {
        (Some(owner), is) => is.when(|value| owns(value, owner)).into(),
        (None, Is::Not(_)) => (dialect == Dialect::Iptables).into(),
        (None, Is::Exactly(_)) => Truth::No,
    }
}

impl<T> Is<T> {
    fn when(&self, holds: impl Fn(&T) -> bool) -> bool {
        match self {
            Self::Exactly(value) => holds(value),
            Self::Not(value) => !holds(value),
        }
    }
}

impl<T: PartialEq> Is<T> {
    fn of(&self, seen: Option<&T>) -> bool {
        self.when(|value| seen == Some(value))
    }
}

impl Mark {
    fn is(self, seen: u32) -> bool {
        let mask = self.mask.map_or(u32::MAX, std::num::NonZeroU32::get);
        seen & mask == self.value
    }
}
