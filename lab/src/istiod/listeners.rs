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
use super::ip_mode::additional;
use super::metadata::{Metadata, View};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Interception {
    /// By REDIRECT: the destination is rewritten.
    #[default]
    Redirect,
    /// By TPROXY: the listener's socket takes foreign addresses.
    Tproxy,
}

/// The listeners of this proxy alone: those that have a port of their own, and get what the rules intercept.
pub(super) fn own(registry: &Registry, proxy: &Proxy, metadata: Metadata) -> Vec<Listener> {
    let view = View::of(registry, proxy, metadata);
    vec![
        virtual_outbound(view, metadata.interception),
        inbound::listener(view, proxy, metadata.interception),
    ]
}

/// The listeners that every proxy with this view has: connections are handed to them by their original destination.
pub(super) fn shared(view: View<'_>) -> Vec<Listener> {
    let mut listeners = BTreeMap::new();
    for service in &view.registry.services {
        for port in &service.ports {
            let listener = match Outbound::of(port) {
                Outbound::Http => http_listener(view, service, port),
                Outbound::Tcp => tcp_listener(view, service, port),
                Outbound::Sniffed => sniffed_listener(view, service, port),
            };
            // HTTP services of one port share their listener: the first has made it.
            listeners.entry(listener.name.clone()).or_insert(listener);
        }
    }
    listeners.into_values().collect()
}

/// `0.0.0.0_9080`: plain HTTP to the routes of the port; anything else to where it meant to go.
fn http_listener(view: View<'_>, service: &Service, port: &Port) -> Listener {
    let name = wildcard(view.mode, port.port);
    let fall_through = FilterChain {
        name: "PassthroughFilterChain".to_owned(),
        filters: vec![filters::tcp(view, &name, unknown_destination(view))],
        ..FilterChain::default()
    };
    Listener {
        filter_chains: vec![sniffed_http_chain(view, &name, service, port)],
        default_filter_chain: Some(fall_through),
        listener_filters: vec![tls_inspector(None), http_inspector(None)],
        ..handed_over(view, name, view.mode.wildcards(), port)
    }
}

/// `10.96.0.6_3306`: no inspectors, so that a server may speak first.
fn tcp_listener(view: View<'_>, service: &Service, port: &Port) -> Listener {
    let vips = view.mode.vips(service);
    let name = format!("{}_{}", vips.first(), port.port);
    let cluster = outbound_cluster(port.port, "", &service.name);
    Listener {
        filter_chains: vec![FilterChain {
            filters: vec![filters::tcp(to(view, service), &name, &cluster)],
            ..FilterChain::default()
        }],
        ..handed_over(view, name, vips, port)
    }
}

/// `10.96.0.7_7000`: plain HTTP to the service's own routes, anything else to the service as TCP.
fn sniffed_listener(view: View<'_>, service: &Service, port: &Port) -> Listener {
    let vips = view.mode.vips(service);
    let name = format!("{}_{}", vips.first(), port.port);
    let cluster = outbound_cluster(port.port, "", &service.name);
    let as_tcp = FilterChain {
        filters: vec![filters::tcp(to(view, service), &name, &cluster)],
        ..FilterChain::default()
    };
    Listener {
        filter_chains: vec![sniffed_http_chain(view, &name, service, port)],
        default_filter_chain: Some(as_tcp),
        listener_filters: vec![tls_inspector(None), http_inspector(None)],
        ..handed_over(view, name, vips, port)
    }
}

/// The view of TCP to a service: its destination rule says how long that may be idle, if it does.
const fn to<'a>(view: View<'a>, service: &Service) -> View<'a> {
    match service.tcp_idle_ms {
        None => view,
        Some(limit) => View {
            idle_timeout: Some(Duration::from_millis(limit)),
            ..view
        },
    }
}

fn sniffed_http_chain(view: View<'_>, listener: &str, service: &Service, port: &Port) -> FilterChain {
    let routes = route_configuration(service, port).unwrap_or_default();
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: "raw_buffer".to_owned(),
            application_protocols: PLAIN_HTTP.map(str::to_owned).to_vec(),
            ..FilterChainMatch::default()
        }),
        filters: vec![filters::http(
            view,
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

fn handed_over(view: View<'_>, name: String, ips: Ips, port: &Port) -> Listener {
    Listener {
        name,
        address: Some(address(ips.first(), port.port)),
        additional_addresses: additional(ips, port.port),
        bind_to_port: Some(truth(false)),
        traffic_direction: TrafficDirection::Outbound.into(),
        listener_filters_timeout: Some(detection(view.registry)),
        continue_on_listener_filters_timeout: true,
        ..Listener::default()
    }
}

/// The listener behind the interception rules. It hands a connection to the listener of its original destination; what
/// none takes goes on as TCP, or is refused.
fn virtual_outbound(view: View<'_>, interception: Interception) -> Listener {
    let mode = view.mode;
    let catch_all = FilterChain {
        name: "virtualOutbound-catchall-tcp".to_owned(),
        filters: vec![filters::tcp(view, VIRTUAL_OUTBOUND, unknown_destination(view))],
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
            black_hole(view, "virtualOutbound-blackhole", VIRTUAL_OUTBOUND, OUTBOUND_PORT),
            catch_all,
        ],
        ..Listener::default()
    }
}

/// A chain for connections that were made to the listener's own port: passing them on would make a loop.
pub(super) fn black_hole(view: View<'_>, name: &str, listener: &str, port: u16) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(number(u32::from(port))),
            ..FilterChainMatch::default()
        }),
        filters: vec![filters::tcp(view, listener, BLACK_HOLE_CLUSTER)],
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
fn unknown_destination(view: View<'_>) -> &'static str {
    if view.registry.allow_any {
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
