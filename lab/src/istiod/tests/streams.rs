//! Streams over loopback with a real gRPC client: what a proxy gets, in which order, and what the lab is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::super::kind::Kind;
use super::super::mesh::Mesh;
use super::super::registry::{Registry, Report};
use super::super::serve_xds;
use super::{bookinfo, endpoint, proxy, select, service};
use crate::within::within;

const LIMIT: Duration = Duration::from_secs(10);
const NODE: &str = "sidecar~10.244.0.11~reviews-v1.default~default.svc.cluster.local";

/// A control plane, and the end of the control socket that the lab would have.
struct ControlPlane {
    mesh: Arc<Mesh>,
    reports: mpsc::UnboundedReceiver<Report>,
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl ControlPlane {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, reports) = mpsc::unbounded_channel();
        let mesh = Arc::new(Mesh::new(sender));
        let mut server = JoinSet::new();
        let its_mesh = Arc::clone(&mesh);
        server.spawn(async move { serve_xds(listener, its_mesh).await.unwrap() });
        Self {
            mesh,
            reports,
            address,
            _server: server,
        }
    }

    async fn with(registry: Registry) -> Self {
        let mut control_plane = Self::start().await;
        control_plane.mesh.set_state(1, registry);
        assert_eq!(control_plane.report().await, Report::Listening);
        assert_eq!(control_plane.report().await, Report::Synced { generation: 1 });
        control_plane
    }

    async fn report(&mut self) -> Report {
        let report = within(LIMIT, "a report", self.reports.recv()).await;
        report.unwrap().unwrap()
    }

    async fn client(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        let connecting = AggregatedDiscoveryServiceClient::connect(format!("http://{}", self.address));
        within(LIMIT, "the connection", connecting)
            .await
            .unwrap()
            .unwrap()
    }

    async fn proxy(&self, node_id: &str) -> Proxy {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let mut client = self.client().await;
        let opening = client.stream_aggregated_resources(UnboundedReceiverStream::new(outgoing));
        // Before the first request: the answer's headers do not wait for it.
        let response = within(LIMIT, "the stream", opening).await.unwrap().unwrap();
        Proxy {
            node: Some(Node {
                id: node_id.to_owned(),
                ..Node::default()
            }),
            requests,
            responses: response.into_inner(),
        }
    }
}

/// The agent asks for names right after Envoy asked for listeners.
const BOOT: [Kind; Kind::COUNT] = [Kind::Cds, Kind::Eds, Kind::Lds, Kind::Nds, Kind::Rds];

/// What Envoy's side of a stream does, and its agent's.
struct Proxy {
    node: Option<Node>,
    requests: mpsc::UnboundedSender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Proxy {
    fn send(&mut self, request: DiscoveryRequest) {
        let node = self.node.take();
        self.requests.send(DiscoveryRequest { node, ..request }).unwrap();
    }

    fn subscribe(&mut self, kind: Kind, names: &[String]) {
        self.send(DiscoveryRequest {
            type_url: kind.type_url(),
            resource_names: names.to_vec(),
            ..DiscoveryRequest::default()
        });
    }

    fn ack(&mut self, response: &DiscoveryResponse, names: &[String]) {
        self.send(DiscoveryRequest {
            type_url: response.type_url.clone(),
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            resource_names: names.to_vec(),
            ..DiscoveryRequest::default()
        });
    }

    fn nack(&mut self, response: &DiscoveryResponse, names: &[String], message: &str) {
        self.send(DiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            resource_names: names.to_vec(),
            error_detail: Some(rpc::Status {
                code: 13,
                message: message.to_owned(),
                ..rpc::Status::default()
            }),
            ..DiscoveryRequest::default()
        });
    }

    async fn receive(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        within(LIMIT, "a response", self.responses.message())
            .await
            .unwrap()
    }

    #[track_caller]
    fn expect(&mut self, kind: Kind) -> impl Future<Output = DiscoveryResponse> {
        let caller = std::panic::Location::caller();
        async move {
            let response = self.receive().await.unwrap().unwrap();
            assert_eq!(response.type_url, kind.type_url(), "at {caller}");
            response
        }
    }

    /// The first boot: each type when the one before gave the names.
    async fn boot(&mut self) {
        for kind in BOOT {
            self.subscribe(kind, &names(kind));
            let response = self.expect(kind).await;
            self.ack(&response, &names(kind));
        }
    }
}

/// What Envoy asks for when it has the clusters and listeners of [`bookinfo`].
fn names(kind: Kind) -> Vec<String> {
    let registry = bookinfo();
    match kind {
        Kind::Cds | Kind::Lds | Kind::Nds => Vec::new(),
        Kind::Eds => super::super::endpoints::of(&registry, super::super::ip_mode::IpMode::V4)
            .into_iter()
            .map(|assignment| assignment.cluster_name)
            .collect(),
        Kind::Rds => super::super::routes::of(&registry)
            .into_iter()
            .map(|routes| routes.name)
            .collect(),
    }
}

fn ack_of(kind: Kind, version: &str) -> Report {
    Report::Ack {
        node_id: NODE.to_owned(),
        kind: kind.name().to_owned(),
        version: version.to_owned(),
    }
}

/// A control plane with a proxy that has everything, and nothing more to report.
async fn booted() -> (ControlPlane, Proxy) {
    let mut control_plane = ControlPlane::with(bookinfo()).await;
    let mut proxy = control_plane.proxy(NODE).await;
    proxy.boot().await;
    let node_id = NODE.to_owned();
    assert_eq!(control_plane.report().await, Report::Connected { node_id });
    for kind in BOOT {
        assert_eq!(control_plane.report().await, ack_of(kind, "1"));
    }
    assert_eq!(control_plane.report().await, Report::Synced { generation: 1 });
    (control_plane, proxy)
}

fn without_mysql_endpoints() -> Registry {
    let mut registry = bookinfo();
    registry.services[3].endpoints.clear();
    registry
}

/// Changes every type.
fn with_details() -> Registry {
    let mut registry = bookinfo();
    let details = service(
        "details",
        30,
        registry.services[0].ports.clone(),
        vec![endpoint("details-v1", 30, "v1")],
    );
    registry.services.push(details);
    registry.services[3].endpoints.clear();
    select(&mut registry, "reviews-v1", &["details"]);
    registry.allow_any = false;
    registry.inbound_to_pod_ip = false;
    registry
}

#[tokio::test(flavor = "current_thread")]
async fn a_proxy_gets_each_type_as_it_asks_and_the_lab_hears_of_it() {
    let (control_plane, _proxy) = booted().await;
    let connections = control_plane.mesh.connections();
    assert_eq!(connections.len(), 1);
    for status in &connections[0].types {
        assert!(status.sent.is_some());
        assert_eq!(status.sent, status.acked);
        assert_eq!(status.nacked, None);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_change_of_endpoints_sends_endpoints_alone() {
    let (mut control_plane, mut proxy) = booted().await;
    control_plane.mesh.set_state(2, without_mysql_endpoints());
    let response = proxy.expect(Kind::Eds).await;
    assert_eq!(response.version_info, "2");
    proxy.ack(&response, &names(Kind::Eds));
    assert_eq!(control_plane.report().await, ack_of(Kind::Eds, "2"));
    assert_eq!(control_plane.report().await, Report::Synced { generation: 2 });
    // Whatever else had been sent would come before what follows from the next state.
    control_plane.mesh.set_state(3, bookinfo());
    let response = proxy.expect(Kind::Eds).await;
    assert_eq!(response.version_info, "3");
}

#[tokio::test(flavor = "current_thread")]
async fn a_state_that_changes_nothing_is_had_at_once() {
    let (mut control_plane, _proxy) = booted().await;
    control_plane.mesh.set_state(2, bookinfo());
    assert_eq!(control_plane.report().await, Report::Synced { generation: 2 });
}

#[tokio::test(flavor = "current_thread")]
async fn a_change_of_everything_comes_in_the_order_of_a_push() {
    let (control_plane, mut proxy) = booted().await;
    control_plane.mesh.set_state(2, with_details());
    for kind in Kind::ALL {
        let response = proxy.expect(kind).await;
        assert_eq!(response.version_info, "2");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_refusal_is_reported_and_what_was_taken_before_stays() {
    let (mut control_plane, mut proxy) = booted().await;
    control_plane.mesh.set_state(2, without_mysql_endpoints());
    let response = proxy.expect(Kind::Eds).await;
    proxy.nack(&response, &names(Kind::Eds), "malformed IP address");
    let nack = Report::Nack {
        node_id: NODE.to_owned(),
        kind: "eds".to_owned(),
        version: "2".to_owned(),
        message: "malformed IP address".to_owned(),
    };
    assert_eq!(control_plane.report().await, nack);
    assert_eq!(control_plane.report().await, Report::Synced { generation: 2 });
    let connections = control_plane.mesh.connections();
    let endpoints = &connections[0].types[Kind::Eds as usize];
    assert_eq!(
        endpoints.acked.as_ref().map(|acked| acked.version.as_str()),
        Some("1")
    );
    assert_eq!(
        endpoints
            .nacked
            .as_ref()
            .map(|(version, _)| version.version.as_str()),
        Some("2")
    );
    // It is not sent again before it changes.
    control_plane.mesh.set_state(3, bookinfo());
    let response = proxy.expect(Kind::Eds).await;
    assert_eq!(response.version_info, "3");
}

#[tokio::test(flavor = "current_thread")]
async fn each_type_can_be_held_and_comes_on_release() {
    for held in Kind::ALL {
        let (control_plane, mut proxy) = booted().await;
        control_plane.mesh.set_hold("reviews-v1", held, true);
        control_plane.mesh.set_state(2, with_details());
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != held) {
            let response = proxy.expect(kind).await;
            assert_eq!(response.version_info, "2", "{kind} while {held} is held");
            proxy.ack(&response, &names(kind));
        }
        control_plane.mesh.set_hold("reviews-v1", held, false);
        let response = proxy.expect(held).await;
        assert_eq!(response.version_info, "2", "{held} after its release");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_hold_from_the_start_keeps_the_first_answer_back_and_nobody_waits_for_that_proxy() {
    let mut control_plane = ControlPlane::with(bookinfo()).await;
    control_plane.mesh.set_hold("reviews-v1", Kind::Lds, true);
    let mut proxy = control_plane.proxy(NODE).await;
    proxy.subscribe(Kind::Lds, &[]);
    proxy.subscribe(Kind::Cds, &[]);
    proxy.expect(Kind::Cds).await;
    let node_id = NODE.to_owned();
    assert_eq!(control_plane.report().await, Report::Connected { node_id });
    control_plane.mesh.set_state(2, without_mysql_endpoints());
    assert_eq!(control_plane.report().await, Report::Synced { generation: 2 });
    control_plane.mesh.set_hold("reviews-v1", Kind::Lds, false);
    let response = proxy.expect(Kind::Lds).await;
    assert_eq!(response.version_info, "2");
}

#[tokio::test(flavor = "current_thread")]
async fn a_proxy_that_comes_back_gets_everything_again() {
    let (mut control_plane, proxy) = booted().await;
    drop(proxy);
    let node_id = NODE.to_owned();
    assert_eq!(control_plane.report().await, Report::Disconnected { node_id });
    assert!(control_plane.mesh.connections().is_empty());
    let mut proxy = control_plane.proxy(NODE).await;
    for kind in Kind::ALL {
        proxy.send(DiscoveryRequest {
            type_url: kind.type_url(),
            version_info: "1".to_owned(),
            resource_names: names(kind),
            ..DiscoveryRequest::default()
        });
        let response = proxy.expect(kind).await;
        assert!(!response.resources.is_empty());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_proxy_waits_for_the_first_state() {
    let control_plane = ControlPlane::start().await;
    let mut proxy = control_plane.proxy(NODE).await;
    proxy.subscribe(Kind::Cds, &[]);
    control_plane.mesh.set_state(7, bookinfo());
    let response = proxy.expect(Kind::Cds).await;
    assert_eq!(response.version_info, "7");
    assert_eq!(response.control_plane.unwrap().identifier, "istiod");
}

#[track_caller]
fn check_refused(status: &Status, code: Code, words: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "{status:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn who_is_not_known_is_refused_with_words() {
    let control_plane = ControlPlane::with(bookinfo()).await;
    let mut stranger = control_plane.proxy("sidecar~10.9.9.9~stranger.default~x").await;
    stranger.subscribe(Kind::Cds, &[]);
    let status = stranger.receive().await.unwrap_err();
    check_refused(
        &status,
        Code::PermissionDenied,
        "no proxy has the node id `sidecar~10.9.9.9~",
    );

    let mut nobody = control_plane.proxy(NODE).await;
    nobody.node = None;
    nobody.subscribe(Kind::Cds, &[]);
    let status = nobody.receive().await.unwrap_err();
    check_refused(&status, Code::InvalidArgument, "must carry a `node`");
}

#[tokio::test(flavor = "current_thread")]
async fn a_proxy_that_is_taken_out_of_the_mesh_is_sent_away() {
    let (mut control_plane, mut proxy) = booted().await;
    let mut registry = bookinfo();
    registry.proxies.remove(1);
    control_plane.mesh.set_state(2, registry);
    let status = proxy.receive().await.unwrap_err();
    check_refused(&status, Code::PermissionDenied, NODE);
    let node_id = NODE.to_owned();
    assert_eq!(control_plane.report().await, Report::Disconnected { node_id });
    assert_eq!(control_plane.report().await, Report::Synced { generation: 2 });
}

#[tokio::test(flavor = "current_thread")]
async fn incremental_xds_is_refused_with_words() {
    let control_plane = ControlPlane::with(bookinfo()).await;
    let mut client = control_plane.client().await;
    let requests = stream::iter([DeltaDiscoveryRequest::default()]);
    let status = client.delta_aggregated_resources(requests).await.unwrap_err();
    check_refused(&status, Code::Unimplemented, "`api_type: GRPC`");
}

#[tokio::test(flavor = "current_thread")]
async fn two_hundred_proxies_have_a_change_within_seconds() {
    const PROXIES: u8 = 200;
    let mut registry = bookinfo();
    registry.proxies = (0..PROXIES)
        .map(|number| proxy(&format!("pod-{number}"), number))
        .collect();
    registry.services[1].selected = registry.proxies.iter().map(|proxy| proxy.pod.clone()).collect();
    let mut control_plane = ControlPlane::with(registry.clone()).await;
    let mut proxies = Vec::new();
    for wanted in &registry.proxies {
        let mut proxy = control_plane.proxy(&wanted.node_id).await;
        proxy.boot().await;
        proxies.push(proxy);
    }
    registry.services[1].endpoints.clear();
    control_plane.mesh.set_state(2, registry);
    for proxy in &mut proxies {
        let response = proxy.expect(Kind::Eds).await;
        proxy.ack(&response, &names(Kind::Eds));
    }
    let synced = async { while control_plane.report().await != (Report::Synced { generation: 2 }) {} };
    within(LIMIT, "all proxies to have the change", synced)
        .await
        .unwrap();
}
