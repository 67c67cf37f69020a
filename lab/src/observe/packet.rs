//! One packet's way through a pod, put together from its trace events.
//!
//! A trace id is not unique and does not survive `lo`, so a packet begins with the first event of `lab_trace` that
//! shows a header in PREROUTING or OUTPUT, and ends where that table's chains at +301 let it go, or in a drop.

use std::collections::HashMap;

use crate::path::{Hook, Position};

use super::install;
use super::nftrace::{Header, Occasion, Trace, Verdict};
use super::rules::Book;

const INET: u8 = 1;

/// A rule that matched, or a chain's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) position: Position,
    pub(super) verdict: Verdict,
    pub(super) place: Place,
}

/// Whether a hit is a hop of the notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A hop.
    Shown,
    /// A jump from a base chain, a rule that decided nothing, the end of a chain of which a rule stands already.
    Hidden,
}

/// What one hook did, over all its base chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) hook: Hook,
    pub(super) hits: Vec<Hit>,
    base: (u8, String, String),
    /// From which hit on the current base chain's stand.
    from: usize,
}

/// A packet, as far as it has been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) first: Header,
    /// The header as the latest base chain saw it: with all NAT once the packet has ended at +301.
    pub(super) last: Header,
    pub(super) conntrack_id: Option<u32>,
    pub(super) visits: Vec<Visit>,
    pub(super) dropped: bool,
    pub(super) tproxy: Option<u16>,
    /// Handles that the list of rules did not know.
    pub(super) unknown: Vec<String>,
}

impl Packet {
    fn begin(hook: Hook, header: Header, base: (u8, String, String)) -> Self {
        Self {
            conntrack_id: header.conntrack_id,
            first: header.clone(),
            last: header,
            visits: vec![Visit {
                hook,
                hits: Vec::new(),
                base,
                from: 0,
            }],
            dropped: false,
            tproxy: None,
            unknown: Vec::new(),
        }
    }

    /// The hook at which it was first seen.
    pub(super) fn entered(&self) -> Option<Hook> {
        self.visits.first().map(|visit| visit.hook)
    }

    /// The hook at which it was last seen.
    pub(super) fn left(&self) -> Option<Hook> {
        self.visits.last().map(|visit| visit.hook)
    }
}

/// What an event meant.
#[derive(Debug)]
pub(super) enum Progress {
    /// A packet is on its way.
    Under,
    /// A packet began; this one was open under the same id and saw no end.
    Began(Option<Packet>),
    /// A packet ended.
    Ended(Packet),
    /// The event belongs to no packet that is followed.
    Foreign,
}

/// The packets that are on their way in one pod.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    open: HashMap<u32, Packet>,
}

impl Assembly {
    /// Takes the next event.
    pub(super) fn take(&mut self, trace: Trace, book: &Book) -> Progress {
        let ours = trace.family == INET && trace.table == install::TABLE;
        let own_hook = ours.then(|| install::hook_of(&trace.chain)).flatten();
        if let (Some(hook @ (Hook::Prerouting | Hook::Output)), Some(header)) = (own_hook, &trace.header) {
            let packet = Packet::begin(hook, header.clone(), (trace.family, trace.table, trace.chain));
            return Progress::Began(self.open.insert(trace.id, packet));
        }
        let id = trace.id;
        let Some(packet) = self.open.get_mut(&id) else {
            return Progress::Foreign;
        };
        packet.enter(&trace, own_hook, book);
        let ended = match (&trace.occasion, own_hook) {
            (Occasion::Policy(_), Some(Hook::Input | Hook::Postrouting)) => true,
            (Occasion::Policy(verdict) | Occasion::Rule { verdict, .. }, _) => *verdict == Verdict::Drop,
            (Occasion::End, _) => false,
        };
        if !ours {
            packet.hit(trace, book);
        }
        if !ended {
            return Progress::Under;
        }
        self.open.remove(&id).map_or(Progress::Foreign, Progress::Ended)
    }

    /// Gives up the packets that saw no end: nothing more of them is queued.
    pub(super) fn flush(&mut self) -> Vec<Packet> {
        self.open.drain().map(|(_, packet)| packet).collect()
    }
}

impl Packet {
    /// An event with a header is the first of a base chain.
    fn enter(&mut self, trace: &Trace, own_hook: Option<Hook>, book: &Book) {
        let Some(header) = &trace.header else { return };
        let hook = own_hook.or_else(|| book.hook(trace.family, &trace.table, &trace.chain));
        let Some(hook) = hook else {
            self.unknown
                .push(format!("chain {} of table {}", trace.chain, trace.table));
            return;
        };
        self.last = header.clone();
        self.conntrack_id = header.conntrack_id.or(self.conntrack_id);
        let base = (trace.family, trace.table.clone(), trace.chain.clone());
        match self.visits.last_mut() {
            Some(visit) if visit.hook == hook => {
                visit.base = base;
                visit.from = visit.hits.len();
            }
            _ => self.visits.push(Visit {
                hook,
                hits: Vec::new(),
                base,
                from: 0,
            }),
        }
    }

    fn hit(&mut self, trace: Trace, book: &Book) {
        let Some(visit) = self.visits.last_mut() else {
            return;
        };
        let in_base = visit.base == (trace.family, trace.table.clone(), trace.chain.clone());
        let (position, verdict, place) = match trace.occasion {
            Occasion::Policy(verdict) => {
                self.dropped |= verdict == Verdict::Drop;
                return;
            }
            Occasion::End if in_base => return,
            Occasion::End => {
                let decided = visit.hits[visit.from..]
                    .iter()
                    .any(|hit| hit.chain == trace.chain && hit.place == Place::Shown);
                let place = if decided { Place::Hidden } else { Place::Shown };
                (Position::End, Verdict::Continue, place)
            }
            Occasion::Rule { handle, verdict } => {
                let Some(rule) = book.rule(trace.family, &trace.table, handle) else {
                    self.unknown
                        .push(format!("rule with handle {handle} in table {}", trace.table));
                    return;
                };
                self.tproxy = rule.tproxy.filter(|_| verdict == Verdict::Accept).or(self.tproxy);
                self.dropped |= verdict == Verdict::Drop;
                (rule.position, verdict.clone(), place(&verdict, in_base))
            }
        };
        visit.hits.push(Hit {
            family: trace.family,
            table: trace.table,
            chain: trace.chain,
            position,
            verdict,
            place,
        });
    }
}

fn place(verdict: &Verdict, in_base: bool) -> Place {
    match verdict {
        Verdict::Jump(_) | Verdict::Goto(_) if in_base => Place::Hidden,
        Verdict::Continue => Place::Hidden,
        Verdict::Accept
        | Verdict::Drop
        | Verdict::Return
        | Verdict::Other(_)
        | Verdict::Jump(_)
        | Verdict::Goto(_) => Place::Shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::netlink::messages;
    use crate::observe::nftrace::{Event, event};
    use crate::path;

    /// A SYN redirected to 15001 and refused there, and the first of two datagrams, as kernel 6.18 reported them: each
    /// message with its length in front. (The chains of `lab_trace` had one-letter names then.)
    const RECORDED: &[u8] = include_bytes!("fixtures/refused_and_datagram.bin");

    fn events() -> Vec<Trace> {
        let mut rest = RECORDED;
        let mut all = Vec::new();
        while let Some((length, next)) = rest.split_first_chunk::<4>() {
            let (datagram, next) = next.split_at(u32::from_ne_bytes(*length) as usize);
            all.extend(messages(datagram).filter_map(|message| match event(message) {
                Event::Trace(trace) => Some(renamed(trace)),
                Event::Tracked(_) | Event::RulesChanged | Event::Other => None,
            }));
            rest = next;
        }
        all
    }

    fn renamed(mut trace: Trace) -> Trace {
        let name = match trace.chain.as_str() {
            "o" => "output",
            "p" => "postrouting",
            "pre" => "prerouting",
            "i" => "input",
            other => other,
        };
        trace.chain = name.to_owned();
        trace
    }

    fn book() -> Book {
        Book::default()
            .with_base("nat", "OUTPUT", Hook::Output)
            .with_rule("nat", "OUTPUT", 5)
            .with_rule("nat", "ISTIO_OUTPUT", 6)
            .with_rule("nat", "ISTIO_OUTPUT", 7)
            .with_rule("nat", "ISTIO_OUTPUT", 8)
            .with_rule("nat", "ISTIO_REDIRECT", 3)
    }

    fn packets(book: &Book) -> Vec<Packet> {
        let mut assembly = Assembly::default();
        events()
            .into_iter()
            .filter_map(|trace| match assembly.take(trace, book) {
                Progress::Ended(packet) => Some(packet),
                Progress::Under | Progress::Foreign | Progress::Began(_) => None,
            })
            .collect()
    }

    fn text(packet: &Packet) -> String {
        let hops: Vec<String> = packet
            .visits
            .iter()
            .flat_map(|visit| {
                let shown = visit.hits.iter().filter(|hit| hit.place == Place::Shown);
                let rules = shown.map(|hit| {
                    let hop = path::Hop::Rule {
                        chain: hit.chain.clone(),
                        position: hit.position,
                    };
                    hop.to_string()
                });
                std::iter::once(visit.hook.to_string()).chain(rules)
            })
            .collect();
        path::leg_text(&hops, false)
    }

    #[test]
    fn recorded_events_become_packets() {
        let packets = packets(&book());
        let texts: Vec<String> = packets.iter().map(text).collect();
        assert_eq!(
            texts,
            [
                "OUTPUT -> ISTIO_OUTPUT#3 -> ISTIO_REDIRECT#1 -> POSTROUTING",
                "PREROUTING -> INPUT",
                "OUTPUT -> POSTROUTING",
                "PREROUTING -> INPUT",
                "OUTPUT -> ISTIO_OUTPUT#3 -> ISTIO_REDIRECT#end -> POSTROUTING",
            ]
        );
        assert_eq!(
            packets[0].first.tuple.destination,
            "10.2.0.1:9080".parse().unwrap()
        );
        assert_eq!(
            packets[0].last.tuple.destination,
            "127.0.0.1:15001".parse().unwrap()
        );
        assert_eq!(packets[0].last.tuple, packets[1].first.tuple);
        assert_eq!(packets[0].first.kind, packets[1].first.kind);
        assert_eq!(packets[0].conntrack_id, packets[1].conntrack_id);
        assert_eq!(packets[2].first.tuple, packets[1].last.tuple.reversed());
    }

    #[test]
    fn a_handle_that_no_list_knows_is_kept_as_unknown() {
        let book = Book::default().with_base("nat", "OUTPUT", Hook::Output);
        let first = packets(&book).remove(0);
        assert_eq!(first.unknown.len(), 3);
        assert_eq!(text(&first), "OUTPUT -> POSTROUTING");
    }
}
