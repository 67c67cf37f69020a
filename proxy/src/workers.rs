//! Further worker threads. Each has a data plane of its own, with its own sockets and connections, as Envoy's workers
//! have; the first thread tells them what came by xDS, and all count on the same numbers.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::bootstrap::Bootstrap;
use crate::data_plane::{self, Leaving, Proxy};
use crate::stats::Stats;
use crate::xds::{Kind, apply};

/// What a worker is told.
#[derive(Debug, Clone)]
enum Order {
    /// What istiod sent; what of it cannot be used was told to istiod already.
    Response(Kind, Arc<DiscoveryResponse>),
    /// No new connections from now on.
    Drain,
    /// These clients are asked to leave from now on.
    AskToLeave(Leaving),
}

/// The further workers. They end when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Workers(RefCell<Vec<mpsc::UnboundedSender<Order>>>);

impl Workers {
    /// Starts all but the first of the workers that `bootstrap` asks for.
    pub(crate) fn start(&self, bootstrap: &Bootstrap, stats: &Stats) -> std::io::Result<()> {
        for number in 1..bootstrap.concurrency.get() {
            let (orders, received) = mpsc::unbounded_channel();
            let (bootstrap, stats) = (bootstrap.clone(), stats.clone());
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || work(bootstrap, stats, received))?;
            self.0.borrow_mut().push(orders);
        }
        Ok(())
    }

    /// What istiod sent.
    pub(crate) fn apply(&self, kind: Kind, response: &DiscoveryResponse) {
        if !self.0.borrow().is_empty() {
            self.tell(&Order::Response(kind, Arc::new(response.clone())));
        }
    }

    /// No new connections from now on.
    pub(crate) fn drain(&self) {
        self.tell(&Order::Drain);
    }

    /// These clients are asked to leave from now on.
    pub(crate) fn ask_to_leave(&self, who: Leaving) {
        self.tell(&Order::AskToLeave(who));
    }

    fn tell(&self, order: &Order) {
        // A worker that is gone has said why.
        self.0
            .borrow_mut()
            .retain(|worker| worker.send(order.clone()).is_ok());
    }
}

fn work(bootstrap: Bootstrap, stats: Stats, mut orders: mpsc::UnboundedReceiver<Order>) {
    let runtime = match data_plane::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return data_plane::log(&format!("a worker's runtime: {error}")),
    };
    LocalSet::new().block_on(&runtime, async {
        let proxy = match Proxy::follower(bootstrap, stats) {
            Ok(proxy) => proxy,
            Err(error) => return data_plane::log(&format!("a worker's start: {error}")),
        };
        let watch = tokio::task::spawn_local(Rc::clone(&proxy).watch_idle());
        while let Some(order) = orders.recv().await {
            match order {
                Order::Response(kind, response) => {
                    // What it cannot use the first worker could not use either, and has said so.
                    drop(apply(&proxy, kind, &response));
                    proxy.open_when_ready();
                }
                Order::Drain => proxy.drain(),
                Order::AskToLeave(who) => proxy.ask_to_leave(who),
            }
        }
        watch.abort();
    });
}
