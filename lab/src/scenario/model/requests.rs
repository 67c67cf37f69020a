//! Requests: who sends what, and how it is read.

use std::time::Duration;

use super::{PodId, Target};
use crate::scenario::families::IpFamily;

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Actor {
    /// Its pod and the process as which it is sent.
    pub target: Target,
    /// Another user than that process's (`asUser`).
    pub user: Option<u32>,
    /// Another group than that process's (`asGroup`).
    pub group: Option<u32>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who sends it.
    pub from: Actor,
    /// What is sent, and where to.
    pub kind: RequestKind,
    /// How long it may take.
    pub timeout: Duration,
    /// Names stand for addresses of this family alone; none = as the pod's families have it.
    pub ip_family: Option<IpFamily>,
}

/// What is sent, and where to.
#[derive(Debug, Clone)]
pub enum RequestKind {
    /// HTTP.
    Http {
        /// GET if none is given.
        method: String,
        /// `http://HOST[:PORT]/PATH`. HOST is a name that DNS answers, an address, or `${POD.ip}` / `${self.ip}`
        /// (left in the text here: addresses are given by the plan).
        url: String,
        /// Headers, in order.
        headers: Vec<(String, String)>,
        /// The body.
        body: Body,
        /// In chunks, without a length, even if the length is known.
        chunked: bool,
        /// Trailers, in order.
        trailers: Vec<(String, String)>,
        /// HTTP/2 with prior knowledge instead of HTTP/1.1.
        http2: bool,
        /// The pod whose metrics are fetched, if this is a `scrape` step.
        scrape_of: Option<PodId>,
    },
    /// TCP: connect, send, read.
    Tcp {
        /// `HOST:PORT`, HOST as in a URL.
        address: String,
        /// What is sent and read.
        exchange: Exchange,
    },
    /// A DNS query for an A record, or an AAAA record in a pod that has IPv6 alone.
    Dns {
        /// The name.
        name: String,
        /// Who is asked, `ADDRESS` or `ADDRESS:PORT`; none = the pod's resolver.
        server: Option<String>,
        /// TCP instead of UDP.
        tcp: bool,
    },
}

/// The body of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    Empty,
    /// This text.
    Text(String),
    /// So many bytes of the lab's own pattern.
    Generated(u64),
}

/// What happens on a raw connection, from its opening to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// What is sent, piece by piece; empty = only listen.
    pub send: Vec<Piece>,
    /// A FIN follows the last piece.
    pub half_close: bool,
    /// How long it is read.
    pub read: Read,
    /// Read slowly, with a small receive buffer; none = as it comes.
    pub slowly: Option<Slowly>,
}

/// A piece of what is sent on a raw connection, or what comes between two pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// This text, in one write.
    Text(String),
    /// These bytes, in one write.
    Raw(Vec<u8>),
    /// So many bytes of the lab's own pattern.
    Generated(u64),
    /// Nothing, until this text has come since the last `await`.
    Await(String),
    /// Until these bytes have come.
    AwaitRaw(Vec<u8>),
    /// Nothing, for so long.
    Pause(Duration),
}

/// How long a raw connection is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Until the first bytes, or the end.
    First,
    /// Until the peer ends it.
    End,
    /// Not beyond what was awaited.
    Nothing,
}

/// A pace of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slowly {
    /// At most so many bytes at a time.
    pub bytes: u32,
    /// The pause after each read.
    pub every: Duration,
}
