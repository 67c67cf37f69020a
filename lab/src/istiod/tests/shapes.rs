//! Names, addresses, matches and targets of everything that is served, as one line each.
#![expect(
    clippy::wildcard_enum_match_arm,
    clippy::match_wildcard_for_single_variants,
    reason = "whatever istiod does not serve fails the test"
)]

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::listener_filter_chain_match_predicate::Rule;
use envoy_types::pb::envoy::config::listener::v3::{
    FilterChain, FilterChainMatch, Listener, ListenerFilterChainMatchPredicate,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier as TcpCluster;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use prost::{Message, Name as _};

use super::super::ip_mode::IpMode;
use super::super::listeners::Interception;
use super::super::metadata::Metadata;
use super::super::registry::{Proxy, Registry};
use super::super::{clusters, endpoints, listeners, routes};
use super::{bookinfo, port, proxy, seen, select};
use crate::istiod::registry::Protocol;

fn socket(address: &SocketAddress) -> String {
    match address.port_specifier {
        Some(PortSpecifier::PortValue(port)) => format!("{}:{port}", address.address),
        ref other => panic!("no port: {other:?}"),
    }
}

fn address(address: Option<&Address>) -> String {
    match address.and_then(|address| address.address.as_ref()) {
        Some(AddressKind::SocketAddress(address)) => socket(address),
        other => panic!("no address: {other:?}"),
    }
}

fn chain_match(found: Option<&FilterChainMatch>) -> String {
    let Some(found) = found else {
        return "any".to_owned();
    };
    let port = found.destination_port.map(|port| format!("port {}", port.value));
    let transport = Some(found.transport_protocol.clone()).filter(|text| !text.is_empty());
    let applications =
        Some(found.application_protocols.join(",")).filter(|applications| !applications.is_empty());
    [port, transport, applications]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

fn target(chain: &FilterChain) -> String {
    let [filter] = chain.filters.as_slice() else {
        panic!("not one filter: {chain:?}");
    };
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
        panic!("no typed config: {filter:?}");
    };
    if any.type_url == TcpProxy::type_url() {
        let proxy = TcpProxy::decode(any.value.as_slice()).unwrap();
        assert_eq!(proxy.access_log.len(), 1);
        match proxy.cluster_specifier {
            Some(TcpCluster::Cluster(cluster)) => {
                assert_eq!(cluster, proxy.stat_prefix);
                format!("tcp {cluster}")
            }
            other => panic!("{other:?}"),
        }
    } else {
        let manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
        assert_eq!(manager.access_log.len(), 1);
        let routes = match manager.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => format!("rds {}", rds.route_config_name),
            Some(RouteSpecifier::RouteConfig(inline)) => format!("inline {}", configuration(&inline)),
            other => panic!("{other:?}"),
        };
        format!("http {} {routes}", manager.stat_prefix)
    }
}

fn ports(disabled: &ListenerFilterChainMatchPredicate) -> Vec<i32> {
    match disabled.rule.as_ref().unwrap() {
        Rule::OrMatch(set) => set.rules.iter().flat_map(ports).collect(),
        Rule::DestinationPortRange(range) => {
            assert_eq!(range.start + 1, range.end);
            vec![range.start]
        }
        other => panic!("{other:?}"),
    }
}

fn listener(listener: &Listener) -> String {
    let bound = listener.bind_to_port.is_none_or(|bound| bound.value);
    let mut lines = vec![format!(
        "{} {} {}",
        listener.name,
        address(listener.address.as_ref()),
        if bound { "bound" } else { "handed over" }
    )];
    for filter in &listener.listener_filters {
        let name = filter.name.rsplit('.').next().unwrap();
        let disabled = filter.filter_disabled.as_ref().map(ports);
        lines.push(match disabled {
            Some(ports) => format!("  {name}, not on {ports:?}"),
            None => format!("  {name}"),
        });
    }
    let default = listener.default_filter_chain.as_ref();
    for (chain, matched) in listener
        .filter_chains
        .iter()
        .map(|chain| (chain, chain_match(chain.filter_chain_match.as_ref())))
        .chain(default.map(|chain| (chain, "otherwise".to_owned())))
    {
        lines.push(format!("  `{}` [{matched}] {}", chain.name, target(chain)));
    }
    lines.join("\n")
}

fn route(route: &Route) -> String {
    let found = route.r#match.as_ref().unwrap();
    let path = match found.path_specifier.as_ref().unwrap() {
        PathSpecifier::Prefix(path) => format!("{path}*"),
        PathSpecifier::Path(path) => path.clone(),
        other => panic!("{other:?}"),
    };
    let headers: Vec<&str> = found.headers.iter().map(|header| header.name.as_str()).collect();
    let action = match route.action.as_ref().unwrap() {
        Action::DirectResponse(answer) => format!("{}", answer.status),
        Action::Route(action) => {
            let cluster = match action.cluster_specifier.as_ref().unwrap() {
                ClusterSpecifier::Cluster(cluster) => cluster.clone(),
                ClusterSpecifier::WeightedClusters(weighted) => weighted
                    .clusters
                    .iter()
                    .map(|cluster| format!("{}={}", cluster.name, cluster.weight.unwrap().value))
                    .collect::<Vec<_>>()
                    .join(" "),
                other => panic!("{other:?}"),
            };
            let timeout = action.timeout.unwrap();
            let limited = timeout.seconds != 0 || timeout.nanos != 0;
            // Beside it, Envoy takes no notice of the timeout.
            assert!(!limited || action.max_stream_duration.is_none());
            let retries = action.retry_policy.as_ref().map(|policy| {
                format!(
                    " {} retries on {}",
                    policy.num_retries.unwrap().value,
                    policy.retry_on
                )
            });
            format!(
                "{cluster} within {}.{:03}s{}",
                timeout.seconds,
                timeout.nanos / 1_000_000,
                retries.unwrap_or_default()
            )
        }
        other => panic!("{other:?}"),
    };
    format!("`{}` {path} {headers:?} -> {action}", route.name)
}

fn configuration(configuration: &RouteConfiguration) -> String {
    let mut lines = vec![configuration.name.clone()];
    for host in &configuration.virtual_hosts {
        lines.push(format!("    {} {}", host.name, host.domains.join(" ")));
        lines.extend(host.routes.iter().map(|found| format!("      {}", route(found))));
    }
    lines.join("\n")
}

fn cluster(cluster: &Cluster) -> String {
    let kind = match cluster.cluster_discovery_type.as_ref().unwrap() {
        ClusterDiscoveryType::Type(kind) => DiscoveryType::try_from(*kind).unwrap(),
        other => panic!("{other:?}"),
    };
    let bind = cluster.upstream_bind_config.as_ref();
    let bind = bind.map(|bind| format!(" from {}", socket(bind.source_address.as_ref().unwrap())));
    let hosts = cluster.load_assignment.as_ref();
    let hosts = hosts.map(|hosts| format!(" to {}", assignment(hosts)));
    let options = cluster.typed_extension_protocol_options.values().next();
    let speaks = options.map(|options| {
        let options = HttpProtocolOptions::decode(options.value.as_slice()).unwrap();
        let text = format!("{:?}", options.upstream_protocol_options.unwrap());
        let known = [
            "UseDownstreamProtocolConfig",
            "Http2ProtocolOptions",
            "HttpProtocolOptions",
        ];
        let found = known.into_iter().find(|name| text.contains(name)).unwrap();
        format!(" {found}")
    });
    format!(
        "{} {}{}{}{}",
        cluster.name,
        kind.as_str_name(),
        speaks.unwrap_or_default(),
        bind.unwrap_or_default(),
        hosts.unwrap_or_default(),
    )
}

fn assignment(assignment: &ClusterLoadAssignment) -> String {
    let endpoints = assignment
        .endpoints
        .iter()
        .flat_map(|locality| &locality.lb_endpoints);
    let addresses = endpoints.map(|endpoint| match &endpoint.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => address(endpoint.address.as_ref()),
        other => panic!("{other:?}"),
    });
    let addresses: Vec<String> = addresses.collect();
    format!("{} {addresses:?}", assignment.cluster_name)
}

fn lines<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    items.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn reviews(registry: &Registry) -> &Proxy {
    &registry.proxies[1]
}

#[test]
fn listeners_of_the_mesh() {
    insta::assert_snapshot!(lines(&listeners::shared(seen(&bookinfo(), IpMode::V4)), listener));
}

#[test]
fn listeners_of_a_proxy() {
    let registry = bookinfo();
    let own = listeners::own(&registry, reviews(&registry), Metadata::default());
    assert!(own.iter().all(|listener| listener.transparent.is_none()));
    insta::assert_snapshot!(lines(&own, listener));
}

#[test]
fn route_configurations() {
    insta::assert_snapshot!(lines(&routes::of(&bookinfo()), configuration));
}

#[test]
fn clusters_of_the_mesh_and_of_a_proxy() {
    let registry = bookinfo();
    let mut all = clusters::shared(&registry, IpMode::V4);
    all.extend(clusters::own(&registry, reviews(&registry)));
    insta::assert_snapshot!(lines(&all, cluster));
}

#[test]
fn endpoints_of_services_and_subsets() {
    insta::assert_snapshot!(lines(&endpoints::of(&bookinfo(), IpMode::V4), assignment));
}

#[test]
fn the_articles_generation_reaches_the_app_at_localhost() {
    let registry = Registry {
        inbound_to_pod_ip: false,
        ..bookinfo()
    };
    let own = clusters::own(&registry, reviews(&registry));
    assert_eq!(
        lines(&own, cluster),
        "inbound|3306|| STATIC to inbound|3306|| [\"127.0.0.1:3306\"]\n\
         inbound|7000|| STATIC UseDownstreamProtocolConfig to inbound|7000|| [\"127.0.0.1:7000\"]\n\
         inbound|9080|| STATIC HttpProtocolOptions to inbound|9080|| [\"127.0.0.1:9080\"]"
    );
}

#[test]
fn registry_only_refuses_what_no_service_has() {
    let registry = Registry {
        allow_any: false,
        ..bookinfo()
    };
    let own = listeners::own(&registry, reviews(&registry), Metadata::default());
    let last = own[0].filter_chains.last().unwrap();
    assert_eq!(target(last), "tcp BlackHoleCluster");
    for listener in listeners::shared(seen(&registry, IpMode::V4)) {
        if listener.name.starts_with("0.0.0.0_") {
            let otherwise = listener.default_filter_chain.as_ref().unwrap();
            assert_eq!(target(otherwise), "tcp BlackHoleCluster", "{}", listener.name);
        }
    }
    let port_80 = &routes::of(&registry)[2];
    let last = port_80.virtual_hosts.last().unwrap();
    assert_eq!(
        (last.name.as_str(), route(&last.routes[0]).as_str()),
        ("block_all", "`block_all` /* [] -> 502")
    );
}

#[test]
fn without_retries_no_route_has_a_policy() {
    let registry = Registry {
        retries: 0,
        ..bookinfo()
    };
    let own = listeners::own(&registry, reviews(&registry), Metadata::default());
    let all = format!(
        "{}{}",
        lines(&routes::of(&registry), configuration),
        lines(&own, listener)
    );
    assert!(!all.contains("retries"), "{all}");
}

#[test]
fn a_pod_of_two_services_has_one_chain_for_each_of_its_ports() {
    let mut registry = bookinfo();
    registry.services[0].ports = vec![
        port("http", 80, 8080, Protocol::Http),
        port("grpc", 81, 8081, Protocol::Http2),
    ];
    registry.services[1].ports = vec![port("tcp", 9999, 8080, Protocol::Tcp)];
    let both = proxy("both", 30);
    select(&mut registry, "both", &["productpage", "reviews"]);
    let own = clusters::own(&registry, &both);
    assert_eq!(
        lines(&own, |cluster| cluster.name.clone()),
        "inbound|8080||\ninbound|8081||"
    );
    let own = listeners::own(&registry, &both, Metadata::default());
    let names: Vec<&str> = own[1]
        .filter_chains
        .iter()
        .map(|chain| chain.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "virtualInbound-blackhole",
            "virtualInbound-catchall-http",
            "virtualInbound",
            "virtualInbound",
            "0.0.0.0_8080",
            "0.0.0.0_8081"
        ]
    );
}

#[test]
fn a_pod_without_services_has_inspectors_on_every_port_but_the_listeners_own() {
    let registry = bookinfo();
    let own = listeners::own(&registry, &proxy("client", 31), Metadata::default());
    assert_eq!(
        own[1].listener_filters[1].filter_disabled.as_ref().map(ports),
        Some(vec![15006])
    );
}

#[test]
fn tproxy_makes_the_listeners_with_a_port_transparent() {
    let registry = bookinfo();
    let tproxy = Metadata {
        interception: Interception::Tproxy,
        ..Metadata::default()
    };
    let own = listeners::own(&registry, reviews(&registry), tproxy);
    assert!(
        own.iter()
            .all(|listener| listener.transparent.is_some_and(|is| is.value))
    );
    let names = |listener: &Listener| -> Vec<String> {
        let filters = listener.listener_filters.iter();
        filters.map(|filter| filter.name.clone()).collect()
    };
    assert!(names(&own[0]).is_empty());
    // In Istio's order.
    assert_eq!(
        names(&own[1]),
        ["original_dst", "original_src", "tls_inspector", "http_inspector"]
            .map(|name| format!("envoy.filters.listener.{name}"))
    );
}
