//! The aggregated discovery service: one stream for each proxy, over which it gets all that it is to have.

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::kind::Kind;
use super::mesh::{ConnectionId, Current, Mesh};
use super::metadata::Metadata;
use super::registry::{Proxy, Report};
use super::session::{self, Heard, Session};
use super::snapshot::{Snapshot, Wanted};

/// The service.
#[derive(Debug)]
pub(super) struct Ads {
    mesh: Arc<Mesh>,
}

impl Ads {
    /// Serves what this mesh has.
    pub(super) fn new(mesh: Arc<Mesh>) -> Self {
        Self { mesh }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let peer = request.remote_addr();
        let incoming = Incoming {
            mesh: Arc::clone(&self.mesh),
            current: self.mesh.subscribe(),
            requests: request.into_inner(),
        };
        // The answer's headers go out at once: a client may wait for them before it says who it is.
        let first = stream::once(incoming.introduced(peer));
        let responses = futures_util::StreamExt::flat_map(first, |introduced| match introduced {
            Ok(Some(open)) => open.responses(),
            Ok(None) => Box::pin(stream::empty()),
            Err(status) => Box::pin(stream::once(async { Err(status) })),
        });
        Ok(Response::new(Box::pin(responses)))
    }

    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "this control plane speaks the state-of-the-world protocol only: set `api_type: GRPC` in `ads_config`, \
             not `DELTA_GRPC`",
        ))
    }
}

/// A stream whose proxy is not known yet.
struct Incoming {
    mesh: Arc<Mesh>,
    current: watch::Receiver<Current>,
    requests: Streaming<DiscoveryRequest>,
}

/// A stream whose proxy is known. It is polled by the transport and has no task of its own; dropped when the client is
/// gone.
struct Open {
    mesh: Arc<Mesh>,
    current: watch::Receiver<Current>,
    requests: Streaming<DiscoveryRequest>,
    proxy: Proxy,
    metadata: Metadata,
    session: Session,
    id: ConnectionId,
    generation: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.mesh.disconnect(self.id);
    }
}

impl Incoming {
    /// Waits for the first request and for the first state. None if the client went away before it said anything.
    async fn introduced(mut self, peer: Option<std::net::SocketAddr>) -> Result<Option<Open>, Status> {
        let Some(first) = self.requests.message().await? else {
            return Ok(None);
        };
        let Some(node) = first.node.clone() else {
            return Err(Status::invalid_argument(
                "the first request of a stream must carry a `node`",
            ));
        };
        let snapshot = self.first_state().await?;
        let proxy = known(&snapshot, &node.id)?;
        let metadata = Metadata::of(&node);
        let wanted = Wanted::new(&snapshot, &proxy, metadata);
        let id = self.mesh.connect(&proxy.node_id, &proxy.pod, peer);
        let mut open = Open {
            mesh: self.mesh,
            current: self.current,
            requests: self.requests,
            generation: snapshot.generation,
            session: Session::new(wanted),
            proxy,
            metadata,
            id,
        };
        open.take_in(first);
        Ok(Some(open))
    }

    async fn first_state(&mut self) -> Result<Arc<Snapshot>, Status> {
        let known = self.current.wait_for(|current| current.snapshot.is_some()).await;
        let snapshot = known.ok().and_then(|current| current.snapshot.clone());
        snapshot.ok_or_else(|| Status::unavailable("the control plane is going down"))
    }
}

impl Open {
    fn responses(self) -> Responses<DiscoveryResponse> {
        Box::pin(stream::unfold(Some(self), |open| async {
            let mut open = open?;
            match open.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(open))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    /// The next response, as soon as there is one. None when the client ended the stream.
    async fn next(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        loop {
            self.follow()?;
            let response = self.session.next(&self.mesh.held(&self.proxy.pod));
            self.mesh.note(self.id, &self.session);
            if let Some(response) = response {
                self.mesh.counters.pushed(response.kind);
                return Ok(Some(message(response)));
            }
            tokio::select! {
                changed = self.current.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the control plane is going down"));
                    }
                }
                request = self.requests.message() => {
                    // A connection that broke is a client that went away: there is nobody to tell.
                    let Ok(Some(request)) = request else { return Ok(None) };
                    self.take_in(request);
                }
            }
        }
    }

    /// Takes over a newer state, if there is one.
    fn follow(&mut self) -> Result<(), Status> {
        let snapshot = self.current.borrow_and_update().snapshot.clone();
        let Some(snapshot) = snapshot.filter(|snapshot| snapshot.generation != self.generation) else {
            return Ok(());
        };
        self.proxy = known(&snapshot, &self.proxy.node_id)?;
        self.generation = snapshot.generation;
        self.session
            .replace(Wanted::new(&snapshot, &self.proxy, self.metadata));
        Ok(())
    }

    fn take_in(&mut self, request: DiscoveryRequest) {
        let Some(kind) = Kind::from_type_url(&request.type_url) else {
            super::complain(&format!(
                "{} asked for `{}`, which this control plane does not have; types are: {}",
                self.proxy.node_id,
                request.type_url,
                Kind::ALL.map(Kind::name).join(", "),
            ));
            return;
        };
        let node_id = self.proxy.node_id.clone();
        let kind_name = kind.name().to_owned();
        match self.session.request(kind, request) {
            Heard::Acked(version) => self.mesh.tell(Report::Ack {
                node_id,
                kind: kind_name,
                version: version.version,
            }),
            Heard::Nacked(refusal) => {
                self.mesh.counters.rejected(kind);
                self.mesh.tell(Report::Nack {
                    node_id,
                    kind: kind_name,
                    version: refusal.version.version,
                    message: refusal.message,
                });
            }
            Heard::Overtaken => self.mesh.counters.overtaken(),
            Heard::Subscribed | Heard::Unsubscribed => {}
        }
    }
}

/// The proxy with this node id.
fn known(snapshot: &Snapshot, node_id: &str) -> Result<Proxy, Status> {
    let proxies = &snapshot.registry.proxies;
    let found = proxies.iter().find(|proxy| proxy.node_id == node_id);
    found.cloned().ok_or_else(|| {
        let known: Vec<&str> = proxies.iter().map(|proxy| proxy.node_id.as_str()).collect();
        Status::permission_denied(format!(
            "no proxy has the node id `{node_id}`; proxies are: {}",
            known.join(", ")
        ))
    })
}

fn message(response: session::Response) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: response.version.version,
        resources: response
            .resources
            .iter()
            .map(|resource| resource.any.clone())
            .collect(),
        type_url: response.kind.type_url(),
        nonce: response.version.nonce,
        control_plane: Some(ControlPlane {
            identifier: "istiod".to_owned(),
        }),
        ..DiscoveryResponse::default()
    }
}
