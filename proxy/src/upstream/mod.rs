//! Clusters at work: hosts chosen, connections made, kept and ridden again.

pub mod connect;
pub mod counted;
pub mod host;
pub mod watch;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::time::Instant;

use crate::config::cluster::{ClusterConfig, Discovery, Endpoints, Policy};
use crate::stats::histogram::Histogram;
use crate::stats::{Stat, Stats};
use host::{Host, Http1};
use watch::IdleWatch;

/// A cluster at work.
#[derive(Debug)]
pub struct Cluster {
    /// Its configuration.
    pub config: ClusterConfig,
    members: RefCell<Rc<[SocketAddr]>>,
    next: Cell<usize>,
    hosts: RefCell<HashMap<SocketAddr, Rc<Host>>>,
    /// Further addresses of hosts that have some.
    additional: RefCell<Rc<HashMap<SocketAddr, Vec<SocketAddr>>>>,
    watch: Rc<IdleWatch>,
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
    /// Connections that are over.
    pub cx_destroy: Stat,
    /// Connections that were closed because no request rode them for too long.
    pub cx_idle_timeout: Stat,
    /// Bytes that hosts sent.
    pub cx_rx_bytes: Stat,
    /// Bytes that were sent to hosts.
    pub cx_tx_bytes: Stat,
    /// Requests under way.
    pub rq_active: Stat,
    /// Requests that waited for a connection.
    pub rq_pending_total: Stat,
    /// How long requests took, in milliseconds.
    pub rq_time: Histogram,
    by_class: [Stat; 5],
    by_code: RefCell<HashMap<u16, Stat>>,
    all: Stats,
    name: String,
}

impl Cluster {
    /// A cluster that has its hosts, or gets them later.
    pub fn new(config: ClusterConfig, stats: &Stats, watch: &Rc<IdleWatch>) -> Rc<Self> {
        let stats = ClusterStats::new(stats, &config.name);
        let members: Rc<[SocketAddr]> = match &config.discovery {
            Discovery::Static(hosts) => hosts.clone().into(),
            Discovery::Eds(_) | Discovery::OriginalDst | Discovery::StrictDns(_) => [].into(),
        };
        let cluster = Self {
            config,
            members: RefCell::new([].into()),
            next: Cell::new(0),
            hosts: RefCell::default(),
            additional: RefCell::default(),
            watch: Rc::clone(watch),
            stats,
        };
        cluster.set_hosts(members);
        Rc::new(cluster)
    }

    /// These are its hosts from now on. Idle connections to others are closed.
    pub fn set_hosts(&self, members: Rc<[SocketAddr]>) {
        let number = u64::try_from(members.len()).unwrap_or(u64::MAX);
        self.stats.membership_total.set(number);
        self.stats.membership_healthy.set(number);
        if self.config.discovery != Discovery::OriginalDst {
            self.hosts.borrow_mut().retain(|address, host| {
                let stays = members.contains(address);
                if !stays {
                    host.close_idle();
                }
                stays
            });
        }
        *self.members.borrow_mut() = members;
    }

    /// The same of hosts that may have several addresses.
    pub fn set_endpoints(&self, endpoints: Endpoints) {
        self.set_hosts(endpoints.hosts);
        *self.additional.borrow_mut() = endpoints.additional;
    }

    /// The further addresses of a host.
    pub fn additional(&self, address: SocketAddr) -> Vec<SocketAddr> {
        let additional = self.additional.borrow();
        additional.get(&address).cloned().unwrap_or_default()
    }

    /// Its hosts.
    pub fn members(&self) -> Rc<[SocketAddr]> {
        Rc::clone(&self.members.borrow())
    }

    /// What is known of a host.
    pub fn host(&self, address: SocketAddr) -> Rc<Host> {
        let mut hosts = self.hosts.borrow_mut();
        Rc::clone(
            hosts
                .entry(address)
                .or_insert_with(|| Rc::new(Host::new(address))),
        )
    }

    /// A host for a request that was going to `original`; if `other_than` is given, another one if there is any.
    pub fn choose(&self, original: SocketAddr, other_than: &[SocketAddr]) -> Option<Rc<Host>> {
        if self.config.discovery == Discovery::OriginalDst {
            return Some(self.host(original));
        }
        let members = self.members();
        let fresh: Vec<SocketAddr>;
        let among: &[SocketAddr] = if other_than.is_empty() {
            &members
        } else {
            fresh = members
                .iter()
                .copied()
                .filter(|host| !other_than.contains(host))
                .collect();
            if fresh.is_empty() { &members } else { &fresh }
        };
        let any = || among[fastrand::usize(..among.len())];
        match among {
            [] => None,
            [only] => Some(self.host(*only)),
            several => Some(match self.config.policy {
                Policy::RoundRobin => {
                    let turn = self.next.get();
                    self.next.set(turn.wrapping_add(1));
                    self.host(several[turn % several.len()])
                }
                Policy::Random => self.host(any()),
                Policy::LeastRequest => {
                    let (one, other) = (self.host(any()), self.host(any()));
                    if other.rq_active.get() < one.rq_active.get() {
                        other
                    } else {
                        one
                    }
                }
            }),
        }
    }

    /// Keeps a connection that may be ridden again, unless its host is gone.
    pub fn put(&self, connection: Http1, host: &Rc<Host>) {
        let stays = self
            .hosts
            .borrow()
            .get(&host.address)
            .is_some_and(|known| Rc::ptr_eq(known, host));
        if stays {
            host.put(connection, &self.config, &self.watch.waker());
            self.rests();
        }
    }

    /// A connection has come to rest.
    pub fn rests(&self) {
        if let Some(limit) = self.config.idle_timeout {
            self.watch.look_at(Instant::now() + limit);
        }
    }

    /// Closes connections that hosts have closed or that idle for too long, and forgets what is not used any more. Gives
    /// the moment at which the next one will have idled for too long.
    pub fn sweep(&self) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let is_open = self.config.discovery == Discovery::OriginalDst;
        self.hosts.borrow_mut().retain(|_, host| {
            let of_host = host.sweep(&self.config, &self.stats.cx_idle_timeout);
            next = next.into_iter().chain(of_host).min();
            !(is_open && host.is_unused())
        });
        next
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
            cx_destroy: counter("upstream_cx_destroy"),
            cx_idle_timeout: counter("upstream_cx_idle_timeout"),
            cx_rx_bytes: counter("upstream_cx_rx_bytes_total"),
            cx_tx_bytes: counter("upstream_cx_tx_bytes_total"),
            rq_active: gauge("upstream_rq_active"),
            rq_pending_total: counter("upstream_rq_pending_total"),
            rq_time: stats.histogram(&format!("cluster.{name}.upstream_rq_time")),
            by_code: RefCell::default(),
            all: stats.clone(),
            name: name.to_owned(),
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
        let mut by_code = self.by_code.borrow_mut();
        let new = || {
            let name = format!("cluster.{}.upstream_rq_{status}", self.name);
            self.all.counter(&name)
        };
        by_code.entry(status).or_insert_with(new).inc();
    }
}
