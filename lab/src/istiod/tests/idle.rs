//! How long connections may be idle: by a proxy's metadata, by destination rules.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HttpProtocolOptions as Common, Node};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use envoy_types::pb::google::protobuf::{self, Struct, Value};
use prost::Message as _;

use super::super::ip_mode::IpMode;
use super::super::metadata::{Metadata, View};
use super::super::registry::Registry;
use super::super::{clusters, listeners};
use super::bookinfo;

fn millis(duration: Option<&protobuf::Duration>) -> Option<i64> {
    duration.map(|it| it.seconds * 1000 + i64::from(it.nanos) / 1_000_000)
}

fn common(options: Option<&Common>) -> Option<i64> {
    millis(options.and_then(|options| options.idle_timeout.as_ref()))
}

/// The limit of the chain's filter; HTTP streams have none, whatever connections have.
fn limit(chain: &FilterChain) -> Option<i64> {
    let Some(ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else {
        panic!("a filter without configuration");
    };
    if any.type_url.ends_with(".TcpProxy") {
        let tcp = TcpProxy::decode(any.value.as_slice()).unwrap();
        return millis(tcp.idle_timeout.as_ref());
    }
    let http = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
    assert_eq!(millis(http.stream_idle_timeout.as_ref()), Some(0));
    common(http.common_http_protocol_options.as_ref())
}

fn limits(listener: &Listener) -> Vec<Option<i64>> {
    let chains = listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain);
    chains.map(limit).collect()
}

/// Every limit of a proxy with this metadata, by listener.
fn all(registry: &Registry, idle_timeout: Option<Duration>) -> HashMap<String, Vec<Option<i64>>> {
    let proxy = &registry.proxies[1];
    let metadata = Metadata {
        idle_timeout,
        ..Metadata::default()
    };
    let mut all = listeners::shared(View::of(registry, proxy, metadata));
    all.extend(listeners::own(registry, proxy, metadata));
    all.iter()
        .map(|listener| (listener.name.clone(), limits(listener)))
        .collect()
}

#[test]
fn a_proxys_metadata_hold_for_all_its_connections() {
    let without = all(&bookinfo(), None);
    assert!(without.values().flatten().all(Option::is_none), "{without:?}");
    let with = all(&bookinfo(), Some(Duration::from_millis(1500)));
    assert_eq!(with.len(), without.len());
    assert!(
        with.values().flatten().all(|limit| *limit == Some(1500)),
        "{with:?}"
    );
}

#[test]
fn a_destination_rule_goes_before_metadata_in_tcp_to_its_service_alone() {
    let mut registry = bookinfo();
    let mysql = registry
        .services
        .iter_mut()
        .find(|service| service.name == "mysql")
        .unwrap();
    mysql.tcp_idle_ms = Some(700);
    let name = format!("{}_3306", mysql.vip.first());
    for metadata in [None, Some(Duration::ZERO), Some(Duration::from_secs(9))] {
        let mut all = all(&registry, metadata);
        assert_eq!(all.remove(&name).unwrap(), [Some(700)]);
        let rest = metadata.map(|limit| i64::try_from(limit.as_millis()).unwrap());
        assert!(all.values().flatten().all(|limit| *limit == rest), "{all:?}");
    }
}

#[test]
fn a_destination_rule_says_how_long_pooled_connections_wait() {
    let mut registry = bookinfo();
    registry.services[0].http_idle_ms = Some(0);
    let name = format!(".{}.", registry.services[0].name);
    let mut seen = 0;
    for cluster in clusters::shared(&registry, IpMode::V4) {
        let limits: Vec<Option<i64>> = cluster
            .typed_extension_protocol_options
            .values()
            .map(|any| HttpProtocolOptions::decode(any.value.as_slice()).unwrap())
            .map(|options| common(options.common_http_protocol_options.as_ref()))
            .collect();
        let is_it = format!(".{}", cluster.name.rsplit('|').next().unwrap()).starts_with(&name);
        seen += usize::from(is_it && !limits.is_empty());
        let wanted = is_it.then_some(0);
        assert!(limits.iter().all(|limit| *limit == wanted), "{}", cluster.name);
    }
    assert!(seen > 0, "the service has no HTTP port");
}

#[test]
fn what_is_no_duration_counts_as_none() {
    let node = |text: &str| Node {
        metadata: Some(Struct {
            fields: HashMap::from([(
                "IDLE_TIMEOUT".to_owned(),
                Value {
                    kind: Some(ValueKind::StringValue(text.to_owned())),
                },
            )]),
        }),
        ..Node::default()
    };
    let idle = |text: &str| Metadata::of(&node(text)).idle_timeout;
    assert_eq!(idle("1500ms"), Some(Duration::from_millis(1500)));
    assert_eq!(idle("0s"), Some(Duration::ZERO));
    assert_eq!(idle("30 s"), None);
    assert_eq!(idle(""), None);
    assert_eq!(Metadata::of(&Node::default()).idle_timeout, None);
}
