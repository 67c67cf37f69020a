//! What holds for the whole mesh.

use std::num::NonZeroU16;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::scenario::families::IpFamilies;

/// What holds for the whole mesh.
#[derive(Debug, Clone)]
pub struct Mesh {
    /// What happens to traffic to hosts that no service names.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// How the inbound cluster reaches the app.
    pub inbound: InboundCluster,
    /// Attempts after the first, in Istio's default retry policy; 0 turns it off.
    pub retries: u32,
    /// How long a sidecar waits for a client's first bytes to tell its protocol by (`protocolDetectionTimeout`); zero = for
    /// ever.
    pub protocol_detection_timeout: Duration,
    /// The data plane of sidecars whose pods name none.
    pub proxy: ProxyKind,
    /// Worker threads of each data plane (`proxyConfig.concurrency`).
    pub concurrency: NonZeroU16,
    /// Sidecars write an access log (`accessLogFile`). Without one no path can be followed through a sidecar.
    pub access_log: bool,
    /// The IP families of pods and services that name none.
    pub ip_families: IpFamilies,
}

/// What happens to traffic to hosts that no service names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboundTrafficPolicy {
    /// It passes through (`PassthroughCluster`).
    AllowAny,
    /// It is refused (`BlackHoleCluster`).
    RegistryOnly,
}

/// Which program is the sidecar's data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProxyKind {
    /// The one in this workspace.
    Builtin,
    /// Envoy, as it is installed on this machine.
    Envoy,
}

impl ProxyKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Builtin, Self::Envoy];

    /// As a scenario names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Envoy => "envoy",
        }
    }
}

/// How the inbound cluster reaches the app: two generations of Istio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundCluster {
    /// To the original destination (the pod's address), from 127.0.0.6 (Istio 1.10 and later). `inbound: pod-ip`.
    PodIp,
    /// To 127.0.0.1 with no source address of its own (the articles of 2018, up to Istio 1.9). `inbound: localhost`.
    Localhost,
}
