//! What the client is asked, and what it answers: one JSON document each.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what the kernel says beyond these is told in its own words"
)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LONGEST_BODY;
use super::connect::Attempts;
pub use crate::scenario::model::Outcome;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// What is sent.
    pub kind: Kind,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An HTTP request.
    Http {
        /// The method.
        method: String,
        /// `http://HOST[:PORT]/PATH`.
        url: String,
        /// Headers, in order.
        headers: Vec<(String, String)>,
        /// The body.
        body: Option<String>,
        /// HTTP/2 with prior knowledge.
        http2: bool,
    },
    /// A TCP connection.
    Tcp {
        /// `HOST:PORT`.
        address: String,
        /// What is sent first.
        send: Option<String>,
    },
    /// A TCP connection that is closed as soon as it is open.
    Connect {
        /// `HOST:PORT`.
        address: String,
    },
    /// A DNS query for A records.
    Dns {
        /// The name.
        name: String,
        /// By TCP instead of UDP.
        tcp: bool,
    },
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Result {
    /// As [`Outcome::name`] has it.
    pub outcome: String,
    /// Words for an outcome other than `ok`.
    pub error: Option<String>,
    /// The HTTP status; also of a response that was cut off.
    pub status: Option<u16>,
    /// Response headers, in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, what is no UTF-8 replaced, at most 1 MiB.
    pub body: String,
    /// How long it took.
    pub seconds: f64,
    /// Connections of the request itself, in order.
    pub connections: Vec<Connection>,
    /// Connections and flows to the resolver.
    pub lookup_connections: Vec<Connection>,
}

/// A connection, or a flow of datagrams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// `tcp` or `udp`.
    pub proto: String,
    /// This end; the address is unspecified if it was never connected.
    pub local: SocketAddr,
    /// The other end, as it was asked for.
    pub remote: SocketAddr,
    /// True once it was open.
    pub connected: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In the scenario's words.
    pub outcome: Outcome,
    /// In the kernel's, or a parser's.
    pub words: String,
}

impl Failure {
    /// Of an I/O error while doing something.
    pub fn of(error: &io::Error, doing: &str) -> Self {
        let outcome = match error.kind() {
            io::ErrorKind::ConnectionRefused => Outcome::ConnectionRefused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Outcome::ConnectionReset
            }
            io::ErrorKind::UnexpectedEof => Outcome::ConnectionClosed,
            io::ErrorKind::TimedOut => Outcome::Timeout,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Outcome::Unreachable,
            _ => Outcome::ProtocolError,
        };
        Self {
            outcome,
            words: format!("{doing}: {error}"),
        }
    }
}

/// What has come so far.
#[derive(Debug, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: Option<u16>,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Result {
    /// Puts it together.
    pub fn of(failure: Option<Failure>, answer: Answer, attempts: &mut Attempts<'_>, took: Duration) -> Self {
        let outcome = failure.as_ref().map_or(Outcome::Ok, |failure| failure.outcome);
        let body = &answer.body[..answer.body.len().min(LONGEST_BODY)];
        Self {
            outcome: outcome.name().to_owned(),
            error: failure.map(|failure| failure.words),
            status: answer.status,
            headers: answer.headers,
            body: String::from_utf8_lossy(body).into_owned(),
            seconds: took.as_secs_f64(),
            connections: std::mem::take(&mut attempts.connections),
            lookup_connections: std::mem::take(&mut attempts.lookups),
        }
    }
}
