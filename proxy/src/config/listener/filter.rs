//! Network filters: what happens to the connections of a chain.

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog as AccessLogProto, access_log};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::google::protobuf::Any;

use crate::access_log::{AccessLog, Format};
use crate::config::route::RouteTable;
use crate::config::{Refused, limit, unpack};
use crate::http::HttpStats;
use crate::stats::{Stat, Stats};

/// A network filter: what happens to a connection.
#[derive(Debug)]
pub enum NetworkFilter {
    /// HTTP.
    Http(Box<HttpConfig>),
    /// TCP.
    Tcp(TcpConfig),
}

impl NetworkFilter {
    /// From configuration; `field` says of which chain it is.
    pub(super) fn from_proto(listener: &str, field: &str, any: &Any) -> Result<Self, Refused> {
        let kind = any.type_url.rsplit('/').next().unwrap_or_default();
        match kind {
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
                let hcm: HttpConnectionManager = unpack(listener, field, any)?;
                Ok(Self::Http(Box::new(http(listener, field, &hcm)?)))
            }
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
                Ok(Self::Tcp(tcp(listener, field, &unpack(listener, field, any)?)?))
            }
            _ => {
                let reason = format!(
                    "didn't find a registered implementation for type {}",
                    any.type_url
                );
                Err(Refused::new(listener, field, reason))
            }
        }
    }
}

/// The HTTP connection manager.
#[derive(Debug)]
pub struct HttpConfig {
    /// Prefix of its stats.
    pub stat_prefix: String,
    /// Where its routes come from.
    pub routes: Routes,
    /// Its logs.
    pub logs: Vec<AccessLog>,
    /// The `server` header of its responses.
    pub server_name: String,
    /// Requests get an id if they have none.
    pub generate_request_id: bool,
    /// An id that a client gave is kept.
    pub preserve_request_id: bool,
    /// Upgrades that pass through, in lower case.
    pub upgrades: Vec<String>,
    /// How long a connection may wait for a request; none = for ever.
    pub idle_timeout: Option<Duration>,
    /// Paths are normalised before they are matched.
    pub normalize_path: bool,
    stats: OnceCell<Rc<HttpStats>>,
}

impl HttpConfig {
    /// What its connections count.
    pub fn stats(&self, all: &Stats) -> Rc<HttpStats> {
        Rc::clone(
            self.stats
                .get_or_init(|| Rc::new(HttpStats::new(all, &self.stat_prefix))),
        )
    }
}

/// Where routes come from.
#[derive(Debug)]
pub enum Routes {
    /// RDS, by name.
    Rds(String),
    /// They are here.
    Inline(Rc<RouteTable>),
}

/// The TCP proxy.
#[derive(Debug, Default)]
pub struct TcpConfig {
    /// Prefix of its stats.
    pub stat_prefix: String,
    /// Clusters and weights.
    pub clusters: Vec<(String, u32)>,
    /// Its logs.
    pub logs: Vec<AccessLog>,
    /// How long a connection may stand still; none = for ever.
    pub idle_timeout: Option<Duration>,
    stats: OnceCell<Rc<TcpStats>>,
}

impl TcpConfig {
    /// What its connections count.
    pub fn stats(&self, all: &Stats) -> Rc<TcpStats> {
        let new = || TcpStats {
            cx_total: all.counter(&format!("tcp.{}.downstream_cx_total", self.stat_prefix)),
            cx_active: all.gauge(&format!("tcp.{}.downstream_cx_active", self.stat_prefix)),
            idle_timeout: all.counter(&format!("tcp.{}.idle_timeout", self.stat_prefix)),
        };
        Rc::clone(self.stats.get_or_init(|| Rc::new(new())))
    }
}

/// What connections of a TCP proxy count.
#[derive(Debug)]
pub struct TcpStats {
    /// Connections.
    pub cx_total: Stat,
    /// Connections that are open.
    pub cx_active: Stat,
    /// Connections that were closed because nothing passed.
    pub idle_timeout: Stat,
}

fn http(listener: &str, field: &str, hcm: &HttpConnectionManager) -> Result<HttpConfig, Refused> {
    use http_connection_manager::RouteSpecifier;
    let refused = |reason: String| Refused::new(listener, field, reason);
    let routes = match &hcm.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => Routes::Rds(rds.route_config_name.clone()),
        Some(RouteSpecifier::RouteConfig(table)) => Routes::Inline(Rc::new(RouteTable::from_proto(table)?)),
        _ => return Err(refused("neither rds nor route_config".to_owned())),
    };
    let last = hcm.http_filters.last().map(|filter| filter.name.as_str());
    if !last.is_some_and(|name| name.ends_with("router")) {
        return Err(refused("the last HTTP filter is not the router".to_owned()));
    }
    if let Some(unknown) = hcm
        .http_filters
        .iter()
        .find(|filter| !filter.name.ends_with("router"))
    {
        return Err(refused(format!("HTTP filter {} is not supported", unknown.name)));
    }
    // Five minutes unless it is given.
    if hcm
        .stream_idle_timeout
        .as_ref()
        .is_none_or(|timeout| limit(Some(timeout)).is_some())
    {
        return Err(refused(
            "a stream_idle_timeout is not supported: 0s turns it off".to_owned(),
        ));
    }
    let server_name = if hcm.server_name.is_empty() {
        "envoy"
    } else {
        &hcm.server_name
    };
    let common = hcm.common_http_protocol_options.as_ref();
    Ok(HttpConfig {
        stat_prefix: hcm.stat_prefix.clone(),
        routes,
        logs: logs(listener, &hcm.access_log)?,
        server_name: server_name.to_owned(),
        generate_request_id: hcm.generate_request_id.as_ref().is_none_or(|it| it.value),
        preserve_request_id: hcm.preserve_external_request_id
            || hcm.use_remote_address.as_ref().is_none_or(|it| !it.value),
        upgrades: hcm
            .upgrade_configs
            .iter()
            .map(|upgrade| upgrade.upgrade_type.to_ascii_lowercase())
            .collect(),
        // HttpProtocolOptions.idle_timeout: an hour unless said otherwise.
        idle_timeout: match common.and_then(|common| common.idle_timeout.as_ref()) {
            Some(timeout) => limit(Some(timeout)),
            None => Some(Duration::from_hours(1)),
        },
        normalize_path: hcm.normalize_path.as_ref().is_some_and(|it| it.value),
        stats: OnceCell::new(),
    })
}

fn tcp(listener: &str, field: &str, tcp: &TcpProxy) -> Result<TcpConfig, Refused> {
    let clusters = match &tcp.cluster_specifier {
        Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => vec![(name.clone(), 1)],
        Some(tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => weighted
            .clusters
            .iter()
            .map(|cluster| (cluster.name.clone(), cluster.weight))
            .collect(),
        None => return Err(Refused::new(listener, field, "no cluster")),
    };
    Ok(TcpConfig {
        stat_prefix: tcp.stat_prefix.clone(),
        clusters,
        logs: logs(listener, &tcp.access_log)?,
        // TcpProxy.idle_timeout: an hour unless said otherwise.
        idle_timeout: match &tcp.idle_timeout {
            Some(timeout) => limit(Some(timeout)),
            None => Some(Duration::from_hours(1)),
        },
        stats: OnceCell::new(),
    })
}

fn logs(listener: &str, logs: &[AccessLogProto]) -> Result<Vec<AccessLog>, Refused> {
    let open = |log: &AccessLogProto| {
        let refused = |reason: String| Refused::new(listener, "access_log", reason);
        let Some(access_log::ConfigType::TypedConfig(any)) = &log.config_type else {
            return Err(refused("no typed_config".to_owned()));
        };
        if log.filter.is_some() {
            return Err(refused("a filter is not supported".to_owned()));
        }
        let file: FileAccessLog = unpack(listener, "access_log", any)?;
        let Some(file_access_log::AccessLogFormat::LogFormat(format)) = &file.access_log_format else {
            return Err(refused("no log_format".to_owned()));
        };
        let format = Format::shared(format).map_err(|error| refused(error.to_string()))?;
        AccessLog::open(&file.path, format).map_err(|error| refused(format!("{}: {error}", file.path)))
    };
    logs.iter().map(open).collect()
}
