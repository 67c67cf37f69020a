//! The node: the world process's own network namespace, where every pod's link ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::link::{self, Links};
use crate::net::netns::{self, NetNs};
use crate::net::sysctl;
use crate::world::ipv6;

/// The service ranges, as kubeadm gives them.
const SERVICES: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 12);
const SERVICES6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0)), 112);

/// The node.
#[derive(Debug)]
pub struct Node {
    netns: NetNs,
    links: Links,
}

/// What could not be set up on the node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// Links and routes.
    #[error(transparent)]
    Link(#[from] link::Error),
    /// Sysctls.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
}

impl Node {
    /// Makes the calling thread's namespace a node that forwards, and has these addresses itself.
    pub async fn enter(own: &[IpAddr]) -> Result<Self, Error> {
        let netns = NetNs::own("node")?;
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            // Replies of a redirected connection leave by another way than the reverse path of the request.
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ] {
            sysctl::set(name, value)?;
        }
        let has_ipv6 = own.iter().any(IpAddr::is_ipv6);
        if has_ipv6 {
            ipv6::enable()?;
            sysctl::set("ipv6/conf/all/forwarding", "1")?;
        } else {
            ipv6::leave_out()?;
        }
        let links = Links::open(&netns)?;
        let lo = links.index("lo").await?;
        links.up(lo).await?;
        for ip in own {
            links.add_address(lo, *ip).await?;
        }
        let ranges = [SERVICES, SERVICES6];
        let ranges = if has_ipv6 { &ranges[..] } else { &ranges[..1] };
        links.add_sink("services", ranges).await?;
        Ok(Self { netns, links })
    }

    /// Its namespace.
    pub const fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its links.
    pub const fn links(&self) -> &Links {
        &self.links
    }
}
