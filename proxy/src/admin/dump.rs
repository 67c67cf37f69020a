//! `/clusters`, `/listeners` and `/config_dump`.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what the control plane here never sends is shown as null"
)]

use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use serde_json::{Value, json};

use crate::config::cluster::{ClusterConfig, Discovery};
use crate::config::listener::{ListenerConfig, NetworkFilter, Routes, Socket};
use crate::data_plane::Proxy;
use crate::upstream::Cluster;
use crate::upstream::host::Host;
use crate::xds::Kind;

/// The limits of a cluster, by priority (`CircuitBreakers.Thresholds`, with its defaults).
fn thresholds(proto: &ClusterProto) -> [(&'static str, [(&'static str, u32); 4]); 2] {
    let of = |priority: i32| {
        let found = proto
            .circuit_breakers
            .as_ref()
            .and_then(|all| all.thresholds.iter().find(|it| it.priority == priority));
        let value = |number: Option<u32>, default| number.unwrap_or(default);
        [
            (
                "max_connections",
                value(found.and_then(|it| Some(it.max_connections?.value)), 1024),
            ),
            (
                "max_pending_requests",
                value(found.and_then(|it| Some(it.max_pending_requests?.value)), 1024),
            ),
            (
                "max_requests",
                value(found.and_then(|it| Some(it.max_requests?.value)), 1024),
            ),
            (
                "max_retries",
                value(found.and_then(|it| Some(it.max_retries?.value)), 3),
            ),
        ]
    };
    [("default", of(0)), ("high", of(1))]
}

/// What is counted of a host.
fn counted(host: &Host) -> [(&'static str, &'static str, u64); 8] {
    let open = host
        .cx_total
        .get()
        .min(u64::try_from(host.idle_count()).unwrap_or(0))
        + host.rq_active.get();
    [
        ("cx_active", "GAUGE", open),
        ("cx_connect_fail", "COUNTER", host.cx_connect_fail.get()),
        ("cx_total", "COUNTER", host.cx_total.get()),
        ("rq_active", "GAUGE", host.rq_active.get()),
        ("rq_error", "COUNTER", host.rq_error.get()),
        ("rq_success", "COUNTER", host.rq_success.get()),
        ("rq_timeout", "COUNTER", host.rq_timeout.get()),
        ("rq_total", "COUNTER", host.rq_total.get()),
    ]
}

pub(super) fn clusters_text(proxy: &Proxy) -> String {
    let mut text = String::new();
    for (cluster, proto, is_static) in proxy.all_clusters() {
        let name = &cluster.config.name;
        text.push_str(&format!("{name}::observability_name::{name}\n"));
        for (priority, limits) in thresholds(&proto) {
            for (limit, value) in limits {
                text.push_str(&format!("{name}::{priority}_priority::{limit}::{value}\n"));
            }
        }
        text.push_str(&format!("{name}::added_via_api::{}\n", !is_static));
        if let Discovery::Eds(service) = &cluster.config.discovery {
            text.push_str(&format!("{name}::eds_service_name::{service}\n"));
        }
        for address in cluster.members().iter() {
            let host = cluster.host(*address);
            let line = |key: &str, value: &str| format!("{name}::{address}::{key}::{value}\n");
            for (key, _, value) in counted(&host) {
                text.push_str(&line(key, &value.to_string()));
            }
            for (key, value) in HOST {
                text.push_str(&line(key, value));
            }
        }
    }
    text
}

/// What is the same of every host here: none has a locality, a weight or a health check of its own.
const HOST: [(&str, &str); 9] = [
    ("hostname", ""),
    ("health_flags", "healthy"),
    ("weight", "1"),
    ("region", ""),
    ("zone", ""),
    ("sub_zone", ""),
    ("canary", "false"),
    ("priority", "0"),
    ("success_rate", "-1"),
];

pub(super) fn clusters_json(proxy: &Proxy) -> Value {
    let host = |cluster: &Cluster, address: std::net::SocketAddr| {
        let stats = counted(&cluster.host(address));
        json!({
            "address": socket(address),
            "stats": stats.map(|(name, kind, value)| json!({ "name": name, "type": kind, "value": value.to_string() })),
            "health_status": { "eds_health_status": "HEALTHY" },
            "weight": 1,
            "locality": {},
        })
    };
    let limits = |proto: &ClusterProto| {
        let of = |(priority, limits): (&str, [(&str, u32); 4])| {
            let mut value = json!({ "priority": priority.to_uppercase() });
            for (limit, number) in limits {
                value[limit] = json!(number);
            }
            value
        };
        thresholds(proto).map(of)
    };
    let one = |(cluster, proto, is_static): &(std::rc::Rc<Cluster>, ClusterProto, bool)| {
        let mut value = json!({
            "name": cluster.config.name,
            "observability_name": cluster.config.name,
            "added_via_api": !is_static,
            "circuit_breakers": { "thresholds": limits(proto) },
            "host_statuses": cluster.members().iter().map(|it| host(cluster, *it)).collect::<Vec<_>>(),
        });
        if let Discovery::Eds(service) = &cluster.config.discovery {
            value["eds_service_name"] = json!(service);
        }
        value
    };
    json!({ "cluster_statuses": proxy.all_clusters().iter().map(one).collect::<Vec<_>>() })
}

pub(super) fn listeners_text(proxy: &Proxy) -> String {
    proxy
        .all_listeners()
        .iter()
        .flat_map(|(config, _)| {
            let addresses = config.addresses.iter();
            addresses
                .map(|address| format!("{}::{address}\n", config.name))
                .collect::<Vec<_>>()
        })
        .collect()
}

pub(super) fn listeners_json(proxy: &Proxy) -> Value {
    let all = proxy.all_listeners();
    let one = |config: &ListenerConfig| {
        let more: Vec<Value> = config
            .addresses
            .iter()
            .skip(1)
            .map(|address| socket(*address))
            .collect();
        let mut value =
            json!({ "name": config.name, "local_address": config.addresses.first().map(|it| socket(*it)) });
        if !more.is_empty() {
            value["additional_local_addresses"] = more.into();
        }
        value
    };
    json!({ "listener_statuses": all.iter().map(|(config, _)| one(config)).collect::<Vec<_>>() })
}

fn socket(address: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

/// What is in force, by kind, in the shape of `envoy.admin.v3.ConfigDump`.
///
/// Endpoints are told if they are asked for (`include_eds`).
pub(super) fn config(proxy: &Proxy, with_endpoints: bool) -> Value {
    let (statics, dynamics): (Vec<_>, Vec<_>) = proxy.all_clusters().into_iter().partition(|(_, _, is)| *is);
    let (static_listeners, listeners): (Vec<_>, Vec<_>) =
        proxy.all_listeners().into_iter().partition(|(_, is)| *is);
    let mut document = json!({ "configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
            "bootstrap": {
                "node": { "id": proxy.bootstrap.node_id },
                "admin": { "address": socket(proxy.bootstrap.admin) },
            },
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "version_info": proxy.version(Kind::Cds),
            "static_clusters": statics.iter().map(|(it, proto, _)| json!({ "cluster": cluster(it, proto) })).collect::<Vec<_>>(),
            "dynamic_active_clusters": dynamics.iter()
                .map(|(it, proto, _)| json!({ "version_info": proxy.version(Kind::Cds), "cluster": cluster(it, proto) }))
                .collect::<Vec<_>>(),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "version_info": proxy.version(Kind::Lds),
            "static_listeners": static_listeners.iter().map(|(it, _)| json!({ "listener": listener(it) })).collect::<Vec<_>>(),
            "dynamic_listeners": listeners.iter()
                .map(|(it, _)| json!({
                    "name": it.name,
                    "active_state": { "version_info": proxy.version(Kind::Lds), "listener": listener(it) },
                }))
                .collect::<Vec<_>>(),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "dynamic_route_configs": proxy.all_routes().iter()
                .map(|it| json!({ "version_info": proxy.version(Kind::Rds), "route_config": routes(it) }))
                .collect::<Vec<_>>(),
        },
        { "@type": "type.googleapis.com/envoy.admin.v3.ScopedRoutesConfigDump" },
        { "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump" },
    ] });
    if with_endpoints && let Some(configs) = document["configs"].as_array_mut() {
        configs.push(json!({
            "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
            "dynamic_endpoint_configs": dynamics.iter()
                .filter(|(it, _, _)| matches!(it.config.discovery, Discovery::Eds(_)))
                .map(|(it, _, _)| json!({ "endpoint_config": {
                    "cluster_name": it.config.name,
                    "endpoints": [{ "lb_endpoints": it.members().iter()
                        .map(|host| json!({ "endpoint": { "address": socket(*host) } })).collect::<Vec<_>>() }],
                } }))
                .collect::<Vec<_>>(),
        }));
    }
    document
}

fn cluster(cluster: &Cluster, proto: &ClusterProto) -> Value {
    let config = &cluster.config;
    let kind = match config.discovery {
        Discovery::Eds(_) => "EDS",
        Discovery::Static(_) => "STATIC",
        Discovery::OriginalDst => "ORIGINAL_DST",
        Discovery::StrictDns(_) => "STRICT_DNS",
    };
    json!({
        "name": config.name,
        "type": kind,
        "connect_timeout": format!("{}s", config.connect_timeout.as_secs_f64()),
        "lb_policy": envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy::try_from(proto.lb_policy)
            .map_or("ROUND_ROBIN", |policy| policy.as_str_name()),
        "upstream_bind_config": bind_config(config),
        "load_assignment": match &config.discovery {
            Discovery::Static(hosts) => json!({
                "cluster_name": config.name,
                "endpoints": [{ "lb_endpoints": hosts.iter()
                    .map(|host| json!({ "endpoint": { "address": socket(*host) } })).collect::<Vec<_>>() }],
            }),
            Discovery::Eds(_) | Discovery::OriginalDst | Discovery::StrictDns(_) => Value::Null,
        },
    })
}

fn bind_config(config: &ClusterConfig) -> Value {
    let address = |ip: &std::net::IpAddr| json!({ "address": ip.to_string(), "port_value": 0 });
    let Some((first, more)) = config.bind.split_first() else {
        return Value::Null;
    };
    let mut value = json!({ "source_address": address(first) });
    if !more.is_empty() {
        value["extra_source_addresses"] = more.iter().map(|ip| json!({ "address": address(ip) })).collect();
    }
    value
}

fn listener(config: &ListenerConfig) -> Value {
    let chain = |chain: &crate::config::listener::FilterChain| {
        let filter = match &chain.filter {
            NetworkFilter::Http(http) => json!({
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": http.stat_prefix,
                    "rds": match &http.routes { Routes::Rds(name) => json!({ "route_config_name": name }), Routes::Inline(_) => Value::Null },
                    "route_config": match &http.routes { Routes::Inline(table) => json!({ "name": table.name }), Routes::Rds(_) => Value::Null },
                    "server_name": http.server_name,
                },
            }),
            NetworkFilter::Tcp(tcp) => json!({
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": tcp.stat_prefix,
                    "cluster": tcp.clusters.first().map(|(name, _)| name),
                },
            }),
        };
        json!({ "name": chain.name, "filter_chain_match": chain.criteria(), "filters": [filter] })
    };
    let mut value = json!({
        "name": config.name,
        "address": config.addresses.first().map(|address| socket(*address)),
        "bind_to_port": config.socket != Socket::Nothing,
        "use_original_dst": config.hands_off,
        "transparent": config.socket == Socket::Transparent,
        "filter_chains": config.chains.iter().map(|it| chain(it)).collect::<Vec<_>>(),
        "default_filter_chain": config.default_chain.as_ref().map(|it| chain(it)),
    });
    let more = config.addresses.iter().skip(1);
    let more: Vec<Value> = more
        .map(|address| json!({ "address": socket(*address) }))
        .collect();
    if !more.is_empty() {
        value["additional_addresses"] = more.into();
    }
    value
}

fn routes(config: &RouteConfiguration) -> Value {
    use envoy_types::pb::envoy::config::route::v3::{route, route_action, route_match};
    let one = |it: &envoy_types::pb::envoy::config::route::v3::Route| {
        let path = it
            .r#match
            .as_ref()
            .and_then(|it| it.path_specifier.as_ref())
            .map(|it| match it {
                route_match::PathSpecifier::Prefix(text) => json!({ "prefix": text }),
                route_match::PathSpecifier::Path(text) => json!({ "path": text }),
                route_match::PathSpecifier::SafeRegex(regex) => {
                    json!({ "safe_regex": { "regex": regex.regex } })
                }
                _ => Value::Null,
            });
        let (forward, direct) = match &it.action {
            Some(route::Action::Route(action)) => (
                match &action.cluster_specifier {
                    Some(route_action::ClusterSpecifier::Cluster(name)) => json!({ "cluster": name }),
                    Some(route_action::ClusterSpecifier::WeightedClusters(weighted)) => {
                        json!({ "weighted_clusters": {
                        "clusters": weighted.clusters.iter()
                            .map(|it| json!({ "name": it.name, "weight": it.weight.as_ref().map(|weight| weight.value) }))
                            .collect::<Vec<_>>(),
                    } })
                    }
                    _ => Value::Null,
                },
                Value::Null,
            ),
            Some(route::Action::DirectResponse(direct)) => (Value::Null, json!({ "status": direct.status })),
            _ => (Value::Null, Value::Null),
        };
        json!({ "name": it.name, "match": path, "route": forward, "direct_response": direct })
    };
    let host = |it: &VirtualHost| json!({ "name": it.name, "domains": it.domains, "routes": it.routes.iter().map(one).collect::<Vec<_>>() });
    json!({ "name": config.name, "virtual_hosts": config.virtual_hosts.iter().map(host).collect::<Vec<_>>() })
}
