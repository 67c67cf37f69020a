//! Services, and where their traffic goes.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use crate::scenario::families::IpFamilies;

/// A Kubernetes service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its short name; `NAME.default.svc.cluster.local` is its host.
    pub name: String,
    /// At least one port.
    pub ports: Vec<ServicePort>,
    /// Labels that its pods carry, all of them.
    pub selector: BTreeMap<String, String>,
    /// It is not there until a step applies it.
    pub held: bool,
    /// Of which families it has an address.
    pub ip_families: IpFamilies,
}

/// A port of a service.
#[derive(Debug, Clone)]
pub struct ServicePort {
    /// Port name; its prefix tells the protocol (`http-web`, `tcp-mysql`), as in Istio.
    pub name: String,
    /// The service's port.
    pub port: NonZeroU16,
    /// The pod's port.
    pub target_port: NonZeroU16,
    /// What the sidecars make of it.
    pub protocol: Protocol,
}

/// The protocol of a service port, by `appProtocol` or the prefix of the port's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge, or gRPC.
    Http2,
    /// Plain TCP: no sniffing.
    Tcp,
    /// Neither declared: the sidecar sniffs.
    Unknown,
}

/// Subsets of a service's pods by label (Istio `DestinationRule`).
#[derive(Debug, Clone)]
pub struct DestinationRule {
    /// What steps call it.
    pub name: String,
    /// Index into [`Scenario::services`](super::Scenario::services).
    pub service: usize,
    /// Subset name and the labels that select it.
    pub subsets: Vec<(String, BTreeMap<String, String>)>,
    /// `trafficPolicy.connectionPool`.
    pub connection_pool: ConnectionPool,
}

/// How long connections to a service may be idle; none = as the sidecar's own configuration has it, zero = for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionPool {
    /// `http.idleTimeout`: of a connection that no request rides (an hour, if nothing else is said).
    pub http_idle: Option<Duration>,
    /// `tcp.idleTimeout`: of a connection on which no byte passes (an hour).
    pub tcp_idle: Option<Duration>,
}

/// HTTP routes to a service (Istio `VirtualService`).
#[derive(Debug, Clone)]
pub struct VirtualService {
    /// What steps call it; one with several hosts stands here once for each.
    pub name: String,
    /// Index into [`Scenario::services`](super::Scenario::services): the host whose traffic is routed.
    pub service: usize,
    /// Routes, the first match wins.
    pub http: Vec<HttpRoute>,
}

/// One HTTP route.
#[derive(Debug, Clone)]
pub struct HttpRoute {
    /// Any of these; empty = everything.
    pub matches: Vec<HttpMatch>,
    /// Where it goes.
    pub destinations: Vec<WeightedDestination>,
    /// Whole-request timeout; none = no limit, as in Istio.
    pub timeout: Option<Duration>,
    /// Attempts after the first; none = the mesh's.
    pub retries: Option<u32>,
    /// Answer at once with this status and body instead of routing (`directResponse`).
    pub direct_response: Option<(u16, String)>,
}

/// All of these must hold.
#[derive(Debug, Clone, Default)]
pub struct HttpMatch {
    /// The path.
    pub uri: Option<StringMatch>,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
}

/// How a string is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    /// The whole string.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// The whole string, by a regular expression (RE2 syntax).
    Regex(String),
}

/// A share of the traffic of a route.
#[derive(Debug, Clone)]
pub struct WeightedDestination {
    /// Index into [`Scenario::services`](super::Scenario::services).
    pub service: usize,
    /// A subset of that service, by name (checked to exist).
    pub subset: Option<String>,
    /// The service's port; none = the port that was asked for.
    pub port: Option<NonZeroU16>,
    /// The weight, of the sum of weights.
    pub weight: u32,
}
