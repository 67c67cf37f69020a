//! The relay: each of the data plane's xDS streams gets a stream to istiod, and what comes on one goes out on the other.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use super::dns::Names;
use super::names::{Requests, Subscription};

struct Relay {
    istiod: String,
    moved: watch::Sender<u64>,
    names: Option<Arc<Names>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves the data plane's xDS until it is aborted.
pub(super) async fn serve(shared: Rc<Shared>, socket: TcpListener) {
    let relay = Relay {
        istiod: shared.args.istiod.clone(),
        moved: shared.moved.clone(),
        names: shared.names.clone(),
    };
    let service = AggregatedDiscoveryServiceServer::new(relay).max_decoding_message_size(64 << 20);
    // Without it, the end of a long response waits for the delayed acknowledgement of its beginning: 40 ms.
    let incoming = TcpIncoming::from(socket).with_nodelay(Some(true));
    let served = Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await;
    if let Err(error) = served {
        crate::data_plane::log(&format!("xDS relay: {error}"));
    }
}

impl Relay {
    async fn client(&self) -> Result<AggregatedDiscoveryServiceClient<tonic::transport::Channel>, Status> {
        let unavailable = |error: tonic::transport::Error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            Status::unavailable(format!("istiod at {}: {cause}", self.istiod))
        };
        let endpoint = Endpoint::from_shared(format!("http://{}", self.istiod)).map_err(unavailable)?;
        let channel = endpoint.connect().await.map_err(unavailable)?;
        Ok(AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20))
    }
}

impl Relay {
    /// The data plane's requests, and the agent's own where it wants names.
    fn requests(&self, requests: Streaming<DiscoveryRequest>) -> (Requests, Option<Subscription>) {
        let requests = Requests::of(passing(requests, self.moved.clone()));
        match &self.names {
            Some(names) => {
                let (requests, own) = Subscription::on(requests, Arc::clone(names));
                (requests, Some(own))
            }
            None => (requests, None),
        }
    }

    /// The responses without those that are the agent's.
    fn others(
        &self,
        responses: Streaming<DiscoveryResponse>,
        mut own: Subscription,
    ) -> Responses<DiscoveryResponse> {
        let moved = self.moved.clone();
        Box::pin(responses.filter_map(move |response| {
            let response = match response {
                Ok(response) => own.take(response).map(Ok),
                Err(status) => Some(Err(status)),
            };
            if response.is_none() {
                // With its first names the sidecar may be ready.
                moved.send_modify(|count| *count += 1);
            }
            std::future::ready(response)
        }))
    }
}

/// The requests of a stream as long as it has no error: an error ends both streams.
fn passing<T: Send + 'static>(
    requests: Streaming<T>,
    moved: watch::Sender<u64>,
) -> impl Stream<Item = T> + Send + 'static {
    requests
        .take_while(|request| std::future::ready(request.is_ok()))
        .filter_map(move |request| {
            moved.send_modify(|count| *count += 1);
            std::future::ready(request.ok())
        })
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (requests, own) = self.requests(request.into_inner());
        let responses = self.client().await?.stream_aggregated_resources(requests).await?;
        Ok(Response::new(match own {
            Some(own) => self.others(responses.into_inner(), own),
            None => Box::pin(responses.into_inner()),
        }))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let requests = passing(request.into_inner(), self.moved.clone());
        let responses = self.client().await?.delta_aggregated_resources(requests).await?;
        Ok(Response::new(Box::pin(responses.into_inner())))
    }
}
