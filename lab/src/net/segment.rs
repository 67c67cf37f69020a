//! A TCP segment made by hand: one of an open connection, far out of its window.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::sys;

/// How far beyond what is expected: more than any window.
const BEYOND: u32 = 1 << 30;

/// The kernel builds no header of its own for this protocol number (raw(7)).
const RAW: i32 = 255;

/// What an open connection looks like from one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// This end.
    pub local: SocketAddrV4,
    /// The other end.
    pub remote: SocketAddrV4,
    /// The next sequence number to be sent.
    pub sent: u32,
    /// The next one that is expected.
    pub expected: u32,
}

impl Connection {
    /// Of a socket that another process has too.
    pub fn of(socket: &OwnedFd) -> io::Result<Self> {
        let known = socket2::SockRef::from(socket);
        let v4 = |address: SockAddr| {
            let no = || io::Error::new(io::ErrorKind::InvalidInput, "no IPv4 connection");
            address.as_socket_ipv4().ok_or_else(no)
        };
        let (sent, expected) = sys::tcp_sequences(socket).map_err(io::Error::from)?;
        Ok(Self {
            local: v4(known.local_addr()?)?,
            remote: v4(known.peer_addr()?)?,
            sent,
            expected,
        })
    }

    /// A packet of this connection that conntrack calls INVALID: its sequence number is far out of the window. What
    /// it acknowledges is right, so that a reset in answer to it is believed.
    fn invalid_packet(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.local.port().to_be_bytes());
        tcp.extend(self.remote.port().to_be_bytes());
        tcp.extend(self.sent.wrapping_add(BEYOND).to_be_bytes());
        tcp.extend(self.expected.to_be_bytes());
        // Five words of header; ACK; a window; checksum and urgent pointer to come.
        tcp.extend([0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.push(b'x');
        let length = u16::try_from(tcp.len()).unwrap_or(u16::MAX);
        let mut pseudo = Vec::new();
        pseudo.extend(self.local.ip().octets());
        pseudo.extend(self.remote.ip().octets());
        pseudo.extend([0, 6]);
        pseudo.extend(length.to_be_bytes());
        pseudo.extend(&tcp);
        tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        let mut packet = vec![0x45, 0];
        // The kernel fills in length, identification and checksum (raw(7)).
        packet.extend((length + 20).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 6, 0, 0]);
        packet.extend(self.local.ip().octets());
        packet.extend(self.remote.ip().octets());
        packet.extend(tcp);
        packet
    }

    /// Sends such a packet. Call it in the network namespace of this end.
    pub fn send_invalid(&self) -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
        let packet = self.invalid_packet();
        let sent = socket.send_to(&packet, &SockAddr::from(self.remote))?;
        if sent == packet.len() {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::WriteZero,
                "a part of the packet was sent",
            ))
        }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_over_itself_is_nothing() {
        // The example of RFC 1071, section 3.
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
        let connection = Connection {
            local: "10.0.0.1:40000".parse().unwrap(),
            remote: "10.0.0.2:80".parse().unwrap(),
            sent: u32::MAX,
            expected: 7,
        };
        let packet = connection.invalid_packet();
        assert_eq!(packet.len(), 41);
        assert_eq!(packet[24..28], (BEYOND - 1).to_be_bytes());
        assert_eq!(packet[28..32], 7_u32.to_be_bytes());
        let mut pseudo = packet[12..20].to_vec();
        pseudo.extend([0, 6, 0, 21]);
        pseudo.extend(&packet[20..]);
        assert_eq!(checksum(&pseudo), 0);
    }
}
