//! The agent's own part of a data plane's xDS stream: it asks istiod for the name table and keeps it from the data plane.
//!
//! As `XdsProxy` in istio/istio: the subscription follows the stream's first request for listeners, so the agent knows
//! no names before its data plane has asked for listeners, and asks again whenever the data plane connects again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use futures_util::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::dns::Names;
use crate::xds::Kind;
use crate::xds::name_table::{NameTable, TYPE_URL};

/// `google.rpc.Code`: `INTERNAL`.
const INTERNAL: i32 = 13;

/// Requests on their way to istiod.
pub(super) struct Requests(Pin<Box<dyn Stream<Item = DiscoveryRequest> + Send>>);

impl Requests {
    /// These.
    pub(super) fn of(requests: impl Stream<Item = DiscoveryRequest> + Send + 'static) -> Self {
        Self(Box::pin(requests))
    }
}

impl Stream for Requests {
    type Item = DiscoveryRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

/// What the agent does on one stream.
#[derive(Debug)]
pub(super) struct Subscription {
    names: Arc<Names>,
    answers: mpsc::UnboundedSender<DiscoveryRequest>,
    /// The version that was taken last.
    version: String,
}

impl Subscription {
    /// The data plane's requests with the agent's own between them, and who takes the responses to these. The requests end
    /// with the data plane's.
    pub(super) fn on(requests: Requests, names: Arc<Names>) -> (Requests, Self) {
        let (answers, own) = mpsc::unbounded_channel();
        let mut asked = false;
        let with_first = requests.flat_map(move |request| {
            let first = !asked && request.type_url == Kind::Lds.url();
            asked |= first;
            let own = first.then(|| DiscoveryRequest {
                type_url: TYPE_URL.to_owned(),
                ..DiscoveryRequest::default()
            });
            stream::iter(std::iter::once(request).chain(own))
        });
        let with_end = with_first.map(Some).chain(stream::once(std::future::ready(None)));
        let own = UnboundedReceiverStream::new(own).map(Some);
        let all = stream::select(with_end, own)
            .take_while(|request| std::future::ready(request.is_some()))
            .filter_map(std::future::ready);
        let subscription = Self {
            names,
            answers,
            version: String::new(),
        };
        (Requests::of(all), subscription)
    }

    /// Takes a response if it is the agent's; gives it back if it is the data plane's.
    pub(super) fn take(&mut self, response: DiscoveryResponse) -> Option<DiscoveryResponse> {
        if response.type_url != TYPE_URL {
            return Some(response);
        }
        let refusal = match response.resources.first() {
            // Istio lets an empty response pass.
            None => None,
            Some(table) => match NameTable::decode(table.value.as_slice()) {
                Ok(table) => {
                    self.names.learn(&table);
                    None
                }
                Err(error) => Some(Status {
                    code: INTERNAL,
                    message: format!("the name table: {error}"),
                    ..Status::default()
                }),
            },
        };
        if refusal.is_none() {
            self.version = response.version_info;
        }
        // Nobody is there to be answered once the stream has ended.
        drop(self.answers.send(DiscoveryRequest {
            type_url: TYPE_URL.to_owned(),
            version_info: self.version.clone(),
            response_nonce: response.nonce,
            error_detail: refusal,
            ..DiscoveryRequest::default()
        }));
        None
    }
}
