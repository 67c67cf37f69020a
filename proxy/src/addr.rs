//! Who is who: addresses that cannot be mixed up.

use std::net::{IpAddr, SocketAddr};

/// Where a connection was going before netfilter redirected it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginalDst(pub SocketAddr);

/// How a connection came to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Redirected: it was going elsewhere.
    Redirected(OriginalDst),
    /// Handed over by TPROXY: its socket has the address that the client dialled.
    Transparent(OriginalDst),
    /// Somebody dialled the listener itself.
    Direct(SocketAddr),
}

/// The two ends of a downstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downstream {
    /// The client.
    pub client: SocketAddr,
    /// How it came.
    pub arrival: Arrival,
    /// From which address hosts are to see it come, if not from this proxy's.
    pub source: Option<Source>,
}

/// The address that stands as the sender's on a connection to a host, and the mark by which the rules know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The client's.
    pub ip: IpAddr,
    /// Of all packets that are sent; 0 = none.
    pub mark: u32,
}

impl Downstream {
    /// The local address as Envoy has it: the original destination if there is one.
    pub const fn local(&self) -> SocketAddr {
        match self.arrival {
            Arrival::Redirected(OriginalDst(address))
            | Arrival::Transparent(OriginalDst(address))
            | Arrival::Direct(address) => address,
        }
    }
}
