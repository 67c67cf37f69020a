//! Which rule a handle is: the pod's chains and rules, as the kernel lists them.

use std::collections::HashMap;
use std::num::NonZeroU16;

use crate::net::netns::NetNs;
use crate::path::{Hook, Position};

use super::netlink::{self, Asking, Bytes, DUMP, Message, REQUEST, attributes, fixed, text};

const GET_CHAIN: u16 = 10 << 8 | 4;
const NEW_CHAIN: u16 = 10 << 8 | 3;
const GET_RULE: u16 = 10 << 8 | 7;
const NEW_RULE: u16 = 10 << 8 | 6;

/// What is known of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) position: Position,
    /// The port of a TPROXY target: whose socket gets the packet, although its destination stays as it was.
    pub(super) tproxy: Option<u16>,
}

/// The rules of one pod at one time.
#[derive(Debug, Default)]
pub(super) struct Book {
    hooks: HashMap<(u8, String, String), Hook>,
    rules: HashMap<(u8, String, u64), Rule>,
    counts: HashMap<(u8, String, String), u16>,
}

impl Book {
    /// The hook of a base chain.
    pub(super) fn hook(&self, family: u8, table: &str, chain: &str) -> Option<Hook> {
        self.hooks
            .get(&(family, table.to_owned(), chain.to_owned()))
            .copied()
    }

    /// The rule with this handle.
    pub(super) fn rule(&self, family: u8, table: &str, handle: u64) -> Option<&Rule> {
        self.rules.get(&(family, table.to_owned(), handle))
    }

    /// Takes a chain or a rule that the kernel lists.
    pub(super) fn take(&mut self, message: Message<'_>) {
        match message.kind {
            NEW_CHAIN => self.hooks.extend(chain(message.payload)),
            NEW_RULE => rule(message.payload)
                .into_iter()
                .for_each(|listed| self.add(listed)),
            _ => {}
        }
    }

    /// The next rule of its chain: the kernel lists them in order.
    fn add(&mut self, listed: Listed) {
        let chain = (listed.family, listed.table.clone(), listed.chain);
        let count = self.counts.entry(chain).or_default();
        *count = count.saturating_add(1);
        let rule = Rule {
            position: NonZeroU16::new(*count).map_or(Position::End, Position::Rule),
            tproxy: listed.tproxy,
        };
        self.rules
            .insert((listed.family, listed.table, listed.handle), rule);
    }

    #[cfg(test)]
    pub(super) fn with_rule(mut self, table: &str, chain: &str, handle: u64) -> Self {
        self.add(Listed {
            family: 2,
            table: table.to_owned(),
            chain: chain.to_owned(),
            handle,
            tproxy: None,
        });
        self
    }

    #[cfg(test)]
    pub(super) fn with_base(mut self, table: &str, chain: &str, hook: Hook) -> Self {
        self.hooks.insert((2, table.to_owned(), chain.to_owned()), hook);
        self
    }
}

/// The rules of a pod, and the socket by which they are listed.
#[derive(Debug)]
pub(super) struct Rules {
    asking: Asking,
    book: Book,
}

impl Rules {
    /// Lists the rules of the pod's namespace.
    pub(super) fn read(pod: &str, namespace: &NetNs) -> Result<Self, netlink::Error> {
        let mut rules = Self {
            asking: Asking::open(pod, namespace, netlink_sys::protocols::NETLINK_NETFILTER)?,
            book: Book::default(),
        };
        rules.reread()?;
        Ok(rules)
    }

    /// As last listed.
    pub(super) const fn book(&self) -> &Book {
        &self.book
    }

    /// Lists them anew. A list that a change disturbs is followed by that change's event, and read again then.
    pub(super) fn reread(&mut self) -> Result<(), netlink::Error> {
        let mut book = Book::default();
        let request = Bytes::netfilter(GET_CHAIN, REQUEST | DUMP, self.asking.next_sequence(), 0, 0).finish();
        self.asking
            .dump("listing chains", &request, |message| book.take(message))?;
        let request = Bytes::netfilter(GET_RULE, REQUEST | DUMP, self.asking.next_sequence(), 0, 0).finish();
        self.asking
            .dump("listing rules", &request, |message| book.take(message))?;
        self.book = book;
        Ok(())
    }
}

fn chain(payload: &[u8]) -> Option<((u8, String, String), Hook)> {
    let (generic, rest) = payload.split_first_chunk::<4>()?;
    let (mut table, mut name, mut hook) = (None, None, None);
    for (attribute, value) in attributes(rest) {
        match attribute {
            1 => table = Some(text(value)),
            3 => name = Some(text(value)),
            4 => {
                hook = attributes(value)
                    .find(|(kind, _)| *kind == 1)
                    .map(|(_, value)| value);
            }
            _ => {}
        }
    }
    // The order of the numbers in linux/netfilter.h is that of Hook::ALL.
    let number = u32::from_be_bytes(fixed(hook?)?);
    let hook = *Hook::ALL.get(usize::try_from(number).ok()?)?;
    Some(((generic[0], table?, name?), hook))
}

struct Listed {
    family: u8,
    table: String,
    chain: String,
    handle: u64,
    tproxy: Option<u16>,
}

fn rule(payload: &[u8]) -> Option<Listed> {
    let (generic, rest) = payload.split_first_chunk::<4>()?;
    let (mut table, mut chain, mut handle, mut tproxy) = (None, None, None, None);
    for (attribute, value) in attributes(rest) {
        match attribute {
            1 => table = Some(text(value)),
            2 => chain = Some(text(value)),
            3 => handle = fixed(value).map(u64::from_be_bytes),
            4 => tproxy = tproxy_port(value),
            _ => {}
        }
    }
    Some(Listed {
        family: generic[0],
        table: table?,
        chain: chain?,
        handle: handle?,
        tproxy,
    })
}

/// The port to which a rule hands packets by TPROXY: iptables' target, or nftables' own statement.
fn tproxy_port(expressions: &[u8]) -> Option<u16> {
    let mut registers = HashMap::new();
    for (_, expression) in attributes(expressions) {
        let Some((name, content)) = named(expression) else {
            continue;
        };
        match name.as_str() {
            "target" => {
                if let Some(port) = target_port(content) {
                    return Some(port);
                }
            }
            "immediate" => registers.extend(immediate(content)),
            "tproxy" => {
                let (_, register) = attributes(content).find(|(kind, _)| *kind == 3)?;
                return registers.get(&fixed::<4>(register)?).copied();
            }
            _ => {}
        }
    }
    None
}

/// An expression's name, and what it consists of.
fn named(expression: &[u8]) -> Option<(String, &[u8])> {
    let (mut name, mut content) = (None, None);
    for (attribute, value) in attributes(expression) {
        match attribute {
            1 => name = Some(text(value)),
            2 => content = Some(value),
            _ => {}
        }
    }
    Some((name?, content?))
}

/// A register that a rule fills, and what it would be as a port.
fn immediate(content: &[u8]) -> Option<([u8; 4], u16)> {
    let (mut register, mut value) = (None, None);
    for (attribute, content) in attributes(content) {
        match attribute {
            1 => register = fixed::<4>(content),
            2 => value = attributes(content).find(|(kind, _)| *kind == 1),
            _ => {}
        }
    }
    Some((register?, u16::from_be_bytes(fixed(value?.1)?)))
}

/// The port in `struct xt_tproxy_target_info_v1` (24 bytes in) or its version 0 (12 bytes in).
fn target_port(content: &[u8]) -> Option<u16> {
    let (mut target, mut revision, mut info) = (None, 0, None);
    for (attribute, value) in attributes(content) {
        match attribute {
            1 => target = Some(text(value)),
            2 => revision = u32::from_be_bytes(fixed(value)?),
            3 => info = Some(value),
            _ => {}
        }
    }
    if target? != "TPROXY" {
        return None;
    }
    let at = if revision == 0 { 12 } else { 24 };
    Some(u16::from_be_bytes(fixed(info?.get(at..)?)?))
}
