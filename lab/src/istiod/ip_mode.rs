//! What follows from the families of a proxy's addresses (Istio's `IPMode`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use envoy_types::pb::envoy::config::core::v3::{BindConfig, ExtraSourceAddress};
use envoy_types::pb::envoy::config::listener::v3::AdditionalAddress;

use super::registry::{Proxy, Service};
use super::wire::{address, socket_address};
use crate::plan::ips::Ips;
use crate::scenario::families::IpFamilies;

/// The families of a proxy's addresses. Which of two comes first changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum IpMode {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both (`ISTIO_DUAL_STACK`).
    Dual,
}

impl IpMode {
    /// Of this proxy.
    pub(super) fn of(proxy: &Proxy) -> Self {
        match (proxy.ips.v4(), proxy.ips.v6()) {
            (_, None) => Self::V4,
            (None, Some(_)) => Self::V6,
            (Some(_), Some(_)) => Self::Dual,
        }
    }

    fn choose(self, v4: Ipv4Addr, v6: Ipv6Addr) -> Ips {
        let families = match self {
            Self::V4 => IpFamilies::V4,
            Self::V6 => IpFamilies::V6,
            Self::Dual => IpFamilies::V4.and(IpFamilies::V6),
        };
        Ips::new(families, v4, v6)
    }

    /// 0.0.0.0 and `::`.
    pub(super) fn wildcards(self) -> Ips {
        self.choose(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)
    }

    /// 127.0.0.1 and `::1`.
    pub(super) fn localhost(self) -> IpAddr {
        self.choose(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST).first()
    }

    /// The source of what the sidecar sends to its own pod's processes, by which the rules let it pass: 127.0.0.6 and `::6`.
    /// Of two Envoy takes that of the destination's family.
    pub(super) fn inbound_source(self) -> BindConfig {
        let sources = self.choose(Ipv4Addr::new(127, 0, 0, 6), Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));
        let extra = sources.second().map(|ip| ExtraSourceAddress {
            address: Some(socket_address(ip, 0)),
            ..ExtraSourceAddress::default()
        });
        BindConfig {
            source_address: Some(socket_address(sources.first(), 0)),
            extra_source_addresses: extra.into_iter().collect(),
            ..BindConfig::default()
        }
    }

    /// The addresses of an endpoint that this proxy can reach, in the endpoint's order.
    pub(super) fn of_endpoint(self, ips: Ips) -> Option<Ips> {
        match self {
            Self::V4 => ips.v4().map(Ips::from),
            Self::V6 => ips.v6().map(Ips::from),
            Self::Dual => Some(ips),
        }
    }

    /// The addresses of a service that this proxy can reach; if there is none, all that it has.
    pub(super) fn vips(self, service: &Service) -> Ips {
        service.vip.in_common(self.wildcards()).unwrap_or(service.vip)
    }
}

/// What a listener has beside its `address`.
pub(super) fn additional(ips: Ips, port: u16) -> Vec<AdditionalAddress> {
    let second = ips.second().map(|ip| AdditionalAddress {
        address: Some(address(ip, port)),
        ..AdditionalAddress::default()
    });
    second.into_iter().collect()
}
