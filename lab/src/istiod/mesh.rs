//! What all streams share: the state of the mesh, what is held, who is connected, and what is told to the lab.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};

use super::kind::Kind;
use super::metrics::Counters;
use super::registry::{Registry, Report};
use super::session::{Session, Version};
use super::snapshot::{Names, Snapshot};

/// What streams follow.
#[derive(Debug, Clone, Default)]
pub(super) struct Current {
    /// The state; none before the lab told the first.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// Types that are held, by pod.
    pub(super) holds: Arc<BTreeMap<String, BTreeSet<Kind>>>,
}

/// The control plane's shared state. Locks are held for a few instructions, never across an await.
#[derive(Debug)]
pub(super) struct Mesh {
    current: watch::Sender<Current>,
    reports: mpsc::UnboundedSender<Report>,
    roll: Mutex<Roll>,
    /// What is counted.
    pub(super) counters: Counters,
}

/// Who is connected.
#[derive(Debug, Default)]
struct Roll {
    next: u64,
    connections: BTreeMap<ConnectionId, Connection>,
    /// The generation that was told as settled, while nothing is behind it.
    told: Option<u64>,
}

/// A stream, in the order in which they were opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionId(u64);

/// A stream whose proxy is known, as the debug pages show it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// Which one.
    pub(super) id: ConnectionId,
    /// The proxy.
    pub(super) node_id: String,
    /// Its pod.
    pub(super) pod: String,
    /// Since when.
    pub(super) since: SystemTime,
    /// From where.
    pub(super) peer: Option<SocketAddr>,
    /// Its types, in the order of [`Kind::ALL`].
    pub(super) types: [TypeStatus; Kind::COUNT],
    settled: u64,
    waits_for: Option<u64>,
}

/// One type of a stream.
#[derive(Debug, Clone, Default)]
pub(super) struct TypeStatus {
    /// What it asks for; none = the type was not asked for.
    pub(super) names: Option<Vec<String>>,
    /// What was sent last.
    pub(super) sent: Option<Version>,
    /// What was taken last.
    pub(super) acked: Option<Version>,
    /// What was refused last, and why, unless something was taken since.
    pub(super) nacked: Option<(Version, String)>,
}

impl ConnectionId {
    /// Its number, from 1.
    pub(super) const fn number(self) -> u64 {
        self.0
    }
}

impl Mesh {
    /// A mesh without a state, which tells what happens to `reports`.
    pub(super) fn new(reports: mpsc::UnboundedSender<Report>) -> Self {
        Self {
            current: watch::Sender::default(),
            reports,
            roll: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Follows the state and the holds.
    pub(super) fn subscribe(&self) -> watch::Receiver<Current> {
        self.current.subscribe()
    }

    /// The state now.
    pub(super) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.current.borrow().snapshot.clone()
    }

    /// The state is this from now on. With the first, the control plane is ready.
    pub(super) fn set_state(&self, generation: u64, registry: Registry) {
        let snapshot = Arc::new(Snapshot::new(generation, registry));
        let mut first = false;
        self.current.send_modify(|current| {
            first = current.snapshot.is_none();
            current.snapshot = Some(snapshot);
        });
        if first {
            self.tell(Report::Listening);
        }
        self.tell_settled();
    }

    /// From now on this type is held, or not, for the proxy of this pod.
    pub(super) fn set_hold(&self, pod: &str, kind: Kind, held: bool) {
        self.current.send_modify(|current| {
            let mut holds = BTreeMap::clone(&current.holds);
            let kinds = holds.entry(pod.to_owned()).or_default();
            if held {
                kinds.insert(kind);
            } else {
                kinds.remove(&kind);
            }
            holds.retain(|_, kinds| !kinds.is_empty());
            current.holds = Arc::new(holds);
        });
        self.tell_settled();
    }

    /// The types that are held for the proxy of this pod.
    pub(super) fn held(&self, pod: &str) -> BTreeSet<Kind> {
        let current = self.current.borrow();
        current.holds.get(pod).cloned().unwrap_or_default()
    }

    /// Tells the lab something. It may have gone away: then this process is about to end too.
    pub(super) fn tell(&self, report: Report) {
        drop(self.reports.send(report));
    }

    /// A proxy made itself known.
    pub(super) fn connect(&self, node_id: &str, pod: &str, peer: Option<SocketAddr>) -> ConnectionId {
        let id = {
            let mut roll = self.roll();
            roll.next += 1;
            let id = ConnectionId(roll.next);
            let connection = Connection {
                id,
                node_id: node_id.to_owned(),
                pod: pod.to_owned(),
                since: SystemTime::now(),
                peer,
                types: Default::default(),
                settled: 0,
                waits_for: None,
            };
            roll.connections.insert(id, connection);
            id
        };
        self.tell(Report::Connected {
            node_id: node_id.to_owned(),
        });
        self.tell_settled();
        id
    }

    /// A stream ended.
    pub(super) fn disconnect(&self, id: ConnectionId) {
        let gone = self.roll().connections.remove(&id);
        if let Some(Connection { node_id, .. }) = gone {
            self.tell(Report::Disconnected { node_id });
            self.tell_settled();
        }
    }

    /// A stream stands as this session says.
    pub(super) fn note(&self, id: ConnectionId, session: &Session) {
        let snapshot = session.wanted().snapshot();
        let settled = session.is_settled();
        let mut observed = None;
        if let Some(connection) = self.roll().connections.get_mut(&id) {
            connection.types = Kind::ALL.map(|kind| TypeStatus::of(session, kind));
            if settled {
                let behind =
                    connection.settled < snapshot.generation && connection.waits_for.take().is_some();
                observed = behind.then(|| snapshot.taken_in.elapsed());
                connection.settled = snapshot.generation;
            } else {
                connection.waits_for = Some(snapshot.generation);
            }
        }
        if let Some(delay) = observed {
            self.counters.converged(delay);
        }
        self.tell_settled();
    }

    /// All streams whose proxy is known, in the order in which they were opened.
    pub(super) fn connections(&self) -> Vec<Connection> {
        self.roll().connections.values().cloned().collect()
    }

    /// Tells the lab that every proxy has the newest state, once each time that this comes true. Proxies for which
    /// something is held are not waited for. One that connected again counts by its newest stream: the older one may not
    /// have been noticed dead yet.
    fn tell_settled(&self) {
        let (newest, holds) = {
            let current = self.current.borrow();
            (
                current.snapshot.as_ref().map(|snapshot| snapshot.generation),
                Arc::clone(&current.holds),
            )
        };
        let Some(newest) = newest else { return };
        let mut roll = self.roll();
        let by_proxy: BTreeMap<&str, &Connection> = roll
            .connections
            .values()
            .map(|connection| (connection.node_id.as_str(), connection))
            .collect();
        let mut waited_for = by_proxy
            .values()
            .filter(|connection| !holds.contains_key(&connection.pod));
        let settled = waited_for
            .all(|connection| connection.settled == newest)
            .then_some(newest);
        let before = std::mem::replace(&mut roll.told, settled);
        if let Some(generation) = settled.filter(|_| before != settled) {
            // Under the lock, so that two such reports never change places.
            self.tell(Report::Synced { generation });
        }
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        // Nothing that holds the lock can panic half-way through a change.
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TypeStatus {
    fn of(session: &Session, kind: Kind) -> Self {
        let watch = session.watch(kind);
        Self {
            names: watch.names().map(|names| match names {
                Names::All => Vec::new(),
                Names::Only(names) => names.iter().cloned().collect(),
            }),
            sent: watch.sent().cloned(),
            acked: watch.acked().cloned(),
            nacked: watch
                .nacked()
                .map(|refusal| (refusal.version.clone(), refusal.message.clone())),
        }
    }
}
