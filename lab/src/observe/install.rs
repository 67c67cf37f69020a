//! The table `inet lab_trace` in a pod: which packets are traced. The pod's own tables are never touched.
//!
//! At -301, before everything else (raw is -300), `nftrace` is set on the packets that open a connection. Two more
//! chains without a rule, at +301 in INPUT and POSTROUTING, make the kernel report that the packet came through the
//! hook, whatever tables the pod has there, and with which addresses after all NAT (source NAT is +100).

use std::net::IpAddr;

use crate::net::netns::NetNs;
use crate::path::Hook;
use crate::plan::ips::Ips;

use super::netlink::{self, ACK, APPEND, Asking, Bytes, CREATE, REQUEST};

/// The table's name.
pub const TABLE: &str = "lab_trace";

/// Its chains, with hook number (`linux/netfilter.h`) and priority.
const CHAINS: [(Hook, &str, u32, i32); 4] = [
    (Hook::Prerouting, "prerouting", 0, -301),
    (Hook::Input, "input", 1, 301),
    (Hook::Output, "output", 3, -301),
    (Hook::Postrouting, "postrouting", 4, 301),
];

const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const NEW_SET: u16 = NFTABLES << 8 | 9;
const INET: u8 = 1;

const SET_TIMEOUT: u32 = 0x10;
const SET_DYNAMIC: u32 = 0x20;
const FLOWS: u32 = 65_536;
/// As long as conntrack keeps an answered UDP flow (`nf_conntrack_udp_timeout_stream`).
const FLOW_MS: u64 = 120_000;
/// How long the user of a SYN is remembered: longer than a step needs to ask.
const USER_MS: u64 = 60_000;
/// How long a refused datagram is remembered: longer than its ICMP error needs to be told of.
const REFUSED_MS: u64 = 60_000;
/// nft's type of a user, after those of a key.
const USER_TYPE: u32 = 0x1e;

/// What differs between the families: headers, and so the keys of the sets.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    number: u8,
    /// Where a header has its source, and its destination.
    source: u32,
    destination: u32,
    /// The length of an address.
    address: u32,
    /// nft's type of an address.
    address_type: u32,
    /// "Port unreachable": the protocol that says it, type and code.
    icmp: u8,
    unreachable: [u8; 2],
    /// How a header without options begins, which is of these bytes; and where it has the protocol.
    first: Option<u8>,
    header: u32,
    protocol: u32,
    users: &'static str,
    refused: &'static str,
    /// Flows of this pod's sockets, with their users: two users may have the same addresses one after the other.
    sent: &'static str,
    /// What answers them, and what answers those of others.
    out: &'static str,
    r#in: &'static str,
}

const V4: Layout = Layout {
    number: 2,
    source: 12,
    destination: 16,
    address: 4,
    address_type: 7,
    icmp: 1,
    unreachable: [3, 3],
    // Five words long (RFC 791, 3.1); the kernel sends no options with a datagram of its own.
    first: Some(0x45),
    header: 20,
    protocol: 9,
    users: "syn_users",
    refused: "udp_refused",
    sent: "udp_sent",
    out: "udp_out",
    r#in: "udp_in",
};
const V6: Layout = Layout {
    number: 10,
    source: 8,
    destination: 24,
    address: 16,
    address_type: 8,
    icmp: 58,
    unreachable: [1, 4],
    // Options are headers of their own, and the protocol is theirs then (RFC 8200, 4).
    first: None,
    header: 40,
    protocol: 6,
    users: "syn_users6",
    refused: "udp_refused6",
    sent: "udp_sent6",
    out: "udp_out6",
    r#in: "udp_in6",
};

impl Layout {
    /// A key: address, port, address, port (six bits each).
    const fn key_type(self) -> u32 {
        self.address_type << 18 | 0xd << 12 | self.address_type << 6 | 0xd
    }

    /// In registers of four bytes.
    const fn key_bytes(self) -> u32 {
        2 * (self.address + 4)
    }

    /// The register behind a key.
    const fn key_end(self) -> u32 {
        KEY + self.key_bytes() / 4
    }

    fn sets(self) -> [(&'static str, bool, u64); 5] {
        [
            (self.out, false, FLOW_MS),
            (self.r#in, false, FLOW_MS),
            (self.users, true, USER_MS),
            (self.refused, false, REFUSED_MS),
            (self.sent, true, FLOW_MS),
        ]
    }
}

const fn layout_of(ip: IpAddr) -> Layout {
    match ip {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    }
}

/// The set that has the users of connections from this address.
pub(super) const fn users_of(source: IpAddr) -> &'static str {
    layout_of(source).users
}

/// The set that has the datagrams from this address that found no socket.
pub(super) const fn refused_of(source: IpAddr) -> &'static str {
    layout_of(source).refused
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK_FLAG: u8 = 0x10;
/// The first 4-byte register of a key (`NFT_REG32_00`), and one for single values.
const KEY: u32 = 8;
const SINGLE: u32 = 1;

/// The hook of one of this table's chains.
pub(super) fn hook_of(chain: &str) -> Option<Hook> {
    CHAINS
        .iter()
        .find(|(_, name, ..)| *name == chain)
        .map(|&(hook, ..)| hook)
}

/// Creates the table in the pod's namespace, in one commit. What is IPv6's alone is there only in pods that have it.
pub(super) fn install(pod: &str, namespace: &NetNs, addresses: Ips) -> Result<(), netlink::Error> {
    let mut asking = Asking::open(pod, namespace, netlink_sys::protocols::NETLINK_NETFILTER)?;
    let first = asking.next_sequence();
    let mut batch = Bytes::netfilter(BATCH_BEGIN, REQUEST, first, 0, NFTABLES).finish();
    let families = [V4, V6];
    let has_ipv6 = addresses.v6().is_some();
    let contents = contents(if has_ipv6 { &families } else { &families[..1] });
    let count = contents.len();
    for (kind, flags, content) in contents {
        let message = Bytes::netfilter(
            kind,
            REQUEST | ACK | CREATE | flags,
            asking.next_sequence(),
            INET,
            0,
        );
        batch.extend(message.raw(&content).finish());
    }
    batch.extend(Bytes::netfilter(BATCH_END, REQUEST, asking.next_sequence(), 0, NFTABLES).finish());
    asking.commit("creating table `inet lab_trace`", &batch, first, count)
}

fn contents(families: &[Layout]) -> Vec<(u16, u16, Vec<u8>)> {
    let mut all = vec![(NEW_TABLE, 0, Bytes::default().text(1, TABLE).into_inner())];
    let all_sets = families.iter().flat_map(|ip| ip.sets().map(|each| (*ip, each)));
    for (id, (ip, (name, with_user, timeout_ms))) in (1..).zip(all_sets) {
        let (key, bytes) = (ip.key_type(), ip.key_bytes());
        let (key, bytes) = if with_user {
            (key << 6 | USER_TYPE, bytes + 4)
        } else {
            (key, bytes)
        };
        all.push((NEW_SET, 0, set(name, id, key, bytes, timeout_ms)));
    }
    for (_, name, hook, priority) in CHAINS {
        all.push((NEW_CHAIN, 0, chain(name, hook, priority)));
    }
    for name in ["prerouting", "output"] {
        all.push((NEW_RULE, APPEND, rule(name, &later_segment())));
    }
    for &ip in families {
        all.push((NEW_RULE, APPEND, rule("output", &user_of_syn(ip))));
    }
    for name in ["prerouting", "output"] {
        all.push((NEW_RULE, APPEND, rule(name, &opening_syn())));
    }
    for &ip in families {
        let mut add = |chain: &str, expressions: &[Expression]| {
            all.push((NEW_RULE, APPEND, rule(chain, expressions)));
        };
        add("prerouting", &first_to_come(ip));
        add("prerouting", &later_datagram(ip, ip.r#in, false));
        add("output", &first_to_go(ip));
        add("output", &later_datagram(ip, ip.sent, true));
        add("output", &later_datagram(ip, ip.out, false));
        add("output", &refused_datagram(ip));
    }
    all.push((NEW_RULE, APPEND, rule("output", &refusal())));
    all
}

fn set(name: &str, id: u32, key_type: u32, key_bytes: u32, timeout_ms: u64) -> Vec<u8> {
    Bytes::default()
        .text(1, TABLE)
        .text(2, name)
        .number(3, SET_TIMEOUT | SET_DYNAMIC)
        .number(4, key_type)
        .number(5, key_bytes)
        .nested(9, &Bytes::default().number(1, FLOWS))
        .number(10, id)
        .attribute(11, &timeout_ms.to_be_bytes())
        .into_inner()
}

fn chain(name: &str, hook: u32, priority: i32) -> Vec<u8> {
    let place = Bytes::default()
        .number(1, hook)
        .attribute(2, &priority.to_be_bytes());
    Bytes::default()
        .text(1, TABLE)
        .text(3, name)
        .nested(4, &place)
        .number(5, 1)
        .text(7, "filter")
        .into_inner()
}

fn rule(chain: &str, expressions: &[(&str, Bytes)]) -> Vec<u8> {
    let list = expressions
        .iter()
        .fold(Bytes::default(), |list, (name, content)| {
            list.nested(1, &Bytes::default().text(1, name).nested(2, content))
        });
    Bytes::default()
        .text(1, TABLE)
        .text(2, chain)
        .nested(4, &list)
        .into_inner()
}

type Expression = (&'static str, Bytes);

/// A segment without SYN and RST concerns none of the further rules: almost all packets of a busy pod leave the chain here.
fn later_segment() -> Vec<Expression> {
    const ACCEPT: u32 = 1;
    let mut all = protocol(TCP);
    all.extend(tcp_flags(SYN | RST, 0));
    let verdict = Bytes::default().nested(2, &Bytes::default().number(1, ACCEPT));
    // The register of verdicts is the first (`NFT_REG_VERDICT`); accepted is what the chain's policy says.
    all.push(("immediate", Bytes::default().number(1, 0).nested(2, &verdict)));
    all
}

/// A refused socket is gone before anybody can look it up, so the table keeps the user of each SYN.
///
/// This stands before the rule that sets `nftrace`, so it is never part of a trace.
fn user_of_syn(ip: Layout) -> Vec<Expression> {
    let mut all = vec![meta(15), equals(&[ip.number])];
    all.extend(protocol(TCP));
    all.extend(tcp_flags(SYN | ACK_FLAG, SYN));
    all.extend(key_with_user(ip));
    all.push(remember(ip.users, KEY));
    all
}

/// SYN without ACK.
fn opening_syn() -> Vec<Expression> {
    let mut all = protocol(TCP);
    all.extend(tcp_flags(SYN | ACK_FLAG, SYN));
    all.extend(traced());
    all
}

/// RST|ACK with sequence 0: a RST that answers a segment without ACK has that number (RFC 9293, 3.10.7.1), so this
/// is the kernel's answer to a SYN for which there is no socket.
fn refusal() -> Vec<Expression> {
    let mut all = protocol(TCP);
    all.extend(tcp_flags(RST | ACK_FLAG, RST | ACK_FLAG));
    all.push(payload(2, 4, 4, SINGLE));
    all.push(equals(&[0; 4]));
    all.extend(traced());
    all
}

/// ICMP "port unreachable" about a datagram: the kernel's answer where there is no socket. A trace event has too little of
/// the packet to say which datagram it was, so the table keeps its addresses, which follow the ICMP header.
fn refused_datagram(ip: Layout) -> Vec<Expression> {
    const HEADER: u32 = 8;
    let ports = HEADER + ip.header;
    let mut all = vec![meta(15), equals(&[ip.number])];
    all.extend(protocol(ip.icmp));
    all.push(payload(2, 0, 2, SINGLE));
    all.push(equals(&ip.unreachable));
    if let Some(first) = ip.first {
        all.push(payload(2, HEADER, 1, SINGLE));
        all.push(equals(&[first]));
    }
    all.push(payload(2, HEADER + ip.protocol, 1, SINGLE));
    all.push(equals(&[UDP]));
    let ends = [(HEADER + ip.source, ports), (HEADER + ip.destination, ports + 2)];
    all.extend(key_of(ip, 2, ends));
    all.push(remember(ip.refused, KEY));
    all.extend(traced());
    all
}

/// There is no conntrack at -301, so the table keeps the flows itself: a datagram whose addresses are not in its
/// hook's sets opens one, and the answers to it are none. Sets for each hook, because over `lo` the same datagram
/// passes OUTPUT and PREROUTING.
fn first_to_come(ip: Layout) -> Vec<Expression> {
    let mut all = udp(ip);
    all.extend(key(ip, false));
    all.push(unknown(ip.r#in));
    // A full set ends the rule at `dynset`: the datagram is traced all the same.
    all.extend(traced());
    // The register of single values overlaps the first of a key's.
    all.extend(key(ip, false));
    all.push(remember(ip.r#in, KEY));
    all.extend(answers_are_known(ip));
    all
}

fn first_to_go(ip: Layout) -> Vec<Expression> {
    let mut all = udp(ip);
    all.extend(key_with_user(ip));
    all.push(unknown(ip.out));
    all.push(unknown(ip.sent));
    all.extend(traced());
    all.extend(key_with_user(ip));
    all.push(remember(ip.sent, KEY));
    all.extend(answers_are_known(ip));
    all
}

fn answers_are_known(ip: Layout) -> Vec<Expression> {
    let mut all = key(ip, true);
    all.push(remember(ip.r#in, KEY));
    all.push(remember(ip.out, KEY));
    all
}

/// Each datagram keeps its flow alive.
fn later_datagram(ip: Layout, set: &str, with_user: bool) -> Vec<Expression> {
    let mut all = udp(ip);
    all.extend(if with_user {
        key_with_user(ip)
    } else {
        key(ip, false)
    });
    all.push(lookup(set, false));
    all.push(remember(set, KEY));
    all
}

fn unknown(set: &str) -> Expression {
    lookup(set, true)
}

fn lookup(set: &str, inverted: bool) -> Expression {
    let content = Bytes::default().text(1, set).number(2, KEY);
    ("lookup", content.number(5, u32::from(inverted)))
}

/// Source and destination, and the user of the socket.
fn key_with_user(ip: Layout) -> Vec<Expression> {
    const SOCKET_USER: u32 = 10;
    let mut all = key(ip, false);
    let user = Bytes::default().number(1, ip.key_end()).number(2, SOCKET_USER);
    all.push(("meta", user));
    all
}

fn protocol(number: u8) -> Vec<Expression> {
    vec![meta(16), equals(&[number])]
}

fn udp(ip: Layout) -> Vec<Expression> {
    let mut all = vec![meta(15), equals(&[ip.number])];
    all.extend(protocol(UDP));
    all
}

fn tcp_flags(mask: u8, value: u8) -> Vec<Expression> {
    let bitwise = Bytes::default()
        .number(1, SINGLE)
        .number(2, SINGLE)
        .number(3, 1)
        .nested(4, &Bytes::default().attribute(1, &[mask]))
        .nested(5, &Bytes::default().attribute(1, &[0]));
    vec![payload(2, 13, 1, SINGLE), ("bitwise", bitwise), equals(&[value])]
}

/// Source and destination, or the other way round, into registers from [`KEY`] on.
fn key(ip: Layout, back: bool) -> Vec<Expression> {
    let (source, destination) = ((ip.source, 0), (ip.destination, 2));
    let ends = if back {
        [destination, source]
    } else {
        [source, destination]
    };
    key_of(ip, 1, ends)
}

/// Two ends: where their addresses are from this base on, and their ports in the transport's header.
fn key_of(ip: Layout, base: u32, ends: [(u32, u32); 2]) -> Vec<Expression> {
    let half = ip.key_bytes() / 8;
    let registers = [KEY, KEY + half];
    registers
        .into_iter()
        .zip(ends)
        .flat_map(|(register, (address, port))| {
            [
                payload(base, address, ip.address, register),
                payload(2, port, 2, register + half - 1),
            ]
        })
        .collect()
}

fn traced() -> Vec<Expression> {
    let one = Bytes::default()
        .number(1, SINGLE)
        .nested(2, &Bytes::default().attribute(1, &[1]));
    vec![
        ("immediate", one),
        ("meta", Bytes::default().number(2, 12).number(3, SINGLE)),
    ]
}

fn meta(what: u32) -> Expression {
    ("meta", Bytes::default().number(1, SINGLE).number(2, what))
}

fn payload(base: u32, offset: u32, length: u32, register: u32) -> Expression {
    let content = Bytes::default()
        .number(1, register)
        .number(2, base)
        .number(3, offset)
        .number(4, length);
    ("payload", content)
}

fn equals(value: &[u8]) -> Expression {
    let content = Bytes::default()
        .number(1, SINGLE)
        .number(2, 0)
        .nested(3, &Bytes::default().attribute(1, value));
    ("cmp", content)
}

fn remember(set: &str, register: u32) -> Expression {
    const UPDATE: u32 = 1;
    (
        "dynset",
        Bytes::default()
            .text(1, set)
            .number(3, UPDATE)
            .number(4, register),
    )
}
