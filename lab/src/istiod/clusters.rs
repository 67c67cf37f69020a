//! Clusters: where a sidecar may send requests and connections.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::{Http1ProtocolOptions, Http2ProtocolOptions};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;

use super::filters;
use super::inbound;
use super::ip_mode::IpMode;
use super::names::{
    BLACK_HOLE_CLUSTER, INBOUND_PASSTHROUGH_CLUSTER, PASSTHROUGH_CLUSTER, inbound_cluster, outbound_cluster,
};
use super::registry::{Protocol, Proxy, Registry};
use super::wire::{address, ads, duration, number};

/// Istio's default for the mesh.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The clusters that every proxy of these families has.
pub(super) fn shared(registry: &Registry, mode: IpMode) -> Vec<Cluster> {
    let mut clusters = vec![black_hole(), passthrough(PASSTHROUGH_CLUSTER)];
    clusters.extend(outbound(registry));
    clusters.push(Cluster {
        upstream_bind_config: Some(mode.inbound_source()),
        ..passthrough(INBOUND_PASSTHROUGH_CLUSTER)
    });
    clusters
}

/// The clusters of this proxy alone: one for each port of its pod that a service has.
pub(super) fn own(registry: &Registry, proxy: &Proxy) -> Vec<Cluster> {
    inbound::ports(registry, proxy)
        .values()
        .map(|port| inbound(registry, IpMode::of(proxy), port.target_port, port.protocol))
        .collect()
}

/// A cluster for each port of each service, and for each of its subsets.
fn outbound(registry: &Registry) -> Vec<Cluster> {
    let mut clusters = Vec::new();
    for service in &registry.services {
        let subsets = service.subsets.iter().map(|(name, _)| name.as_str());
        let idle = service.http_idle_ms.map(Duration::from_millis);
        let subsets: Vec<&str> = [""].into_iter().chain(subsets).collect();
        for port in &service.ports {
            for subset in &subsets {
                let name = outbound_cluster(port.port, subset, &service.name);
                clusters.push(Cluster {
                    eds_cluster_config: Some(EdsClusterConfig {
                        eds_config: Some(ads()),
                        service_name: name.clone(),
                    }),
                    lb_policy: LbPolicy::LeastRequest.into(),
                    typed_extension_protocol_options: upstream_protocol(port.protocol, idle)
                        .unwrap_or_default(),
                    ..cluster(name, DiscoveryType::Eds, None)
                });
            }
        }
    }
    clusters
}

/// To the pod's own processes: at the address that the client dialled (Istio 1.10 and later), or at 127.0.0.1.
fn inbound(registry: &Registry, mode: IpMode, port: u16, protocol: Protocol) -> Cluster {
    let name = inbound_cluster(port);
    if registry.inbound_to_pod_ip {
        return Cluster {
            lb_policy: LbPolicy::ClusterProvided.into(),
            upstream_bind_config: Some(mode.inbound_source()),
            ..cluster(name, DiscoveryType::OriginalDst, Some(protocol))
        };
    }
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(mode.localhost(), port)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    Cluster {
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        ..cluster(name, DiscoveryType::Static, Some(protocol))
    }
}

fn passthrough(name: &str) -> Cluster {
    Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        ..cluster(
            name.to_owned(),
            DiscoveryType::OriginalDst,
            Some(Protocol::Unknown),
        )
    }
}

fn black_hole() -> Cluster {
    cluster(BLACK_HOLE_CLUSTER.to_owned(), DiscoveryType::Static, None)
}

fn cluster(name: String, discovery: DiscoveryType, protocol: Option<Protocol>) -> Cluster {
    Cluster {
        name,
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        circuit_breakers: Some(no_circuit_breakers()),
        typed_extension_protocol_options: protocol
            .and_then(|it| upstream_protocol(it, None))
            .unwrap_or_default(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
        ..Cluster::default()
    }
}

/// What is spoken to the endpoints, and how long a connection may be idle. A port that declares nothing gets what the
/// client spoke.
fn upstream_protocol(protocol: Protocol, idle: Option<Duration>) -> Option<HashMap<String, Any>> {
    let explicit = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })
    };
    let options = match protocol {
        Protocol::Http => explicit(ProtocolConfig::HttpProtocolOptions(
            Http1ProtocolOptions::default(),
        )),
        Protocol::Http2 => explicit(ProtocolConfig::Http2ProtocolOptions(
            Http2ProtocolOptions::default(),
        )),
        Protocol::Unknown => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(Http2ProtocolOptions::default()),
            ..UseDownstreamHttpConfig::default()
        }),
        Protocol::Tcp => return None,
    };
    let options = pack_any(HttpProtocolOptions {
        common_http_protocol_options: idle.map(filters::idle),
        upstream_protocol_options: Some(options),
        ..HttpProtocolOptions::default()
    });
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    Some(HashMap::from([(name.to_owned(), options)]))
}

/// Istio turns Envoy's limits (1024 connections, 3 retries at a time) off.
fn no_circuit_breakers() -> CircuitBreakers {
    let unlimited = Some(number(u32::MAX));
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: unlimited,
            max_pending_requests: unlimited,
            max_requests: unlimited,
            max_retries: unlimited,
            track_remaining: true,
            ..Thresholds::default()
        }],
        ..CircuitBreakers::default()
    }
}
