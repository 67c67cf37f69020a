//! The two network filters that every filter chain ends in: HTTP connection manager and TCP proxy.

use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::util::pack_any;

use super::access_log;
use super::metadata::View;
use super::registry::Registry;
use super::wire::{ads, duration, no_limit, truth};

/// Where an HTTP connection manager has its routes from.
#[derive(Debug)]
pub(super) enum Routing {
    /// The RDS resource of this name: outbound.
    Rds(String),
    /// From the listener itself: inbound.
    Inline(Box<RouteConfiguration>),
}

/// The log of a listener, unless the mesh has none (`MeshConfig.accessLogFile`).
fn logs(registry: &Registry, listener: &str) -> Vec<AccessLog> {
    if registry.access_log {
        access_log::of(listener)
    } else {
        Vec::new()
    }
}

/// An HTTP connection manager (Istio, `buildHTTPConnectionManager`), with the log of the listener that it is in.
pub(super) fn http(view: View<'_>, listener: &str, stat_prefix: String, routing: Routing) -> Filter {
    let manager = HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix,
        common_http_protocol_options: view.idle_timeout.map(idle),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
            ..HttpFilter::default()
        }],
        server_name: "istio-envoy".to_owned(),
        access_log: logs(view.registry, listener),
        use_remote_address: Some(truth(false)),
        generate_request_id: Some(truth(true)),
        // Otherwise the id that an application outside the mesh sent would be replaced, and its request lost sight of.
        preserve_external_request_id: true,
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        normalize_path: Some(truth(true)),
        stream_idle_timeout: Some(no_limit()),
        route_specifier: Some(match routing {
            Routing::Rds(route_config_name) => RouteSpecifier::Rds(Rds {
                config_source: Some(ads()),
                route_config_name,
            }),
            Routing::Inline(routes) => RouteSpecifier::RouteConfig(*routes),
        }),
        ..HttpConnectionManager::default()
    };
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack_any(manager))),
    }
}

/// For HTTP connections on which no request is under way.
pub(super) fn idle(timeout: Duration) -> HttpProtocolOptions {
    HttpProtocolOptions {
        idle_timeout: Some(duration(timeout)),
        ..HttpProtocolOptions::default()
    }
}

/// A TCP proxy to a cluster, with the log of the listener that it is in.
pub(super) fn tcp(view: View<'_>, listener: &str, cluster: &str) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: cluster.to_owned(),
        access_log: logs(view.registry, listener),
        idle_timeout: view.idle_timeout.map(duration),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    };
    Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack_any(proxy))),
    }
}
