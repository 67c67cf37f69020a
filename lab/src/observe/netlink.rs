//! Netlink as the observer needs it: messages and attributes, encoded and taken apart, and one request at a time.
//!
//! Only what the kernel's headers fix is here (`linux/netlink.h`, `linux/netfilter/nfnetlink.h`); what the messages
//! mean is known to the modules that ask.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::net::netns::{self, NetNs};

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;

/// The kernel answers a request before `send` returns; this only guards against a request that has no answer.
const ANSWER_LIMIT: i64 = 2;

/// What can go wrong between the observer and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod's namespace could not be visited.
    #[error("visiting the namespace of pod `{pod}`")]
    Visit {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: netns::Error,
    },
    /// The socket could not be opened or set up.
    #[error("{what} in pod `{pod}`")]
    Open {
        /// What was tried.
        what: &'static str,
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("{what} in pod `{pod}`: the kernel refused message {index}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The pod.
        pod: String,
        /// Which message of the request, from 0.
        index: usize,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// A request could not be sent, or its answer not be read.
    #[error("{what} in pod `{pod}`: no answer from the kernel")]
    Silent {
        /// What was asked.
        what: &'static str,
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A message under construction, or part of one.
#[derive(Clone, Default)]
pub(super) struct Bytes(Vec<u8>);

impl Bytes {
    /// A message of this kind; its length is written by [`Bytes::finish`].
    pub(super) fn message(kind: u16, flags: u16, sequence: u32) -> Self {
        let mut bytes = Self(vec![0; 4]);
        bytes.0.extend_from_slice(&kind.to_ne_bytes());
        bytes.0.extend_from_slice(&flags.to_ne_bytes());
        bytes.0.extend_from_slice(&sequence.to_ne_bytes());
        bytes.0.extend_from_slice(&[0; 4]);
        bytes
    }

    /// A message of netfilter's, with its `nfgenmsg`.
    pub(super) fn netfilter(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) -> Self {
        let mut bytes = Self::message(kind, flags, sequence);
        bytes.0.extend_from_slice(&[family, 0]);
        bytes.0.extend_from_slice(&resource.to_be_bytes());
        bytes
    }

    pub(super) fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "attributes of this module are short"
        )]
        let length = (value.len() + 4) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub(super) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.attribute(kind | NESTED, &inner.0)
    }

    /// The bytes as they are, without a length in front.
    pub(super) fn into_inner(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "messages of this module are short"
        )]
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// A received message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

impl Message<'_> {
    /// The error that this message carries: 0 is an acknowledgement.
    pub(super) fn errno(&self) -> Option<i32> {
        (self.kind == ERROR).then(|| fixed(self.payload).map_or(0, i32::from_ne_bytes).saturating_neg())
    }
}

/// The messages in what one `recv` gave.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(fixed(rest)?)).ok()?;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes(fixed(&message[4..])?),
            sequence: u32::from_ne_bytes(fixed(&message[8..])?),
            payload: &message[HEADER..],
        })
    })
}

/// The attributes in `rest`, by kind without its flags.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(fixed(rest)?));
        let attribute = rest.get(..length).filter(|attribute| attribute.len() >= 4)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes(fixed(&attribute[2..])?) & KIND_MASK;
        Some((kind, &attribute[4..]))
    })
}

/// The first bytes of `bytes`, if there are that many.
pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk::<N>().copied()
}

/// An attribute's text, up to its zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A socket on which one request at a time is asked, in the namespace in which it was opened.
pub(super) struct Asking {
    socket: Socket,
    pod: String,
    sequence: u32,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking")
            .field("pod", &self.pod)
            .finish_non_exhaustive()
    }
}

impl Asking {
    pub(super) fn open(pod: &str, namespace: &NetNs, protocol: isize) -> Result<Self, Error> {
        let socket = visit(pod, namespace, || open(protocol))?.map_err(|source| Error::Open {
            what: "opening a netlink socket",
            pod: pod.to_owned(),
            source,
        })?;
        Ok(Self {
            socket,
            pod: pod.to_owned(),
            sequence: 0,
        })
    }

    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends messages of which each asks for an acknowledgement, numbered from `first`; all must be granted.
    pub(super) fn commit(
        &self,
        what: &'static str,
        batch: &[u8],
        first: u32,
        count: usize,
    ) -> Result<(), Error> {
        self.send(what, batch)?;
        let mut granted = 0;
        while granted < count {
            let answer = self.receive(what)?;
            for message in messages(&answer) {
                match message.errno() {
                    Some(0) => granted += 1,
                    Some(errno) => {
                        return Err(Error::Refused {
                            what,
                            pod: self.pod.clone(),
                            index: message.sequence.wrapping_sub(first) as usize,
                            source: io::Error::from_raw_os_error(errno),
                        });
                    }
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Asks for a list, and gives each message of it to `each`.
    pub(super) fn dump(
        &self,
        what: &'static str,
        request: &[u8],
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), Error> {
        self.send(what, request)?;
        loop {
            let answer = self.receive(what)?;
            for message in messages(&answer) {
                if message.kind == DONE {
                    return Ok(());
                }
                match message.errno() {
                    Some(0) => return Ok(()),
                    Some(errno) => return Err(self.refused(what, errno)),
                    None => each(message),
                }
            }
        }
    }

    /// Asks for one thing; `None` if the kernel says that there is no such thing.
    pub(super) fn one<R>(
        &self,
        what: &'static str,
        request: &[u8],
        take: impl FnOnce(Message<'_>) -> R,
    ) -> Result<Option<R>, Error> {
        self.send(what, request)?;
        let answer = self.receive(what)?;
        let Some(message) = messages(&answer).next() else {
            return Ok(None);
        };
        match message.errno() {
            Some(libc::ENOENT) => Ok(None),
            Some(errno) => Err(self.refused(what, errno)),
            None => Ok(Some(take(message))),
        }
    }

    fn refused(&self, what: &'static str, errno: i32) -> Error {
        Error::Refused {
            what,
            pod: self.pod.clone(),
            index: 0,
            source: io::Error::from_raw_os_error(errno),
        }
    }

    fn send(&self, what: &'static str, bytes: &[u8]) -> Result<(), Error> {
        let sent = self.socket.send(bytes, 0);
        sent.map(drop).map_err(|source| self.silent(what, source))
    }

    fn receive(&self, what: &'static str) -> Result<Vec<u8>, Error> {
        let received = self.socket.recv_from_full();
        received
            .map(|(bytes, _)| bytes)
            .map_err(|source| self.silent(what, source))
    }

    fn silent(&self, what: &'static str, source: io::Error) -> Error {
        Error::Silent {
            what,
            pod: self.pod.clone(),
            source,
        }
    }
}

/// Runs `visit` in the pod's namespace.
pub(super) fn visit<R>(pod: &str, namespace: &NetNs, visit: impl FnOnce() -> R) -> Result<R, Error> {
    namespace.run(visit).map_err(|source| Error::Visit {
        pod: pod.to_owned(),
        source,
    })
}

fn open(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(
        &socket.as_fd(),
        sockopt::ReceiveTimeout,
        &TimeVal::new(ANSWER_LIMIT, 0),
    )?;
    Ok(socket)
}

/// A non-blocking socket that hears `groups` of netfilter in the pod's namespace, with `buffer` bytes of room.
pub(super) fn listen(pod: &str, namespace: &NetNs, groups: &[u32], buffer: usize) -> Result<Socket, Error> {
    let opened = visit(pod, namespace, || -> io::Result<Socket> {
        let mut socket = Socket::new(netlink_sys::protocols::NETLINK_NETFILTER)?;
        // rmem_max binds SO_RCVBUF; 64 simultaneous connections overflow the default.
        setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &buffer)?;
        socket.bind_auto()?;
        for &group in groups {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(socket)
    })?;
    opened.map_err(|source| Error::Open {
        what: "subscribing to netfilter's events",
        pod: pod.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_taken_apart_again() {
        let bytes = Bytes::netfilter(0xa06, REQUEST, 7, 1, 0)
            .text(1, "lab_trace")
            .nested(4, &Bytes::default().number(2, 9))
            .finish();
        let twice = [bytes.clone(), bytes].concat();
        let all: Vec<_> = messages(&twice).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].kind, all[1].sequence), (0xa06, 7));
        let inside: Vec<_> = attributes(&all[1].payload[4..]).collect();
        assert_eq!((inside[0].0, text(inside[0].1).as_str()), (1, "lab_trace"));
        assert_eq!(attributes(inside[1].1).next().unwrap(), (2, &[0, 0, 0, 9][..]));
    }

    #[test]
    fn every_number_of_an_error_is_read() {
        for (number, errno) in [(0, 0), (-2, libc::ENOENT), (i32::MIN, i32::MAX)] {
            let bytes = Bytes::message(ERROR, 0, 1)
                .raw(&i32::to_ne_bytes(number))
                .finish();
            assert_eq!(messages(&bytes).next().and_then(|it| it.errno()), Some(errno));
        }
    }

    #[test]
    fn a_message_cut_short_is_none() {
        let bytes = Bytes::netfilter(0xa06, REQUEST, 7, 1, 0).number(1, 5).finish();
        assert_eq!(messages(&bytes[..bytes.len() - 1]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0);
    }
}
