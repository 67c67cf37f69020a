//! Links, addresses, routes and neighbours, by rtnetlink.
//!
//! A handle's socket belongs to the namespace in which it was opened, so each namespace has one of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::netns::{self, NetNs};

/// The gateway that every pod sees: an address that no pod can have (Calico's choice).
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The same for IPv6: no link in the lab gives itself a link-local address.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What could not be done to a link.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No rtnetlink socket.
    #[error("opening an rtnetlink socket in namespace `{namespace}`")]
    Socket {
        /// The namespace.
        namespace: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// The kernel refused a request.
    #[error("{request} in namespace `{namespace}`")]
    Request {
        /// What was asked for.
        request: String,
        /// The namespace.
        namespace: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// A link that must be there is not.
    #[error("no link `{link}` in namespace `{namespace}`")]
    NoLink {
        /// The link.
        link: String,
        /// The namespace.
        namespace: String,
    },
}

/// An rtnetlink socket in a namespace.
#[derive(Debug)]
pub struct Links {
    namespace: String,
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A veth pair between the node and a pod.
#[derive(Debug, Clone)]
pub struct Veth {
    /// The node's end.
    pub node_name: String,
    /// The node's end's hardware address.
    pub node_mac: [u8; 6],
    /// The pod's end's (eth0's) hardware address.
    pub pod_mac: [u8; 6],
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
}

impl Links {
    /// Opens a socket in `namespace`. Needs a running `LocalSet`.
    pub fn open(namespace: &NetNs) -> Result<Self, Error> {
        let (connection, handle, _) =
            namespace
                .run(rtnetlink::new_connection)?
                .map_err(|source| Error::Socket {
                    namespace: namespace.name().to_owned(),
                    source,
                })?;
        let connection = tokio::task::spawn_local(connection);
        Ok(Self {
            namespace: namespace.name().to_owned(),
            handle,
            connection,
        })
    }

    fn refused(&self, request: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
        let (request, namespace) = (request.into(), self.namespace.clone());
        move |source| Error::Request {
            request,
            namespace,
            source,
        }
    }

    /// The index of a link.
    pub async fn index(&self, name: &str) -> Result<u32, Error> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = found
            .try_next()
            .await
            .map_err(self.refused(format!("looking up link {name}")))?;
        let link = link.ok_or_else(|| Error::NoLink {
            link: name.to_owned(),
            namespace: self.namespace.clone(),
        })?;
        Ok(link.header.index)
    }

    /// Brings a link up.
    pub async fn up(&self, index: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(self.refused(format!("bringing up link {index}")))
    }

    /// Takes a link down. The kernel drops the routes over it.
    pub async fn down(&self, index: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).down().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(self.refused(format!("taking down link {index}")))
    }

    /// A request for which rtnetlink has no words of its own.
    pub(super) async fn ask(
        &self,
        what: String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), Error> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = match self.handle.clone().request(message) {
            Ok(answers) => answers,
            Err(source) => return Err(self.refused(what)(source)),
        };
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(self.refused(what)(rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }

    /// Gives a link an address that has no network of its own.
    pub async fn add_address(&self, index: u32, ip: IpAddr) -> Result<(), Error> {
        let length = whole(ip);
        let mut request = self.handle.address().add(index, ip, length);
        if ip.is_ipv6() {
            // Nobody else can have it, and looking for one takes a second.
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        }
        request
            .execute()
            .await
            .map_err(self.refused(format!("adding address {ip}/{length} to link {index}")))
    }

    /// Makes a pair whose other end is `eth0` in `pod` from the start: no window in which it has another name or place.
    pub async fn add_veth(&self, veth: &Veth, pod: &NetNs) -> Result<(), Error> {
        let message = LinkVeth::new(&veth.node_name, "eth0")
            .address(veth.node_mac.to_vec())
            .up()
            .build();
        let message = with_peer(message, veth, pod);
        let request = format!("making the veth pair {} - eth0 of {}", veth.node_name, pod.name());
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(self.refused(request))
    }

    /// Routes one address over a link, to a neighbour that needs no ARP and no neighbour discovery.
    pub async fn add_host_route(&self, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), Error> {
        self.add_neighbour(index, ip, mac).await?;
        let length = whole(ip);
        let request = format!("adding a route to {ip}/{length} over link {index}");
        self.add_route(route_to(ip, length, index), request).await
    }

    /// Makes known whose an address on a link is.
    pub async fn add_neighbour(&self, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), Error> {
        self.handle
            .neighbours()
            .add(index, ip)
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .map_err(self.refused(format!("adding neighbour {ip} on link {index}")))
    }

    async fn add_route(&self, route: RouteMessage, request: String) -> Result<(), Error> {
        self.handle
            .route()
            .add(route)
            .execute()
            .await
            .map_err(self.refused(request))
    }

    /// Makes a link that leads nowhere, and routes ranges to it: so packets to services pass the node's FORWARD hook,
    /// where kube-proxy refuses those without endpoints, as they do on a node with a default route.
    pub async fn add_sink(&self, name: &str, ranges: &[(IpAddr, u8)]) -> Result<(), Error> {
        // A veth pair of which the other end stays down: the dummy driver is not in every kernel, veth must be.
        let message = LinkVeth::new(name, &format!("{name}-end")).up().build();
        let request = format!("making the link {name}");
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(self.refused(request))?;
        let index = self.index(name).await?;
        for (range, length) in ranges {
            let request = format!("adding a route to {range}/{length} over link {name}");
            self.add_route(route_to(*range, *length, index), request).await?;
        }
        Ok(())
    }

    /// Sends everything else by a gateway.
    pub async fn add_default_route(&self, index: u32, gateway: IpAddr) -> Result<(), Error> {
        let route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
                .gateway(gateway)
                .output_interface(index)
                .build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
                .gateway(gateway)
                .output_interface(index)
                .build(),
        };
        self.add_route(route, format!("adding a default route by {gateway}"))
            .await
    }
}

/// The length of a prefix that is one address.
const fn whole(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn route_to(range: IpAddr, length: u8, index: u32) -> RouteMessage {
    match range {
        IpAddr::V4(range) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range, length)
            .output_interface(index)
            .scope(RouteScope::Link)
            .build(),
        IpAddr::V6(range) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(range, length)
            .output_interface(index)
            .build(),
    }
}

fn with_peer(mut message: LinkMessage, veth: &Veth, pod: &NetNs) -> LinkMessage {
    for attribute in &mut message.attributes {
        let LinkAttribute::LinkInfo(infos) = attribute else {
            continue;
        };
        for info in infos {
            if let LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))) = info {
                peer.attributes
                    .push(LinkAttribute::NetNsFd(pod.file().as_raw_fd()));
                peer.attributes
                    .push(LinkAttribute::Address(veth.pod_mac.to_vec()));
            }
        }
    }
    message
}

/// A locally administered hardware address for an end of the pair of this pod.
pub fn mac(ip: IpAddr, node_end: bool) -> [u8; 6] {
    let [a, b, c, d] = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [a, b, c, d]
        }
    };
    [if node_end { 0x0a } else { 0x02 }, 0x58, a, b, c, d]
}
