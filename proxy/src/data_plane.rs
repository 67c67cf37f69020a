//! The data plane: what it knows, and how it starts. One thread: a `current_thread` runtime and a `LocalSet`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use envoy_types::pb::envoy::config::listener::v3::Listener as ListenerProto;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use tokio::task::{JoinHandle, JoinSet};

use crate::access_log::sink;
use crate::bootstrap::Bootstrap;
use crate::config::Refused;
use crate::config::cluster::{ClusterConfig, Discovery, Endpoints};
use crate::config::listener::{FilterChain, ListenerConfig, Socket};
use crate::config::route::RouteTable;
use crate::drain::Gone;
use crate::serve::Families;
use crate::stats::Stats;
use crate::upstream::Cluster;
use crate::upstream::watch::IdleWatch;
use crate::workers::Workers;
use crate::xds::{self, Kind};
use crate::{admin, lots, serve};

/// How far the start has come, as `/ready` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Clusters or their endpoints are still to come.
    PreInitializing,
    /// Listeners or their routes are still to come.
    Initializing,
    /// It serves.
    Live,
    /// It is told to serve no new connections.
    Draining,
}

impl ServerState {
    /// In Envoy's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
        }
    }
}

/// A cluster, and the resource that it was made from.
#[derive(Debug)]
struct KnownCluster {
    cluster: Rc<Cluster>,
    proto: ClusterProto,
    warm: bool,
    is_static: bool,
}

/// A listener, and the resource that it was made from.
#[derive(Debug)]
struct KnownListener {
    /// What serves; none while it has never had all its routes.
    active: Option<Rc<ListenerConfig>>,
    /// What will serve as soon as its routes have come.
    warming: Option<Rc<ListenerConfig>>,
    sockets: Vec<JoinHandle<()>>,
    is_static: bool,
    /// Its place among all that were ever made.
    number: usize,
}

impl KnownListener {
    /// What it was made from last.
    fn source(&self) -> Option<&ListenerProto> {
        let latest = self.warming.as_ref().or(self.active.as_ref());
        latest.map(|config| &config.source)
    }

    /// No new connections from now on.
    fn close(&mut self) {
        for socket in self.sockets.drain(..) {
            socket.abort();
        }
    }
}

/// Which clients are asked to leave with their next answer (`/drain_listeners?graceful`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// None.
    Nobody,
    /// Those from outside the pod.
    Inbound,
    /// All.
    Everybody,
}

/// A data plane.
#[derive(Debug)]
pub struct Proxy {
    /// What it counts.
    pub stats: Stats,
    /// When it started.
    pub started: Instant,
    /// How it was told to start.
    pub bootstrap: Bootstrap,
    clusters: RefCell<BTreeMap<String, KnownCluster>>,
    /// Endpoints by the name that EDS has for them.
    endpoints: RefCell<HashMap<String, Endpoints>>,
    listeners: RefCell<BTreeMap<String, KnownListener>>,
    /// Chains that are gone from the configuration, and have connections for a while.
    draining: RefCell<Vec<Rc<FilterChain>>>,
    /// Which clients are asked to leave, whatever the configuration says.
    leaving: Cell<Leaving>,
    routes: RefCell<BTreeMap<String, (Rc<RouteTable>, RouteConfiguration)>>,
    versions: RefCell<BTreeMap<Kind, String>>,
    state: Cell<ServerState>,
    next_listener: Cell<usize>,
    got_clusters: Cell<bool>,
    got_listeners: Cell<bool>,
    tasks: RefCell<JoinSet<()>>,
    idle: Rc<IdleWatch>,
    /// The threads beside this one.
    pub(crate) workers: Workers,
}

/// Why a data plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bootstrap.
    #[error("bootstrap: {0}")]
    Bootstrap(#[from] Refused),
    /// A thread.
    #[error("starting a worker")]
    Worker(#[source] std::io::Error),
    /// The admin port.
    #[error("binding admin to {address}")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// What a thread of the data plane runs on. It writes access logs before it waits.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(sink::flush)
        .build()
}

/// A line of the data plane's own log, on standard error.
pub fn log(line: &str) {
    use std::io::Write as _;
    // Nobody reading it is no reason to stop.
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// Runs until `stop` is ready.
pub async fn run(bootstrap: Bootstrap, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let proxy = Proxy::new(bootstrap, Stats::default());
    proxy
        .workers
        .start(&proxy.bootstrap, &proxy.stats)
        .map_err(Error::Worker)?;
    let address = proxy.bootstrap.admin;
    let admin = serve::bind(address, Families::One).map_err(|source| Error::Admin { address, source })?;
    proxy.take_static()?;
    let (quit, mut quitting) = tokio::sync::watch::channel(false);
    let admin = tokio::task::spawn_local(admin::serve(Rc::clone(&proxy), admin, quit));
    let (server, node) = (proxy.bootstrap.xds.clone(), proxy.bootstrap.node());
    let xds = tokio::task::spawn_local(xds::run(Rc::clone(&proxy), server, node));
    let watch = tokio::task::spawn_local(Rc::clone(&proxy).watch_idle());
    tokio::select! {
        () = stop => {}
        _ = quitting.changed() => {}
    }
    xds.abort();
    admin.abort();
    watch.abort();
    sink::flush();
    Ok(())
}

impl Proxy {
    /// The data plane of a further worker.
    pub(crate) fn follower(bootstrap: Bootstrap, stats: Stats) -> Result<Rc<Self>, Refused> {
        let proxy = Self::new(bootstrap, stats);
        proxy.take_static()?;
        Ok(proxy)
    }

    fn new(bootstrap: Bootstrap, stats: Stats) -> Rc<Self> {
        Rc::new(Self {
            stats,
            started: Instant::now(),
            bootstrap,
            clusters: RefCell::default(),
            endpoints: RefCell::default(),
            listeners: RefCell::default(),
            draining: RefCell::default(),
            leaving: Cell::new(Leaving::Nobody),
            routes: RefCell::default(),
            versions: RefCell::default(),
            state: Cell::new(ServerState::PreInitializing),
            next_listener: Cell::new(0),
            got_clusters: Cell::new(false),
            got_listeners: Cell::new(false),
            tasks: RefCell::default(),
            idle: Rc::default(),
            workers: Workers::default(),
        })
    }

    fn take_static(&self) -> Result<(), Refused> {
        for proto in self.bootstrap.clusters() {
            let cluster = Cluster::new(ClusterConfig::from_proto(&proto)?, &self.stats, &self.idle);
            let known = KnownCluster {
                cluster,
                warm: true,
                is_static: true,
                proto,
            };
            self.clusters.borrow_mut().insert(known.proto.name.clone(), known);
        }
        for proto in self.bootstrap.listeners() {
            let config = Rc::new(ListenerConfig::from_proto(proto)?);
            let name = config.name.clone();
            let known = KnownListener {
                active: None,
                warming: Some(config),
                sockets: Vec::new(),
                is_static: true,
                number: self.number(),
            };
            self.listeners.borrow_mut().insert(name, known);
        }
        Ok(())
    }

    /// Runs a task for as long as it likes, but not longer than the data plane.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(task);
    }

    fn become_state(&self, state: ServerState) {
        self.state.set(state);
        // `envoy.admin.v3.ServerInfo.State`.
        let number = match state {
            ServerState::Live => 0,
            ServerState::Draining => 1,
            ServerState::PreInitializing => 2,
            ServerState::Initializing => 3,
        };
        self.stats.gauge("server.state").set(number);
    }

    /// How far the start has come.
    pub const fn state(&self) -> ServerState {
        self.state.get()
    }

    /// Clusters are there; listeners are asked for.
    pub fn set_initializing(&self) {
        if self.state.get() == ServerState::PreInitializing {
            self.become_state(ServerState::Initializing);
        }
    }

    /// Closes idle connections when their hosts do, or their time is over, and gives free buffers back; never ends.
    pub(crate) async fn watch_idle(self: Rc<Self>) {
        let idle = Rc::clone(&self.idle);
        lots::keep(&idle);
        idle.run(|| {
            let clusters = self.clusters.borrow();
            let moments = clusters.values().filter_map(|known| known.cluster.sweep());
            moments.chain(lots::sweep()).min()
        })
        .await;
    }

    /// These clients are asked to leave from now on.
    pub fn ask_to_leave(&self, who: Leaving) {
        self.workers.ask_to_leave(who);
        self.leaving.set(who);
        for known in self.listeners.borrow().values() {
            self.ask_clients_of(known);
        }
    }

    fn ask_clients_of(&self, known: &KnownListener) {
        let Some(config) = &known.active else { return };
        let asked = match self.leaving.get() {
            Leaving::Nobody => false,
            Leaving::Inbound => config.inbound,
            Leaving::Everybody => true,
        };
        if asked {
            config.all_chains().for_each(|chain| chain.drain.begin());
        }
    }

    /// Chains that are gone: their clients are asked to leave, and cut off when the time is over.
    fn drain_chains(self: &Rc<Self>, chains: Vec<Rc<FilterChain>>, gone: Gone) {
        if chains.is_empty() {
            return;
        }
        for chain in &chains {
            chain.drain.begin();
        }
        self.draining.borrow_mut().extend(chains.iter().map(Rc::clone));
        let proxy = Rc::downgrade(self);
        let time = self.bootstrap.drain_time;
        self.spawn(async move {
            crate::within::back_off(time).await;
            for chain in &chains {
                chain.drain.cut(gone);
            }
            if let Some(proxy) = proxy.upgrade() {
                let is_over = |it: &Rc<FilterChain>| it.drain.is_over();
                proxy.draining.borrow_mut().retain(|it| !is_over(it));
            }
        });
    }

    /// No new connections from now on.
    pub fn drain(&self) {
        self.workers.drain();
        self.become_state(ServerState::Draining);
        for listener in self.listeners.borrow_mut().values_mut() {
            listener.close();
        }
    }

    /// The version of a type that was accepted last.
    pub fn set_version(&self, kind: Kind, version: &str) {
        self.versions.borrow_mut().insert(kind, version.to_owned());
    }

    /// The version of a type that was accepted last.
    pub fn version(&self, kind: Kind) -> String {
        self.versions.borrow().get(&kind).cloned().unwrap_or_default()
    }

    /// A cluster that is warm.
    pub fn cluster(&self, name: &str) -> Option<Rc<Cluster>> {
        let clusters = self.clusters.borrow();
        clusters
            .get(name)
            .filter(|known| known.warm)
            .map(|known| Rc::clone(&known.cluster))
    }

    /// All clusters, with what they were made from.
    pub fn all_clusters(&self) -> Vec<(Rc<Cluster>, ClusterProto, bool)> {
        let clusters = self.clusters.borrow();
        clusters
            .values()
            .map(|known| (Rc::clone(&known.cluster), known.proto.clone(), known.is_static))
            .collect()
    }

    /// Adds a cluster, or puts it in the place of its former self if it differs.
    pub fn set_cluster(&self, config: ClusterConfig, proto: ClusterProto) {
        self.got_clusters.set(true);
        let same = self
            .clusters
            .borrow()
            .get(&proto.name)
            .is_some_and(|known| known.cluster.config == config);
        if same {
            return;
        }
        let endpoints = match &config.discovery {
            Discovery::Eds(name) => Some(self.endpoints.borrow().get(name).cloned()),
            Discovery::Static(_) | Discovery::OriginalDst | Discovery::StrictDns(_) => None,
        };
        let cluster = Cluster::new(config, &self.stats, &self.idle);
        // A cluster whose endpoints are known from before is warm at once.
        let warm = match endpoints {
            Some(Some(hosts)) => {
                cluster.set_endpoints(hosts);
                true
            }
            Some(None) => false,
            None => true,
        };
        if let Discovery::StrictDns(names) = &cluster.config.discovery {
            self.spawn(resolve(Rc::clone(&cluster), names.clone()));
        }
        let known = KnownCluster {
            cluster,
            warm,
            is_static: false,
            proto,
        };
        self.clusters.borrow_mut().insert(known.proto.name.clone(), known);
    }

    /// Forgets the clusters that are not among these, static ones aside.
    pub fn keep_clusters(&self, names: &[String]) {
        self.got_clusters.set(true);
        self.clusters
            .borrow_mut()
            .retain(|name, known| known.is_static || names.contains(name));
        // A cluster that comes back waits for endpoints as a new one does.
        let needed: HashSet<String> = self.endpoint_names().into_iter().collect();
        self.endpoints
            .borrow_mut()
            .retain(|name, _| needed.contains(name));
    }

    /// The names of endpoints that clusters need.
    pub fn endpoint_names(&self) -> Vec<String> {
        let clusters = self.clusters.borrow();
        let names = clusters
            .values()
            .filter_map(|known| match &known.cluster.config.discovery {
                Discovery::Eds(name) => Some(name.clone()),
                Discovery::Static(_) | Discovery::OriginalDst | Discovery::StrictDns(_) => None,
            });
        names.collect()
    }

    /// These are the endpoints of that name.
    pub fn set_endpoints(&self, name: &str, endpoints: Endpoints) {
        for known in self.clusters.borrow_mut().values_mut() {
            if matches!(&known.cluster.config.discovery, Discovery::Eds(wanted) if wanted == name) {
                known.cluster.set_endpoints(endpoints.clone());
                known.warm = true;
            }
        }
        self.endpoints.borrow_mut().insert(name.to_owned(), endpoints);
    }

    /// True if every cluster has its endpoints.
    pub fn clusters_are_warm(&self) -> bool {
        self.got_clusters.get() && self.clusters.borrow().values().all(|known| known.warm)
    }

    /// The listener of this name that serves.
    pub fn listener(&self, name: &str) -> Option<Rc<ListenerConfig>> {
        self.listeners.borrow().get(name)?.active.clone()
    }

    /// The listener of this address that has no socket of its own.
    pub fn listener_at(&self, address: SocketAddr) -> Option<Rc<ListenerConfig>> {
        let listeners = self.listeners.borrow();
        let active = listeners.values().filter_map(|known| known.active.as_ref());
        active
            .filter(|listener| listener.socket == Socket::Nothing && listener.addresses.contains(&address))
            .map(Rc::clone)
            .next()
    }

    /// All listeners that serve, and whether they are static.
    pub fn all_listeners(&self) -> Vec<(Rc<ListenerConfig>, bool)> {
        let listeners = self.listeners.borrow();
        let mut active: Vec<_> = listeners
            .values()
            .filter_map(|known| Some((known.active.clone()?, known)))
            .collect();
        active.sort_by_key(|(_, known)| known.number);
        active
            .into_iter()
            .map(|(config, known)| (config, known.is_static))
            .collect()
    }

    /// True if this very listener is there already.
    pub fn has_listener(&self, proto: &ListenerProto) -> bool {
        self.got_listeners.set(true);
        self.listeners
            .borrow()
            .get(&proto.name)
            .is_some_and(|known| known.source() == Some(proto))
    }

    fn number(&self) -> usize {
        self.next_listener.replace(self.next_listener.get() + 1)
    }

    /// Adds a listener, or puts it in the place of its former self, as soon as its routes are there.
    pub fn set_listener(&self, mut config: ListenerConfig) {
        let mut listeners = self.listeners.borrow_mut();
        let name = config.name.clone();
        let former = listeners.get(&name).and_then(|known| known.active.as_ref());
        if let Some(former) = former {
            config.keep_chains_of(former);
        }
        let config = Rc::new(config);
        if let Some(known) = listeners.get_mut(&name) {
            let moved = known.active.as_ref().is_some_and(|active| {
                (&active.addresses, active.socket) != (&config.addresses, config.socket)
            });
            if moved {
                known.close();
            }
            known.warming = Some(config);
        } else {
            let known = KnownListener {
                active: None,
                warming: Some(config),
                sockets: Vec::new(),
                is_static: false,
                number: self.number(),
            };
            listeners.insert(name, known);
        }
    }

    /// Forgets the listeners that are not among these, static ones aside. Their connections go on for a while.
    pub fn keep_listeners(self: &Rc<Self>, names: &[String]) {
        self.got_listeners.set(true);
        let mut gone = Vec::new();
        self.listeners.borrow_mut().retain(|name, known| {
            let keep = known.is_static || names.contains(name);
            if !keep {
                known.close();
                gone.extend(known.active.take());
            }
            keep
        });
        let chains = gone.iter().flat_map(|config| config.all_chains());
        self.drain_chains(chains.map(Rc::clone).collect(), Gone::Listener);
        // So does a listener for its routes.
        let needed: HashSet<String> = self.route_names().into_iter().collect();
        self.routes.borrow_mut().retain(|name, _| needed.contains(name));
    }

    /// The names of route tables that listeners need.
    pub fn route_names(&self) -> Vec<String> {
        let listeners = self.listeners.borrow();
        let configs = listeners
            .values()
            .flat_map(|known| known.active.iter().chain(&known.warming));
        let draining = self.draining.borrow();
        let of_draining = draining.iter().filter_map(|chain| chain.route_name());
        let mut names: Vec<String> = configs
            .flat_map(|config| config.route_names())
            .chain(of_draining)
            .map(str::to_owned)
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// A route table.
    pub fn route_table(&self, name: &str) -> Option<Rc<RouteTable>> {
        self.routes.borrow().get(name).map(|(table, _)| Rc::clone(table))
    }

    /// All route tables' resources.
    pub fn all_routes(&self) -> Vec<RouteConfiguration> {
        self.routes
            .borrow()
            .values()
            .map(|(_, proto)| proto.clone())
            .collect()
    }

    /// Adds a route table, or puts it in the place of its former self.
    pub fn set_routes(&self, table: RouteTable, proto: RouteConfiguration) {
        self.routes
            .borrow_mut()
            .insert(table.name.clone(), (Rc::new(table), proto));
    }

    /// Lets listeners serve whose routes are there. At the first start all of them wait for each other.
    pub fn open_when_ready(self: &Rc<Self>) {
        let has_routes = |config: &ListenerConfig| {
            let routes = self.routes.borrow();
            config.route_names().all(|name| routes.contains_key(name))
        };
        let first = self.state.get() != ServerState::Live;
        if first {
            let listeners = self.listeners.borrow();
            let all = listeners
                .values()
                .filter_map(|known| known.warming.as_ref())
                .all(|config| has_routes(config));
            if !self.got_listeners.get() || !self.clusters_are_warm() || !all {
                return;
            }
        }
        let (mut replaced, mut changed) = (Vec::new(), Vec::new());
        for known in self.listeners.borrow_mut().values_mut() {
            let Some(config) = known.warming.take_if(|config| has_routes(config)) else {
                continue;
            };
            if config.socket != Socket::Nothing && known.sockets.is_empty() {
                for address in &config.addresses {
                    match serve::open(&config, *address) {
                        Ok(socket) => {
                            let accept = serve::accept(Rc::clone(self), config.name.clone(), socket);
                            known.sockets.push(tokio::task::spawn_local(accept));
                        }
                        Err(error) => {
                            log(&format!("listener {}: binding {address}: {error}", config.name));
                        }
                    }
                }
            }
            if let Some(former) = known.active.replace(config) {
                let stays = |chain: &&Rc<FilterChain>| {
                    let mut now = known.active.iter().flat_map(|config| config.all_chains());
                    now.any(|it| Rc::ptr_eq(it, chain))
                };
                let in_place = known.active.as_ref().is_some_and(|it| it.has_shell_of(&former));
                let gone = if in_place { &mut changed } else { &mut replaced };
                gone.extend(former.all_chains().filter(|it| !stays(it)).map(Rc::clone));
            }
            self.ask_clients_of(known);
        }
        self.drain_chains(replaced, Gone::Listener);
        self.drain_chains(changed, Gone::FilterChain);
        if first && self.state.get() != ServerState::Draining {
            self.become_state(ServerState::Live);
            self.stats.gauge("server.live").set(1);
            log("all dependencies initialized. starting workers");
        }
    }
}

/// Looks names up again and again, as long as the cluster is there.
async fn resolve(cluster: Rc<Cluster>, names: Vec<(String, u16)>) {
    use std::time::Duration;
    // Cluster.dns_refresh_rate: five seconds unless said otherwise.
    const REFRESH: Duration = Duration::from_secs(5);
    while Rc::strong_count(&cluster) > 1 {
        let mut hosts: Vec<SocketAddr> = Vec::new();
        for (name, port) in &names {
            // The resolver's threads belong to this process, and so to its namespaces.
            if let Ok(found) = tokio::net::lookup_host((name.as_str(), *port)).await {
                hosts.extend(found);
            }
        }
        hosts.sort();
        hosts.dedup();
        cluster.set_hosts(hosts.into());
        crate::within::back_off(REFRESH).await;
    }
}
