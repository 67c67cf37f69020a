//! A resource that the data plane cannot use is refused with the reason, and the last good one stays.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::TransportSocket;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::util::pack_any;
use futures_util::{Stream, StreamExt as _};
use proxy::bootstrap::Bootstrap;
use proxy::data_plane;
use proxy::within::within;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

/// A control plane that is played by the test: requests come out, responses go in.
struct Played {
    requests: mpsc::UnboundedSender<DiscoveryRequest>,
    responses: std::sync::Mutex<Option<mpsc::UnboundedReceiver<Result<DiscoveryResponse, Status>>>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Played {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let responses = self
            .responses
            .lock()
            .unwrap()
            .take()
            .ok_or_else(|| Status::unavailable("one stream only"))?;
        let requests = self.requests.clone();
        let passing = request.into_inner().map(move |request| {
            if let Ok(request) = request {
                requests.send(request).expect("the test listens");
            }
        });
        // Responses come as the test gives them; requests are taken in between.
        let responses = UnboundedReceiverStream::new(responses);
        let merged = futures_util::stream::select(passing.map(|()| None), responses.map(Some));
        Ok(Response::new(Box::pin(merged.filter_map(std::future::ready))))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("not played"))
    }
}

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

fn clusters(version: &str, clusters: Vec<Cluster>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_owned(),
        nonce: format!("nonce-{version}"),
        type_url: CDS.to_owned(),
        resources: clusters.into_iter().map(pack_any).collect(),
        ..DiscoveryResponse::default()
    }
}

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn next(requests: &mut mpsc::UnboundedReceiver<DiscoveryRequest>) -> DiscoveryRequest {
    loop {
        let request = within(Duration::from_secs(5), "a request", requests.recv())
            .await
            .unwrap()
            .unwrap();
        if request.type_url == CDS {
            return request;
        }
    }
}

#[test]
fn what_cannot_be_used_is_refused_and_the_last_good_version_stays() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut bootstrap = Bootstrap::istio("sidecar~127.0.0.1~a.default~default.svc.cluster.local");
        bootstrap.xds = socket.local_addr().unwrap().to_string();
        (bootstrap.admin, bootstrap.metrics, bootstrap.health) = (free(), free(), free());
        let (requests, mut asked) = mpsc::unbounded_channel();
        let (answers, responses) = mpsc::unbounded_channel();
        let played = Played {
            requests,
            responses: std::sync::Mutex::new(Some(responses)),
        };
        let server =
            tonic::transport::Server::builder().add_service(AggregatedDiscoveryServiceServer::new(played));
        let server = tokio::task::spawn_local(server.serve_with_incoming(TcpListenerStream::new(socket)));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let proxy = tokio::task::spawn_local(data_plane::run(bootstrap, async {
            stopped.await.expect("the test stops it");
        }));

        let first = next(&mut asked).await;
        assert_eq!(
            (first.version_info.as_str(), first.response_nonce.as_str()),
            ("", "")
        );
        assert!(
            first.node.is_some(),
            "the first request of a stream says who asks"
        );

        let good = Cluster {
            name: "good".to_owned(),
            ..Cluster::default()
        };
        answers.send(Ok(clusters("1", vec![good.clone()]))).unwrap();
        let ack = next(&mut asked).await;
        assert_eq!(
            (ack.version_info.as_str(), ack.response_nonce.as_str()),
            ("1", "nonce-1")
        );
        assert_eq!(ack.error_detail, None);

        let tls = Cluster {
            transport_socket: Some(TransportSocket::default()),
            ..good
        };
        answers.send(Ok(clusters("2", vec![tls]))).unwrap();
        let nack = next(&mut asked).await;
        assert_eq!(
            (nack.version_info.as_str(), nack.response_nonce.as_str()),
            ("1", "nonce-2")
        );
        let words = nack.error_detail.unwrap().message;
        assert!(
            words.contains("good") && words.contains("transport_socket"),
            "{words}"
        );

        stop.send(()).unwrap();
        within(Duration::from_secs(5), "the data plane to stop", proxy)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        server.abort();
    });
}
