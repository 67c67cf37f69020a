//! HTTP: what happens to a request, from its route to the last byte of its response.

pub mod body;
pub mod forward;
pub mod headers;
pub mod stream;

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::addr::Downstream;
use crate::config::listener::HttpConfig;
use crate::data_plane::Proxy;
use crate::serve::Prefixed;
use body::ResponseBody;

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
    /// What it counts.
    pub stats: HttpStats,
}

/// What a connection manager counts.
#[derive(Debug, Clone)]
pub struct HttpStats {
    /// Connections.
    pub cx_total: crate::stats::Stat,
    /// Connections that are open.
    pub cx_active: crate::stats::Stat,
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
pub async fn serve(connection: Connection, io: Prefixed, is_http2: bool) {
    connection.stats.cx_total.inc();
    connection.stats.cx_active.inc();
    let connection = Rc::new(connection);
    let garbage = RefCell::new(None);
    let service_connection = Rc::clone(&connection);
    let service = service_fn(move |request: Request<Incoming>| {
        let connection = Rc::clone(&service_connection);
        async move { Ok::<Response<ResponseBody>, Infallible>(stream::answer(connection, request).await) }
    });
    let io = TokioIo::new(io);
    if is_http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
        builder.max_concurrent_streams(None);
        // An error here is the client's: it went away, or broke the protocol.
        drop(builder.serve_connection(io, service).await);
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .half_close(true)
            .auto_date_header(true)
            .preserve_header_case(false);
        let served = builder.serve_connection(io, service).with_upgrades().await;
        *garbage.borrow_mut() = served.err().filter(hyper::Error::is_parse);
    }
    if garbage.into_inner().is_some() {
        stream::log_garbage(&connection);
    }
    connection.stats.cx_active.dec();
}
