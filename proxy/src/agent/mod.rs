//! The agent: starts and supervises the data plane, relays xDS to it, answers for its health, and merges metrics.

mod app_health;
pub mod dns;
mod drain;
mod envoy;
mod events;
mod health;
mod names;
mod relay;
mod supervise;

use std::cell::Cell;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use events::Events;

use crate::bootstrap::{Bootstrap, Local};
use crate::cli::AgentArgs;
use crate::serve::Families;
use envoy::Envoy;

/// The agent's own ports.
const XDS: u16 = 15010;
const STATUS: u16 = 15020;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port.
    #[error("binding {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The data plane.
    #[error("starting the data plane")]
    DataPlane(#[source] std::io::Error),
    /// Where questions that are not the mesh's would go.
    #[error("reading {RESOLV_CONF}")]
    ResolvConf(#[source] std::io::Error),
    /// What it was told about the app's probes.
    #[error("--app-probers")]
    Probers(#[source] serde_json::Error),
    /// Envoy's bootstrap.
    #[error("writing Envoy's bootstrap to a temporary file")]
    Bootstrap(#[source] std::io::Error),
}

/// Which data plane there is: the how manieth, and whether it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Life {
    number: u64,
    runs: bool,
}

impl Shared {
    /// The data plane's admin port.
    pub(crate) fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.here.localhost, 15000)
    }

    /// A data plane starts or has ended.
    pub(crate) fn turn(&self, runs: bool) {
        let number = self.life.get().number + u64::from(runs);
        self.life.set(Life { number, runs });
        self.moved.send_modify(|count| *count += 1);
    }
}

/// What the parts of an agent share.
pub(crate) struct Shared {
    pub(crate) args: AgentArgs,
    /// Where the pod's own things are.
    pub(crate) here: Local,
    pub(crate) events: Rc<Events>,
    /// The mesh's names, if the agent answers DNS.
    pub(crate) names: Option<Arc<dns::Names>>,
    /// What is done for `/app-health/…`.
    pub(crate) probers: app_health::Probers,
    /// What is the data plane, if it is not this program.
    pub(crate) envoy: Option<Envoy>,
    pub(crate) life: Cell<Life>,
    /// When the data plane was started last.
    pub(crate) begun: Cell<Instant>,
    /// How long the last one that became ready took for it, from its start.
    pub(crate) startup: Cell<Option<Duration>>,
    /// Rung when the data plane starts or ends, and when something passed the relay after which it may be ready.
    pub(crate) moved: watch::Sender<u64>,
    /// True once the agent is to end.
    pub(crate) quit: watch::Sender<bool>,
}

/// Runs until `stop` is ready or somebody posts `/quitquitquit`.
pub async fn run(args: AgentArgs, exec: Vec<String>, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let bootstrap = Bootstrap {
        concurrency: args.concurrency,
        interception_mode: args.interception_mode,
        idle_timeout: args.idle_timeout.clone(),
        drain_time: Duration::from_secs(args.drain_time_s),
        ..Bootstrap::of_pod(&args.node_id, &args.instance_ips)
    };
    let bind = |address, families| {
        crate::serve::bind(address, families).map_err(|source| Error::Bind { address, source })
    };
    let here = Local::of(&bootstrap.instance_ips);
    let has_ipv6 = bootstrap.instance_ips.iter().any(IpAddr::is_ipv6);
    let any = if has_ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        here.wildcard
    };
    let xds = bind(SocketAddr::new(here.localhost, XDS), Families::One)?;
    let status = bind(SocketAddr::new(any, STATUS), Families::Both)?;
    let (names, dns_sockets) = if args.dns_capture {
        let text = std::fs::read_to_string(RESOLV_CONF).map_err(Error::ResolvConf)?;
        let resolvers = dns::resolv_conf::ResolvConf::parse(&text);
        let sockets = dns::Sockets::bind(&resolvers).await?;
        let names = dns::Names::new(&args.node_id, resolvers);
        (Some(Arc::new(names)), Some(sockets))
    } else {
        (None, None)
    };
    let events = Rc::new(Events::open(args.events_fd));
    let probers = app_health::read(args.app_probers.as_deref()).map_err(Error::Probers)?;
    let envoy = args
        .envoy
        .as_ref()
        .map(|program| Envoy::prepare(program, &bootstrap))
        .transpose()
        .map_err(Error::Bootstrap)?;
    let shared = Rc::new(Shared {
        here,
        args,
        events,
        names,
        probers,
        envoy,
        life: Cell::new(Life::default()),
        begun: Cell::new(Instant::now()),
        startup: Cell::new(None),
        moved: watch::Sender::new(0),
        quit: watch::Sender::new(false),
    });
    shared
        .events
        .tell(&serde_json::json!({ "event": "agent-listening" }));
    let relay = tokio::task::spawn_local(relay::serve(Rc::clone(&shared), xds));
    let status = tokio::task::spawn_local(health::serve(Rc::clone(&shared), status));
    let watch = tokio::task::spawn_local(health::watch(Rc::clone(&shared)));
    let dns = shared.names.clone().zip(dns_sockets).map(|(names, sockets)| {
        let events = Rc::clone(&shared.events);
        tokio::task::spawn_local(dns::serve(names, events, sockets))
    });
    let mut quitting = shared.quit.subscribe();
    let draining = Rc::clone(&shared);
    let ended = supervise::run(&shared, exec, async move {
        tokio::select! {
            () = async { stop.await; drain::drain(&draining).await; } => {}
            _ = quitting.wait_for(|quit| *quit) => {}
        }
    })
    .await;
    for task in [relay, status, watch].into_iter().chain(dns) {
        task.abort();
    }
    ended.map_err(Error::DataPlane)
}
