//! The ADS server: who is connected, what each has been sent and has accepted, what is held back.
//!
//! State of the world. Within a push, types go in the order CDS, EDS, LDS, RDS, and a type waits until what was sent of
//! the ones before it is answered, so that nothing refers to what is not there yet.

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::Stream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::Reports;
use super::registry::{Registry, Report};
use super::snapshot::{Kind, Snapshot, version};

/// Everything the control plane knows.
#[derive(Debug)]
pub(super) struct State {
    pub(super) registry: Option<Registry>,
    generation: u64,
    told: u64,
    held: HashSet<(String, String)>,
    streams: BTreeMap<u64, Connected>,
    next: u64,
    reports: Reports,
    pub(super) pushes: BTreeMap<&'static str, u64>,
}

/// A proxy's stream.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) node_id: String,
    pub(super) pod: String,
    snapshot: Snapshot,
    pub(super) watched: BTreeMap<Kind, Watched>,
    outgoing: mpsc::UnboundedSender<Result<DiscoveryResponse, Status>>,
}

/// What a stream has of a type.
#[derive(Debug, Default)]
pub(super) struct Watched {
    names: Vec<String>,
    /// The version that was sent last, and its nonce.
    pub(super) sent: Option<(String, String)>,
    /// The version that was accepted last.
    pub(super) acked: Option<String>,
    /// The version that was refused last, and why.
    pub(super) nacked: Option<(String, String)>,
    /// The names that the last response was for.
    sent_names: Vec<String>,
}

impl Watched {
    /// True if what was sent is answered.
    fn is_settled(&self) -> bool {
        self.sent.as_ref().is_some_and(|(sent, _)| {
            self.acked.as_ref() == Some(sent)
                || self.nacked.as_ref().is_some_and(|(nacked, _)| nacked == sent)
        })
    }
}

/// A state that some panic left behind is as good as any: each change is whole.
pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(super) fn new(reports: Reports) -> Self {
        Self {
            registry: None,
            generation: 0,
            told: 0,
            held: HashSet::new(),
            streams: BTreeMap::new(),
            next: 0,
            reports,
            pushes: BTreeMap::new(),
        }
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = &Connected> {
        self.streams.values()
    }

    fn report(&self, report: Report) {
        // Whoever listens may be gone; proxies are served all the same.
        drop(self.reports.send(report));
    }

    /// The mesh is this from now on.
    pub(super) fn set(&mut self, generation: u64, registry: Registry) {
        for stream in self.streams.values_mut() {
            if let Some(proxy) = registry
                .proxies
                .iter()
                .find(|proxy| proxy.node_id == stream.node_id)
            {
                stream.snapshot = Snapshot::of(&registry, proxy);
            }
        }
        (self.generation, self.registry) = (generation, Some(registry));
        self.push_all();
    }

    /// Nothing of this type goes to this pod any more, or goes again.
    pub(super) fn hold(&mut self, pod: &str, kind: &str, closed: bool) {
        let key = (pod.to_owned(), kind.to_owned());
        if closed {
            self.held.insert(key);
        } else {
            self.held.remove(&key);
        }
        self.push_all();
    }

    fn push_all(&mut self) {
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            self.push(id);
        }
        self.tell_if_synced();
    }

    /// Sends what a stream is owed, as far as the order allows.
    fn push(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        for kind in Kind::ALL {
            let is_held = self.held.contains(&(stream.pod.clone(), kind.name().to_owned()));
            let Some(watched) = stream.watched.get_mut(&kind) else {
                continue;
            };
            if is_held {
                continue;
            }
            // A subscription by name that names nothing asks for nothing.
            let by_name = matches!(kind, Kind::Eds | Kind::Rds);
            let resources = if by_name && watched.names.is_empty() {
                Vec::new()
            } else {
                stream.snapshot.get(kind, &watched.names)
            };
            let version = version(&resources);
            let is_new = watched.sent.as_ref().is_none_or(|(sent, _)| *sent != version)
                || (by_name && watched.sent_names != watched.names);
            if is_new && !(by_name && watched.names.is_empty()) {
                self.next += 1;
                let nonce = self.next.to_string();
                watched.sent = Some((version.clone(), nonce.clone()));
                watched.sent_names.clone_from(&watched.names);
                watched.nacked = None;
                if watched.acked.as_ref() == Some(&version) {
                    watched.acked = None;
                }
                *self.pushes.entry(kind.name()).or_default() += 1;
                let response = DiscoveryResponse {
                    version_info: version,
                    resources,
                    type_url: kind.url().to_owned(),
                    nonce,
                    ..DiscoveryResponse::default()
                };
                // A stream that is gone is taken off when its requests end.
                drop(stream.outgoing.send(Ok(response)));
            }
            let asks_nothing = by_name && watched.names.is_empty();
            if !asks_nothing && !watched.is_settled() {
                return;
            }
        }
    }

    /// True if a stream has everything of the present generation, or refused it.
    fn is_synced(stream: &Connected) -> bool {
        Kind::ALL.iter().all(|kind| {
            let Some(watched) = stream.watched.get(kind) else {
                return false;
            };
            let by_name = matches!(kind, Kind::Eds | Kind::Rds);
            if by_name && watched.names.is_empty() {
                return true;
            }
            let current = version(&stream.snapshot.get(*kind, &watched.names));
            watched.is_settled() && watched.sent.as_ref().is_some_and(|(sent, _)| *sent == current)
        })
    }

    fn tell_if_synced(&mut self) {
        if self.told == self.generation {
            return;
        }
        let is_free = |stream: &&Connected| !self.held.iter().any(|(pod, _)| *pod == stream.pod);
        if self.streams.values().filter(is_free).all(Self::is_synced) {
            self.told = self.generation;
            self.report(Report::Synced {
                generation: self.generation,
            });
        }
    }

    fn connect(
        &mut self,
        node_id: &str,
        outgoing: mpsc::UnboundedSender<Result<DiscoveryResponse, Status>>,
    ) -> Result<u64, Status> {
        let registry = self
            .registry
            .as_ref()
            .ok_or_else(|| Status::unavailable("no configuration yet"))?;
        let proxy = registry.proxies.iter().find(|proxy| proxy.node_id == node_id);
        let proxy = proxy
            .ok_or_else(|| Status::permission_denied(format!("node `{node_id}` is none of this mesh")))?;
        let (pod, snapshot) = (proxy.pod.clone(), Snapshot::of(registry, proxy));
        self.next += 1;
        let id = self.next;
        let node_id = node_id.to_owned();
        self.report(Report::Connected {
            node_id: node_id.clone(),
        });
        // Whoever connects has to learn of the present generation before it counts as known.
        self.told = self.told.min(self.generation.saturating_sub(1));
        self.streams.insert(
            id,
            Connected {
                node_id,
                pod,
                snapshot,
                watched: BTreeMap::new(),
                outgoing,
            },
        );
        Ok(id)
    }

    fn disconnect(&mut self, id: u64) {
        if let Some(stream) = self.streams.remove(&id) {
            self.report(Report::Disconnected {
                node_id: stream.node_id,
            });
            self.tell_if_synced();
        }
    }

    fn take(&mut self, id: u64, request: DiscoveryRequest) {
        let Some(kind) = Kind::from_url(&request.type_url) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let node_id = stream.node_id.clone();
        let watched = stream.watched.entry(kind).or_default();
        let sent = watched.sent.clone();
        // An answer to something older than what was sent last says nothing about the latter.
        let is_stale = !request.response_nonce.is_empty()
            && sent
                .as_ref()
                .is_some_and(|(_, nonce)| *nonce != request.response_nonce);
        if is_stale {
            return;
        }
        let mut report = None;
        match (request.response_nonce.is_empty(), sent, request.error_detail) {
            (false, Some((version, _)), None) => {
                watched.acked = Some(version.clone());
                report = Some(Report::Ack {
                    node_id,
                    kind: kind.name().to_owned(),
                    version,
                });
            }
            (false, Some((version, _)), Some(error)) => {
                watched.nacked = Some((version.clone(), error.message.clone()));
                let (kind, message) = (kind.name().to_owned(), error.message);
                report = Some(Report::Nack {
                    node_id,
                    kind,
                    version,
                    message,
                });
            }
            // A subscription, or the first request of a stream.
            (true, _, _) | (false, None, _) => {}
        }
        let mut names = request.resource_names;
        names.sort();
        watched.names = names;
        if let Some(report) = report {
            self.report(report);
        }
        self.push(id);
        self.tell_if_synced();
    }
}

/// Serves xDS until it is aborted.
pub(super) async fn serve(state: Arc<Mutex<State>>, socket: TcpListener) {
    let service = AggregatedDiscoveryServiceServer::new(Ads { state });
    let served = Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(socket))
        .await;
    if let Err(error) = served {
        crate::report::terminal::complain(&format!("xDS: {error}\n"));
    }
}

struct Ads {
    state: Arc<Mutex<State>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A stream's place in the state; it is given up when this is dropped, however the stream ends.
struct Place {
    state: Arc<Mutex<State>>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.state).disconnect(self.id);
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let (outgoing, responses) = mpsc::unbounded_channel();
        let state = Arc::clone(&self.state);
        // The stream that is given back carries the reader of its requests: when the proxy goes, both end.
        let reader = async move {
            let mut place: Option<Place> = None;
            while let Some(Ok(request)) = requests.next().await {
                let place = if let Some(place) = &place {
                    place
                } else {
                    let node_id = request
                        .node
                        .as_ref()
                        .map(|node| node.id.clone())
                        .unwrap_or_default();
                    let connected = lock(&state).connect(&node_id, outgoing.clone());
                    match connected {
                        Ok(id) => place.insert(Place {
                            state: Arc::clone(&state),
                            id,
                        }),
                        Err(status) => {
                            drop(outgoing.send(Err(status)));
                            return;
                        }
                    }
                };
                lock(&state).take(place.id, request);
            }
        };
        let stream = Reading {
            responses: UnboundedReceiverStream::new(responses),
            reader: Some(Box::pin(reader)),
        };
        Ok(Response::new(Box::pin(stream)))
    }

    async fn delta_aggregated_resources(
        &self,
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "incremental xDS is not served here: use GRPC, not DELTA_GRPC",
        ))
    }
}

/// Responses, and the reader of requests that runs as long as somebody takes them.
struct Reading {
    responses: UnboundedReceiverStream<Result<DiscoveryResponse, Status>>,
    reader: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stream for Reading {
    type Item = Result<DiscoveryResponse, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        if let Some(reader) = &mut self.reader
            && reader.as_mut().poll(context).is_ready()
        {
            // Its end of the channel is dropped with it, and so the responses end.
            self.reader = None;
        }
        Pin::new(&mut self.responses).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::mesh;
    use super::*;

    struct Proxy {
        id: u64,
        responses: mpsc::UnboundedReceiver<Result<DiscoveryResponse, Status>>,
    }

    fn state() -> (State, mpsc::UnboundedReceiver<Report>, Registry, String) {
        let (mut registry, proxy) = mesh();
        let node_id = proxy.node_id.clone();
        registry.proxies.push(proxy);
        let (reports, told) = mpsc::unbounded_channel();
        let mut state = State::new(reports);
        state.set(1, registry.clone());
        (state, told, registry, node_id)
    }

    fn connect(state: &mut State, node_id: &str) -> Proxy {
        let (outgoing, responses) = mpsc::unbounded_channel();
        Proxy {
            id: state.connect(node_id, outgoing).unwrap(),
            responses,
        }
    }

    fn request(kind: Kind, names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: kind.url().to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        }
    }

    impl Proxy {
        #[track_caller]
        fn gets(&mut self, kind: Kind) -> DiscoveryResponse {
            let response = self.responses.try_recv().expect("a response").unwrap();
            assert_eq!(Kind::from_url(&response.type_url), Some(kind));
            response
        }

        #[track_caller]
        fn gets_nothing(&mut self) {
            assert!(self.responses.try_recv().is_err());
        }

        /// Subscribes, takes the response, accepts it.
        #[track_caller]
        fn sync(&mut self, state: &mut State, kind: Kind, names: &[&str]) {
            state.take(self.id, request(kind, names, ""));
            let nonce = self.gets(kind).nonce;
            state.take(self.id, request(kind, names, &nonce));
        }
    }

    const RATINGS: &str = "outbound|9080||ratings.default.svc.cluster.local";

    fn synced(state: &mut State, node_id: &str) -> Proxy {
        let mut proxy = connect(state, node_id);
        proxy.sync(state, Kind::Cds, &[]);
        proxy.sync(state, Kind::Eds, &[RATINGS]);
        proxy.sync(state, Kind::Lds, &[]);
        proxy.sync(state, Kind::Rds, &["9080"]);
        proxy
    }

    #[test]
    fn a_change_of_endpoints_pushes_endpoints_alone() {
        let (mut state, mut told, mut registry, node_id) = state();
        let mut proxy = synced(&mut state, &node_id);
        registry.services[1].endpoints.clear();
        state.set(2, registry);
        let response = proxy.gets(Kind::Eds);
        proxy.gets_nothing();
        let told_now: Vec<Report> = std::iter::from_fn(|| told.try_recv().ok()).collect();
        assert!(!told_now.contains(&Report::Synced { generation: 2 }));
        state.take(proxy.id, request(Kind::Eds, &[RATINGS], &response.nonce));
        assert!(std::iter::from_fn(|| told.try_recv().ok()).any(|it| it == Report::Synced { generation: 2 }));
    }

    #[test]
    fn a_refusal_is_told_and_not_sent_again() {
        let (mut state, mut told, _, node_id) = state();
        let mut proxy = connect(&mut state, &node_id);
        state.take(proxy.id, request(Kind::Cds, &[], ""));
        let nonce = proxy.gets(Kind::Cds).nonce;
        let refusal = DiscoveryRequest {
            error_detail: Some(envoy_types::pb::google::rpc::Status {
                message: "no".into(),
                ..Default::default()
            }),
            ..request(Kind::Cds, &[], &nonce)
        };
        state.take(proxy.id, refusal);
        proxy.gets_nothing();
        assert!(
            std::iter::from_fn(|| told.try_recv().ok())
                .any(|it| matches!(it, Report::Nack { message, .. } if message == "no"))
        );
    }

    #[test]
    fn what_is_held_comes_when_it_is_released() {
        let (mut state, _told, _, node_id) = state();
        state.hold("reviews-v1", "lds", true);
        let mut proxy = connect(&mut state, &node_id);
        proxy.sync(&mut state, Kind::Cds, &[]);
        state.take(proxy.id, request(Kind::Lds, &[], ""));
        proxy.gets_nothing();
        state.hold("reviews-v1", "lds", false);
        proxy.gets(Kind::Lds);
    }

    #[test]
    fn a_stale_answer_is_ignored_and_strangers_are_refused() {
        let (mut state, _told, _, node_id) = state();
        let mut proxy = connect(&mut state, &node_id);
        state.take(proxy.id, request(Kind::Cds, &[], ""));
        proxy.gets(Kind::Cds);
        state.take(proxy.id, request(Kind::Cds, &[], "of another stream"));
        proxy.gets_nothing();
        let (outgoing, _responses) = mpsc::unbounded_channel();
        assert!(state.connect("sidecar~1.2.3.4~x.default~y", outgoing).is_err());
    }
}
