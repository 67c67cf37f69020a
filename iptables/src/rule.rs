//! A rule as a value: what a packet must be like, and what becomes of it.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;

use crate::options::{Group, Interface, Port};
use crate::ruleset::ChainId;

/// A rule, and the option that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All must hold, in the order in which they are written.
    pub matches: Vec<Match>,
    /// What then happens.
    pub target: Target,
    /// The option's name (`excludeInboundPorts`), for messages.
    pub option: &'static str,
}

/// A value that must, or must not, be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Is<T> {
    /// Exactly this.
    Exactly(T),
    /// Anything else (`!`).
    Not(T),
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// `-i`.
    InInterface(Is<Interface>),
    /// `-o`.
    OutInterface(Is<Interface>),
    /// `-s`.
    Source(Is<IpNet>),
    /// `-d`.
    Destination(Is<IpNet>),
    /// `-p`.
    Protocol(Is<Protocol>),
    /// `--sport`, after a protocol.
    SourcePort(Is<Port>),
    /// `--dport`, after a protocol.
    DestinationPort(Is<Port>),
    /// `-m multiport --dports`, after a protocol.
    DestinationPorts(Is<Vec<Port>>),
    /// `-m owner --uid-owner`: the socket's user.
    OwnerUid(Is<u32>),
    /// `-m owner --gid-owner`: the socket's fsgid.
    OwnerGid(Is<Group>),
    /// `-m mark`.
    Mark(Is<Mark>),
    /// `-m connmark`.
    Connmark(Is<Mark>),
    /// `-m conntrack --ctstate`.
    State(Is<Vec<State>>),
    /// `-m statistic --mode random`: one packet in so many.
    OneIn(NonZeroU32),
    /// `-m comment`: holds for every packet.
    Comment(String),
    /// A condition that was read and is not known here, in its own words.
    Unknown(String),
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Another, by its number in the IP header.
    Other(u8),
}

/// A mark's value under a mask; `None` is the whole mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The value.
    pub value: u32,
    /// Which bits count.
    pub mask: Option<NonZeroU32>,
}

/// A connection's state in conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// INVALID.
    Invalid,
    /// RELATED.
    Related,
    /// ESTABLISHED.
    Established,
    /// NEW: a flow's first packet.
    New,
    /// UNTRACKED.
    Untracked,
}

/// What becomes of a packet that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Back to the calling chain, or the policy.
    Return,
    /// Through.
    Accept,
    /// Dropped in silence.
    Drop,
    /// Refused with ICMP port unreachable.
    Reject,
    /// On in another chain of the table.
    Jump(ChainId),
    /// To this port of the machine itself.
    Redirect(Port),
    /// To a transparent socket at this port, with this mark.
    Tproxy {
        /// The port.
        port: Port,
        /// The mark.
        mark: NonZeroU32,
    },
    /// `MARK --set-mark`.
    SetMark(u32),
    /// `MARK --or-mark`.
    OrMark(NonZeroU32),
    /// `MARK --xor-mark`.
    XorMark(NonZeroU32),
    /// The packet's mark to its connection.
    SaveMark,
    /// The connection's mark to the packet.
    RestoreMark,
    /// The conntrack zone.
    Zone(u16),
    /// To this address and port.
    Dnat(SocketAddr),
    /// From the machine's own address.
    Masquerade,
    /// None: the rule counts.
    Continue,
    /// A target that was read and is not known here, in its own words.
    Unknown(String),
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Other(number) => number.fmt(f),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mask {
            None => self.value.fmt(f),
            Some(mask) => write!(f, "{:#x}/{mask:#x}", self.value),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "INVALID",
            Self::Related => "RELATED",
            Self::Established => "ESTABLISHED",
            Self::New => "NEW",
            Self::Untracked => "UNTRACKED",
        })
    }
}
