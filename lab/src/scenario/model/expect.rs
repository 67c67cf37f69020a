//! What a step must see.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{PodId, StringMatch, Target};
use crate::path::{HopPattern, LegPattern};
use crate::scenario::lifecycle::Phase;

/// What must be seen. An absent field asks nothing.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// How the request ended: one of these; empty = nothing is asked.
    pub outcome: Vec<Outcome>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// Response flags of the outermost sidecar's access log, as a set (`UF,URX`); `-` = none.
    pub response_flags: Option<String>,
    /// The body.
    pub body: Option<BodyMatch>,
    /// Response headers by lower-case name.
    pub headers: BTreeMap<String, StringMatch>,
    /// Exit code of an `exec` step, 0 if none is given.
    pub exit_code: Option<i32>,
    /// Exactly these legs of that pod, in order.
    pub path: Vec<(PodId, Vec<LegPattern>)>,
    /// These hops in this order somewhere in a leg of that pod: each list in some leg.
    pub contains: Vec<(PodId, Vec<Vec<HopPattern>>)>,
    /// None of these hops in any leg of that pod.
    pub never: Vec<(PodId, Vec<HopPattern>)>,
    /// Try again until all holds, at most this long.
    pub eventually: Option<Duration>,
    /// Phases of pods.
    pub phase: Vec<(PodId, Phase)>,
    /// Readiness of pods.
    pub ready: Vec<(PodId, bool)>,
    /// How often containers were started again.
    pub restarts: Vec<(Target, Restarts)>,
    /// These events of that pod, in this order, others between them.
    pub events: Vec<(PodId, Vec<String>)>,
    /// None of these events of that pod.
    pub never_events: Vec<(PodId, Vec<String>)>,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarts {
    /// Just so often.
    Exactly(u32),
    /// So often or more.
    AtLeast(u32),
}

/// How a body is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyMatch {
    /// The whole body (one final newline aside).
    Exact(String),
    /// A part of it.
    Contains(String),
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An HTTP response, a DNS answer, bytes over TCP, or an `exec` that ended.
    Ok,
    /// ECONNREFUSED.
    ConnectionRefused,
    /// ECONNRESET or EPIPE.
    ConnectionReset,
    /// The peer closed before it answered.
    ConnectionClosed,
    /// No answer in time.
    Timeout,
    /// ENETUNREACH or EHOSTUNREACH.
    Unreachable,
    /// The name does not resolve.
    NoSuchHost,
    /// An answer that is not the protocol's.
    ProtocolError,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::ConnectionRefused,
        Self::ConnectionReset,
        Self::ConnectionClosed,
        Self::Timeout,
        Self::Unreachable,
        Self::NoSuchHost,
        Self::ProtocolError,
    ];

    /// As scenario files and JSON spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ConnectionRefused => "connection-refused",
            Self::ConnectionReset => "connection-reset",
            Self::ConnectionClosed => "connection-closed",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::NoSuchHost => "no-such-host",
            Self::ProtocolError => "protocol-error",
        }
    }
}
