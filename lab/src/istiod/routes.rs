//! Routes: which cluster a request goes to, by its host, path, method and headers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, MaxStreamDuration};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};

use super::matches;
use super::names::{PASSTHROUGH_CLUSTER, host, outbound_cluster, route_configuration};
use super::registry::{self, Destination, Port, Registry, Service};
use super::retries;
use super::wire::{duration, no_limit, number, truth};

/// Istio's limit for the body of a direct response (`DefaultMaxDirectResponseBodySizeBytes`): 1 MiB.
const DIRECT_RESPONSE_LIMIT: u32 = 1024 * 1024;

/// One route configuration for each HTTP port number, and one for each sniffed port of a service. The same for every
/// proxy.
pub(super) fn of(registry: &Registry) -> Vec<RouteConfiguration> {
    let mut configurations: BTreeMap<String, Vec<VirtualHost>> = BTreeMap::new();
    for service in &registry.services {
        for port in &service.ports {
            let Some(name) = route_configuration(service, port) else {
                continue;
            };
            let virtual_host = virtual_host(registry, service, port);
            // The listener of a sniffed port is for this service alone.
            let virtual_host = if name.contains(':') {
                VirtualHost {
                    domains: vec!["*".to_owned()],
                    ..virtual_host
                }
            } else {
                virtual_host
            };
            configurations.entry(name).or_default().push(virtual_host);
        }
    }
    configurations
        .into_iter()
        .map(|(name, mut virtual_hosts)| {
            virtual_hosts.sort_by(|a, b| a.name.cmp(&b.name));
            if !name.contains(':') {
                virtual_hosts.push(catch_all(registry));
            }
            configuration(name, virtual_hosts)
        })
        .collect()
}

/// The configuration of this name that has no hosts: what Istio answers if it is asked for one that it does not have.
pub(super) fn none(name: String) -> RouteConfiguration {
    configuration(name, Vec::new())
}

/// The routes of an inbound filter chain: everything to one cluster.
pub(super) fn inbound(registry: &Registry, cluster: &str, service_port: u16) -> RouteConfiguration {
    let action = RouteAction {
        timeout: Some(no_limit()),
        max_stream_duration: Some(MaxStreamDuration {
            max_stream_duration: Some(no_limit()),
            grpc_timeout_header_max: Some(no_limit()),
            ..MaxStreamDuration::default()
        }),
        retry_policy: retries::inbound(registry.retries),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..RouteAction::default()
    };
    RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: format!("inbound|http|{service_port}"),
            domains: vec!["*".to_owned()],
            routes: vec![route("default", everything(), Action::Route(action))],
            ..VirtualHost::default()
        }],
        validate_clusters: Some(truth(false)),
        ..RouteConfiguration::default()
    }
}

fn configuration(name: String, virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name,
        virtual_hosts,
        validate_clusters: Some(truth(false)),
        max_direct_response_body_size_bytes: Some(number(DIRECT_RESPONSE_LIMIT)),
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    }
}

/// `reviews.default.svc.cluster.local:9080`.
fn virtual_host(registry: &Registry, service: &Service, port: &Port) -> VirtualHost {
    let routes = if service.routes.is_empty() {
        let cluster = ClusterSpecifier::Cluster(outbound_cluster(port.port, "", &service.name));
        let action = forward(cluster, None, registry.retries);
        vec![route("default", everything(), Action::Route(action))]
    } else {
        virtual_service(registry, service, port)
    };
    VirtualHost {
        name: format!("{}:{}", host(&service.name), port.port),
        domains: domains(service, port),
        routes,
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}

/// Every name that a client may use, in Istio's order. With `ignore_port_in_host_matching` those with a port are not
/// needed; Istio listed them until 1.17, and they do no harm.
fn domains(service: &Service, port: &Port) -> Vec<String> {
    let name = &service.name;
    let names = [
        host(name),
        name.clone(),
        format!("{name}.default.svc"),
        format!("{name}.default"),
    ];
    let vips = service.vip.all().map(|vip| match vip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    });
    names
        .into_iter()
        .chain(vips)
        .flat_map(|name| [name.clone(), format!("{name}:{}", port.port)])
        .collect()
}

/// The routes of a `VirtualService`: one for each match, in order; what comes after one that takes everything is left
/// out, as in Istio.
fn virtual_service(registry: &Registry, service: &Service, port: &Port) -> Vec<Route> {
    let mut routes = Vec::new();
    for wanted in &service.routes {
        let action = action(registry, wanted, port);
        if wanted.matches.is_empty() {
            routes.push(route("", everything(), action));
            return routes;
        }
        for one in &wanted.matches {
            routes.push(route("", matches::route_match(one), action.clone()));
            if matches::takes_everything(one) {
                return routes;
            }
        }
    }
    routes
}

fn action(registry: &Registry, wanted: &registry::Route, port: &Port) -> Action {
    if let Some((status, body)) = &wanted.direct_response {
        let body = (!body.is_empty()).then(|| DataSource {
            specifier: Some(Specifier::InlineString(body.clone())),
            ..DataSource::default()
        });
        return Action::DirectResponse(DirectResponseAction {
            status: u32::from(*status),
            body,
            ..DirectResponseAction::default()
        });
    }
    let attempts = wanted.retries.unwrap_or(registry.retries);
    let timeout = wanted.timeout_ms.map(Duration::from_millis);
    Action::Route(forward(
        destinations(registry, &wanted.destinations, port),
        timeout,
        attempts,
    ))
}

fn destinations(registry: &Registry, destinations: &[Destination], port: &Port) -> ClusterSpecifier {
    if let [only] = destinations {
        return ClusterSpecifier::Cluster(destination(registry, only, port));
    }
    // A weight of zero is left out, as in Istio.
    let weighted = destinations.iter().filter(|destination| destination.weight > 0);
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: weighted
            .map(|one| ClusterWeight {
                name: destination(registry, one, port),
                weight: Some(number(one.weight)),
                ..ClusterWeight::default()
            })
            .collect(),
        ..WeightedCluster::default()
    })
}

/// The destination's port, or its service's only port, or the port that was asked for (Istio, `GetDestinationCluster`).
fn destination(registry: &Registry, destination: &Destination, asked: &Port) -> String {
    let service = registry
        .services
        .iter()
        .find(|service| service.name == destination.service);
    let only = service.and_then(|service| match service.ports.as_slice() {
        [only] => Some(only.port),
        _ => None,
    });
    let port = destination.port.or(only).unwrap_or(asked.port);
    let subset = destination.subset.as_deref().unwrap_or_default();
    outbound_cluster(port, subset, &destination.service)
}

fn forward(cluster: ClusterSpecifier, timeout: Option<Duration>, attempts: u32) -> RouteAction {
    let timeout = timeout.map_or_else(no_limit, duration);
    let mut action = RouteAction {
        timeout: Some(timeout),
        retry_policy: retries::outbound(attempts),
        cluster_specifier: Some(cluster),
        ..RouteAction::default()
    };
    #[expect(
        deprecated,
        reason = "Istio's: beside `max_stream_duration` Envoy takes no notice of `timeout`"
    )]
    {
        // gRPC clients say their own limit; it may be no longer than the route's.
        action.max_grpc_timeout = Some(timeout);
    }
    action
}

/// What happens to requests for hosts that no service has.
fn catch_all(registry: &Registry) -> VirtualHost {
    let (name, action) = if registry.allow_any {
        let cluster = ClusterSpecifier::Cluster(PASSTHROUGH_CLUSTER.to_owned());
        ("allow_any", Action::Route(forward(cluster, None, 0)))
    } else {
        let refusal = DirectResponseAction {
            status: 502,
            ..DirectResponseAction::default()
        };
        ("block_all", Action::DirectResponse(refusal))
    };
    VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route(name, everything(), action)],
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}

fn everything() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    }
}

fn route(name: &str, matched: RouteMatch, action: Action) -> Route {
    Route {
        name: name.to_owned(),
        r#match: Some(matched),
        action: Some(action),
        ..Route::default()
    }
}
