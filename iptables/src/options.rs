//! Every option of the interception rules, already valid. Options that must agree are one enum.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// How inbound connections are intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By `REDIRECT`: the sidecar sees the connection from itself.
    Redirect,
    /// By `TPROXY`: the sidecar sees the client's address.
    Tproxy,
    /// No rules.
    None,
}

/// By which tool rules are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `iptables-restore`.
    Iptables,
    /// `nft`.
    Nftables,
}

/// Which inbound TCP ports go to the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboundPorts {
    /// All but these.
    AllBut(Vec<u16>),
    /// Just these; empty = none.
    Only(Vec<u16>),
}

/// Which outbound destinations go to the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboundRanges {
    /// All.
    All,
    /// Just these; empty = none.
    Only(Vec<IpNet>),
}

/// A group, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// By number.
    Id(u32),
    /// By a name that /etc/group of the machine must know.
    Name(String),
}

/// Whose outbound traffic goes to the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerGroups {
    /// Everybody's but these groups'.
    AllBut(Vec<Group>),
    /// Just these groups'.
    Only(Vec<Group>),
}

/// Which DNS queries go to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsCapture {
    /// None.
    Off,
    /// Those to these servers: at least one.
    Servers(Vec<IpAddr>),
    /// All.
    All,
}

/// The options of a pod's interception rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interception {
    /// How inbound connections are intercepted.
    pub mode: Mode,
    /// By which tool.
    pub backend: Backend,
    /// Outbound connections go to this port.
    pub proxy_port: u16,
    /// Inbound connections go to this port.
    pub inbound_capture_port: u16,
    /// HBONE, which is never redirected.
    pub inbound_tunnel_port: u16,
    /// The sidecar's users, at least one.
    pub proxy_uids: Vec<u32>,
    /// The sidecar's groups, at least one.
    pub proxy_gids: Vec<u32>,
    /// Inbound ports.
    pub inbound_ports: InboundPorts,
    /// Outbound destinations.
    pub outbound_ranges: OutboundRanges,
    /// Outbound destinations that stay direct.
    pub exclude_outbound_ranges: Vec<IpNet>,
    /// Outbound TCP ports that go to the sidecar whatever the destination.
    pub include_outbound_ports: Vec<u16>,
    /// Outbound ports that stay direct, TCP and UDP.
    pub exclude_outbound_ports: Vec<u16>,
    /// Owner groups.
    pub owner_groups: OwnerGroups,
    /// Interfaces whose traffic is left alone.
    pub exclude_interfaces: Vec<String>,
    /// Interfaces whose inbound traffic counts as outbound.
    pub reroute_interfaces: Vec<String>,
    /// DNS.
    pub dns: DnsCapture,
    /// Packets that conntrack finds invalid are dropped.
    pub drop_invalid: bool,
    /// IPv6 rules too.
    pub ipv6: bool,
    /// The mark of TPROXY.
    pub tproxy_mark: u32,
    /// The routing table of TPROXY.
    pub tproxy_route_table: u32,
    /// What counts as "to localhost" in IPv4.
    pub loopback: Ipv4Net,
}

impl Interception {
    /// True if DNS is captured at all.
    pub const fn captures_dns(&self) -> bool {
        !matches!(self.dns, DnsCapture::Off)
    }

    /// True if an included range begins with a loopback address (Istio looks at the address alone, for both families).
    pub fn includes_loopback(&self) -> bool {
        match &self.outbound_ranges {
            OutboundRanges::All => false,
            OutboundRanges::Only(ranges) => ranges.iter().any(|range| range.addr().is_loopback()),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}
