//! A rule as data: what it looks at, and what it does.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::IpNet;

use crate::options::Group;

/// A match, or its negation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Is<T> {
    /// Equal to this.
    Exactly(T),
    /// Anything but this.
    Not(T),
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One thing that a rule looks at. All of a rule's must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The interface by which a packet came.
    InInterface(Is<String>),
    /// The interface by which it goes.
    OutInterface(Is<String>),
    /// Its source address.
    Source(Is<IpNet>),
    /// Its destination address.
    Destination(Is<IpNet>),
    /// Its protocol.
    Protocol(Protocol),
    /// Its source port.
    SourcePort(Is<u16>),
    /// Its destination port.
    DestinationPort(Is<u16>),
    /// Its destination port, of several.
    DestinationPorts(Is<Vec<u16>>),
    /// The user of the socket that sent it.
    OwnerUid(Is<u32>),
    /// The group of the socket that sent it.
    OwnerGid(Is<Group>),
    /// Its mark.
    Mark(Is<u32>),
    /// Its connection's mark.
    Connmark(u32),
    /// Its connection's state, one of these.
    ConntrackState(Vec<ConntrackState>),
    /// At random, with this probability of 2^-31 units.
    Random(u32),
}

/// A connection's state, as conntrack has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConntrackState {
    /// Belongs to no connection, and cannot begin one.
    Invalid,
    /// Belongs to one that is related to another.
    Related,
    /// Belongs to one that has seen both directions.
    Established,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Back to the chain that jumped here.
    Return,
    /// Goes on.
    Accept,
    /// Is gone.
    Drop,
    /// Is refused by ICMP port unreachable.
    Reject,
    /// On to another chain.
    Jump(String),
    /// To this port of this machine.
    Redirect(u16),
    /// As `Redirect`, in the spelling `--to-port` that Istio uses for UDP.
    RedirectUdp(u16),
    /// To this port without a change of address, with this mark.
    Tproxy {
        /// The port.
        port: u16,
        /// The mark.
        mark: u32,
    },
    /// Gets this mark.
    SetMark(u32),
    /// Its connection gets its mark.
    SaveMark,
    /// It gets its connection's mark.
    RestoreMark,
    /// It is tracked in this zone.
    Zone(u16),
    /// To this address and port.
    Dnat(SocketAddrV4),
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it looks at.
    pub matches: Vec<Match>,
    /// What it does.
    pub target: Target,
    /// The option that asked for it, for messages.
    pub option: &'static str,
}

impl Rule {
    /// A rule that the option `option` asks for.
    pub fn new(option: &'static str, matches: Vec<Match>, target: Target) -> Self {
        Self {
            matches,
            target,
            option,
        }
    }
}

/// One IPv4 address as a range.
pub fn host(ip: Ipv4Addr) -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::new_assert(ip, 32))
}
