//! The agent: starts and supervises the data plane, relays xDS to it, answers for its health, and merges metrics.

mod app_health;
mod drain;
mod events;
mod health;
mod relay;
mod supervise;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use tokio::sync::watch;

pub use events::Events;

use crate::cli::AgentArgs;

/// The agent's own ports.
const XDS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15010);
const STATUS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15020);

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
    /// What it was told about the app's probes.
    #[error("--app-probers")]
    Probers(#[source] serde_json::Error),
}

/// What the parts of an agent share.
pub(crate) struct Shared {
    pub(crate) args: AgentArgs,
    pub(crate) events: Events,
    /// What is done for `/app-health/…`.
    pub(crate) probers: app_health::Probers,
    /// Rung when something passed the relay after which the data plane may have become ready.
    pub(crate) moved: watch::Sender<u64>,
    /// True once the agent is to end.
    pub(crate) quit: watch::Sender<bool>,
}

/// Runs until `stop` is ready or somebody posts `/quitquitquit`.
pub async fn run(args: AgentArgs, exec: Vec<String>, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let bind = |address| crate::serve::bind(address).map_err(|source| Error::Bind { address, source });
    let (xds, status) = (bind(XDS)?, bind(STATUS)?);
    let events = Events::open(args.events_fd);
    let probers = app_health::read(args.app_probers.as_deref()).map_err(Error::Probers)?;
    let shared = Rc::new(Shared {
        args,
        events,
        probers,
        moved: watch::Sender::new(0),
        quit: watch::Sender::new(false),
    });
    shared
        .events
        .tell(&serde_json::json!({ "event": "agent-listening" }));
    let relay = tokio::task::spawn_local(relay::serve(Rc::clone(&shared), xds));
    let status = tokio::task::spawn_local(health::serve(Rc::clone(&shared), status));
    let watch = tokio::task::spawn_local(health::watch(Rc::clone(&shared)));
    let mut quitting = shared.quit.subscribe();
    let draining = Rc::clone(&shared);
    let ended = supervise::run(&shared, exec, async move {
        tokio::select! {
            () = async { stop.await; drain::drain(&draining.args).await; } => {}
            _ = quitting.wait_for(|quit| *quit) => {}
        }
    })
    .await;
    for task in [relay, status, watch] {
        task.abort();
    }
    ended.map_err(Error::DataPlane)
}
