//! What the kernel put into `lab_trace`'s sets: which user opened a connection, when the SYN left the socket; which
//! datagrams found no socket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::netns::NetNs;

use super::install::{TABLE, refused_of, users_of};
use super::netlink::{self, Asking, Bytes, DUMP, REQUEST, attributes, fixed};
use super::nftrace::{Protocol, Tuple};

const GET_ELEMENTS: u16 = 0x0a0d;
const ELEMENTS: u16 = 3;
const INET: u8 = 1;
const TRIES: u32 = 3;
const V4_BYTES: usize = 16;
const V6_BYTES: usize = 40;

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

    /// The user whose socket sent the SYN with these addresses; `likely` are asked for first, because the list of all is
    /// as long as the pod is busy. None if more than one of these did: nothing tells which was the last.
    pub(super) fn of(&mut self, tuple: &Tuple, likely: &[u32]) -> Result<Option<u32>, netlink::Error> {
        let mut sent = Vec::new();
        for &user in likely {
            if self.has_sent(tuple, user)? {
                sent.push(user);
            }
        }
        match sent[..] {
            [] => self.listed(tuple),
            [user] => Ok(Some(user)),
            [..] => Ok(None),
        }
    }

    pub(super) fn has_sent(&mut self, tuple: &Tuple, user: u32) -> Result<bool, netlink::Error> {
        let key = key_of(tuple, user);
        let element = Bytes::default().nested(
            1,
            &Bytes::default().nested(1, &Bytes::default().attribute(1, &key)),
        );
        let request = Bytes::netfilter(GET_ELEMENTS, REQUEST, self.asking.next_sequence(), INET, 0)
            .text(1, TABLE)
            .text(2, users_of(tuple.source.ip()))
            .nested(ELEMENTS, &element)
            .finish();
        let found = self
            .asking
            .one("looking up the user of a SYN", &request, |_| ())?;
        Ok(found.is_some())
    }

    fn listed(&mut self, tuple: &Tuple) -> Result<Option<u32>, netlink::Error> {
        // A list that is made while the set changes may lack an element that is there.
        for _ in 0..TRIES {
            if self.known.contains_key(tuple) {
                break;
            }
            self.known.clear();
            let known = &mut self.known;
            let add = |payload: &[u8]| known.extend(elements(payload));
            let set = users_of(tuple.source.ip());
            list(&mut self.asking, set, "listing the users of SYNs", add)?;
        }
        Ok(self.known.get(tuple).copied())
    }

    /// The datagrams from addresses of this one's family that found no socket, as they came to where it was not.
    pub(super) fn refused(&mut self, source: IpAddr) -> Result<Vec<Tuple>, netlink::Error> {
        let mut all = Vec::new();
        let add = |payload: &[u8]| {
            let found = keys(payload).filter_map(|key| ends(key, Protocol::Udp));
            all.extend(found);
        };
        let set = refused_of(source);
        list(&mut self.asking, set, "listing refused datagrams", add)?;
        Ok(all)
    }
}

fn list(
    asking: &mut Asking,
    set: &str,
    what: &'static str,
    mut each: impl FnMut(&[u8]),
) -> Result<(), netlink::Error> {
    let sequence = asking.next_sequence();
    let request = Bytes::netfilter(GET_ELEMENTS, REQUEST | DUMP, sequence, INET, 0)
        .text(1, TABLE)
        .text(2, set)
        .finish();
    asking.dump(what, &request, |message| each(message.payload))
}

pub(super) fn elements(payload: &[u8]) -> Vec<(Tuple, u32)> {
    // The user follows the addresses, in the machine's byte order.
    let user = |key: &[u8]| Some(u32::from_ne_bytes(fixed(key.get(of_addresses(key)..)?)?));
    keys(payload)
        .filter_map(|key| Some((ends(key, Protocol::Tcp)?, user(key)?)))
        .collect()
}

fn keys(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    attributes(payload.get(4..).unwrap_or_default())
        .filter(|(kind, _)| *kind == ELEMENTS)
        .flat_map(|(_, list)| attributes(list))
        .filter_map(|(_, element)| {
            let key = attributes(element).find(|(kind, _)| *kind == 1)?.1;
            Some(attributes(key).next()?.1)
        })
}

/// How many of a key's bytes are addresses and ports.
const fn of_addresses(key: &[u8]) -> usize {
    if key.len() < V6_BYTES { V4_BYTES } else { V6_BYTES }
}

/// The key of the set of users: the opposite of [`ends`], and the user in the machine's byte order.
fn key_of(tuple: &Tuple, user: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(V6_BYTES + 4);
    for end in [tuple.source, tuple.destination] {
        match end.ip() {
            IpAddr::V4(ip) => key.extend(ip.octets()),
            IpAddr::V6(ip) => key.extend(ip.octets()),
        }
        key.extend(end.port().to_be_bytes());
        key.extend([0; 2]);
    }
    key.extend(user.to_ne_bytes());
    key
}

/// Address, port, address, port, each in registers of four bytes; then there may be more.
fn ends(key: &[u8], protocol: Protocol) -> Option<Tuple> {
    let port = |at: usize| Some(u16::from_be_bytes(fixed(key.get(at..)?)?));
    let v4 = |at: usize| {
        let address = Ipv4Addr::from(fixed::<4>(key.get(at..)?)?);
        Some(SocketAddr::from((address, port(at + 4)?)))
    };
    let v6 = |at: usize| {
        let address = Ipv6Addr::from(fixed::<16>(key.get(at..)?)?);
        Some(SocketAddr::from((address, port(at + 16)?)))
    };
    let (source, destination) = if of_addresses(key) == V4_BYTES {
        (v4(0)?, v4(8)?)
    } else {
        (v6(0)?, v6(20)?)
    };
    Some(Tuple {
        protocol,
        source,
        destination,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_ends_and_the_user_that_a_list_gives() {
        for (source, destination) in [
            ("10.0.0.1:4711", "10.0.0.2:80"),
            ("[fd00::1]:4711", "[fd00::2]:80"),
        ] {
            let tuple = Tuple {
                protocol: Protocol::Tcp,
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
            };
            let key = key_of(&tuple, 1337);
            let element = Bytes::default().nested(
                1,
                &Bytes::default().nested(1, &Bytes::default().attribute(1, &key)),
            );
            let payload = Bytes::default()
                .raw(&[0; 4])
                .nested(ELEMENTS, &element)
                .into_inner();
            assert_eq!(elements(&payload), [(tuple, 1337)]);
        }
    }
}
