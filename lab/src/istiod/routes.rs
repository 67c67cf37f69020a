//! Route tables, in Istio's names and shapes (`pilot/pkg/networking/core/httproute.go`).

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryHostPredicate, retry_host_predicate};
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, WeightedCluster, route, route_match,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value};
use envoy_types::util::pack_any;

use super::clusters::{PASSTHROUGH_CLUSTER, inbound_name, outbound_name};
use super::registry::{self, Destination, Match, Port, Protocol, Registry, Service, StringMatch};
use super::snapshot::host;

const NO_LIMIT: Duration = Duration { seconds: 0, nanos: 0 };

/// True if a port's traffic goes through an HTTP connection manager.
pub(super) const fn is_http(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Http | Protocol::Http2 | Protocol::Unknown)
}

/// One table for each port that some service has HTTP on, named by the port.
pub(super) fn outbound(registry: &Registry) -> Vec<RouteConfiguration> {
    let mut by_port: BTreeMap<u16, Vec<VirtualHost>> = BTreeMap::new();
    for service in &registry.services {
        for port in service.ports.iter().filter(|port| is_http(port.protocol)) {
            by_port
                .entry(port.port)
                .or_default()
                .push(virtual_host(registry, service, port));
        }
    }
    let table = |(port, mut virtual_hosts): (u16, Vec<VirtualHost>)| {
        virtual_hosts.push(catch_all(registry));
        RouteConfiguration {
            name: port.to_string(),
            virtual_hosts,
            validate_clusters: Some(BoolValue { value: false }),
            ignore_port_in_host_matching: true,
            max_direct_response_body_size_bytes: Some(UInt32Value { value: 1 << 20 }),
            ..RouteConfiguration::default()
        }
    };
    by_port.into_iter().map(table).collect()
}

/// The one table of an inbound port.
pub(super) fn inbound(registry: &Registry, port: u16) -> RouteConfiguration {
    let cluster = inbound_name(port);
    let retry = RetryPolicy {
        retry_on: "reset-before-request".to_owned(),
        num_retries: Some(UInt32Value {
            value: registry.retries,
        }),
        ..RetryPolicy::default()
    };
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.clone())),
        timeout: Some(NO_LIMIT),
        retry_policy: (registry.retries > 0).then_some(retry),
        ..RouteAction::default()
    };
    let host = VirtualHost {
        name: format!("inbound|http|{port}"),
        domains: vec!["*".to_owned()],
        routes: vec![route("default", everything(), route::Action::Route(action))],
        ..VirtualHost::default()
    };
    RouteConfiguration {
        name: cluster,
        virtual_hosts: vec![host],
        validate_clusters: Some(BoolValue { value: false }),
        ..RouteConfiguration::default()
    }
}

fn everything() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    }
}

fn route(name: &str, wanted: RouteMatch, action: route::Action) -> Route {
    Route {
        name: name.to_owned(),
        r#match: Some(wanted),
        action: Some(action),
        ..Route::default()
    }
}

fn catch_all(registry: &Registry) -> VirtualHost {
    let (name, action) = if registry.allow_any {
        let action = RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(PASSTHROUGH_CLUSTER.to_owned())),
            timeout: Some(NO_LIMIT),
            ..RouteAction::default()
        };
        ("allow_any", route::Action::Route(action))
    } else {
        let block = DirectResponseAction {
            status: 502,
            ..DirectResponseAction::default()
        };
        ("block_all", route::Action::DirectResponse(block))
    };
    VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route(name, everything(), action)],
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}

fn virtual_host(registry: &Registry, service: &Service, port: &Port) -> VirtualHost {
    let mut routes: Vec<Route> = service
        .routes
        .iter()
        .flat_map(|wanted| wanted_routes(registry, service, port, wanted))
        .collect();
    if service.routes.is_empty() {
        let to = outbound_name(&service.name, None, port.port);
        routes.push(route(
            "default",
            everything(),
            forward(registry, ClusterSpecifier::Cluster(to), None, None),
        ));
    }
    VirtualHost {
        name: format!("{}:{}", host(&service.name), port.port),
        domains: domains(service),
        routes,
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}

/// Ports are left out: the tables ignore them.
fn domains(service: &Service) -> Vec<String> {
    let name = &service.name;
    let forms = [
        host(name),
        name.clone(),
        format!("{name}.default.svc"),
        format!("{name}.default"),
    ];
    forms.into_iter().chain([service.vip.to_string()]).collect()
}

fn wanted_routes(
    registry: &Registry,
    service: &Service,
    port: &Port,
    wanted: &registry::Route,
) -> Vec<Route> {
    let action = || match &wanted.direct_response {
        Some((status, body)) => route::Action::DirectResponse(DirectResponseAction {
            status: (*status).into(),
            body: (!body.is_empty()).then(|| DataSource {
                specifier: Some(data_source::Specifier::InlineString(body.clone())),
                ..DataSource::default()
            }),
            ..DirectResponseAction::default()
        }),
        None => forward(
            registry,
            cluster_specifier(port, &wanted.destinations),
            wanted.timeout_ms,
            wanted.retries,
        ),
    };
    let name = format!("{}-route", service.name);
    if wanted.matches.is_empty() {
        return vec![route(&name, everything(), action())];
    }
    wanted
        .matches
        .iter()
        .map(|it| route(&name, route_match(it), action()))
        .collect()
}

fn cluster_specifier(port: &Port, destinations: &[Destination]) -> ClusterSpecifier {
    let name =
        |it: &Destination| outbound_name(&it.service, it.subset.as_deref(), it.port.unwrap_or(port.port));
    if let [only] = destinations {
        return ClusterSpecifier::Cluster(name(only));
    }
    let weight = |it: &Destination| ClusterWeight {
        name: name(it),
        weight: Some(UInt32Value { value: it.weight }),
        ..ClusterWeight::default()
    };
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: destinations.iter().map(weight).collect(),
        ..WeightedCluster::default()
    })
}

fn forward(
    registry: &Registry,
    to: ClusterSpecifier,
    timeout_ms: Option<u64>,
    retries: Option<u32>,
) -> route::Action {
    let timeout = timeout_ms.map_or(NO_LIMIT, |millis| Duration {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0),
    });
    let retries = retries.unwrap_or(registry.retries);
    route::Action::Route(RouteAction {
        cluster_specifier: Some(to),
        timeout: Some(timeout),
        retry_policy: (retries > 0).then(|| default_retry(retries)),
        ..RouteAction::default()
    })
}

/// Istio's default policy (`pilot/pkg/networking/core/route/retry/retry.go`).
fn default_retry(retries: u32) -> RetryPolicy {
    let other_host = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack_any(
            PreviousHostsPredicate {},
        ))),
    };
    RetryPolicy {
        retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes".to_owned(),
        num_retries: Some(UInt32Value { value: retries }),
        retriable_status_codes: vec![503],
        retry_host_predicate: vec![other_host],
        host_selection_retry_max_attempts: 5,
        ..RetryPolicy::default()
    }
}

fn route_match(wanted: &Match) -> RouteMatch {
    let path = match &wanted.uri {
        None => route_match::PathSpecifier::Prefix("/".to_owned()),
        Some(StringMatch::Exact(text)) => route_match::PathSpecifier::Path(text.clone()),
        Some(StringMatch::Prefix(text)) => route_match::PathSpecifier::Prefix(text.clone()),
        Some(StringMatch::Regex(text)) => route_match::PathSpecifier::SafeRegex(regex(text)),
    };
    let method = wanted.method.iter().map(|it| header_matcher(":method", it));
    let headers = wanted.headers.iter().map(|(name, it)| header_matcher(name, it));
    RouteMatch {
        path_specifier: Some(path),
        headers: method.chain(headers).collect(),
        ..RouteMatch::default()
    }
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher {
        regex: text.to_owned(),
        ..RegexMatcher::default()
    }
}

fn header_matcher(name: &str, wanted: &StringMatch) -> HeaderMatcher {
    let pattern = match wanted {
        StringMatch::Exact(text) => string_matcher::MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => string_matcher::MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(text) => string_matcher::MatchPattern::SafeRegex(regex(text)),
    };
    let matcher = StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..HeaderMatcher::default()
    }
}
