//! Who is who: addresses that cannot be mixed up.

use std::net::SocketAddr;

/// Where a connection was going before netfilter redirected it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginalDst(pub SocketAddr);

/// How a connection came to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Redirected: it was going elsewhere.
    Redirected(OriginalDst),
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
}

impl Downstream {
    /// The local address as Envoy has it: the original destination if there is one.
    pub const fn local(&self) -> SocketAddr {
        match self.arrival {
            Arrival::Redirected(OriginalDst(address)) | Arrival::Direct(address) => address,
        }
    }
}
