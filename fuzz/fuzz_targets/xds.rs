//! Resources of a control plane: clusters, endpoints, listeners, routes. Any bytes are taken or refused with a reason,
//! and what is taken can be used.

#![no_main]

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::google::protobuf::Any;
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use prost::{Message, Name};
use proxy::config::cluster::{ClusterConfig, endpoints};
use proxy::config::listener::{ListenerConfig, NetworkFilter, Routes};
use proxy::config::route::{Action, RouteTable};
use proxy::config::{Refused, choose_by_weight};

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    match kind % 4 {
        0 => with(bytes, |it: Cluster| {
            ClusterConfig::from_proto(&it).map(|cluster| use_cluster(&cluster))
        }),
        1 => with(bytes, |it: ClusterLoadAssignment| {
            endpoints(&it.cluster_name, &it).map(drop)
        }),
        2 => with(bytes, |mut it: Listener| {
            let chains = it.filter_chains.iter_mut().chain(&mut it.default_filter_chain);
            chains.for_each(write_no_logs);
            ListenerConfig::from_proto(it).map(|config| use_listener(&config))
        }),
        _ => with(bytes, |it: RouteConfiguration| {
            RouteTable::from_proto(&it).map(|table| use_routes(&table))
        }),
    }
});

fn with<T: Message + Default>(bytes: &[u8], take: impl FnOnce(T) -> Result<(), Refused>) {
    let Ok(resource) = T::decode(bytes) else { return };
    if let Err(refused) = take(resource) {
        assert!(!refused.reason.is_empty() && !refused.field.is_empty());
    }
}

fn use_cluster(cluster: &ClusterConfig) {
    can_be_waited_for(cluster.connect_timeout);
    cluster.idle_timeout.into_iter().for_each(can_be_waited_for);
}

fn use_listener(config: &ListenerConfig) {
    assert!(config.route_names().count() <= config.chains.len() + 1);
    for port in [0, 80, 15_006, u16::MAX] {
        for transport in ["raw_buffer", "tls"] {
            for application in [None, Some("http/1.1")] {
                let chosen = config.choose(port, transport, application);
                assert!(chosen.is_none_or(|chain| chain.criteria().is_object()));
            }
        }
        let inspectors = config.tls_inspector.iter().chain(&config.http_inspector);
        for skip in inspectors {
            skip.skips(port);
        }
    }
    config.filter_timeout.into_iter().for_each(can_be_waited_for);
    for chain in config.chains.iter().chain(&config.default_chain) {
        match &chain.filter {
            NetworkFilter::Tcp(tcp) => {
                is_one_of(choose_by_weight(&tcp.clusters), &tcp.clusters);
                tcp.idle_timeout.into_iter().for_each(can_be_waited_for);
            }
            NetworkFilter::Http(http) => {
                http.idle_timeout.into_iter().for_each(can_be_waited_for);
                match &http.routes {
                    Routes::Inline(table) => use_routes(table),
                    Routes::Rds(_) => {}
                }
            }
        }
    }
}

fn is_one_of(name: &str, all: &[(String, u32)]) {
    assert!(all.iter().any(|(known, _)| known == name) || (all.is_empty() && name.is_empty()));
}

fn use_routes(table: &RouteTable) {
    let headers = HeaderMap::new();
    for authority in ["", "reviews", "Reviews.default:9080", "[::1]:80", "\u{e4}"] {
        for path in ["", "*", "/", "/a/b?c=d#e", "/\u{e4}"] {
            let Some((host, route)) = table.find(authority, path, "GET", &headers) else {
                continue;
            };
            table.counts_attempts(host);
            if let Action::Forward(forward) = &table.route(host, route).action {
                forward.choose();
                forward.timeout.into_iter().for_each(can_be_waited_for);
                forward.max_grpc_timeout.into_iter().for_each(can_be_waited_for);
            }
        }
    }
}

/// Deadlines are made of it.
fn can_be_waited_for(limit: Duration) {
    assert!(Instant::now().checked_add(limit).is_some(), "{limit:?}");
}

/// A listener's access logs are opened when it is read: here they all go where nothing is kept.
fn write_no_logs(chain: &mut FilterChain) {
    for filter in &mut chain.filters {
        let Filter {
            config_type: Some(filter::ConfigType::TypedConfig(any)),
            ..
        } = filter
        else {
            continue;
        };
        rewrite(any, |hcm: &mut HttpConnectionManager| {
            hcm.access_log.iter_mut().for_each(to_nowhere);
        });
        rewrite(any, |tcp: &mut TcpProxy| {
            tcp.access_log.iter_mut().for_each(to_nowhere);
        });
    }
}

fn to_nowhere(log: &mut AccessLog) {
    if let Some(access_log::ConfigType::TypedConfig(any)) = &mut log.config_type {
        rewrite(any, |file: &mut FileAccessLog| {
            "/dev/null".clone_into(&mut file.path)
        });
    }
}

/// Changes what an `Any` holds, whatever the first part of its type's URL is.
fn rewrite<T: Message + Name + Default>(any: &mut Any, change: impl FnOnce(&mut T)) {
    let kind = any.type_url.rsplit('/').next().unwrap_or_default();
    if kind == T::full_name()
        && let Ok(mut inner) = T::decode(any.value.as_slice())
    {
        change(&mut inner);
        any.value = inner.encode_to_vec();
    }
}
