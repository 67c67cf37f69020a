//! What a built-in workload is told, and what it tells: JSON.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::client::wire::Piece;
use crate::scenario::model::{self, Container, Listen, Workload};

/// What a built-in workload does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// Its pod.
    pub pod: String,
    /// Its container.
    pub container: String,
    /// What it listens for.
    pub serve: Serve,
    /// Where; every address of the pod if none.
    pub bind: Option<IpAddr>,
    /// URLs called on every request that no route takes.
    pub calls: Vec<String>,
    /// Answers by path.
    pub routes: BTreeMap<String, Route>,
    /// URLs called before it listens.
    pub at_start: Vec<String>,
    /// URLs called before it ends.
    pub at_stop: Vec<String>,
    /// It ends after its calls at the start.
    pub exits: bool,
}

/// What a built-in workload listens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Serve {
    /// HTTP.
    Http {
        /// Its port.
        port: u16,
    },
    /// Echo.
    Tcp {
        /// Its port.
        port: u16,
    },
    /// A greeting, then echo.
    TcpServerFirst {
        /// Its port.
        port: u16,
    },
    /// HTTP/1 by hand.
    RawHttp {
        /// Its port.
        port: u16,
    },
    /// Nothing.
    Nothing,
}

impl Serve {
    /// Its port, if it listens.
    pub const fn port(self) -> Option<u16> {
        match self {
            Self::Http { port }
            | Self::Tcp { port }
            | Self::TcpServerFirst { port }
            | Self::RawHttp { port } => Some(port),
            Self::Nothing => None,
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The status; 200 if none.
    pub status: Option<u16>,
    /// The body; a description in JSON if none.
    pub body: Option<String>,
    /// URLs called first.
    pub calls: Vec<String>,
    /// What is written instead.
    pub raw: Option<Raw>,
}

/// An answer that is written as it is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raw {
    /// What is written.
    pub pieces: Vec<Piece>,
    /// What follows.
    pub then: Then,
    /// It is written before the request's body is read.
    pub early: bool,
}

/// What happens to the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// The next request is awaited.
    Keep,
    /// FIN.
    Close,
    /// RST.
    Reset,
}

impl Raw {
    fn of(raw: &model::Raw, expand: impl Fn(&str) -> String) -> Self {
        Self {
            pieces: raw.pieces.iter().map(|piece| Piece::of(piece, &expand)).collect(),
            then: match raw.then {
                model::Then::Keep => Then::Keep,
                model::Then::Close => Then::Close,
                model::Then::Reset => Then::Reset,
            },
            early: raw.early,
        }
    }
}

/// What a built-in workload tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum AppEvent {
    /// It listens.
    Listening {
        /// Where.
        port: u16,
    },
    /// It is about to connect, from this port.
    Connecting {
        /// `tcp` or `udp`.
        proto: String,
        /// Its own port.
        local_port: u16,
        /// Where to.
        remote: SocketAddr,
    },
}

impl AppSpec {
    /// Of a container; `expand` fills addresses in.
    pub fn of(pod: &str, container: &Container, expand: impl Fn(&str) -> String) -> Self {
        let calls = |calls: &[String]| calls.iter().map(|url| expand(url)).collect();
        let empty = Self {
            pod: pod.to_owned(),
            container: container.name.clone(),
            serve: Serve::Nothing,
            bind: None,
            calls: Vec::new(),
            routes: BTreeMap::new(),
            at_start: Vec::new(),
            at_stop: Vec::new(),
            exits: false,
        };
        let Workload::App(app) = &container.workload else {
            return empty;
        };
        let route = |route: &model::AppRoute| Route {
            status: route.status,
            body: route.body.clone(),
            calls: calls(&route.calls),
            raw: route.raw.as_ref().map(|raw| Raw::of(raw, &expand)),
        };
        Self {
            serve: match app.listen {
                Listen::Http(port) => Serve::Http { port: port.get() },
                Listen::Tcp(port) => Serve::Tcp { port: port.get() },
                Listen::TcpServerFirst(port) => Serve::TcpServerFirst { port: port.get() },
                Listen::RawHttp(port) => Serve::RawHttp { port: port.get() },
            },
            bind: app.bind,
            calls: calls(&app.calls),
            at_start: calls(&app.at_start),
            at_stop: calls(&app.at_stop),
            exits: app.exits,
            routes: app
                .routes
                .iter()
                .map(|(path, it)| (path.clone(), route(it)))
                .collect(),
            ..empty
        }
    }
}
