//! HTTP: what happens to a request, from its route to the last byte of its response.

pub mod h1;
pub mod head;

pub mod fed;
pub mod headers;
mod stream_info;

mod request_body;
mod response_body;

mod client;
mod local_reply;

mod attempt;
mod exchange;
mod tunnel;

#[doc(hidden)]
pub mod frames;
mod http1;
mod http2;
pub mod offence;

use std::cell::Cell;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::addr::Downstream;
use crate::config::listener::HttpConfig;
use crate::data_plane::Proxy;

/// A client's connection that speaks HTTP.
#[derive(Debug)]
pub struct Connection {
    /// The data plane.
    pub proxy: Rc<Proxy>,
    /// Both ends.
    pub downstream: Downstream,
    /// Its number.
    pub id: u64,
    /// The filter chain that took it.
    pub chain: Rc<crate::config::listener::FilterChain>,
    /// How it has ended, if it speaks HTTP/2.
    pub ended: Cell<Ended>,
    /// A stream of it was reset, because its body is not as its head said; whoever logs that takes it back.
    pub refused: Rc<Cell<bool>>,
}

/// How a client's connection that speaks HTTP/2 has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ended {
    /// It has not.
    #[default]
    Not,
    /// The client went away, or was asked to leave.
    Quietly,
    /// The client broke the protocol.
    By(offence::Offence),
}

/// What a connection manager counts.
#[derive(Debug, Clone)]
pub struct HttpStats {
    /// Connections.
    pub cx_total: crate::stats::Stat,
    /// Connections that are open.
    pub cx_active: crate::stats::Stat,
    /// Connections that were closed because no request came.
    pub cx_idle_timeout: crate::stats::Stat,
    /// Requests.
    pub rq_total: crate::stats::Stat,
    /// Requests under way.
    pub rq_active: crate::stats::Stat,
    by_class: [crate::stats::Stat; 5],
}

impl HttpStats {
    /// Those of a prefix.
    pub fn new(stats: &crate::stats::Stats, prefix: &str) -> Self {
        let counter = |last: &str| stats.counter(&format!("http.{prefix}.{last}"));
        let gauge = |last: &str| stats.gauge(&format!("http.{prefix}.{last}"));
        Self {
            cx_total: counter("downstream_cx_total"),
            cx_active: gauge("downstream_cx_active"),
            cx_idle_timeout: counter("downstream_cx_idle_timeout"),
            rq_total: counter("downstream_rq_total"),
            rq_active: gauge("downstream_rq_active"),
            by_class: [1, 2, 3, 4, 5].map(|class| counter(&format!("downstream_rq_{class}xx"))),
        }
    }

    /// A response went out with this status.
    pub fn response(&self, status: u16) {
        if let Some(stat) = usize::from(status / 100)
            .checked_sub(1)
            .and_then(|class| self.by_class.get(class))
        {
            stat.inc();
        }
    }
}

impl Connection {
    /// Its HTTP configuration.
    pub fn config(&self) -> Option<&HttpConfig> {
        match &self.chain.filter {
            crate::config::listener::NetworkFilter::Http(http) => Some(http),
            crate::config::listener::NetworkFilter::Tcp(_) => None,
        }
    }
}

/// Runs hyper's tasks on this thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Serves HTTP on a connection until it ends.
pub async fn serve(connection: Connection, stream: TcpStream, prefix: BytesMut, is_http2: bool) {
    let Some(config) = connection.config() else {
        return;
    };
    let stats = config.stats(&connection.proxy.stats);
    stats.cx_total.inc();
    let _active = stats.cx_active.hold();
    if is_http2 {
        let connection = Rc::new(connection);
        http2::serve(&connection, stream, prefix).await;
    } else {
        http1::serve(&connection, config, stream, prefix).await;
    }
}
