//! The ADS client: subscriptions, nonces, ACKs and NACKs, and the order in which things become ready.
//!
//! CDS -> EDS of every EDS cluster -> LDS -> RDS of every listener; only then do listeners open. So does Envoy at its
//! first boot (its init manager); later updates warm one by one: a cluster is unknown until its endpoints have come, a
//! listener keeps its former self until its routes have.

mod apply;
pub mod name_table;

pub(crate) use apply::apply;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::data_plane::Proxy;
use crate::within::{back_off, until};

/// An xDS resource type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Clusters.
    Cds,
    /// Endpoints.
    Eds,
    /// Listeners.
    Lds,
    /// Routes.
    Rds,
}

impl Kind {
    /// Its type URL.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Cds => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Eds => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Lds => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Rds => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    fn from_url(url: &str) -> Option<Self> {
        [Self::Cds, Self::Eds, Self::Lds, Self::Rds]
            .into_iter()
            .find(|kind| kind.url() == url)
    }
}

/// What is subscribed of a type.
#[derive(Debug, Clone, Default)]
struct Subscription {
    version: String,
    nonce: String,
    names: Vec<String>,
}

/// How a connection's end is followed by the next attempt: at random between these (the bootstrap of a sidecar says
/// so; Envoy's own default of up to 30 s would look like a hang).
const BACK_OFF: std::ops::Range<u64> = 100..500;

/// How long after the last response the configuration has settled.
const SETTLED: Duration = Duration::from_secs(1);

/// Lives on an ADS server until the process ends.
pub async fn run(proxy: Rc<Proxy>, server: String, node: Node) {
    let mut known: HashMap<Kind, Subscription> = HashMap::from([(Kind::Cds, Subscription::default())]);
    let connected = proxy.stats.gauge("control_plane.connected_state");
    let mut said = String::new();
    loop {
        let ended = stream(&proxy, &server, &node, &mut known, &connected).await;
        connected.set(0);
        let words = ended.map_or_else(|error| error, |()| "the server ended the stream".to_owned());
        // Once for each change: a server that stays away would fill the log.
        if words != said {
            crate::data_plane::log(&format!("xDS: {server}: {words}"));
            said = words;
        }
        back_off(Duration::from_millis(fastrand::u64(BACK_OFF))).await;
    }
}

async fn stream(
    proxy: &Rc<Proxy>,
    server: &str,
    node: &Node,
    known: &mut HashMap<Kind, Subscription>,
    connected: &crate::stats::Stat,
) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{server}")).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| chain(&error))?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let (requests, outgoing) = mpsc::unbounded_channel();
    let mut session = Session {
        requests,
        node: Some(node.clone()),
        known,
    };
    // Nonces are the stream's; what was accepted is still accepted.
    for kind in [Kind::Cds, Kind::Eds, Kind::Lds, Kind::Rds] {
        if let Some(subscription) = session.known.get_mut(&kind) {
            subscription.nonce.clear();
            session.ask(kind, None);
        }
    }
    let response = client
        .stream_aggregated_resources(UnboundedReceiverStream::new(outgoing))
        .await;
    let mut responses = response.map_err(|status| status.to_string())?.into_inner();
    connected.set(1);
    while let Some(response) = next(&mut responses).await.map_err(|status| status.to_string())? {
        session.take(proxy, &response);
    }
    Ok(())
}

/// The next response. If it keeps us waiting, the start or a change is over, and what only that needed is given back.
async fn next(
    responses: &mut Streaming<DiscoveryResponse>,
) -> Result<Option<DiscoveryResponse>, tonic::Status> {
    if let Some(response) = until(Instant::now() + SETTLED, responses.message()).await {
        return response;
    }
    crate::sys::give_back();
    responses.message().await
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = source.to_string();
        cause = source.source();
    }
    text
}

struct Session<'a> {
    requests: mpsc::UnboundedSender<DiscoveryRequest>,
    /// Sent on the first request of a stream.
    node: Option<Node>,
    known: &'a mut HashMap<Kind, Subscription>,
}

impl Session<'_> {
    fn ask(&mut self, kind: Kind, error: Option<String>) {
        let Some(subscription) = self.known.get(&kind) else {
            return;
        };
        let request = DiscoveryRequest {
            version_info: subscription.version.clone(),
            node: self.node.take(),
            resource_names: subscription.names.clone(),
            type_url: kind.url().to_owned(),
            response_nonce: subscription.nonce.clone(),
            error_detail: error.map(|message| Status {
                code: 13,
                message,
                details: Vec::new(),
            }),
            ..DiscoveryRequest::default()
        };
        // The stream that is gone is noticed where it is read.
        drop(self.requests.send(request));
    }

    fn take(&mut self, proxy: &Rc<Proxy>, response: &DiscoveryResponse) {
        let Some(kind) = Kind::from_url(&response.type_url) else {
            crate::data_plane::log(&format!("xDS: a response of unknown type {}", response.type_url));
            return;
        };
        let applied = apply(proxy, kind, response);
        proxy.workers.apply(kind, response);
        let subscription = self.known.entry(kind).or_default();
        subscription.nonce.clone_from(&response.nonce);
        let error = match applied {
            Ok(()) => {
                subscription.version.clone_from(&response.version_info);
                proxy.set_version(kind, &response.version_info);
                proxy.stats.counter(accepted(kind)).inc();
                None
            }
            Err(reasons) => {
                crate::data_plane::log(&format!(
                    "xDS: refused {kind:?} {}: {reasons}",
                    response.version_info
                ));
                proxy.stats.counter(rejected(kind)).inc();
                Some(reasons)
            }
        };
        self.ask(kind, error);
        self.subscribe(proxy);
    }

    /// Asks for what is needed now and was not asked for yet.
    fn subscribe(&mut self, proxy: &Rc<Proxy>) {
        self.want(Kind::Eds, proxy.endpoint_names());
        if proxy.clusters_are_warm() && !self.known.contains_key(&Kind::Lds) {
            self.known.insert(Kind::Lds, Subscription::default());
            proxy.set_initializing();
            self.ask(Kind::Lds, None);
        }
        self.want(Kind::Rds, proxy.route_names());
        proxy.open_when_ready();
    }

    fn want(&mut self, kind: Kind, names: Vec<String>) {
        if names.is_empty() && !self.known.contains_key(&kind) {
            return;
        }
        let subscription = self.known.entry(kind).or_default();
        if subscription.names != names {
            subscription.names = names;
            self.ask(kind, None);
        }
    }
}

const fn accepted(kind: Kind) -> &'static str {
    match kind {
        Kind::Cds => "cluster_manager.cds.update_success",
        Kind::Eds => "cluster_manager.eds.update_success",
        Kind::Lds => "listener_manager.lds.update_success",
        Kind::Rds => "http.rds.update_success",
    }
}

const fn rejected(kind: Kind) -> &'static str {
    match kind {
        Kind::Cds => "cluster_manager.cds.update_rejected",
        Kind::Eds => "cluster_manager.eds.update_rejected",
        Kind::Lds => "listener_manager.lds.update_rejected",
        Kind::Rds => "http.rds.update_rejected",
    }
}
