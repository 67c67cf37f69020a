//! Clusters: how hosts are found, chosen and connected to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as proto;
use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{HttpProtocolOptions, http_protocol_options};

use super::{Refused, duration, limit, socket_address, unpack};

/// How long a connection may take if a cluster does not say (`Cluster.connect_timeout`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterConfig {
    /// Its name.
    pub name: String,
    /// How its hosts are found.
    pub discovery: Discovery,
    /// How one of them is chosen.
    pub policy: Policy,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// The addresses that connections come from, for the families that have one.
    pub bind: Vec<IpAddr>,
    /// Which HTTP its hosts speak.
    pub http2: Http2,
    /// Requests after which a connection is not used again; none = no limit.
    pub max_requests: Option<u32>,
    /// How long a pooled connection may idle.
    pub idle_timeout: Option<Duration>,
}

/// When HTTP/2 with prior knowledge is spoken instead of HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2 {
    /// Never.
    Never,
    /// Always.
    Always,
    /// If the client speaks it.
    AsClient,
}

impl Http2 {
    /// True if a request goes on by HTTP/2; `came` says whether it came by it.
    pub const fn speaks(self, came: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::AsClient => came,
        }
    }
}

/// How a cluster's hosts are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// By EDS, under this name.
    Eds(String),
    /// They are these.
    Static(Vec<SocketAddr>),
    /// The one that the client asked for.
    OriginalDst,
    /// By DNS: these names and ports, one host for each address.
    StrictDns(Vec<(String, u16)>),
}

/// How one of several hosts is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// The less busy of two at random.
    LeastRequest,
}

impl ClusterConfig {
    /// From configuration.
    pub fn from_proto(cluster: &proto::Cluster) -> Result<Self, Refused> {
        let name = &cluster.name;
        if cluster.transport_socket.is_some() || !cluster.transport_socket_matches.is_empty() {
            return Err(Refused::new(name, "transport_socket", "TLS is not supported"));
        }
        let options = http_options(cluster)?;
        let common = options
            .as_ref()
            .and_then(|options| options.common_http_protocol_options.as_ref());
        #[expect(
            deprecated,
            reason = "older and hand-written configurations still have it here"
        )]
        let old_limit = cluster.max_requests_per_connection.as_ref();
        let limit_of = common
            .and_then(|common| common.max_requests_per_connection.as_ref())
            .or(old_limit);
        Ok(Self {
            name: name.clone(),
            discovery: discovery(cluster)?,
            policy: policy(cluster)?,
            connect_timeout: duration(cluster.connect_timeout.as_ref()).unwrap_or(CONNECT_TIMEOUT),
            bind: bind(cluster)?,
            http2: http2(cluster, options.as_ref()),
            max_requests: limit_of.map(|number| number.value).filter(|number| *number > 0),
            idle_timeout: match common.and_then(|common| common.idle_timeout.as_ref()) {
                Some(idle) => limit(Some(idle)),
                // HttpProtocolOptions.idle_timeout: an hour unless said otherwise.
                None => Some(Duration::from_hours(1)),
            },
        })
    }
}

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn http_options(cluster: &proto::Cluster) -> Result<Option<HttpProtocolOptions>, Refused> {
    let any = cluster.typed_extension_protocol_options.get(HTTP_OPTIONS);
    any.map(|any| unpack(&cluster.name, "typed_extension_protocol_options", any))
        .transpose()
}

fn http2(cluster: &proto::Cluster, options: Option<&HttpProtocolOptions>) -> Http2 {
    use http_protocol_options::UpstreamProtocolOptions::{ExplicitHttpConfig, UseDownstreamProtocolConfig};
    use http_protocol_options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions;
    #[expect(
        deprecated,
        reason = "older and hand-written configurations still have it here"
    )]
    let old = cluster.http2_protocol_options.is_some();
    match options.and_then(|options| options.upstream_protocol_options.as_ref()) {
        Some(UseDownstreamProtocolConfig(_)) => Http2::AsClient,
        Some(ExplicitHttpConfig(config))
            if matches!(config.protocol_config, Some(Http2ProtocolOptions(_))) =>
        {
            Http2::Always
        }
        _ if old => Http2::Always,
        _ => Http2::Never,
    }
}

fn discovery(cluster: &proto::Cluster) -> Result<Discovery, Refused> {
    use proto::cluster::{ClusterDiscoveryType, DiscoveryType};
    let name = &cluster.name;
    let kind = match &cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind).ok(),
        None => Some(DiscoveryType::Static),
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return Err(Refused::new(
                name,
                "cluster_type",
                format!("`{}` is not supported", custom.name),
            ));
        }
    };
    match kind {
        Some(DiscoveryType::Eds) => {
            let service = cluster
                .eds_cluster_config
                .as_ref()
                .map(|eds| eds.service_name.clone())
                .unwrap_or_default();
            Ok(Discovery::Eds(if service.is_empty() {
                name.clone()
            } else {
                service
            }))
        }
        Some(DiscoveryType::Static) => {
            let hosts = cluster
                .load_assignment
                .as_ref()
                .map(|hosts| endpoints(name, hosts))
                .transpose()?;
            Ok(Discovery::Static(hosts.unwrap_or_default().hosts.to_vec()))
        }
        Some(DiscoveryType::OriginalDst) => Ok(Discovery::OriginalDst),
        Some(DiscoveryType::StrictDns | DiscoveryType::LogicalDns) => Ok(Discovery::StrictDns(names(
            name,
            cluster.load_assignment.as_ref(),
        )?)),
        None => Err(Refused::new(name, "type", "unknown")),
    }
}

fn policy(cluster: &proto::Cluster) -> Result<Policy, Refused> {
    use proto::cluster::LbPolicy;
    match LbPolicy::try_from(cluster.lb_policy) {
        Ok(LbPolicy::RoundRobin | LbPolicy::ClusterProvided) => Ok(Policy::RoundRobin),
        Ok(LbPolicy::Random) => Ok(Policy::Random),
        Ok(LbPolicy::LeastRequest) => Ok(Policy::LeastRequest),
        Ok(other) => Err(Refused::new(
            &cluster.name,
            "lb_policy",
            format!("{} is not supported", other.as_str_name()),
        )),
        Err(_) => Err(Refused::new(&cluster.name, "lb_policy", "unknown")),
    }
}

fn bind(cluster: &proto::Cluster) -> Result<Vec<IpAddr>, Refused> {
    let Some(bind) = &cluster.upstream_bind_config else {
        return Ok(Vec::new());
    };
    let extra = bind.extra_source_addresses.iter();
    let extra = extra.filter_map(|extra| Some(("extra_source_addresses", extra.address.as_ref()?)));
    let first = bind
        .source_address
        .iter()
        .map(|source| ("source_address", source));
    first
        .chain(extra)
        .map(|(field, source)| {
            source.address.parse().map_err(|_error| {
                let reason = format!("malformed IP address: {}", source.address);
                Refused::new(&cluster.name, &format!("upstream_bind_config.{field}"), reason)
            })
        })
        .collect()
}

/// Hosts, each by its first address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// All of them.
    pub hosts: Rc<[SocketAddr]>,
    /// Further addresses of those that have some.
    pub additional: Rc<HashMap<SocketAddr, Vec<SocketAddr>>>,
}

/// The hosts of a load assignment that are not unhealthy, of the first priority that has any.
pub fn endpoints(resource: &str, assignment: &ClusterLoadAssignment) -> Result<Endpoints, Refused> {
    let mut best: Option<(u32, Vec<SocketAddr>)> = None;
    let mut additional = HashMap::new();
    for locality in &assignment.endpoints {
        let mut hosts = Vec::new();
        for endpoint in &locality.lb_endpoints {
            let unhealthy = matches!(
                HealthStatus::try_from(endpoint.health_status),
                Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout)
            );
            let Some(lb_endpoint::HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else {
                return Err(Refused::new(
                    resource,
                    "lb_endpoints",
                    "an endpoint by name is not supported",
                ));
            };
            if unhealthy {
                continue;
            }
            let address = |field, address| socket_address(resource, field, address);
            let first = address("lb_endpoints.endpoint.address", host.address.as_ref())?;
            let more = host.additional_addresses.iter();
            let more: Result<Vec<_>, _> = more
                .map(|more| {
                    address(
                        "lb_endpoints.endpoint.additional_addresses",
                        more.address.as_ref(),
                    )
                })
                .collect();
            let more = more?;
            if !more.is_empty() {
                additional.insert(first, more);
            }
            hosts.push(first);
        }
        match &mut best {
            Some((priority, found)) if *priority == locality.priority => found.extend(hosts),
            Some((priority, _)) if *priority < locality.priority => {}
            _ if hosts.is_empty() => {}
            _ => best = Some((locality.priority, hosts)),
        }
    }
    Ok(Endpoints {
        hosts: best.map(|(_, hosts)| hosts).unwrap_or_default().into(),
        additional: Rc::new(additional),
    })
}

fn names(resource: &str, assignment: Option<&ClusterLoadAssignment>) -> Result<Vec<(String, u16)>, Refused> {
    use envoy_types::pb::envoy::config::core::v3::{address, socket_address::PortSpecifier};
    let localities = assignment
        .map(|assignment| assignment.endpoints.as_slice())
        .unwrap_or_default();
    let mut names = Vec::new();
    for endpoint in localities.iter().flat_map(|locality| &locality.lb_endpoints) {
        let refused = || Refused::new(resource, "lb_endpoints.endpoint.address", "not a name and a port");
        let Some(lb_endpoint::HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else {
            return Err(refused());
        };
        let address = host.address.as_ref().and_then(|address| address.address.as_ref());
        let Some(address::Address::SocketAddress(socket)) = address else {
            return Err(refused());
        };
        let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
            return Err(refused());
        };
        names.push((
            socket.address.clone(),
            u16::try_from(port).map_err(|_error| refused())?,
        ));
    }
    Ok(names)
}
