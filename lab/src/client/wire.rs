//! What the client is asked, and what it answers: one JSON document each.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what the kernel says beyond these is told in its own words"
)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connect::Attempts;
use super::content::Content;
use crate::scenario::families::IpFamily;
use crate::scenario::model;
pub use crate::scenario::model::Outcome;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// What is sent.
    pub kind: Kind,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
    /// Names stand for addresses of this family alone.
    pub ip_family: Option<IpFamily>,
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
        body: Body,
        /// HTTP/2 with prior knowledge.
        http2: bool,
    },
    /// A TCP connection.
    Tcp {
        /// `HOST:PORT`.
        address: String,
        /// What happens on it.
        exchange: Exchange,
    },
    /// A TCP connection that is closed as soon as it is open.
    Connect {
        /// `HOST:PORT`.
        address: String,
    },
    /// A DNS query for the addresses of the pod's families.
    Dns {
        /// The name.
        name: String,
        /// Who is asked, `ADDRESS` or `ADDRESS:PORT`; none = /etc/resolv.conf's.
        server: Option<String>,
        /// By TCP instead of UDP.
        tcp: bool,
    },
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Body {
    /// A text.
    pub text: Option<String>,
    /// So many bytes of the pattern, if there is no text.
    pub generated: Option<u64>,
    /// Without a length.
    pub chunked: bool,
    /// What follows it.
    pub trailers: Vec<(String, String)>,
}

/// What happens on a raw connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// What is sent.
    pub send: Vec<Piece>,
    /// A FIN follows.
    pub half_close: bool,
    /// How long it is read.
    pub read: Read,
    /// At most so many bytes at a time, and the pause in milliseconds after each time.
    pub slowly: Option<(u32, u64)>,
}

/// A piece of what is written, or what comes between two pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Piece {
    /// These bytes, in one write.
    Bytes(Vec<u8>),
    /// So many bytes of the pattern.
    Generated(u64),
    /// Until this has come.
    Await(Vec<u8>),
    /// For so many milliseconds nothing.
    Pause(u64),
}

/// How long a raw connection is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Read {
    /// Until the first bytes.
    First,
    /// To its end.
    End,
    /// Not beyond what was awaited.
    Nothing,
}

/// A time as the wire has it.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Exchange {
    /// Of a scenario's; `expand` fills addresses in.
    pub fn of(exchange: &model::Exchange, expand: impl Fn(&str) -> String) -> Self {
        let slowly = exchange.slowly;
        Self {
            send: exchange
                .send
                .iter()
                .map(|piece| Piece::of(piece, &expand))
                .collect(),
            half_close: exchange.half_close,
            read: match exchange.read {
                model::Read::First => Read::First,
                model::Read::End => Read::End,
                model::Read::Nothing => Read::Nothing,
            },
            slowly: slowly.map(|slowly| (slowly.bytes, millis(slowly.every))),
        }
    }
}

impl Piece {
    /// Of a scenario's; `expand` fills addresses in.
    pub fn of(piece: &model::Piece, expand: impl Fn(&str) -> String) -> Self {
        match piece {
            model::Piece::Text(text) => Self::Bytes(expand(text).into_bytes()),
            model::Piece::Raw(bytes) => Self::Bytes(bytes.clone()),
            model::Piece::Generated(number) => Self::Generated(*number),
            model::Piece::Await(text) => Self::Await(expand(text).into_bytes()),
            model::Piece::AwaitRaw(bytes) => Self::Await(bytes.clone()),
            model::Piece::Pause(time) => Self::Pause(millis(*time)),
        }
    }
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
    /// The same in hexadecimal, if it is no UTF-8.
    pub body_hex: Option<String>,
    /// The length of the whole body.
    pub body_length: u64,
    /// SHA-256 of the whole body, in hexadecimal.
    pub body_sha256: String,
    /// Trailers, in order.
    pub trailers: Vec<(String, String)>,
    /// How the peer ended a raw connection: `fin` or `rst`; none if it did not, or was not asked.
    pub end: Option<String>,
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
    pub body: Content,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
    /// How the peer ended a raw connection.
    pub end: Option<String>,
}

impl Result {
    /// Puts it together.
    pub fn of(failure: Option<Failure>, answer: Answer, attempts: &mut Attempts<'_>, took: Duration) -> Self {
        let outcome = failure.as_ref().map_or(Outcome::Ok, |failure| failure.outcome);
        Self {
            outcome: outcome.name().to_owned(),
            error: failure.map(|failure| failure.words),
            status: answer.status,
            headers: answer.headers,
            body: String::from_utf8_lossy(answer.body.kept()).into_owned(),
            body_hex: answer.body.hex(),
            body_length: answer.body.length(),
            body_sha256: answer.body.sha256(),
            trailers: answer.trailers,
            end: answer.end,
            seconds: took.as_secs_f64(),
            connections: std::mem::take(&mut attempts.connections),
            lookup_connections: std::mem::take(&mut attempts.lookups),
        }
    }
}
