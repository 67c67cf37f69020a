//! Netfilter's events as values: a trace message, a new conntrack entry, a change of the rules.
//!
//! Attributes: `linux/netfilter/nf_tables.h` (`NFTA_TRACE_*`) and `nfnetlink_conntrack.h` (`CTA_*`). A kernel before
//! 6.16 does not give the conntrack id of a traced packet; nothing here needs it, since the chains at +301 show each
//! packet's addresses after NAT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::netlink::{Message, attributes, fixed, text};

/// `NFNLGRP_CONNTRACK_NEW`, `NFNLGRP_NFTABLES`, `NFNLGRP_NFTRACE`.
pub(super) const GROUPS: [u32; 3] = [1, 7, 9];

const TRACE: u16 = 0x0a11;
const NEW_GENERATION: u16 = 0x0a0f;
const CONNTRACK_NEW: u16 = 1 << 8;
/// `linux/netfilter.h` and `nf_tables.h`.
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const CONTINUE: i32 = -1;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;
/// `NFT_TRACETYPE_POLICY`.
const POLICY: u32 = 1;
/// Type and code (RFC 792, RFC 4443).
const PORT_UNREACHABLE: [u8; 2] = [3, 3];
const PORT_UNREACHABLE6: [u8; 2] = [1, 4];

/// A transport protocol that the lab follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where a packet comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The transport.
    pub protocol: Protocol,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
}

impl Tuple {
    /// The tuple of the answer.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            source: self.destination,
            destination: self.source,
        }
    }
}

/// What a trace event says of the packet itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) tuple: Tuple,
    pub(super) kind: Segment,
    pub(super) in_index: Option<u32>,
    pub(super) out_index: Option<u32>,
    pub(super) conntrack_id: Option<u32>,
}

/// Which packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segment {
    /// Opens a TCP connection with this sequence number, which no NAT changes.
    Syn(u32),
    /// Refuses one.
    Rst,
    /// Another segment of TCP.
    Other,
    /// A datagram.
    Datagram,
    /// ICMP: there was no socket for a datagram. Of its addresses only those of the ICMP packet are told.
    Unreachable,
}

/// A rule's or a chain's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The packet goes on to the next base chain.
    Accept,
    /// The packet ends here.
    Drop,
    /// The next rule.
    Continue,
    /// A user chain, and back.
    Jump(String),
    /// A user chain, without coming back.
    Goto(String),
    /// Back to the calling chain.
    Return,
    /// Another code (stolen, queued).
    Other(i32),
}

impl Verdict {
    /// The word for it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::Continue => "continue",
            Self::Jump(_) => "jump",
            Self::Goto(_) => "goto",
            Self::Return => "return",
            Self::Other(_) => "other",
        }
    }

    fn from_code(code: i32, chain: Option<String>) -> Self {
        match (code, chain) {
            (CONTINUE, _) => Self::Continue,
            (RETURN, _) => Self::Return,
            (JUMP, Some(chain)) => Self::Jump(chain),
            (GOTO, Some(chain)) => Self::Goto(chain),
            // The upper half of a drop carries an errno (NF_DROP_ERR).
            (code, _) if code & 0xff == DROP => Self::Drop,
            (ACCEPT, _) => Self::Accept,
            (code, _) => Self::Other(code),
        }
    }
}

/// Why an event was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Occasion {
    /// A rule matched.
    Rule { handle: u64, verdict: Verdict },
    /// A chain's last rule was passed.
    End,
    /// A base chain's policy.
    Policy(Verdict),
}

/// One trace event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) id: u32,
    pub(super) occasion: Occasion,
    pub(super) header: Option<Header>,
}

/// One new connection, as conntrack reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tracked {
    pub(super) id: u32,
    pub(super) original: Tuple,
    pub(super) reply: Tuple,
}

/// What the subscription brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Trace(Trace),
    Tracked(Tracked),
    RulesChanged,
    /// Of another kind, or of a protocol that the lab does not follow.
    Other,
}

/// The event in a message.
pub(super) fn event(message: Message<'_>) -> Event {
    let Some((generic, rest)) = message.payload.split_first_chunk::<4>() else {
        return Event::Other;
    };
    match message.kind {
        TRACE => trace(generic[0], rest).map_or(Event::Other, Event::Trace),
        CONNTRACK_NEW => tracked(rest).map_or(Event::Other, Event::Tracked),
        NEW_GENERATION => Event::RulesChanged,
        _ => Event::Other,
    }
}

fn trace(family: u8, payload: &[u8]) -> Option<Trace> {
    let (mut table, mut chain, mut handle, mut kind, mut id) = (None, None, None, None, None);
    let (mut verdict, mut policy) = (None, None);
    let (mut network, mut transport) = (None, None);
    let (mut in_index, mut out_index, mut conntrack_id) = (None, None, None);
    for (attribute, value) in attributes(payload) {
        match attribute {
            1 => table = Some(text(value)),
            2 => chain = Some(text(value)),
            3 => handle = fixed(value).map(u64::from_be_bytes),
            4 => kind = number(value),
            5 => verdict = nested_verdict(value),
            6 => id = number(value),
            8 => network = Some(value),
            9 => transport = Some(value),
            10 => in_index = number(value),
            12 => out_index = number(value),
            16 => policy = number(value),
            18 => conntrack_id = number(value),
            _ => {}
        }
    }
    let occasion = match (kind?, handle) {
        (POLICY, _) => Occasion::Policy(Verdict::from_code(policy?.cast_signed(), None)),
        (_, Some(handle)) => Occasion::Rule {
            handle,
            verdict: verdict?,
        },
        (_, None) => Occasion::End,
    };
    let header = network.zip(transport).and_then(|(network, transport)| {
        let (tuple, kind) = packet(network, transport)?;
        Some(Header {
            tuple,
            kind,
            in_index,
            out_index,
            conntrack_id,
        })
    });
    Some(Trace {
        family,
        table: table?,
        chain: chain?,
        id: id?,
        occasion,
        header,
    })
}

fn number(value: &[u8]) -> Option<u32> {
    fixed(value).map(u32::from_be_bytes)
}

fn nested_verdict(value: &[u8]) -> Option<Verdict> {
    let (mut code, mut chain) = (None, None);
    for (attribute, value) in attributes(value) {
        match attribute {
            1 => code = fixed(value).map(i32::from_be_bytes),
            2 => chain = Some(text(value)),
            _ => {}
        }
    }
    Some(Verdict::from_code(code?, chain))
}

fn packet(network: &[u8], transport: &[u8]) -> Option<(Tuple, Segment)> {
    let (number, source, destination): (u8, IpAddr, IpAddr) = match network.first()? >> 4 {
        4 => (
            *network.get(9)?,
            Ipv4Addr::from(fixed::<4>(network.get(12..)?)?).into(),
            Ipv4Addr::from(fixed::<4>(network.get(16..)?)?).into(),
        ),
        6 => (
            *network.get(6)?,
            Ipv6Addr::from(fixed::<16>(network.get(8..)?)?).into(),
            Ipv6Addr::from(fixed::<16>(network.get(24..)?)?).into(),
        ),
        _ => return None,
    };
    let (protocol, kind) = match number {
        6 => (Protocol::Tcp, segment(transport)?),
        17 => (Protocol::Udp, Segment::Datagram),
        1 if transport.starts_with(&PORT_UNREACHABLE) => (Protocol::Udp, Segment::Unreachable),
        58 if transport.starts_with(&PORT_UNREACHABLE6) => (Protocol::Udp, Segment::Unreachable),
        _ => return None,
    };
    let port = |at: usize| match kind {
        Segment::Unreachable => Some(0),
        Segment::Syn(_) | Segment::Rst | Segment::Other | Segment::Datagram => {
            Some(u16::from_be_bytes(fixed(transport.get(at..)?)?))
        }
    };
    let tuple = Tuple {
        protocol,
        source: SocketAddr::new(source, port(0)?),
        destination: SocketAddr::new(destination, port(2)?),
    };
    Some((tuple, kind))
}

fn segment(transport: &[u8]) -> Option<Segment> {
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    let flags = *transport.get(13)?;
    Some(if flags & (SYN | ACK) == SYN {
        Segment::Syn(number(transport.get(4..)?)?)
    } else if flags & RST != 0 {
        Segment::Rst
    } else {
        Segment::Other
    })
}

fn tracked(payload: &[u8]) -> Option<Tracked> {
    let (mut id, mut original, mut reply) = (None, None, None);
    for (attribute, value) in attributes(payload) {
        match attribute {
            1 => original = tracked_tuple(value),
            2 => reply = tracked_tuple(value),
            12 => id = number(value),
            _ => {}
        }
    }
    Some(Tracked {
        id: id?,
        original: original?,
        reply: reply?,
    })
}

fn tracked_tuple(value: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut ports) = (None, (None, None));
    for (attribute, value) in attributes(value).flat_map(|(outer, value)| {
        // CTA_TUPLE_IP holds addresses, CTA_TUPLE_PROTO the rest: told apart by an offset.
        attributes(value).map(move |(inner, value)| (outer << 8 | inner, value))
    }) {
        match attribute {
            0x101 => source = fixed(value).map(|b: [u8; 4]| IpAddr::from(b)),
            0x102 => destination = fixed(value).map(|b: [u8; 4]| IpAddr::from(b)),
            0x103 => source = fixed(value).map(|b: [u8; 16]| IpAddr::from(b)),
            0x104 => destination = fixed(value).map(|b: [u8; 16]| IpAddr::from(b)),
            0x201 => protocol = value.first().copied(),
            0x202 => ports.0 = fixed(value).map(u16::from_be_bytes),
            0x203 => ports.1 = fixed(value).map(u16::from_be_bytes),
            _ => {}
        }
    }
    Some(Tuple {
        protocol: match protocol? {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        },
        source: SocketAddr::new(source?, ports.0?),
        destination: SocketAddr::new(destination?, ports.1?),
    })
}
