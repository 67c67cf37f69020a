//! What a rule can look at: a packet, its socket and its connection.

use std::net::IpAddr;

use crate::options::Interface;
use crate::rule::{Protocol, State};
use crate::ruleset::Hook;

/// A packet as it enters its first hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Which hooks it comes through.
    pub route: Route,
    /// The transport.
    pub protocol: Protocol,
    /// Where it comes from.
    pub source: IpAddr,
    /// From which port.
    pub source_port: u16,
    /// Where it goes.
    pub destination: IpAddr,
    /// To which port.
    pub destination_port: u16,
    /// The interface by which it arrived.
    pub in_interface: Option<Interface>,
    /// The interface by which routing sends it.
    pub out_interface: Option<Interface>,
    /// Whose socket sent it; the kernel's own packets, and those that arrive, have none.
    pub owner: Option<Owner>,
    /// Its mark.
    pub mark: u32,
    /// Its connection.
    pub connection: Connection,
}

/// Which hooks a packet comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// From a local socket: OUTPUT, POSTROUTING.
    FromSocket,
    /// To a local socket: PREROUTING, INPUT.
    ToSocket,
    /// On to another machine: PREROUTING, FORWARD, POSTROUTING.
    Through,
}

/// Whose socket it is: its file's fsuid and fsgid, not the supplementary groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What conntrack knows of a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Its state.
    pub state: State,
    /// Its mark.
    pub mark: u32,
    /// Whether its addresses are still open.
    pub nat: Nat,
}

/// Whether NAT has already said what becomes of a connection's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Nat {
    /// The nat chains are asked.
    Open,
    /// The packet came through OUTPUT and POSTROUTING already and is back over `lo`: no nat chain sees it again.
    Settled,
}

impl Connection {
    /// A flow's first packet, not seen before.
    pub const NEW: Self = Self {
        state: State::New,
        mark: 0,
        nat: Nat::Open,
    };

    /// Whether conntrack makes one of the packet.
    pub(crate) fn exists(self) -> bool {
        !matches!(self.state, State::Invalid | State::Untracked)
    }

    /// Whether nat chains see the packet: a flow's first alone (`nf_nat_inet_fn` in `nf_nat_core.c`).
    pub(crate) fn asks_nat(self) -> bool {
        self.nat == Nat::Open && matches!(self.state, State::New | State::Related)
    }
}

impl Route {
    /// Its hooks in order.
    pub const fn hooks(self) -> &'static [Hook] {
        match self {
            Self::FromSocket => &[Hook::Output, Hook::Postrouting],
            Self::ToSocket => &[Hook::Prerouting, Hook::Input],
            Self::Through => &[Hook::Prerouting, Hook::Forward, Hook::Postrouting],
        }
    }
}
