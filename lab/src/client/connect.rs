//! Connections whose ports are known before they are opened.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream};

use super::resolve;
use super::wire::{Connection, Failure, Outcome};
use crate::scenario::families::IpFamily;

/// Told of each connection before it is opened: protocol, own port, where to.
type Teller<'a> = Box<dyn Fn(&str, u16, SocketAddr) + 'a>;

/// The connections that were tried.
#[derive(Default)]
pub struct Attempts<'a> {
    /// For the request itself.
    pub connections: Vec<Connection>,
    /// To the resolver.
    pub lookups: Vec<Connection>,
    /// The family of the addresses that a name stands for; none = the pod's.
    pub ip_family: Option<IpFamily>,
    /// The size of a connection's receive buffer, if the kernel's own is not wanted.
    pub receive_buffer: Option<u32>,
    teller: Option<Teller<'a>>,
}

impl std::fmt::Debug for Attempts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempts")
            .field("connections", &self.connections)
            .field("lookups", &self.lookups)
            .finish_non_exhaustive()
    }
}

impl<'a> Attempts<'a> {
    /// Attempts of which each is told before it is made.
    pub fn telling(teller: impl Fn(&str, u16, SocketAddr) + 'a) -> Self {
        Self {
            teller: Some(Box::new(teller)),
            ..Self::default()
        }
    }

    /// Tells of an attempt that is about to be made.
    pub fn tell(&self, proto: &str, local_port: u16, remote: SocketAddr) {
        if let Some(teller) = &self.teller {
            teller(proto, local_port, remote);
        }
    }
}

/// Splits `HOST:PORT`, where the port may be left to a default; an IPv6 address stands in brackets.
pub fn host_and_port(text: &str, default: Option<u16>) -> Result<(String, u16), Failure> {
    let wrong = || Failure {
        outcome: Outcome::ProtocolError,
        words: format!("`{text}` is not HOST:PORT"),
    };
    match (text.rsplit_once(':'), default) {
        (Some((host, port)), _) => Ok((host.to_owned(), port.parse().map_err(|_error| wrong())?)),
        (None, Some(port)) => Ok((text.to_owned(), port)),
        (None, None) => Err(wrong()),
    }
}

/// A socket for a connection to `remote` that is bound to a port of the kernel's choice, and its end so far.
pub fn bound(remote: SocketAddr) -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = if remote.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.bind(any_towards(remote))?;
    let local = socket.local_addr()?;
    Ok((socket, local))
}

/// No address and no port, of this peer's family.
pub fn any_towards(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// Opens a connection to a name or an address; several addresses are tried in turn.
pub async fn open(host: &str, port: u16, attempts: &mut Attempts<'_>) -> Result<TcpStream, Failure> {
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = match plain.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => resolve::lookup(host, attempts).await?,
    };
    let mut last = Failure {
        outcome: Outcome::NoSuchHost,
        words: format!("{host} has no address"),
    };
    for ip in addresses {
        let remote = SocketAddr::new(ip, port);
        match open_one(remote, attempts).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Failure::of(&error, &format!("connecting to {remote}")),
        }
    }
    Err(last)
}

async fn open_one(remote: SocketAddr, attempts: &mut Attempts<'_>) -> io::Result<TcpStream> {
    let (socket, local) = bound(remote)?;
    if let Some(size) = attempts.receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    attempts.tell("tcp", local.port(), remote);
    let index = attempts.connections.len();
    attempts.connections.push(Connection {
        proto: "tcp".to_owned(),
        local,
        remote,
        connected: false,
    });
    let stream = socket.connect(remote).await?;
    stream.set_nodelay(true)?;
    let known = &mut attempts.connections[index];
    (known.local, known.connected) = (stream.local_addr()?, true);
    Ok(stream)
}
