//! Pods: a network namespace behind a routed veth pair, and a mount namespace with files of its own.
#![expect(clippy::result_large_err, reason = "made a few times a run, and told at once")]

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::try_join_all;

use super::ipv6;
use super::node::Node;
use crate::net::link::{self, GATEWAY, GATEWAY6, Links, Veth};
use crate::net::mount::{self, PodFiles, RUN};
use crate::net::netns::{self, NetNs};
use crate::net::sysctl;
use crate::plan::ips::Ips;
use crate::plan::{DNS_IP, DNS_IP6};

/// Threads that make namespaces: each `unshare` waits for the kernel, not for the processor.
const MAKERS: usize = 4;

/// A pod to be made.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub ips: Ips,
}

/// A pod's namespaces. They last as long as this value or a process in them.
#[derive(Debug)]
pub struct PodSpace {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub ips: Ips,
    /// Its network namespace.
    pub netns: NetNs,
    /// Its mount namespace.
    pub mounts: OwnedFd,
}

/// What could not be made of a pod.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its network namespace.
    #[error("pod `{pod}`")]
    Namespace {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: netns::Error,
    },
    /// Its mount namespace.
    #[error("pod `{pod}`")]
    Mounts {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: mount::Error,
    },
    /// Its links.
    #[error("pod `{pod}`")]
    Link {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: link::Error,
    },
    /// Its sysctls.
    #[error("pod `{pod}`")]
    Sysctl {
        /// The pod.
        pod: String,
        /// Why not.
        #[source]
        source: sysctl::Error,
    },
}

/// Makes pods side by side.
pub async fn create_pods(node: &Node, specs: &[PodSpec]) -> Result<Vec<PodSpace>, Error> {
    let spaces = make_namespaces(specs)?;
    let connected = spaces
        .iter()
        .enumerate()
        .map(|(index, space)| connect(node, index, space));
    try_join_all(connected).await?;
    Ok(spaces)
}

/// The namespaces of all pods, by a few threads at once.
fn make_namespaces(specs: &[PodSpec]) -> Result<Vec<PodSpace>, Error> {
    let next = AtomicUsize::new(0);
    let make_some = || {
        let mut made = Vec::new();
        while let Some(spec) = specs.get(next.fetch_add(1, Ordering::Relaxed)) {
            made.push(make_namespace(spec));
        }
        made
    };
    let mut spaces = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..MAKERS.min(specs.len()))
            .map(|_| scope.spawn(make_some))
            .collect();
        let made = makers.into_iter().map(std::thread::ScopedJoinHandle::join);
        made.flat_map(|made| made.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>, _>>()
    })?;
    spaces.sort_by_key(|space| specs.iter().position(|spec| spec.name == space.name));
    Ok(spaces)
}

fn make_namespace(spec: &PodSpec) -> Result<PodSpace, Error> {
    let pod = || spec.name.clone();
    let netns = NetNs::create(&spec.name, &Path::new(RUN).join("netns"))
        .map_err(|source| Error::Namespace { pod: pod(), source })?;
    let files = files(spec);
    let mounts = mount::pod_namespace(
        &PodFiles {
            pod: &spec.name,
            files: &files,
        },
        &netns,
    )
    .map_err(|source| Error::Mounts { pod: pod(), source })?;
    Ok(PodSpace {
        name: spec.name.clone(),
        ips: spec.ips,
        netns,
        mounts,
    })
}

fn files(spec: &PodSpec) -> [(&'static str, String); 4] {
    // kubelet's --cluster-dns is of the family that comes first.
    let dns = match spec.ips.first() {
        IpAddr::V4(_) => IpAddr::V4(DNS_IP),
        IpAddr::V6(_) => IpAddr::V6(DNS_IP6),
    };
    let mut hosts = "127.0.0.1\tlocalhost\n".to_owned();
    if spec.ips.v6().is_some() {
        hosts.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    for ip in spec.ips.all() {
        hosts.push_str(&format!("{ip}\t{}\n", spec.name));
    }
    let search = "default.svc.cluster.local svc.cluster.local cluster.local";
    [
        (
            "/etc/resolv.conf",
            format!("nameserver {dns}\nsearch {search}\noptions ndots:5\n"),
        ),
        ("/etc/hosts", hosts),
        // nss-resolve and others would leave the namespace by a socket of the host's.
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n".to_owned(),
        ),
        ("/etc/hostname", format!("{}\n", spec.name)),
    ]
}

async fn connect(node: &Node, index: usize, space: &PodSpace) -> Result<(), Error> {
    let failed = |source| Error::Link {
        pod: space.name.clone(),
        source,
    };
    let veth = Veth {
        // Link names have at most 15 characters; a pod's name may have 63.
        node_name: format!("pod{index}"),
        node_mac: link::mac(space.ips.first(), true),
        pod_mac: link::mac(space.ips.first(), false),
        ips: space.ips.all().collect(),
    };
    set_sysctls(space)?;
    let inside = Links::open(&space.netns).map_err(failed)?;
    node.links().add_veth(&veth, &space.netns).await.map_err(failed)?;
    let (node_side, pod_side) =
        futures_util::future::join(node_side(node, &veth), pod_side(&inside, &veth)).await;
    node_side.and(pod_side).map_err(failed)
}

fn set_sysctls(space: &PodSpace) -> Result<(), Error> {
    let failed = |source| Error::Sysctl {
        pod: space.name.clone(),
        source,
    };
    let set = || {
        for name in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
            sysctl::set(name, "0")?;
        }
        // As container runtimes have it (containerd 2's `enable_unprivileged_ports`): an app of any user may have port 80.
        sysctl::set("ipv4/ip_unprivileged_port_start", "0")?;
        if space.ips.v6().is_some() {
            ipv6::enable()
        } else {
            ipv6::leave_out()
        }
    };
    let done = space.netns.run(set).map_err(|source| Error::Namespace {
        pod: space.name.clone(),
        source,
    })?;
    done.map_err(failed)
}

async fn node_side(node: &Node, veth: &Veth) -> Result<(), link::Error> {
    let index = node.links().index(&veth.node_name).await?;
    for ip in &veth.ips {
        node.links().add_host_route(index, *ip, veth.pod_mac).await?;
    }
    Ok(())
}

async fn pod_side(inside: &Links, veth: &Veth) -> Result<(), link::Error> {
    let lo = inside.index("lo").await?;
    inside.up(lo).await?;
    let eth0 = inside.index("eth0").await?;
    for ip in &veth.ips {
        inside.add_address(eth0, *ip).await?;
    }
    inside.up(eth0).await?;
    for ip in &veth.ips {
        match ip {
            IpAddr::V4(_) => {
                inside.add_host_route(eth0, GATEWAY.into(), veth.node_mac).await?;
                inside.add_default_route(eth0, GATEWAY.into()).await?;
            }
            // A link-local gateway needs no route of its own.
            IpAddr::V6(_) => {
                inside.add_neighbour(eth0, GATEWAY6.into(), veth.node_mac).await?;
                inside.add_default_route(eth0, GATEWAY6.into()).await?;
            }
        }
    }
    Ok(())
}
