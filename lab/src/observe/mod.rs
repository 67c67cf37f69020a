//! What the kernel and the proxies reported: trace events, socket owners, access logs, joined into legs.
//!
//! An [`Observer`] hears every pod. Each connection is recorded at its SYN: the chains and rules that netfilter
//! reported, who owned the socket that sent it, which socket took it. [`Observer::collect`] then follows one step's
//! connections from pod to pod and, by the access logs, through the sidecars. What was not observed is named; it is
//! never filled in.

mod netlink;

mod install;
mod nftrace;
mod rules;

mod descriptors;
mod packet;
mod sockets;
mod users;

pub mod access_log;

mod connections;
mod leg;

mod canary;
mod join;

#[doc(hidden)]
pub mod received;

#[cfg(test)]
mod kernel_tests;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::net::netns::NetNs;
use crate::plan::ips::Ips;
use crate::within::{TooLong, within};

use connections::Seen;

pub use connections::Mark;
pub use install::TABLE;
pub use join::Collected;
pub use join::dns::Lookup;
pub use leg::{ObservedHop, ObservedLeg};
pub use netlink::Error as NetlinkError;
pub use nftrace::{Protocol, Tuple, Verdict};
pub use sockets::{Evidence, Owner, Role};

/// What can go wrong with the observation itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel would not do what observation needs.
    #[error("observing a pod")]
    Netlink(
        #[source]
        #[from]
        NetlinkError,
    ),
    /// A socket could not be given to the runtime.
    #[error("waiting for the events of pod `{pod}`")]
    Register {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No such pod is observed.
    #[error("pod `{pod}` is not observed: attach it first")]
    UnknownPod {
        /// The name.
        pod: String,
    },
    /// A line of an access log could not be read.
    #[error("reading an access log")]
    AccessLog(
        #[source]
        #[from]
        access_log::Error,
    ),
    /// The canary's connection could not be made.
    #[error("sending a canary connection in pod `{pod}`")]
    Canary {
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The canary's events did not come: nothing in this pod would be observed.
    #[error("pod `{pod}` gives no trace events: is nf_tables' tracing missing in this kernel?")]
    Deaf {
        /// The pod.
        pod: String,
        /// How long it was awaited.
        #[source]
        source: TooLong,
    },
}

/// The pod of an origin that is no pod's: the node, where kubelet is.
pub const NODE: &str = "node";

/// A connection that a process says it opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The process's pod.
    pub pod: String,
    /// What the process is.
    pub role: Role,
    /// Its process id.
    pub pid: Option<u32>,
    /// The transport.
    pub protocol: Protocol,
    /// Its own end; the address may be unspecified.
    pub local: SocketAddr,
    /// Where it connected to.
    pub remote: SocketAddr,
    /// False if nothing is sent on it: then a sidecar has nothing to log.
    pub carries: bool,
}

impl Origin {
    fn is_of(&self, tuple: &Tuple) -> bool {
        self.protocol == tuple.protocol
            && self.remote == tuple.destination
            && self.local.port() == tuple.source.port()
            && (self.local.ip().is_unspecified() || self.local.ip() == tuple.source.ip())
    }

    fn owner(&self) -> Owner {
        Owner {
            role: self.role.clone(),
            pid: self.pid,
            evidence: Evidence::Report,
        }
    }
}

/// Hears all pods of one lab. Lives on the engine's `LocalSet`; its tasks end when it is dropped.
pub struct Observer {
    seen: Rc<RefCell<Seen>>,
    news: Rc<Notify>,
    readers: JoinSet<()>,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.seen.borrow();
        f.debug_struct("Observer")
            .field("pods", &seen.pods.len())
            .field("connections", &seen.connections.len())
            .finish_non_exhaustive()
    }
}

impl Observer {
    /// Subscribes to each pod's events and creates `inet lab_trace` in it. Must run inside a `LocalSet`.
    pub fn attach(pods: &[(&str, Ips, &NetNs)]) -> Result<Self, Error> {
        let mut observer = Self {
            seen: Rc::default(),
            news: Rc::default(),
            readers: JoinSet::new(),
        };
        for (name, addresses, namespace) in pods {
            observer.add_pod(name, *addresses, namespace)?;
        }
        Ok(observer)
    }

    /// Observes one more pod.
    pub fn add_pod(&mut self, name: &str, addresses: Ips, namespace: &NetNs) -> Result<(), Error> {
        let pod = self.seen.borrow_mut().attach(name, addresses, namespace)?;
        let (seen, news) = (Rc::clone(&self.seen), Rc::clone(&self.news));
        self.readers.spawn_local(read(pod, seen, news));
        Ok(())
    }

    /// A process of a pod, told before it runs. Its descendants have its role; the agent's are the sidecar.
    pub fn add_process(&self, pod: &str, pid: u32, role: Role) -> Result<(), Error> {
        let mut seen = self.seen.borrow_mut();
        let pod = seen.pod(pod)?;
        seen.pods[pod].sockets.add(pid, role);
        Ok(())
    }

    /// A process has ended, and all that it did has been collected: until then it still counts as one that may have
    /// opened a connection.
    pub fn remove_process(&self, pod: &str, pid: u32) -> Result<(), Error> {
        let mut seen = self.seen.borrow_mut();
        let pod = seen.pod(pod)?;
        seen.pods[pod].sockets.remove(pid);
        Ok(())
    }

    /// The lab took a pod's link down, or up: nobody waits for what cannot arrive.
    pub fn cut_off(&self, pod: &str, is_cut_off: bool) -> Result<(), Error> {
        let mut seen = self.seen.borrow_mut();
        let pod = seen.pod(pod)?;
        seen.pods[pod].cut_off = is_cut_off;
        Ok(())
    }

    /// A line of the access log of this pod's sidecar.
    pub fn add_log_line(&self, pod: &str, line: &str) -> Result<(), Error> {
        let entry = access_log::parse(pod, line)?;
        let mut seen = self.seen.borrow_mut();
        let pod = seen.pod(pod)?;
        // The connections that the entry speaks of are queued: they come before it.
        seen.drain_all();
        let after = seen.connections.len();
        seen.entries.push(connections::Logged { entry, pod, after });
        self.news.notify_waiters();
        Ok(())
    }

    /// A process reports a connection as its own.
    pub fn reported(&self, origin: Origin) -> Result<(), Error> {
        let mut seen = self.seen.borrow_mut();
        let pod = seen.pod(&origin.pod)?;
        seen.report(pod, origin);
        self.news.notify_waiters();
        Ok(())
    }

    /// An agent reports what it does with a question that came to its DNS.
    pub fn looked_up(&self, pod: &str, lookup: Lookup) -> Result<(), Error> {
        let mut seen = self.seen.borrow_mut();
        let pod = seen.pod(pod)?;
        seen.lookups.push((pod, lookup));
        self.news.notify_waiters();
        Ok(())
    }

    /// The moment from which a step counts. Everything that happened before is taken in first.
    pub fn mark(&self) -> Mark {
        let mut seen = self.seen.borrow_mut();
        seen.drain_all();
        seen.mark()
    }

    /// The path of what a step's origins did since `mark`. Waits, at most `limit`, for the access-log lines that must
    /// still come. With `parallel`, connections are joined by request id and address alone, never by time.
    pub async fn collect(
        &self,
        mark: Mark,
        origins: &[Origin],
        parallel: bool,
        limit: Duration,
    ) -> Result<Collected, Error> {
        let deadline = Instant::now() + limit;
        loop {
            // Before the look, so that what comes between look and wait is not missed.
            let news = self.news.notified();
            let found = self.look(mark, origins, parallel)?;
            if !found.is_waiting() {
                return Ok(found.conclude());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if within(left, "what a step's path lacks", news).await.is_err() {
                self.seen.borrow_mut().give_up_open_packets();
                return Ok(self.look(mark, origins, parallel)?.conclude());
            }
        }
    }

    /// The legs of the newest connection that `role` of `pod` opened to `port`; none if there was none yet.
    pub fn connection_from(
        &self,
        pod: &str,
        role: &Role,
        port: u16,
    ) -> Result<Option<Vec<ObservedLeg>>, Error> {
        let mut seen = self.seen.borrow_mut();
        seen.drain_all();
        let pod = seen.pod(pod)?;
        Ok(join::newest(&seen, pod, role, port))
    }

    /// Proves that every pod's events arrive, by one refused connection of each of its families.
    pub async fn canary(&self, pods: &[(&str, &NetNs)], limit: Duration) -> Result<(), Error> {
        for (pod, namespace) in pods {
            canary::prove(&self.seen, &self.news, pod, namespace, limit).await?;
        }
        Ok(())
    }

    /// Resolves when anything new has been observed, reported or logged.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// A receive buffer in which next to nothing has room.
    #[cfg(test)]
    fn shrink_buffer(&self, pod: &str) {
        let seen = self.seen.borrow();
        let pod = seen.pod(pod).unwrap();
        seen.pods[pod].socket.get_ref().set_rx_buf_sz(1_u32).unwrap();
    }

    fn look(&self, mark: Mark, origins: &[Origin], parallel: bool) -> Result<join::Found, Error> {
        let mut seen = self.seen.borrow_mut();
        seen.drain_all();
        join::look(&seen, mark, origins, parallel)
    }
}

/// Takes what the kernel queues for one pod, until the observer is dropped.
async fn read(pod: usize, seen: Rc<RefCell<Seen>>, news: Rc<Notify>) {
    let socket = Rc::clone(&seen.borrow().pods[pod].socket);
    // An error here means that the runtime is going away.
    let mut buffer = vec![0; connections::BATCH];
    while let Ok(mut ready) = socket.readable().await {
        // Packets may come faster than they are taken in; everything else of the lab must have its turn all the same.
        while seen.borrow_mut().take_batch(pod, &mut buffer) {
            tokio::task::yield_now().await;
        }
        ready.clear_ready();
        news.notify_waiters();
    }
}
