//! Connections whose ports are known before they are opened.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream};

use super::resolve;
use super::wire::{Connection, Failure, Outcome};

/// Told of each connection before it is opened: protocol, own port, where to.
type Teller<'a> = Box<dyn Fn(&str, u16, SocketAddr) + 'a>;

/// The connections that were tried.
#[derive(Default)]
pub struct Attempts<'a> {
    /// For the request itself.
    pub connections: Vec<Connection>,
    /// To the resolver.
    pub lookups: Vec<Connection>,
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

/// Splits `HOST:PORT`, where the port may be left to a default.
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

/// A socket that is bound to a port of the kernel's choice, and that port.
pub fn bound() -> io::Result<(TcpSocket, u16)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}

/// Opens a connection to a name or an address; several addresses are tried in turn.
pub async fn open(host: &str, port: u16, attempts: &mut Attempts<'_>) -> Result<TcpStream, Failure> {
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => resolve::lookup(host, attempts).await?,
    };
    let mut last = Failure {
        outcome: Outcome::NoSuchHost,
        words: format!("{host} has no address"),
    };
    for ip in addresses {
        match open_one(SocketAddr::new(ip, port), attempts).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Failure::of(&error, &format!("connecting to {ip}:{port}")),
        }
    }
    Err(last)
}

async fn open_one(remote: SocketAddr, attempts: &mut Attempts<'_>) -> io::Result<TcpStream> {
    let (socket, port) = bound()?;
    if let Some(size) = attempts.receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    attempts.tell("tcp", port, remote);
    let index = attempts.connections.len();
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
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
