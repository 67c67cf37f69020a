//! A question passed on to the pod's resolvers: one after another until one answers, over the transport that it came by.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use serde_json::json;
use tokio::net::{TcpSocket, UdpSocket};

use super::super::Events;
use super::{Asked, Transport, receive, send};
use crate::within::within;

/// How long one resolver may take (Istio's `ReadTimeout` of its upstream clients).
const LIMIT: Duration = Duration::from_secs(5);

/// The first resolver's answer, as it came; none if none answers.
pub(super) async fn ask(servers: &[SocketAddr], events: &Events, asked: &Asked<'_>) -> Option<Vec<u8>> {
    for server in servers {
        let answer = async {
            match asked.transport {
                Transport::Udp => over_udp(*server, events, asked).await,
                Transport::Tcp => over_tcp(*server, events, asked).await,
            }
        };
        match within(LIMIT, "the resolver", answer).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => crate::data_plane::log(&format!("DNS: asking {server}: {error}")),
            Err(error) => crate::data_plane::log(&format!("DNS: asking {server}: {error}")),
        }
    }
    None
}

/// A port of this process is told before it is used: nobody else can tell this connection from others of its user.
fn tell(
    events: &Events,
    asked: &Asked<'_>,
    local: io::Result<SocketAddr>,
    server: SocketAddr,
) -> io::Result<()> {
    events.tell(&json!({
        "event": "dns-forwarding", "proto": asked.transport.name(), "client": asked.client,
        "local_port": local?.port(), "remote": server,
    }));
    Ok(())
}

const fn any(server: SocketAddr) -> SocketAddr {
    let ip = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}

async fn over_udp(server: SocketAddr, events: &Events, asked: &Asked<'_>) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(any(server)).await?;
    tell(events, asked, socket.local_addr(), server)?;
    socket.connect(server).await?;
    socket.send(asked.bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // An answer to another question is not this one's.
        if answers(&buffer[..length], &asked.question) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, events: &Events, asked: &Asked<'_>) -> io::Result<Vec<u8>> {
    let socket = match server {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.bind(any(server))?;
    tell(events, asked, socket.local_addr(), server)?;
    let mut stream = socket.connect(server).await?;
    send(&mut stream, asked.bytes).await?;
    let answer = receive(&mut stream).await?;
    if answers(&answer, &asked.question) {
        Ok(answer)
    } else {
        Err(io::Error::other("it answers another question"))
    }
}

/// It is the answer to this question: of its id, and about its name.
fn answers(bytes: &[u8], question: &Message) -> bool {
    Message::from_vec(bytes).is_ok_and(|answer| {
        answer.metadata.message_type == MessageType::Response
            && answer.metadata.id == question.metadata.id
            && (answer.queries.is_empty() || answer.queries == question.queries)
    })
}
