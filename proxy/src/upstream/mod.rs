//! Clusters at work: hosts chosen, connections made, kept and ridden again.

pub mod connect;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use hyper::body::Incoming;
use tokio::time::Instant;

use crate::config::cluster::{ClusterConfig, Discovery, Policy};
use crate::http::body::RequestBody;
use crate::stats::{Stat, Stats};

/// A cluster at work.
#[derive(Debug)]
pub struct Cluster {
    /// Its configuration.
    pub config: ClusterConfig,
    hosts: RefCell<Rc<[SocketAddr]>>,
    next: Cell<usize>,
    pools: RefCell<HashMap<SocketAddr, Pool>>,
    busy: RefCell<HashMap<SocketAddr, u32>>,
    /// What it counts.
    pub stats: ClusterStats,
}

/// What a cluster counts.
#[derive(Debug, Clone)]
pub struct ClusterStats {
    /// Connections made.
    pub cx_total: Stat,
    /// Connections that are open.
    pub cx_active: Stat,
    /// Connections that failed.
    pub cx_connect_fail: Stat,
    /// Connections that took too long.
    pub cx_connect_timeout: Stat,
    /// Requests.
    pub rq_total: Stat,
    /// Requests that found no host.
    pub cx_none_healthy: Stat,
    /// Requests that were tried again.
    pub rq_retry: Stat,
    /// Requests that took too long.
    pub rq_timeout: Stat,
    /// Hosts.
    pub membership_total: Stat,
    /// Hosts that requests go to.
    pub membership_healthy: Stat,
    by_class: [Stat; 5],
}

/// Connections to one host that no request rides.
#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Pooled>,
}

/// A connection to a host.
#[derive(Debug)]
pub struct Pooled {
    /// How requests are sent on it.
    pub sender: Sender,
    /// Its number, never given twice in a process.
    pub id: u64,
    /// This end of it.
    pub local: SocketAddr,
    /// The host.
    pub host: SocketAddr,
    /// Requests that have ridden it.
    pub requests: u32,
    since: Instant,
}

/// How requests are sent on a connection.
#[derive(Debug)]
pub enum Sender {
    /// One after another.
    Http1(hyper::client::conn::http1::SendRequest<RequestBody>),
    /// Many at once.
    Http2(hyper::client::conn::http2::SendRequest<RequestBody>),
}

impl Sender {
    /// Waits until a request can be sent; false if the connection is closed.
    pub async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request.
    pub async fn send(
        &mut self,
        request: http::Request<RequestBody>,
    ) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

impl Cluster {
    /// A cluster that has its hosts, or gets them later.
    pub fn new(config: ClusterConfig, stats: &Stats) -> Rc<Self> {
        let stats = ClusterStats::new(stats, &config.name);
        let hosts: Rc<[SocketAddr]> = match &config.discovery {
            Discovery::Static(hosts) => hosts.clone().into(),
            Discovery::Eds(_) | Discovery::OriginalDst | Discovery::StrictDns(_) => [].into(),
        };
        let cluster = Self {
            config,
            hosts: RefCell::new([].into()),
            next: Cell::new(0),
            pools: RefCell::default(),
            busy: RefCell::default(),
            stats,
        };
        cluster.set_hosts(hosts);
        Rc::new(cluster)
    }

    /// These are its hosts from now on. Idle connections to others are closed.
    pub fn set_hosts(&self, hosts: Rc<[SocketAddr]>) {
        let number = u64::try_from(hosts.len()).unwrap_or(u64::MAX);
        self.stats.membership_total.set(number);
        self.stats.membership_healthy.set(number);
        if self.config.discovery != Discovery::OriginalDst {
            self.pools.borrow_mut().retain(|host, _| hosts.contains(host));
        }
        *self.hosts.borrow_mut() = hosts;
    }

    /// Its hosts.
    pub fn hosts(&self) -> Rc<[SocketAddr]> {
        Rc::clone(&self.hosts.borrow())
    }

    /// A host for a request that was going to `original`; if `other_than` is given, another one if there is any.
    pub fn choose(&self, original: SocketAddr, other_than: &[SocketAddr]) -> Option<SocketAddr> {
        if self.config.discovery == Discovery::OriginalDst {
            return Some(original);
        }
        let hosts = self.hosts();
        let fresh: Vec<SocketAddr> = hosts
            .iter()
            .copied()
            .filter(|host| !other_than.contains(host))
            .collect();
        let among: &[SocketAddr] = if fresh.is_empty() { &hosts } else { &fresh };
        match among {
            [] => None,
            [only] => Some(*only),
            several => Some(match self.config.policy {
                Policy::RoundRobin => {
                    let turn = self.next.get();
                    self.next.set(turn.wrapping_add(1));
                    several[turn % several.len()]
                }
                Policy::Random => several[fastrand::usize(..several.len())],
                Policy::LeastRequest => {
                    let one = several[fastrand::usize(..several.len())];
                    let other = several[fastrand::usize(..several.len())];
                    if self.busy_at(other) < self.busy_at(one) {
                        other
                    } else {
                        one
                    }
                }
            }),
        }
    }

    /// Requests under way at a host.
    pub fn busy_at(&self, host: SocketAddr) -> u32 {
        self.busy.borrow().get(&host).copied().unwrap_or(0)
    }

    /// A request to a host begins.
    pub fn begin(&self, host: SocketAddr) {
        *self.busy.borrow_mut().entry(host).or_default() += 1;
    }

    /// A request to a host has ended.
    pub fn end(&self, host: SocketAddr) {
        if let Some(number) = self.busy.borrow_mut().get_mut(&host) {
            *number = number.saturating_sub(1);
        }
    }

    /// An idle connection to a host, the one that was ridden last first.
    pub fn take(&self, host: SocketAddr) -> Option<Pooled> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.get_mut(&host)?;
        while let Some(pooled) = pool.idle.pop() {
            let too_old = self
                .config
                .idle_timeout
                .is_some_and(|limit| pooled.since.elapsed() > limit);
            if !pooled.sender.is_closed() && !too_old {
                return Some(pooled);
            }
        }
        None
    }

    /// A connection that may be ridden again.
    pub fn put(&self, mut pooled: Pooled) {
        let worn = self
            .config
            .max_requests
            .is_some_and(|most| pooled.requests >= most);
        let gone = self.config.discovery != Discovery::OriginalDst && !self.hosts().contains(&pooled.host);
        if !worn && !gone && !pooled.sender.is_closed() {
            pooled.since = Instant::now();
            self.pools
                .borrow_mut()
                .entry(pooled.host)
                .or_default()
                .idle
                .push(pooled);
        }
    }

    /// Idle connections to a host.
    pub fn idle_at(&self, host: SocketAddr) -> usize {
        self.pools.borrow().get(&host).map_or(0, |pool| pool.idle.len())
    }
}

impl Pooled {
    /// A new connection.
    pub fn new(sender: Sender, id: u64, local: SocketAddr, host: SocketAddr) -> Self {
        Self {
            sender,
            id,
            local,
            host,
            requests: 0,
            since: Instant::now(),
        }
    }
}

impl ClusterStats {
    fn new(stats: &Stats, name: &str) -> Self {
        let counter = |last: &str| stats.counter(&format!("cluster.{name}.{last}"));
        let gauge = |last: &str| stats.gauge(&format!("cluster.{name}.{last}"));
        Self {
            cx_total: counter("upstream_cx_total"),
            cx_active: gauge("upstream_cx_active"),
            cx_connect_fail: counter("upstream_cx_connect_fail"),
            cx_connect_timeout: counter("upstream_cx_connect_timeout"),
            rq_total: counter("upstream_rq_total"),
            cx_none_healthy: counter("upstream_cx_none_healthy"),
            rq_retry: counter("upstream_rq_retry"),
            rq_timeout: counter("upstream_rq_timeout"),
            membership_total: gauge("membership_total"),
            membership_healthy: gauge("membership_healthy"),
            by_class: [1, 2, 3, 4, 5].map(|class| counter(&format!("upstream_rq_{class}xx"))),
        }
    }

    /// A response came with this status.
    pub fn response(&self, status: u16) {
        if let Some(stat) = usize::from(status / 100)
            .checked_sub(1)
            .and_then(|class| self.by_class.get(class))
        {
            stat.inc();
        }
    }
}
