//! What istiod knows: the mesh's services, endpoints and proxies, as the lab tells it over the control socket.
//!
//! This crosses a process boundary (`lab istiod` is its own process), so it has a wire shape: one JSON document a line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::ips::Ips;

/// The whole state of the mesh. Each one replaces the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// True: unknown hosts pass through; false: they are refused (`REGISTRY_ONLY`).
    pub allow_any: bool,
    /// True: inbound clusters go to the pod's address from 127.0.0.6; false: to 127.0.0.1.
    pub inbound_to_pod_ip: bool,
    /// Attempts after the first in the default retry policy; 0 = no policy.
    pub retries: u32,
    /// Milliseconds that a sidecar waits for a client's first bytes; 0 = for ever.
    pub protocol_detection_ms: u64,
    /// Sidecars write an access log to standard output.
    pub access_log: bool,
    /// All services.
    pub services: Vec<Service>,
    /// All proxies that may connect.
    pub proxies: Vec<Proxy>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Short name; host is `NAME.default.svc.cluster.local`.
    pub name: String,
    /// Its virtual addresses.
    pub vip: Ips,
    /// Ports.
    pub ports: Vec<Port>,
    /// Subset name and the labels that select it.
    pub subsets: Vec<(String, BTreeMap<String, String>)>,
    /// HTTP routes of a `VirtualService`; empty = all to the service itself.
    pub routes: Vec<Route>,
    /// Milliseconds that a pooled HTTP connection to it may be idle (`connectionPool.http.idleTimeout`); 0 = for ever.
    pub http_idle_ms: Option<u64>,
    /// Milliseconds that a TCP connection to it may be idle (`connectionPool.tcp.idleTimeout`); 0 = for ever.
    pub tcp_idle_ms: Option<u64>,
    /// Its ready endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The pods that its selector selects, ready or not.
    pub selected: Vec<String>,
}

/// A service's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The service's port.
    pub port: u16,
    /// The pod's port.
    pub target_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A port's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge, or gRPC.
    Http2,
    /// Plain TCP.
    Tcp,
    /// Not declared: sniffed.
    Unknown,
}

/// A ready endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The pod's addresses of the service's families.
    pub ips: Ips,
    /// The pod's name.
    pub pod: String,
    /// The pod's labels, for subsets.
    pub labels: BTreeMap<String, String>,
}

/// One HTTP route of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Any of these; empty = everything.
    pub matches: Vec<Match>,
    /// Where it goes; empty only with a direct response.
    pub destinations: Vec<Destination>,
    /// Whole-request timeout in milliseconds; none = no limit.
    pub timeout_ms: Option<u64>,
    /// Attempts after the first; none = the mesh's.
    pub retries: Option<u32>,
    /// Status and body answered at once.
    pub direct_response: Option<(u16, String)>,
}

/// Conditions of a route, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The path.
    pub uri: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, StringMatch>,
}

/// How a string is matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StringMatch {
    /// The whole string.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// The whole string, by a regular expression.
    Regex(String),
}

/// A share of a route's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Short name of the service.
    pub service: String,
    /// A subset of it.
    pub subset: Option<String>,
    /// Its port; none = its only port, or, if it has several, the port that was asked for (Istio's rule).
    pub port: Option<u16>,
    /// Weight.
    pub weight: u32,
}

/// A proxy that may connect, by its xDS node id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// `sidecar~IP~POD.default~default.svc.cluster.local`.
    pub node_id: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's addresses, `INSTANCE_IPS` of its node metadata.
    pub ips: Ips,
}

/// What the lab tells istiod, one JSON document a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Command {
    /// The state of the mesh is now this.
    State {
        /// Its number; each is greater than the one before.
        generation: u64,
        /// All of it.
        registry: Registry,
    },
    /// Answer this pod's proxy nothing of this type until released.
    Hold {
        /// The pod's name.
        pod: String,
        /// `cds`, `eds`, `lds`, `rds` or `nds`.
        kind: String,
    },
    /// Answer again, at once if something is owed.
    Release {
        /// The pod's name.
        pod: String,
        /// `cds`, `eds`, `lds`, `rds` or `nds`.
        kind: String,
    },
}

/// What istiod tells the lab, one JSON document a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Report {
    /// Its sockets listen, and the first state has been taken in.
    Listening,
    /// A proxy opened its stream.
    Connected {
        /// The node id it gave.
        node_id: String,
    },
    /// A proxy's stream ended.
    Disconnected {
        /// The node id it gave.
        node_id: String,
    },
    /// Every connected proxy from which nothing is held has acknowledged, or refused, all of this generation.
    Synced {
        /// Its number.
        generation: u64,
    },
    /// A proxy acknowledged a version of a type.
    Ack {
        /// The node id.
        node_id: String,
        /// `cds`, `eds`, `lds`, `rds` or `nds`.
        kind: String,
        /// The version.
        version: String,
    },
    /// A proxy refused a version of a type.
    Nack {
        /// The node id.
        node_id: String,
        /// `cds`, `eds`, `lds`, `rds` or `nds`.
        kind: String,
        /// The version that it refused.
        version: String,
        /// Its words.
        message: String,
    },
}
