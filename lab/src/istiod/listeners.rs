//! Listeners, in Istio's names and shapes (`pilot/pkg/networking/core/listener*.go`).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use envoy_types::pb::envoy::config::listener::v3::listener_filter_chain_match_predicate::{MatchSet, Rule};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, ListenerFilterChainMatchPredicate, filter,
    listener_filter,
};
use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use envoy_types::util::pack_any;

use super::clusters::{
    BLACK_HOLE, INBOUND_PASSTHROUGH, PASSTHROUGH_CLUSTER, by_ads, inbound_name, inbound_ports, outbound_name,
    socket,
};
use super::logs::access_log;
use super::registry::{Protocol, Proxy, Registry};
use super::routes;

const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// What the inspectors call the HTTP that Istio matches.
const HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// All listeners of a proxy.
pub(super) fn all(registry: &Registry, proxy: &Proxy) -> Vec<Listener> {
    let mut listeners = vec![virtual_outbound(registry), virtual_inbound(registry, proxy)];
    let mut http_ports = BTreeSet::new();
    for service in &registry.services {
        for port in &service.ports {
            if routes::is_http(port.protocol) {
                http_ports.insert(port.port);
            } else {
                let cluster = outbound_name(&service.name, None, port.port);
                let name = format!("{}_{}", service.vip, port.port);
                let filters = vec![tcp(&name, &cluster)];
                listeners.push(Listener {
                    filter_chains: vec![FilterChain {
                        filters,
                        ..FilterChain::default()
                    }],
                    ..unbound(&name, service.vip, port.port)
                });
            }
        }
    }
    listeners.extend(http_ports.into_iter().map(|port| outbound_http(registry, port)));
    listeners
}

fn listener(name: &str, ip: Ipv4Addr, port: u16, direction: TrafficDirection) -> Listener {
    Listener {
        name: name.to_owned(),
        address: Some(socket(ip, port)),
        traffic_direction: direction.into(),
        ..Listener::default()
    }
}

fn unbound(name: &str, ip: Ipv4Addr, port: u16) -> Listener {
    Listener {
        bind_to_port: Some(BoolValue { value: false }),
        ..listener(name, ip, port, TrafficDirection::Outbound)
    }
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

fn tcp(listener: &str, cluster: &str) -> Filter {
    let config = TcpProxy {
        stat_prefix: cluster.to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        access_log: vec![access_log(listener)],
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", pack_any(config))
}

fn http(listener: &str, stat_prefix: &str, routes: RouteSpecifier) -> Filter {
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
        ..HttpFilter::default()
    };
    let websocket = UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        ..UpgradeConfig::default()
    };
    let config = HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(routes),
        http_filters: vec![router],
        server_name: "istio-envoy".to_owned(),
        use_remote_address: Some(BoolValue { value: false }),
        generate_request_id: Some(BoolValue { value: true }),
        preserve_external_request_id: true,
        normalize_path: Some(BoolValue { value: true }),
        stream_idle_timeout: Some(Duration { seconds: 0, nanos: 0 }),
        upgrade_configs: vec![websocket],
        access_log: vec![access_log(listener)],
        ..HttpConnectionManager::default()
    };
    network_filter("envoy.filters.network.http_connection_manager", pack_any(config))
}

fn inspector(name: &str, config: Any, off_for: &[u16]) -> ListenerFilter {
    let range = |port: &u16| ListenerFilterChainMatchPredicate {
        rule: Some(Rule::DestinationPortRange(Int32Range {
            start: (*port).into(),
            end: i32::from(*port) + 1,
        })),
    };
    let off = match off_for {
        [] => None,
        [port] => Some(range(port)),
        ports => Some(ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet {
                rules: ports.iter().map(range).collect(),
            })),
        }),
    };
    ListenerFilter {
        name: name.to_owned(),
        filter_disabled: off,
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
    }
}

fn inspectors(off_for: &[u16]) -> Vec<ListenerFilter> {
    vec![
        inspector(
            "envoy.filters.listener.tls_inspector",
            pack_any(TlsInspector::default()),
            off_for,
        ),
        inspector(
            "envoy.filters.listener.http_inspector",
            pack_any(HttpInspector::default()),
            off_for,
        ),
    ]
}

fn on_port(port: u16) -> FilterChainMatch {
    FilterChainMatch {
        destination_port: Some(UInt32Value { value: port.into() }),
        ..FilterChainMatch::default()
    }
}

/// Both must be in every catch-all: Envoy does not go back on a criterion that a chain has met.
fn plain(applications: &[&str]) -> FilterChainMatch {
    FilterChainMatch {
        transport_protocol: "raw_buffer".to_owned(),
        application_protocols: applications.iter().map(|it| (*it).to_owned()).collect(),
        ..FilterChainMatch::default()
    }
}

fn chain(name: &str, wanted: Option<FilterChainMatch>, filter: Filter) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        filter_chain_match: wanted,
        filters: vec![filter],
        ..FilterChain::default()
    }
}

const fn unknown_cluster(registry: &Registry) -> &'static str {
    if registry.allow_any {
        PASSTHROUGH_CLUSTER
    } else {
        BLACK_HOLE
    }
}

fn virtual_outbound(registry: &Registry) -> Listener {
    const NAME: &str = "virtualOutbound";
    let black_hole = chain(
        "virtualOutbound-blackhole",
        Some(on_port(OUTBOUND)),
        tcp(NAME, BLACK_HOLE),
    );
    let catch_all = chain(
        "virtualOutbound-catchall-tcp",
        None,
        tcp(NAME, unknown_cluster(registry)),
    );
    Listener {
        use_original_dst: Some(BoolValue { value: true }),
        filter_chains: vec![black_hole, catch_all],
        ..listener(NAME, ANY, OUTBOUND, TrafficDirection::Outbound)
    }
}

fn outbound_http(registry: &Registry, port: u16) -> Listener {
    let name = format!("0.0.0.0_{port}");
    let rds = Rds {
        config_source: Some(by_ads()),
        route_config_name: port.to_string(),
    };
    let filter = http(
        &name,
        &format!("outbound_0.0.0.0_{port}"),
        RouteSpecifier::Rds(rds),
    );
    Listener {
        filter_chains: vec![chain("", Some(plain(&HTTP)), filter)],
        default_filter_chain: Some(chain(
            "PassthroughFilterChain",
            None,
            tcp(&name, unknown_cluster(registry)),
        )),
        listener_filters: inspectors(&[]),
        listener_filters_timeout: Some(Duration { seconds: 0, nanos: 0 }),
        continue_on_listener_filters_timeout: true,
        ..unbound(&name, ANY, port)
    }
}

fn virtual_inbound(registry: &Registry, proxy: &Proxy) -> Listener {
    const NAME: &str = "virtualInbound";
    let ports = inbound_ports(registry, proxy);
    let mut chains = vec![chain(
        "virtualInbound-blackhole",
        Some(on_port(INBOUND)),
        tcp(NAME, BLACK_HOLE),
    )];
    for (port, protocol) in &ports {
        let name = format!("0.0.0.0_{port}");
        let own_http = || {
            http(
                NAME,
                &format!("inbound_0.0.0.0_{port}"),
                inline(routes::inbound(registry, *port)),
            )
        };
        let own_tcp = || tcp(NAME, &inbound_name(*port));
        match protocol {
            Protocol::Http | Protocol::Http2 => chains.push(chain(&name, Some(on_port(*port)), own_http())),
            Protocol::Tcp => chains.push(chain(&name, Some(on_port(*port)), own_tcp())),
            Protocol::Unknown => {
                let on = |wanted: FilterChainMatch| FilterChainMatch {
                    destination_port: on_port(*port).destination_port,
                    ..wanted
                };
                chains.push(chain(&name, Some(on(plain(&HTTP))), own_http()));
                chains.push(chain(&name, Some(on(plain(&[]))), own_tcp()));
            }
        }
    }
    let passthrough = inline(passthrough_routes());
    let catch_http = http(NAME, "InboundPassthroughCluster", passthrough);
    chains.push(chain(
        "virtualInbound-catchall-http",
        Some(plain(&HTTP)),
        catch_http,
    ));
    chains.push(chain(NAME, Some(plain(&[])), tcp(NAME, INBOUND_PASSTHROUGH)));
    // What is declared needs no looking: a server may speak first there.
    let declared: Vec<u16> = ports
        .iter()
        .filter(|(_, protocol)| **protocol != Protocol::Unknown)
        .map(|(port, _)| *port)
        .collect();
    let original = inspector(
        "envoy.filters.listener.original_dst",
        pack_any(OriginalDst::default()),
        &[],
    );
    let off_for: Vec<u16> = declared.into_iter().chain([INBOUND]).collect();
    Listener {
        filter_chains: chains,
        listener_filters: [original].into_iter().chain(inspectors(&off_for)).collect(),
        listener_filters_timeout: Some(Duration { seconds: 0, nanos: 0 }),
        continue_on_listener_filters_timeout: true,
        ..listener(NAME, ANY, INBOUND, TrafficDirection::Inbound)
    }
}

const fn inline(table: RouteConfiguration) -> RouteSpecifier {
    RouteSpecifier::RouteConfig(table)
}

fn passthrough_routes() -> RouteConfiguration {
    let mut table = routes::inbound(
        &Registry {
            allow_any: true,
            inbound_to_pod_ip: true,
            retries: 0,
            services: Vec::new(),
            proxies: Vec::new(),
        },
        0,
    );
    INBOUND_PASSTHROUGH.clone_into(&mut table.name);
    for virtual_host in &mut table.virtual_hosts {
        "inbound|http|0".clone_into(&mut virtual_host.name);
        for route in &mut virtual_host.routes {
            use envoy_types::pb::envoy::config::route::v3::{route, route_action};
            if let Some(route::Action::Route(action)) = &mut route.action {
                action.cluster_specifier = Some(route_action::ClusterSpecifier::Cluster(
                    INBOUND_PASSTHROUGH.to_owned(),
                ));
            }
        }
    }
    table
}
