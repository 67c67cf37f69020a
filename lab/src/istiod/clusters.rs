//! Clusters and their endpoints, in Istio's names and shapes (`pilot/pkg/networking/core/cluster*.go`).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, BindConfig, ConfigSource, Http2ProtocolOptions,
    SocketAddress, address, socket_address,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::google::protobuf::{Any, Duration};
use envoy_types::util::pack_any;

use super::registry::{Port, Protocol, Proxy, Registry, Service};
use super::snapshot::{host, own_services};

/// Istio's mesh-wide `connectTimeout`.
const CONNECT_TIMEOUT: i64 = 10;

/// The source address by which the interception rules know a sidecar's connections to its own app.
const PASSTHROUGH: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

pub(super) const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
pub(super) const BLACK_HOLE: &str = "BlackHoleCluster";
pub(super) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

/// `outbound|PORT|SUBSET|HOST`.
pub(super) fn outbound_name(service: &str, subset: Option<&str>, port: u16) -> String {
    format!("outbound|{port}|{}|{}", subset.unwrap_or_default(), host(service))
}

/// `inbound|PORT||`.
pub(super) fn inbound_name(port: u16) -> String {
    format!("inbound|{port}||")
}

/// xDS over the stream that asks.
pub(super) fn by_ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        initial_fetch_timeout: Some(Duration { seconds: 0, nanos: 0 }),
        resource_api_version: ApiVersion::V3.into(),
        ..ConfigSource::default()
    }
}

/// A socket address.
pub(super) fn socket(ip: Ipv4Addr, port: u16) -> Address {
    let socket = SocketAddress {
        address: ip.to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    Address {
        address: Some(address::Address::SocketAddress(socket)),
    }
}

fn cluster(name: &str, kind: DiscoveryType) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        connect_timeout: Some(Duration {
            seconds: CONNECT_TIMEOUT,
            nanos: 0,
        }),
        ..Cluster::default()
    }
}

fn original_dst(name: &str, from: Option<Ipv4Addr>) -> Cluster {
    Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        upstream_bind_config: from.map(|ip| BindConfig {
            source_address: Some(SocketAddress {
                address: ip.to_string(),
                port_specifier: Some(socket_address::PortSpecifier::PortValue(0)),
                ..SocketAddress::default()
            }),
            ..BindConfig::default()
        }),
        ..cluster(name, DiscoveryType::OriginalDst)
    }
}

/// All clusters of a proxy.
pub(super) fn all(registry: &Registry, proxy: &Proxy) -> Vec<Cluster> {
    let mut clusters = vec![
        original_dst(PASSTHROUGH_CLUSTER, None),
        cluster(BLACK_HOLE, DiscoveryType::Static),
        original_dst(INBOUND_PASSTHROUGH, Some(PASSTHROUGH)),
    ];
    for service in &registry.services {
        for port in &service.ports {
            clusters.push(outbound(service, None, port));
            clusters.extend(
                service
                    .subsets
                    .iter()
                    .map(|(subset, _)| outbound(service, Some(subset), port)),
            );
        }
    }
    for (port, protocol) in inbound_ports(registry, proxy) {
        clusters.push(inbound(registry, port, protocol));
    }
    clusters
}

/// The ports of the pod that services lead to.
pub(super) fn inbound_ports(registry: &Registry, proxy: &Proxy) -> BTreeMap<u16, Protocol> {
    let ports = own_services(registry, proxy)
        .into_iter()
        .flat_map(|service| &service.ports);
    ports.map(|port| (port.target_port, port.protocol)).collect()
}

fn outbound(service: &Service, subset: Option<&str>, port: &Port) -> Cluster {
    let name = outbound_name(&service.name, subset, port.port);
    Cluster {
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(by_ads()),
            service_name: name.clone(),
        }),
        // Istio's default since 1.14.
        lb_policy: LbPolicy::LeastRequest.into(),
        typed_extension_protocol_options: protocol_options(port.protocol),
        ..cluster(&name, DiscoveryType::Eds)
    }
}

fn inbound(registry: &Registry, port: u16, protocol: Protocol) -> Cluster {
    let name = inbound_name(port);
    let cluster = if registry.inbound_to_pod_ip {
        original_dst(&name, Some(PASSTHROUGH))
    } else {
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Cluster {
            load_assignment: Some(assignment(&name, &[local])),
            ..cluster(&name, DiscoveryType::Static)
        }
    };
    Cluster {
        typed_extension_protocol_options: protocol_options(protocol),
        ..cluster
    }
}

/// HTTP/2 has to be said; anything else is HTTP/1.1.
fn protocol_options(protocol: Protocol) -> HashMap<String, Any> {
    if protocol != Protocol::Http2 {
        return HashMap::new();
    }
    let config = ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
            Http2ProtocolOptions::default(),
        )),
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        pack_any(options),
    )])
}

fn assignment(name: &str, hosts: &[SocketAddr]) -> ClusterLoadAssignment {
    let endpoint = |host: &SocketAddr| {
        let IpAddr::V4(ip) = host.ip() else { return None };
        let endpoint = Endpoint {
            address: Some(socket(ip, host.port())),
            ..Endpoint::default()
        };
        Some(LbEndpoint {
            host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
            ..LbEndpoint::default()
        })
    };
    let lb_endpoints = hosts.iter().filter_map(endpoint).collect();
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints,
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

/// The endpoints of every outbound cluster.
pub(super) fn endpoints(registry: &Registry) -> Vec<ClusterLoadAssignment> {
    let mut all = Vec::new();
    for service in &registry.services {
        for port in &service.ports {
            let every: Vec<SocketAddr> = service
                .endpoints
                .iter()
                .map(|it| SocketAddr::new(IpAddr::V4(it.ip), port.target_port))
                .collect();
            all.push(assignment(&outbound_name(&service.name, None, port.port), &every));
            for (subset, labels) in &service.subsets {
                let of_subset: Vec<SocketAddr> = service
                    .endpoints
                    .iter()
                    .filter(|it| {
                        labels
                            .iter()
                            .all(|(name, value)| it.labels.get(name) == Some(value))
                    })
                    .map(|it| SocketAddr::new(IpAddr::V4(it.ip), port.target_port))
                    .collect();
                all.push(assignment(
                    &outbound_name(&service.name, Some(subset), port.port),
                    &of_subset,
                ));
            }
        }
    }
    all
}
