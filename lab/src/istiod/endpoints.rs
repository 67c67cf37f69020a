//! Endpoints: the ready pods of each outbound cluster.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};

use super::names::outbound_cluster;
use super::registry::{self, Port, Registry, Service};
use super::wire::{address, number};

/// One assignment for each outbound cluster, by the cluster's name. The same for every proxy.
pub(super) fn of(registry: &Registry) -> Vec<ClusterLoadAssignment> {
    let mut assignments = Vec::new();
    for service in &registry.services {
        for port in &service.ports {
            let mut push = |subset: &str, labels: &BTreeMap<String, String>| {
                let cluster = outbound_cluster(port.port, subset, &service.name);
                assignments.push(assignment(cluster, &addresses(service, port, labels)));
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

fn addresses<'a>(
    service: &'a Service,
    port: &Port,
    labels: &BTreeMap<String, String>,
) -> Vec<(&'a registry::Endpoint, u16)> {
    let selected = |endpoint: &&registry::Endpoint| {
        labels
            .iter()
            .all(|(name, value)| endpoint.labels.get(name) == Some(value))
    };
    let endpoints = service.endpoints.iter().filter(selected);
    endpoints.map(|endpoint| (endpoint, port.target_port)).collect()
}

fn assignment(cluster_name: String, addresses: &[(&registry::Endpoint, u16)]) -> ClusterLoadAssignment {
    let lb_endpoints: Vec<LbEndpoint> = addresses
        .iter()
        .map(|(endpoint, port)| LbEndpoint {
            load_balancing_weight: Some(number(1)),
            host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                address: Some(address(endpoint.ip, *port)),
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
