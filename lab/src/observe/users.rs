//! Which user opened a connection: what the kernel put into `lab_trace`'s set when the SYN left the socket.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::netns::NetNs;

use super::install::{TABLE, users_of};
use super::netlink::{self, Asking, Bytes, DUMP, REQUEST, attributes, fixed};
use super::nftrace::{Protocol, Tuple};

const GET_ELEMENTS: u16 = 0x0a0d;
const INET: u8 = 1;
const TRIES: u32 = 3;

/// The users of the SYNs of one pod.
#[derive(Debug)]
pub(super) struct Users {
    asking: Asking,
    known: HashMap<Tuple, u32>,
}

impl Users {
    pub(super) fn open(pod: &str, namespace: &NetNs) -> Result<Self, netlink::Error> {
        Ok(Self {
            asking: Asking::open(pod, namespace, netlink_sys::protocols::NETLINK_NETFILTER)?,
            known: HashMap::new(),
        })
    }

    /// The user whose socket sent the SYN with these addresses.
    pub(super) fn of(&mut self, tuple: &Tuple) -> Result<Option<u32>, netlink::Error> {
        // A list that is made while the set changes may lack an element that is there.
        for _ in 0..TRIES {
            if self.known.contains_key(tuple) {
                break;
            }
            self.known.clear();
            let sequence = self.asking.next_sequence();
            let request = Bytes::netfilter(GET_ELEMENTS, REQUEST | DUMP, sequence, INET, 0)
                .text(1, TABLE)
                .text(2, users_of(tuple.source.ip()))
                .finish();
            let known = &mut self.known;
            self.asking
                .dump("listing the users of SYNs", &request, |message| {
                    known.extend(elements(message.payload));
                })?;
        }
        Ok(self.known.get(tuple).copied())
    }
}

pub(super) fn elements(payload: &[u8]) -> Vec<(Tuple, u32)> {
    const ELEMENTS: u16 = 3;
    attributes(payload.get(4..).unwrap_or_default())
        .filter(|(kind, _)| *kind == ELEMENTS)
        .flat_map(|(_, list)| attributes(list))
        .filter_map(|(_, element)| {
            let key = attributes(element).find(|(kind, _)| *kind == 1)?.1;
            from_key(attributes(key).next()?.1)
        })
        .collect()
}

/// Address, port, address, port, each in registers of four bytes, then the user in the machine's byte order.
fn from_key(key: &[u8]) -> Option<(Tuple, u32)> {
    const V6: usize = 44;
    let port = |at: usize| Some(u16::from_be_bytes(fixed(key.get(at..)?)?));
    let v4 = |at: usize| {
        let address = Ipv4Addr::from(fixed::<4>(key.get(at..)?)?);
        Some(SocketAddr::from((address, port(at + 4)?)))
    };
    let v6 = |at: usize| {
        let address = Ipv6Addr::from(fixed::<16>(key.get(at..)?)?);
        Some(SocketAddr::from((address, port(at + 16)?)))
    };
    let (source, destination, user) = if key.len() == V6 {
        (v6(0)?, v6(20)?, 40)
    } else {
        (v4(0)?, v4(8)?, 16)
    };
    let tuple = Tuple {
        protocol: Protocol::Tcp,
        source,
        destination,
    };
    Some((tuple, u32::from_ne_bytes(fixed(key.get(user..)?)?)))
}
