//! Listeners: where a sidecar takes connections, and which filter chain of which listener gets one.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::listener_filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, ListenerFilterChainMatchPredicate,
};
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::google::protobuf;
use envoy_types::util::pack_any;

use super::filters::{self, Routing};
use super::inbound;
use super::ip_mode::{IpMode, additional};
use super::names::{
    BLACK_HOLE_CLUSTER, OUTBOUND_PORT, Outbound, PASSTHROUGH_CLUSTER, VIRTUAL_OUTBOUND, outbound_cluster,
    route_configuration, wildcard,
};
use super::registry::{Port, Proxy, Registry, Service};
use super::wire::{address, duration, number, truth};
use crate::plan::ips::Ips;

/// What the HTTP inspector calls plain HTTP.
pub(super) const PLAIN_HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// How connections get into the sidecar, from the node metadata `INTERCEPTION_MODE`, as in Istio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interception {
    /// By REDIRECT: the destination is rewritten.
    Redirect,
    /// By TPROXY: the listener's socket takes foreign addresses.
    Tproxy,
}

/// The listeners of this proxy alone: those that have a port of their own, and get what the rules intercept.
pub(super) fn own(registry: &Registry, proxy: &Proxy, interception: Interception) -> Vec<Listener> {
    vec![
        virtual_outbound(registry, IpMode::of(proxy), interception),
        inbound::listener(registry, proxy, interception),
    ]
}

/// The listeners that every proxy of these families has: connections are handed to them by their original destination.
pub(super) fn shared(registry: &Registry, mode: IpMode) -> Vec<Listener> {
    let mut listeners = BTreeMap::new();
    for service in &registry.services {
        for port in &service.ports {
            let listener = match Outbound::of(port) {
                Outbound::Http => http_listener(registry, mode, service, port),
                Outbound::Tcp => tcp_listener(registry, mode.vips(service), service, port),
                Outbound::Sniffed => sniffed_listener(registry, mode.vips(service), service, port),
            };
            // HTTP services of one port share their listener: the first has made it.
            listeners.entry(listener.name.clone()).or_insert(listener);
        }
    }
    listeners.into_values().collect()
}

/// `0.0.0.0_9080`: plain HTTP to the routes of the port; anything else to where it meant to go.
fn http_listener(registry: &Registry, mode: IpMode, service: &Service, port: &Port) -> Listener {
    let name = wildcard(mode, port.port);
    let fall_through = FilterChain {
        name: "PassthroughFilterChain".to_owned(),
        filters: vec![filters::tcp(registry, &name, unknown_destination(registry))],
        ..FilterChain::default()
    };
    Listener {
        filter_chains: vec![sniffed_http_chain(registry, &name, service, port)],
        default_filter_chain: Some(fall_through),
        listener_filters: vec![tls_inspector(None), http_inspector(None)],
        ..handed_over(registry, name, mode.wildcards(), port)
    }
}

/// `10.96.0.6_3306`: no inspectors, so that a server may speak first.
fn tcp_listener(registry: &Registry, vips: Ips, service: &Service, port: &Port) -> Listener {
    let name = format!("{}_{}", vips.first(), port.port);
    let cluster = outbound_cluster(port.port, "", &service.name);
    Listener {
        filter_chains: vec![FilterChain {
            filters: vec![filters::tcp(registry, &name, &cluster)],
            ..FilterChain::default()
        }],
        ..handed_over(registry, name, vips, port)
    }
}

/// `10.96.0.7_7000`: plain HTTP to the service's own routes, anything else to the service as TCP.
fn sniffed_listener(registry: &Registry, vips: Ips, service: &Service, port: &Port) -> Listener {
    let name = format!("{}_{}", vips.first(), port.port);
    let cluster = outbound_cluster(port.port, "", &service.name);
    let as_tcp = FilterChain {
        filters: vec![filters::tcp(registry, &name, &cluster)],
        ..FilterChain::default()
    };
    Listener {
        filter_chains: vec![sniffed_http_chain(registry, &name, service, port)],
        default_filter_chain: Some(as_tcp),
        listener_filters: vec![tls_inspector(None), http_inspector(None)],
        ..handed_over(registry, name, vips, port)
    }
}

fn sniffed_http_chain(registry: &Registry, listener: &str, service: &Service, port: &Port) -> FilterChain {
    let routes = route_configuration(service, port).unwrap_or_default();
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: "raw_buffer".to_owned(),
            application_protocols: PLAIN_HTTP.map(str::to_owned).to_vec(),
            ..FilterChainMatch::default()
        }),
        filters: vec![filters::http(
            registry,
            listener,
            format!("outbound_{listener}"),
            Routing::Rds(routes),
        )],
        ..FilterChain::default()
    }
}

/// How long a listener waits for the bytes that tell a protocol; zero, Istio's default, is no limit.
pub(super) fn detection(registry: &Registry) -> protobuf::Duration {
    duration(Duration::from_millis(registry.protocol_detection_ms))
}

fn handed_over(registry: &Registry, name: String, ips: Ips, port: &Port) -> Listener {
    Listener {
        name,
        address: Some(address(ips.first(), port.port)),
        additional_addresses: additional(ips, port.port),
        bind_to_port: Some(truth(false)),
        traffic_direction: TrafficDirection::Outbound.into(),
        listener_filters_timeout: Some(detection(registry)),
        continue_on_listener_filters_timeout: true,
        ..Listener::default()
    }
}

/// The listener behind the interception rules. It hands a connection to the listener of its original destination; what
/// none takes goes on as TCP, or is refused.
fn virtual_outbound(registry: &Registry, mode: IpMode, interception: Interception) -> Listener {
    let catch_all = FilterChain {
        name: "virtualOutbound-catchall-tcp".to_owned(),
        filters: vec![filters::tcp(
            registry,
            VIRTUAL_OUTBOUND,
            unknown_destination(registry),
        )],
        ..FilterChain::default()
    };
    Listener {
        name: VIRTUAL_OUTBOUND.to_owned(),
        address: Some(address(mode.wildcards().first(), OUTBOUND_PORT)),
        additional_addresses: additional(mode.wildcards(), OUTBOUND_PORT),
        use_original_dst: Some(truth(true)),
        transparent: interception.transparent(),
        traffic_direction: TrafficDirection::Outbound.into(),
        filter_chains: vec![
            black_hole(
                registry,
                "virtualOutbound-blackhole",
                VIRTUAL_OUTBOUND,
                OUTBOUND_PORT,
            ),
            catch_all,
        ],
        ..Listener::default()
    }
}

/// A chain for connections that were made to the listener's own port: passing them on would make a loop.
pub(super) fn black_hole(registry: &Registry, name: &str, listener: &str, port: u16) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(number(u32::from(port))),
            ..FilterChainMatch::default()
        }),
        filters: vec![filters::tcp(registry, listener, BLACK_HOLE_CLUSTER)],
        ..FilterChain::default()
    }
}

/// A filter chain with a name, a match and one filter.
pub(super) fn chain(name: &str, filter_chain_match: FilterChainMatch, filter: Filter) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(filter_chain_match),
        filters: vec![filter],
        ..FilterChain::default()
    }
}

/// Where connections to hosts go that no service has.
fn unknown_destination(registry: &Registry) -> &'static str {
    if registry.allow_any {
        PASSTHROUGH_CLUSTER
    } else {
        BLACK_HOLE_CLUSTER
    }
}

/// Tells TLS from the rest, except where it is disabled.
pub(super) fn tls_inspector(disabled: Option<ListenerFilterChainMatchPredicate>) -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        filter_disabled: disabled,
        config_type: Some(ConfigType::TypedConfig(pack_any(TlsInspector::default()))),
    }
}

/// Tells HTTP from the rest, except where it is disabled. It comes after the TLS inspector.
pub(super) fn http_inspector(disabled: Option<ListenerFilterChainMatchPredicate>) -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.http_inspector".to_owned(),
        filter_disabled: disabled,
        config_type: Some(ConfigType::TypedConfig(pack_any(HttpInspector {}))),
    }
}

impl Interception {
    /// Whether the listener's socket takes foreign addresses.
    pub(super) fn transparent(self) -> Option<protobuf::BoolValue> {
        match self {
            Self::Redirect => None,
            Self::Tproxy => Some(truth(true)),
        }
    }
}
