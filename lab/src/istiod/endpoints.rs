//! Endpoints: the ready pods of each outbound cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;

use envoy_types::pb::envoy::config::endpoint::v3::endpoint::AdditionalAddress;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};

use super::ip_mode::IpMode;
use super::names::outbound_cluster;
use super::registry::{self, Port, Registry, Service};
use super::wire::{address, number};
use crate::plan::ips::Ips;

/// One assignment for each outbound cluster, by the cluster's name. The same for every proxy of these families.
pub(super) fn of(registry: &Registry, mode: IpMode) -> Vec<ClusterLoadAssignment> {
    let mut assignments = Vec::new();
    for service in &registry.services {
        for port in &service.ports {
            let mut push = |subset: &str, labels: &BTreeMap<String, String>| {
                let cluster = outbound_cluster(port.port, subset, &service.name);
                assignments.push(assignment(cluster, &addresses(mode, service, port, labels)));
            };
            push("", &BTreeMap::new());
            for (subset, labels) in &service.subsets {
                push(subset, labels);
            }
        }
    }
    assignments
}

/// The assignment of a cluster that has no endpoints.
pub(super) fn none(cluster_name: String) -> ClusterLoadAssignment {
    assignment(cluster_name, &[])
}

/// Where endpoints are for this proxy; one that has no address of its families is none.
fn addresses(
    mode: IpMode,
    service: &Service,
    port: &Port,
    labels: &BTreeMap<String, String>,
) -> Vec<(Ips, u16)> {
    let selected = |endpoint: &&registry::Endpoint| {
        labels
            .iter()
            .all(|(name, value)| endpoint.labels.get(name) == Some(value))
    };
    let endpoints = service.endpoints.iter().filter(selected);
    endpoints
        .filter_map(|endpoint| Some((mode.of_endpoint(endpoint.ips)?, port.target_port)))
        .collect()
}

fn additional(ip: IpAddr, port: u16) -> AdditionalAddress {
    AdditionalAddress {
        address: Some(address(ip, port)),
    }
}

fn assignment(cluster_name: String, addresses: &[(Ips, u16)]) -> ClusterLoadAssignment {
    let lb_endpoints: Vec<LbEndpoint> = addresses
        .iter()
        .map(|(ips, port)| LbEndpoint {
            load_balancing_weight: Some(number(1)),
            host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                address: Some(address(ips.first(), *port)),
                additional_addresses: ips.second().map(|ip| additional(ip, *port)).into_iter().collect(),
                ..Endpoint::default()
            })),
            ..LbEndpoint::default()
        })
        .collect();
    let locality = LocalityLbEndpoints {
        load_balancing_weight: Some(number(u32::try_from(lb_endpoints.len()).unwrap_or(u32::MAX))),
        lb_endpoints,
        ..LocalityLbEndpoints::default()
    };
    ClusterLoadAssignment {
        cluster_name,
        // A locality without endpoints would need a weight of zero, which Envoy refuses.
        endpoints: if addresses.is_empty() {
            Vec::new()
        } else {
            vec![locality]
        },
        ..ClusterLoadAssignment::default()
    }
}
