//! `virtualInbound`: the listener that connections to a pod come to, with a filter chain for each port of its services.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::listener_filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::listener_filter_chain_match_predicate::{MatchSet, Rule};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, ListenerFilterChainMatchPredicate,
};
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::original_src::v3::OriginalSrc;
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use envoy_types::util::pack_any;

use super::filters::{self, Routing};
use super::ip_mode::additional;
use super::listeners::{
    Interception, PLAIN_HTTP, black_hole, chain, detection, http_inspector, tls_inspector,
};
use super::metadata::View;
use super::names::{
    INBOUND_PASSTHROUGH_CLUSTER, INBOUND_PORT, Outbound, VIRTUAL_INBOUND, inbound_cluster, wildcard,
};
use super::registry::{Port, Proxy, Registry};
use super::routes;
use super::wire::{address, number};

/// Istio's, whatever `tproxyMark` the rules have.
const ORIGINAL_SRC_MARK: u32 = 1337;

/// The ports of a proxy's pod that services have, whether the pod is ready or not, by the pod's port. If two services give one port to two protocols,
/// the first one holds (Istio reports a conflict and does the same).
pub(super) fn ports<'a>(registry: &'a Registry, proxy: &Proxy) -> BTreeMap<u16, &'a Port> {
    let mut ports = BTreeMap::new();
    for service in registry
        .services
        .iter()
        .filter(|service| service.selected.contains(&proxy.pod))
    {
        for port in &service.ports {
            ports.entry(port.target_port).or_insert(port);
        }
    }
    ports
}

/// The listener.
pub(super) fn listener(view: View<'_>, proxy: &Proxy, interception: Interception) -> Listener {
    let ports = ports(view.registry, proxy);
    let mode = view.mode;
    let mut filter_chains = vec![black_hole(
        view,
        "virtualInbound-blackhole",
        VIRTUAL_INBOUND,
        INBOUND_PORT,
    )];
    filter_chains.extend(catch_all(view));
    filter_chains.extend(ports.values().flat_map(|port| port_chains(view, port)));
    Listener {
        name: VIRTUAL_INBOUND.to_owned(),
        address: Some(address(mode.wildcards().first(), INBOUND_PORT)),
        additional_addresses: additional(mode.wildcards(), INBOUND_PORT),
        filter_chains,
        listener_filters: listener_filters(ports.values().copied(), interception),
        listener_filters_timeout: Some(detection(view.registry)),
        continue_on_listener_filters_timeout: true,
        transparent: interception.transparent(),
        traffic_direction: TrafficDirection::Inbound.into(),
        ..Listener::default()
    }
}

/// The chains of one port: declared HTTP or TCP needs one; what is not declared needs a look at its first bytes.
fn port_chains(view: View<'_>, port: &Port) -> Vec<FilterChain> {
    let name = wildcard(view.mode, port.target_port);
    let cluster = inbound_cluster(port.target_port);
    let routes = routes::inbound(view.registry, &cluster, port.port);
    let http = filters::http(
        view,
        VIRTUAL_INBOUND,
        format!("inbound_{name}"),
        Routing::Inline(Box::new(routes)),
    );
    let tcp = filters::tcp(view, VIRTUAL_INBOUND, &cluster);
    match Outbound::of(port) {
        Outbound::Http => vec![chain(&name, plain(Some(port.target_port)), http)],
        Outbound::Tcp => vec![chain(&name, plain(Some(port.target_port)), tcp)],
        Outbound::Sniffed => sniffed([&name, &name], Some(port.target_port), http, tcp),
    }
}

/// The chains of ports that no service has.
fn catch_all(view: View<'_>) -> Vec<FilterChain> {
    let cluster = INBOUND_PASSTHROUGH_CLUSTER;
    let routes = routes::inbound(view.registry, cluster, 0);
    let http = filters::http(
        view,
        VIRTUAL_INBOUND,
        cluster.to_owned(),
        Routing::Inline(Box::new(routes)),
    );
    let tcp = filters::tcp(view, VIRTUAL_INBOUND, cluster);
    sniffed(["virtualInbound-catchall-http", VIRTUAL_INBOUND], None, http, tcp)
}

/// HTTP apart from TCP, and TLS passed on as it is. Every chain names its transport protocol: filter chain matching
/// does not go back, so a chain for any transport beside one for `raw_buffer` would never get plain TCP.
fn sniffed(names: [&str; 2], port: Option<u16>, http: Filter, tcp: Filter) -> Vec<FilterChain> {
    let [http_name, tcp_name] = names;
    let plain_http = FilterChainMatch {
        application_protocols: PLAIN_HTTP.map(str::to_owned).to_vec(),
        ..plain(port)
    };
    let tls = FilterChainMatch {
        transport_protocol: "tls".to_owned(),
        ..plain(port)
    };
    vec![
        chain(http_name, plain_http, http),
        chain(tcp_name, plain(port), tcp.clone()),
        chain(tcp_name, tls, tcp),
    ]
}

fn plain(port: Option<u16>) -> FilterChainMatch {
    FilterChainMatch {
        destination_port: port.map(|port| number(u32::from(port))),
        transport_protocol: "raw_buffer".to_owned(),
        ..FilterChainMatch::default()
    }
}

/// The inspectors wait for the client's first bytes, for ever: they are off for every port whose protocol is declared,
/// or a server that speaks first would never be heard.
fn listener_filters<'a>(
    ports: impl Iterator<Item = &'a Port>,
    interception: Interception,
) -> Vec<ListenerFilter> {
    let declared = ports
        .filter(|port| Outbound::of(port) != Outbound::Sniffed)
        .map(|port| port.target_port);
    let mut known: Vec<u16> = declared.chain([INBOUND_PORT]).collect();
    known.sort_unstable();
    let original_dst = ListenerFilter {
        name: "envoy.filters.listener.original_dst".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack_any(OriginalDst {}))),
        ..ListenerFilter::default()
    };
    let mut filters = vec![original_dst];
    if interception == Interception::Tproxy {
        filters.push(original_src());
    }
    filters.push(tls_inspector(Some(any_of(&known))));
    filters.push(http_inspector(Some(any_of(&known))));
    filters
}

/// The pod's own processes see the client's address. It stands above the clusters' own (`upstream_bind_config`), and the
/// mark is how the rules know such packets, and lead the answers back (Istio, `xdsfilters.OriginalSrc`).
fn original_src() -> ListenerFilter {
    let config = OriginalSrc {
        mark: ORIGINAL_SRC_MARK,
        ..OriginalSrc::default()
    };
    ListenerFilter {
        name: "envoy.filters.listener.original_src".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack_any(config))),
        ..ListenerFilter::default()
    }
}

/// True for connections to one of these ports.
fn any_of(ports: &[u16]) -> ListenerFilterChainMatchPredicate {
    let mut rules: Vec<_> = ports.iter().map(|port| one(*port)).collect();
    // A set needs two rules at least (`MatchSet`'s own validation).
    if rules.len() == 1 {
        return rules.remove(0);
    }
    ListenerFilterChainMatchPredicate {
        rule: Some(Rule::OrMatch(MatchSet { rules })),
    }
}

fn one(port: u16) -> ListenerFilterChainMatchPredicate {
    let start = i32::from(port);
    ListenerFilterChainMatchPredicate {
        // The end of the range is not part of it.
        rule: Some(Rule::DestinationPortRange(Int32Range {
            start,
            end: start + 1,
        })),
    }
}
