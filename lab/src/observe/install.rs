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
    users: &'static str,
    out: &'static str,
    r#in: &'static str,
}

const V4: Layout = Layout {
    number: 2,
    source: 12,
    destination: 16,
    address: 4,
    address_type: 7,
    users: "syn_users",
    out: "udp_out",
    r#in: "udp_in",
};
const V6: Layout = Layout {
    number: 10,
    source: 8,
    destination: 24,
    address: 16,
    address_type: 8,
    users: "syn_users6",
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
}

/// The set that has the users of connections from this address.
pub(super) const fn users_of(source: IpAddr) -> &'static str {
    match source {
        IpAddr::V4(_) => V4.users,
        IpAddr::V6(_) => V6.users,
    }
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
    for (id, ip) in (1..).step_by(3).zip(families) {
        let (key, bytes) = (ip.key_type(), ip.key_bytes());
        all.push((NEW_SET, 0, set(ip.out, id, key, bytes, FLOW_MS)));
        all.push((NEW_SET, 0, set(ip.r#in, id + 1, key, bytes, FLOW_MS)));
        all.push((
            NEW_SET,
            0,
            set(ip.users, id + 2, key << 6 | USER_TYPE, bytes + 4, USER_MS),
        ));
    }
    for (_, name, hook, priority) in CHAINS {
        all.push((NEW_CHAIN, 0, chain(name, hook, priority)));
    }
    for ip in families {
        all.push((NEW_RULE, APPEND, rule("output", &user_of_syn(*ip))));
    }
    for name in ["prerouting", "output"] {
        all.push((NEW_RULE, APPEND, rule(name, &opening_syn())));
        for ip in families {
            let (own, other) = if name == "output" {
                (ip.out, ip.r#in)
            } else {
                (ip.r#in, ip.out)
            };
            all.push((NEW_RULE, APPEND, rule(name, &first_datagram(*ip, own, other))));
            all.push((NEW_RULE, APPEND, rule(name, &later_datagram(*ip, own))));
        }
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

/// A refused socket is gone before anybody can look it up, so the table keeps the user of each SYN.
///
/// This stands before the rule that sets `nftrace`, so it is never part of a trace.
fn user_of_syn(ip: Layout) -> Vec<Expression> {
    const SOCKET_USER: u32 = 10;
    let mut all = vec![meta(15), equals(&[ip.number])];
    all.extend(protocol(TCP));
    all.extend(tcp_flags(SYN | ACK_FLAG, SYN));
    all.extend(key(ip, false));
    let after_key = KEY + ip.key_bytes() / 4;
    all.push((
        "meta",
        Bytes::default().number(1, after_key).number(2, SOCKET_USER),
    ));
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

/// There is no conntrack at -301, so the table keeps the flows itself: a datagram whose addresses are not in its
/// hook's set opens one, and the answers to it are none. A set for each hook, because over `lo` the same datagram
/// passes OUTPUT and PREROUTING.
fn first_datagram(ip: Layout, own: &str, other: &str) -> Vec<Expression> {
    let mut all = udp(ip);
    all.extend(key(ip, false));
    all.push((
        "lookup",
        Bytes::default().text(1, own).number(2, KEY).number(5, 1),
    ));
    // A full set ends the rule at `dynset`: the datagram is traced all the same.
    all.extend(traced());
    all.extend(key(ip, true));
    all.push(remember(own, KEY));
    all.push(remember(other, KEY));
    all
}

/// Each datagram keeps its flow alive.
fn later_datagram(ip: Layout, own: &str) -> Vec<Expression> {
    let mut all = udp(ip);
    all.extend(key(ip, false));
    all.push(remember(own, KEY));
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
    let ends = if back {
        [(ip.destination, 2), (ip.source, 0)]
    } else {
        [(ip.source, 0), (ip.destination, 2)]
    };
    let half = ip.key_bytes() / 8;
    let pairs = [KEY, KEY + half].into_iter().zip(ends);
    pairs
        .flat_map(|(register, (address, port))| {
            [
                payload(1, address, ip.address, register),
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
