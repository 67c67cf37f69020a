//! A TCP segment made by hand: one of an open connection, far out of its window.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::sys;

/// How far beyond what is expected: more than any window.
const BEYOND: u32 = 1 << 30;

/// The kernel builds no header of its own for this protocol number (raw(7)).
const RAW: i32 = 255;
const TCP: u8 = 6;
const HOPS: u8 = 64;

/// What an open connection looks like from one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The next sequence number to be sent.
    pub sent: u32,
    /// The next one that is expected.
    pub expected: u32,
}

impl Connection {
    /// Of a socket that another process has too.
    pub fn of(socket: &OwnedFd) -> io::Result<Self> {
        let known = socket2::SockRef::from(socket);
        let ip = |address: SockAddr| {
            let no = || io::Error::new(io::ErrorKind::InvalidInput, "no connection over IP");
            let address = address.as_socket().ok_or_else(no)?;
            // A socket for both families calls an IPv4 address ::ffff:10.0.0.1.
            Ok::<_, io::Error>(SocketAddr::new(address.ip().to_canonical(), address.port()))
        };
        let (sent, expected) = sys::tcp_sequences(socket).map_err(io::Error::from)?;
        Ok(Self {
            local: ip(known.local_addr()?)?,
            remote: ip(known.peer_addr()?)?,
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
        let ends = [octets(self.local.ip()), octets(self.remote.ip())].concat();
        let (mut pseudo, mut packet) = (ends.clone(), Vec::new());
        // Of either family the sum is the same: the numbers of IPv6's are longer, with zeros in front.
        pseudo.extend([0, TCP]);
        pseudo.extend(length.to_be_bytes());
        pseudo.extend(&tcp);
        tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        match self.local {
            SocketAddr::V4(_) => {
                packet.extend([0x45, 0]);
                // The kernel fills in length, identification and checksum (raw(7)).
                packet.extend((length + 20).to_be_bytes());
                packet.extend([0, 0, 0, 0, HOPS, TCP, 0, 0]);
            }
            SocketAddr::V6(_) => {
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(length.to_be_bytes());
                packet.extend([TCP, HOPS]);
            }
        }
        packet.extend(ends);
        packet.extend(tcp);
        packet
    }

    /// Sends such a packet. Call it in the network namespace of this end.
    pub fn send_invalid(&self) -> io::Result<()> {
        let domain = Domain::for_address(self.remote);
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))?;
        let packet = self.invalid_packet();
        // A raw socket has no ports; IPv6's refuses one (raw(7), ipv6(7)).
        let to = SocketAddr::new(self.remote.ip(), 0);
        let sent = socket.send_to(&packet, &SockAddr::from(to))?;
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

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
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
        let connection = Connection {
            local: "[fd00::1]:40000".parse().unwrap(),
            remote: "[fd00::2]:80".parse().unwrap(),
            ..connection
        };
        let packet = connection.invalid_packet();
        assert_eq!(packet.len(), 61);
        // RFC 8200, section 8.1: addresses, length, zeros, next header.
        let mut pseudo = packet[8..40].to_vec();
        pseudo.extend([0, 0, 0, 21, 0, 0, 0, 6]);
        pseudo.extend(&packet[40..]);
        assert_eq!(checksum(&pseudo), 0);
    }
}
