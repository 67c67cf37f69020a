//! The built-in workload.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::Piece;

/// The built-in workload: what it listens on and what it calls.
#[derive(Debug, Clone)]
pub struct App {
    /// The kind of server and its port.
    pub listen: Listen,
    /// Address to bind; none = every address of the pod.
    pub bind: Option<std::net::IpAddr>,
    /// URLs called on every request that no route takes (HTTP servers only).
    pub calls: Vec<String>,
    /// Answers by exact path (before `?`).
    pub routes: BTreeMap<String, AppRoute>,
    /// URLs called once before it listens; it ends with status 1 if one of them fails.
    pub at_start: Vec<String>,
    /// URLs called on SIGTERM, before it ends; with status 1 if one of them fails.
    pub at_stop: Vec<String>,
    /// It ends well as soon as its calls at the start are done, as a job does.
    pub exits: bool,
}

/// What a built-in workload listens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// HTTP/1.1 and HTTP/2 with prior knowledge.
    Http(NonZeroU16),
    /// TCP: answers each line with itself (echo).
    Tcp(NonZeroU16),
    /// TCP that greets first, as `MySQL` and SMTP do.
    TcpServerFirst(NonZeroU16),
    /// HTTP/1 by hand: what came is told byte for byte, what is answered is written byte for byte.
    RawHttp(NonZeroU16),
}

impl Listen {
    /// Its port.
    pub const fn port(self) -> NonZeroU16 {
        match self {
            Self::Http(port) | Self::Tcp(port) | Self::TcpServerFirst(port) | Self::RawHttp(port) => port,
        }
    }
}

/// What a built-in HTTP workload does for one path.
#[derive(Debug, Clone, Default)]
pub struct AppRoute {
    /// The status of its answer, 200 if none.
    pub status: Option<u16>,
    /// The body of its answer; none = a JSON description of pod, container, path, and what the calls returned.
    pub body: Option<String>,
    /// URLs called first, one after another.
    pub calls: Vec<String>,
    /// What is written instead of an answer, byte for byte (`rawHttp` alone).
    pub raw: Option<Raw>,
}

/// An answer that is written as it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// What is written, and when.
    pub pieces: Vec<Piece>,
    /// What happens to the connection then.
    pub then: Then,
    /// It is written before the request's body is read.
    pub early: bool,
}

/// What a server does to a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It awaits the next request.
    Keep,
    /// FIN.
    Close,
    /// RST.
    Reset,
}
