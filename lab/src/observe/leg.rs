//! A leg as it was observed. Only this module's parent can make one: nothing here comes from a rule model.

use std::net::SocketAddr;

use crate::path::{self, End, Hook, Hop};

use super::connections::{Connection, Ended};
use super::nftrace::{Tuple, Verdict};
use super::packet::{Hit, Place, Visit};
use super::sockets::{Evidence, Owner};

/// `NFPROTO_INET`, `_IPV4`, `_IPV6` (linux/netfilter.h).
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// One station of an observed leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedHop {
    hop: Hop,
    place: Place,
    fact: Fact,
}

/// What is known of a hop beyond its text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fact {
    Hook,
    Rule {
        family: u8,
        table: String,
        verdict: Verdict,
    },
    Process(Owner),
    End,
}

impl ObservedHop {
    /// The hop in the path notation.
    pub const fn hop(&self) -> &Hop {
        &self.hop
    }

    /// True if the notation leaves it out.
    pub fn is_hidden(&self) -> bool {
        self.place == Place::Hidden
    }

    /// `hook`, `rule`, `socket` or `end`.
    pub const fn kind(&self) -> &'static str {
        match &self.hop {
            Hop::Hook(_) => "hook",
            Hop::Rule { .. } => "rule",
            Hop::Origin { .. } | Hop::Socket { .. } => "socket",
            Hop::End(_) => "end",
        }
    }

    /// The table of a rule.
    pub fn table(&self) -> Option<&str> {
        match &self.fact {
            Fact::Rule { table, .. } => Some(table),
            Fact::Hook | Fact::Process(_) | Fact::End => None,
        }
    }

    /// The family of a rule's table, as nft names it.
    pub const fn family(&self) -> Option<&'static str> {
        match &self.fact {
            Fact::Rule { family: INET, .. } => Some("inet"),
            Fact::Rule { family: IPV4, .. } => Some("ip"),
            Fact::Rule { family: IPV6, .. } => Some("ip6"),
            Fact::Rule { .. } | Fact::Hook | Fact::Process(_) | Fact::End => None,
        }
    }

    /// The verdict of a rule.
    pub const fn verdict(&self) -> Option<&Verdict> {
        match &self.fact {
            Fact::Rule { verdict, .. } => Some(verdict),
            Fact::Hook | Fact::Process(_) | Fact::End => None,
        }
    }

    /// The process of a socket.
    pub const fn owner(&self) -> Option<&Owner> {
        match &self.fact {
            Fact::Process(owner) => Some(owner),
            Fact::Hook | Fact::Rule { .. } | Fact::End => None,
        }
    }

    /// How the owner of a socket is known.
    pub fn evidence(&self) -> Option<Evidence> {
        self.owner().map(|owner| owner.evidence)
    }

    fn hook(hook: Hook, place: Place) -> Self {
        Self {
            hop: Hop::Hook(hook),
            place,
            fact: Fact::Hook,
        }
    }

    fn rule(hit: &Hit) -> Self {
        Self {
            hop: Hop::Rule {
                chain: hit.chain.clone(),
                position: hit.position,
            },
            place: hit.place,
            fact: Fact::Rule {
                family: hit.family,
                table: hit.table.clone(),
                verdict: hit.verdict.clone(),
            },
        }
    }

    const fn end(end: End) -> Self {
        Self {
            hop: Hop::End(end),
            place: Place::Shown,
            fact: Fact::End,
        }
    }
}

/// One connection as one pod saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLeg {
    pod: String,
    tuple: Tuple,
    hops: Vec<ObservedHop>,
    reused: bool,
}

impl ObservedLeg {
    /// The pod.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// The connection's addresses as it entered the pod's netfilter, before NAT.
    pub const fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    /// All hops, hidden ones too.
    pub fn hops(&self) -> &[ObservedHop] {
        &self.hops
    }

    /// The hops of the notation.
    pub fn shown(&self) -> Vec<Hop> {
        self.hops
            .iter()
            .filter(|hop| !hop.is_hidden())
            .map(|hop| hop.hop.clone())
            .collect()
    }

    /// True if an earlier request opened it.
    pub const fn reused(&self) -> bool {
        self.reused
    }

    /// The leg as one line.
    pub fn text(&self) -> String {
        path::leg_text(&self.shown(), self.reused)
    }

    /// The leg of `connection`, with `owner` as the one who opened it.
    pub(super) fn of(pod: &str, connection: &Connection, owner: Option<&Owner>, reused: bool) -> Self {
        let mut hops = Vec::new();
        if connection.is_from_here() {
            hops.extend(owner.map(|owner| ObservedHop {
                hop: Hop::Origin {
                    role: owner.role.to_string(),
                },
                place: Place::Shown,
                fact: Fact::Process(owner.clone()),
            }));
        }
        add(&mut hops, &connection.packet.visits, Place::Shown);
        if let Some(again) = &connection.over_lo {
            add(&mut hops, &again.visits, Place::Hidden);
        }
        hops.extend(connection.ended.as_ref().map(end));
        Self {
            pod: pod.to_owned(),
            tuple: connection.packet.first.tuple,
            hops,
            reused,
        }
    }

    /// Who sent its first packet: the client's address.
    pub const fn client(&self) -> SocketAddr {
        self.tuple.source
    }
}

fn add(hops: &mut Vec<ObservedHop>, visits: &[Visit], hooks: Place) {
    for visit in visits {
        hops.push(ObservedHop::hook(visit.hook, hooks));
        hops.extend(visit.hits.iter().map(ObservedHop::rule));
    }
}

fn end(ended: &Ended) -> ObservedHop {
    match ended {
        Ended::Socket { owner, port } => ObservedHop {
            hop: Hop::Socket {
                role: owner.role.to_string(),
                port: *port,
            },
            place: Place::Shown,
            fact: Fact::Process(owner.clone()),
        },
        Ended::Refused(port) => ObservedHop::end(End::Refused(*port)),
        Ended::Dropped => ObservedHop::end(End::Dropped),
    }
}
