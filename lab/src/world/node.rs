//! The node: the world process's own network namespace, where every pod's link ends.

use std::net::Ipv4Addr;

use crate::net::link::{self, Links};
use crate::net::netns::{self, NetNs};
use crate::net::sysctl;

/// The service range, as kubeadm gives it.
const SERVICES: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 12);

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
    pub async fn enter(own: &[Ipv4Addr]) -> Result<Self, Error> {
        let netns = NetNs::own("node")?;
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            // Replies of a redirected connection leave by another way than the reverse path of the request.
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/default/disable_ipv6", "1"),
        ] {
            if name.starts_with("ipv6") && !std::path::Path::new("/proc/sys/net/ipv6").exists() {
                continue;
            }
            sysctl::set(name, value)?;
        }
        let links = Links::open(&netns)?;
        let lo = links.index("lo").await?;
        links.up(lo).await?;
        for ip in own {
            links.add_address(lo, *ip).await?;
        }
        let (range, length) = SERVICES;
        links.add_sink("services", range, length).await?;
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
