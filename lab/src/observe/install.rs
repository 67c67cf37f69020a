//! The table `inet lab_trace` in a pod: which packets are traced. The pod's own tables are never touched.
//!
//! At -301, before everything else (raw is -300), `nftrace` is set on the packets that open a connection. Two more
//! chains without a rule, at +301 in INPUT and POSTROUTING, make the kernel report that the packet came through the
//! hook, whatever tables the pod has there, and with which addresses after all NAT (source NAT is +100).

use crate::net::netns::NetNs;
use crate::path::Hook;

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
/// A key of four registers: address, port, address, port (nft's types 7 and 13, six bits each); then a user (30).
const KEY_TYPE: u32 = 0x7 << 18 | 0xd << 12 | 0x7 << 6 | 0xd;
const KEY_BYTES: u32 = 16;
/// How long the user of a SYN is remembered: longer than a step needs to ask.
const USER_MS: u64 = 60_000;
const USER_KEY_TYPE: u32 = KEY_TYPE << 6 | 0x1e;
pub(super) const USERS: &str = "syn_users";
/// How long a refused datagram is remembered: longer than its ICMP error needs to be told of.
const REFUSED_MS: u64 = 60_000;
pub(super) const REFUSED: &str = "udp_refused";
/// Flows of this pod's sockets, with their users: two users may have the same addresses one after the other.
const SENT: &str = "udp_sent";
/// What answers them, and what answers those of others.
const OUT: &str = "udp_out";
const IN: &str = "udp_in";

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK_FLAG: u8 = 0x10;
/// The first 4-byte register of a key and the one behind four (`NFT_REG32_00`, `NFT_REG32_04`), and one for single values.
const KEY: u32 = 8;
const KEY_END: u32 = 12;
const SINGLE: u32 = 1;

/// The hook of one of this table's chains.
pub(super) fn hook_of(chain: &str) -> Option<Hook> {
    CHAINS
        .iter()
        .find(|(_, name, ..)| *name == chain)
        .map(|&(hook, ..)| hook)
}

/// Creates the table in the pod's namespace, in one commit.
pub(super) fn install(pod: &str, namespace: &NetNs) -> Result<(), netlink::Error> {
    let mut asking = Asking::open(pod, namespace, netlink_sys::protocols::NETLINK_NETFILTER)?;
    let first = asking.next_sequence();
    let mut batch = Bytes::netfilter(BATCH_BEGIN, REQUEST, first, 0, NFTABLES).finish();
    let contents = contents();
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

fn contents() -> Vec<(u16, u16, Vec<u8>)> {
    let mut all = vec![(NEW_TABLE, 0, Bytes::default().text(1, TABLE).into_inner())];
    all.push((NEW_SET, 0, set(OUT, 1, KEY_TYPE, KEY_BYTES, FLOW_MS)));
    all.push((NEW_SET, 0, set(IN, 2, KEY_TYPE, KEY_BYTES, FLOW_MS)));
    all.push((NEW_SET, 0, set(USERS, 3, USER_KEY_TYPE, KEY_BYTES + 4, USER_MS)));
    all.push((NEW_SET, 0, set(REFUSED, 4, KEY_TYPE, KEY_BYTES, REFUSED_MS)));
    all.push((NEW_SET, 0, set(SENT, 5, USER_KEY_TYPE, KEY_BYTES + 4, FLOW_MS)));
    for (_, name, hook, priority) in CHAINS {
        all.push((NEW_CHAIN, 0, chain(name, hook, priority)));
    }
    all.push((NEW_RULE, APPEND, rule("output", &user_of_syn())));
    for name in ["prerouting", "output"] {
        all.push((NEW_RULE, APPEND, rule(name, &opening_syn())));
    }
    all.push((NEW_RULE, APPEND, rule("prerouting", &first_to_come())));
    all.push((NEW_RULE, APPEND, rule("prerouting", &later_datagram(IN, false))));
    all.push((NEW_RULE, APPEND, rule("output", &first_to_go())));
    all.push((NEW_RULE, APPEND, rule("output", &later_datagram(SENT, true))));
    all.push((NEW_RULE, APPEND, rule("output", &later_datagram(OUT, false))));
    all.push((NEW_RULE, APPEND, rule("output", &refusal())));
    all.push((NEW_RULE, APPEND, rule("output", &refused_datagram())));
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

/// A refused socket is gone before anybody can look it up, so the table keeps the user of each SYN.
///
/// This stands before the rule that sets `nftrace`, so it is never part of a trace.
fn user_of_syn() -> Vec<Expression> {
    let mut all = vec![meta(15), equals(&[2])];
    all.extend(protocol(TCP));
    all.extend(tcp_flags(SYN | ACK_FLAG, SYN));
    all.extend(key_with_user());
    all.push(remember(USERS, KEY));
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
fn refused_datagram() -> Vec<Expression> {
    const HEADER: u32 = 8;
    // An IPv4 header without options is five words long (RFC 791, 3.1); the kernel sends none with a datagram of its own.
    const PORTS: u32 = HEADER + 20;
    let mut all = vec![meta(15), equals(&[2])];
    all.extend(protocol(ICMP));
    all.push(payload(2, 0, 2, SINGLE));
    all.push(equals(&[3, 3]));
    all.push(payload(2, HEADER, 1, SINGLE));
    all.push(equals(&[0x45]));
    all.push(payload(2, HEADER + 9, 1, SINGLE));
    all.push(equals(&[UDP]));
    let parts = [(HEADER + 12, 4), (PORTS, 2), (HEADER + 16, 4), (PORTS + 2, 2)];
    all.extend(
        (KEY..)
            .zip(parts)
            .map(|(register, (offset, length))| payload(2, offset, length, register)),
    );
    all.push(remember(REFUSED, KEY));
    all.extend(traced());
    all
}

/// There is no conntrack at -301, so the table keeps the flows itself: a datagram whose addresses are not in its
/// hook's sets opens one, and the answers to it are none. Sets for each hook, because over `lo` the same datagram
/// passes OUTPUT and PREROUTING.
fn first_to_come() -> Vec<Expression> {
    let mut all = ipv4_udp();
    all.extend(key(KEY, false));
    all.push(unknown(IN));
    // A full set ends the rule at `dynset`: the datagram is traced all the same.
    all.extend(traced());
    // The register of single values overlaps the first of a key's.
    all.extend(key(KEY, false));
    all.push(remember(IN, KEY));
    all.extend(answers_are_known());
    all
}

fn first_to_go() -> Vec<Expression> {
    let mut all = ipv4_udp();
    all.extend(key_with_user());
    all.push(unknown(OUT));
    all.push(unknown(SENT));
    all.extend(traced());
    all.extend(key_with_user());
    all.push(remember(SENT, KEY));
    all.extend(answers_are_known());
    all
}

fn answers_are_known() -> Vec<Expression> {
    let mut all = key(KEY, true);
    all.push(remember(IN, KEY));
    all.push(remember(OUT, KEY));
    all
}

/// Each datagram keeps its flow alive.
fn later_datagram(set: &str, with_user: bool) -> Vec<Expression> {
    let mut all = ipv4_udp();
    all.extend(if with_user {
        key_with_user()
    } else {
        key(KEY, false)
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
fn key_with_user() -> Vec<Expression> {
    const SOCKET_USER: u32 = 10;
    let mut all = key(KEY, false);
    let user = Bytes::default().number(1, KEY_END).number(2, SOCKET_USER);
    all.push(("meta", user));
    all
}

fn protocol(number: u8) -> Vec<Expression> {
    vec![meta(16), equals(&[number])]
}

fn ipv4_udp() -> Vec<Expression> {
    let mut all = vec![meta(15), equals(&[2])];
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

/// Source and destination, or the other way round, into four registers.
fn key(first: u32, back: bool) -> Vec<Expression> {
    let order = if back {
        [(1, 16), (2, 2), (1, 12), (2, 0)]
    } else {
        [(1, 12), (2, 0), (1, 16), (2, 2)]
    };
    (first..)
        .zip(order)
        .map(|(register, (base, offset))| payload(base, offset, if base == 1 { 4 } else { 2 }, register))
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
