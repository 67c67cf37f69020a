//! What a data plane is told when it starts: who it is, where xDS comes from, and its static listeners and clusters, in
//! the shape of Istio's bootstrap.

pub mod envoy;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3::{
    Address, Node, SocketAddress, SubstitutionFormatString, address, socket_address,
    substitution_format_string,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::config::listener::v3::{
    AdditionalAddress, Filter, FilterChain, Listener, filter,
};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager, http_filter,
};
use envoy_types::pb::google::protobuf::{Duration, Struct, Value, value};
use envoy_types::util::pack_any;

/// The keys of an access log in JSON, and what each holds; `listener` is the listener's name.
const LOG_FIELDS: [(&str, &str); 26] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_id", "%CONNECTION_ID%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("filter_chain", "%FILTER_CHAIN_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_connection_id", "%UPSTREAM_CONNECTION_ID%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("user_agent", "%REQ(USER-AGENT)%"),
];

/// The metadata of a node that say how connections get in.
const INTERCEPTION_MODE: &str = "INTERCEPTION_MODE";

/// The metadata of a node that say how long connections may be idle.
const IDLE_TIMEOUT: &str = "IDLE_TIMEOUT";

/// What a data plane is told when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// `sidecar~IP~POD.NAMESPACE~DOMAIN`.
    pub node_id: String,
    /// Where its admin listens.
    pub admin: SocketAddr,
    /// The agent's xDS, `HOST:PORT`.
    pub xds: String,
    /// The agent's health and metrics.
    pub agent: SocketAddr,
    /// Where Prometheus scrapes.
    pub metrics: SocketAddr,
    /// Where health is asked for.
    pub health: SocketAddr,
    /// The pod's addresses, in order.
    pub instance_ips: Vec<IpAddr>,
    /// Worker threads.
    pub concurrency: NonZeroU16,
    /// How connections come in.
    pub interception_mode: InterceptionMode,
    /// How long connections may be idle, in the control plane's words.
    pub idle_timeout: Option<String>,
    /// How long connections of a listener go on that is gone, or has changed.
    pub drain_time: std::time::Duration,
}

/// How connections get into a sidecar, as the node's metadata tell the control plane (`INTERCEPTION_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum InterceptionMode {
    /// Their destination is rewritten.
    Redirect,
    /// They keep both their addresses.
    Tproxy,
    /// Not at all.
    None,
}

impl InterceptionMode {
    /// In Istio's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "REDIRECT",
            Self::Tproxy => "TPROXY",
            Self::None => "NONE",
        }
    }
}

/// The addresses of a pod of these families: 127.0.0.1 and 0.0.0.0, or `::1` and `::` where the first is IPv6 (Istio's
/// `localhost` and `wildcard`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// For the pod alone.
    pub localhost: IpAddr,
    /// For everybody.
    pub wildcard: IpAddr,
    /// For everybody, of the other family, in a pod with both.
    pub additional_wildcard: Option<IpAddr>,
}

impl Local {
    /// Of a pod with these addresses.
    pub fn of(ips: &[IpAddr]) -> Self {
        let v4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let v6: IpAddr = Ipv6Addr::UNSPECIFIED.into();
        let is_v6 = ips.first().is_some_and(IpAddr::is_ipv6);
        let has_both = ips.iter().any(|ip| ip.is_ipv6() != is_v6);
        let (localhost, wildcard, other) = if is_v6 {
            (Ipv6Addr::LOCALHOST.into(), v6, v4)
        } else {
            (Ipv4Addr::LOCALHOST.into(), v4, v6)
        };
        Self {
            localhost,
            wildcard,
            additional_wildcard: has_both.then_some(other),
        }
    }
}

/// The addresses of a pod: those that are told, or the one in its node id.
pub fn instance_ips(told: &[IpAddr], node_id: &str) -> Vec<IpAddr> {
    if told.is_empty() {
        node_id
            .split('~')
            .nth(1)
            .and_then(|ip| ip.parse().ok())
            .into_iter()
            .collect()
    } else {
        told.to_vec()
    }
}

impl Bootstrap {
    /// The ports of a sidecar of Istio's, in a pod with the address that the node id has.
    pub fn istio(node_id: &str) -> Self {
        Self::of_pod(node_id, &[])
    }

    /// The same in a pod with these addresses.
    pub fn of_pod(node_id: &str, told: &[IpAddr]) -> Self {
        let instance_ips = instance_ips(told, node_id);
        let here = Local::of(&instance_ips);
        let local = |port| SocketAddr::new(here.localhost, port);
        let any = |port| SocketAddr::new(here.wildcard, port);
        Self {
            node_id: node_id.to_owned(),
            admin: local(15000),
            xds: local(15010).to_string(),
            agent: local(15020),
            metrics: any(15090),
            health: any(15021),
            instance_ips,
            concurrency: NonZeroU16::MIN,
            interception_mode: InterceptionMode::Redirect,
            idle_timeout: None,
            // Istio's `drainDuration`.
            drain_time: std::time::Duration::from_secs(45),
        }
    }

    /// The pod's name.
    fn pod(&self) -> &str {
        let id = self.node_id.split('~').nth(2).unwrap_or_default();
        id.split_once('.').map_or(id, |(name, _)| name)
    }

    /// The node's cluster: `POD.NAMESPACE`.
    fn service(&self) -> &str {
        self.node_id.split('~').nth(2).unwrap_or_default()
    }

    /// The metadata that the control plane's answers depend on.
    fn metadata(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let idle = self.idle_timeout.as_deref();
        [(INTERCEPTION_MODE, self.interception_mode.name())]
            .into_iter()
            .chain(idle.map(|idle| (IDLE_TIMEOUT, idle)))
    }

    /// Who it is, in xDS.
    pub fn node(&self) -> Node {
        Node {
            id: self.node_id.clone(),
            cluster: self.service().to_owned(),
            user_agent_name: "lab-proxy".to_owned(),
            metadata: Some(Struct {
                fields: self
                    .metadata()
                    .map(|(name, value)| (name.to_owned(), string(value)))
                    .collect(),
            }),
            ..Node::default()
        }
    }

    /// `prometheus_stats` (its own admin) and `agent`.
    pub fn clusters(&self) -> Vec<Cluster> {
        self.static_hosts()
            .map(|(name, host)| static_cluster(name, host))
            .into()
    }

    /// 15090 and 15021.
    pub fn listeners(&self) -> Vec<Listener> {
        self.static_routes().map(static_listener).into()
    }

    /// The static clusters' names, each with its one host.
    const fn static_hosts(&self) -> [(&'static str, SocketAddr); 2] {
        [("prometheus_stats", self.admin), ("agent", self.agent)]
    }

    /// The static listeners.
    fn static_routes(&self) -> [StaticRoute; 2] {
        let also = |address: SocketAddr| {
            let ip = Local::of(&self.instance_ips).additional_wildcard?;
            Some(SocketAddr::new(ip, address.port()))
        };
        [
            StaticRoute {
                name: "prometheus",
                address: self.metrics,
                also: also(self.metrics),
                path: "/stats/prometheus",
                cluster: "prometheus_stats",
            },
            StaticRoute {
                name: "health",
                address: self.health,
                also: also(self.health),
                path: "/healthz/ready",
                cluster: "agent",
            },
        ]
    }
}

/// A listener that takes one path to one cluster.
#[derive(Debug, Clone, Copy)]
struct StaticRoute {
    name: &'static str,
    address: SocketAddr,
    also: Option<SocketAddr>,
    path: &'static str,
    cluster: &'static str,
}

fn socket(address: SocketAddr) -> Address {
    let socket = SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(address.port().into())),
        ..SocketAddress::default()
    };
    Address {
        address: Some(address::Address::SocketAddress(socket)),
    }
}

fn static_cluster(name: &str, host: SocketAddr) -> Cluster {
    let endpoint = Endpoint {
        address: Some(socket(host)),
        ..Endpoint::default()
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static.into(),
        )),
        connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        ..Cluster::default()
    }
}

fn static_listener(it: StaticRoute) -> Listener {
    let StaticRoute {
        name,
        address,
        also,
        path,
        cluster,
    } = it;
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..RouteAction::default()
    };
    let route = Route {
        name: name.to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix(path.to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(action)),
        ..Route::default()
    };
    let host = VirtualHost {
        name: "backend".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..VirtualHost::default()
    };
    let table = RouteConfiguration {
        virtual_hosts: vec![host],
        ..RouteConfiguration::default()
    };
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        stream_idle_timeout: Some(Duration::default()),
        stat_prefix: name.to_owned(),
        route_specifier: Some(http_connection_manager::RouteSpecifier::RouteConfig(table)),
        http_filters: vec![router],
        access_log: vec![json_log(name)],
        ..HttpConnectionManager::default()
    };
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack_any(manager))),
    };
    Listener {
        name: name.to_owned(),
        address: Some(socket(address)),
        additional_addresses: also
            .map(|address| AdditionalAddress {
                address: Some(socket(address)),
                ..AdditionalAddress::default()
            })
            .into_iter()
            .collect(),
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            name: name.to_owned(),
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
}

fn string(text: &str) -> Value {
    Value {
        kind: Some(value::Kind::StringValue(text.to_owned())),
    }
}

/// An access log in JSON on standard output, with the keys that the control plane's listeners have too.
pub fn json_log(listener: &str) -> AccessLog {
    let mut fields: HashMap<String, Value> = LOG_FIELDS
        .iter()
        .map(|(name, operator)| ((*name).to_owned(), string(operator)))
        .collect();
    fields.insert("listener".to_owned(), string(listener));
    let format = SubstitutionFormatString {
        format: Some(substitution_format_string::Format::JsonFormat(Struct { fields })),
        ..SubstitutionFormatString::default()
    };
    let log = FileAccessLog {
        path: "/dev/stdout".to_owned(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format)),
    };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack_any(log))),
        ..AccessLog::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster::ClusterConfig;
    use crate::config::listener::ListenerConfig;

    #[test]
    fn the_data_plane_can_use_its_own_bootstrap() {
        let bootstrap = Bootstrap::istio("sidecar~10.0.0.1~a.default~default.svc.cluster.local");
        for cluster in bootstrap.clusters() {
            ClusterConfig::from_proto(&cluster).unwrap();
        }
        for listener in bootstrap.listeners() {
            ListenerConfig::from_proto(listener).unwrap();
        }
    }

    #[track_caller]
    fn check(ips: &[&str], localhost: &str, wildcards: &[&str]) {
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let node = format!("sidecar~{}~a.default~default.svc.cluster.local", ips[0]);
        let bootstrap = Bootstrap::of_pod(&node, &ips);
        assert_eq!(bootstrap.admin.ip().to_string(), localhost);
        for listener in bootstrap.listeners() {
            let listener = ListenerConfig::from_proto(listener).unwrap();
            let found: Vec<String> = listener.addresses.iter().map(|it| it.ip().to_string()).collect();
            assert_eq!(found, wildcards, "{}", listener.name);
        }
    }

    #[test]
    fn it_listens_where_the_pods_addresses_are() {
        check(&["10.0.0.1"], "127.0.0.1", &["0.0.0.0"]);
        check(&["fd00::1"], "::1", &["::"]);
        check(&["10.0.0.1", "fd00::1"], "127.0.0.1", &["0.0.0.0", "::"]);
        check(&["fd00::1", "10.0.0.1"], "::1", &["::", "0.0.0.0"]);
    }
}
