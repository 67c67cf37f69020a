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

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Any;

    use super::super::dns::resolv_conf::ResolvConf;
    use super::*;
    use crate::within::within;

    const LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

    fn asking(kind: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: kind.to_owned(),
            ..DiscoveryRequest::default()
        }
    }

    fn response(version: &str, resources: &[&[u8]]) -> DiscoveryResponse {
        let resources = resources.iter().map(|bytes| Any {
            type_url: TYPE_URL.to_owned(),
            value: bytes.to_vec(),
        });
        DiscoveryResponse {
            type_url: TYPE_URL.to_owned(),
            version_info: version.to_owned(),
            nonce: format!("nonce-{version}"),
            resources: resources.collect(),
            ..DiscoveryResponse::default()
        }
    }

    struct Stream {
        data_plane: Option<mpsc::UnboundedSender<DiscoveryRequest>>,
        to_istiod: Requests,
        own: Subscription,
        names: Arc<Names>,
    }

    fn stream() -> Stream {
        let names = Arc::new(Names::new("sidecar~1.2.3.4~a.b~b.svc.c", ResolvConf::default()));
        let (sender, requests) = mpsc::unbounded_channel();
        let requests = Requests::of(UnboundedReceiverStream::new(requests));
        let (to_istiod, own) = Subscription::on(requests, Arc::clone(&names));
        Stream {
            data_plane: Some(sender),
            to_istiod,
            own,
            names,
        }
    }

    impl Stream {
        fn send(&self, kind: &str) {
            let data_plane = self.data_plane.as_ref().unwrap();
            data_plane.send(asking(kind)).unwrap();
        }

        async fn next(&mut self) -> Option<DiscoveryRequest> {
            within(LIMIT, "a request", self.to_istiod.next()).await.unwrap()
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn names_are_asked_for_once_after_the_first_listeners() {
        let mut stream = stream();
        let sent = [Kind::Cds.url(), Kind::Lds.url(), Kind::Lds.url(), Kind::Rds.url()];
        for kind in sent {
            stream.send(kind);
        }
        let mut seen = Vec::new();
        for _ in 0..=sent.len() {
            seen.push(stream.next().await.unwrap().type_url);
        }
        assert_eq!(seen, [sent[0], sent[1], TYPE_URL, sent[2], sent[3]]);
        stream.data_plane = None;
        assert_eq!(stream.next().await, None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_table_is_taken_and_acknowledged_and_never_comes_to_the_data_plane() {
        let mut stream = stream();
        assert_eq!(stream.own.take(response("1", &[])), None);
        assert_eq!(stream.next().await.unwrap().response_nonce, "nonce-1");
        assert!(!stream.names.are_known());
        let table = NameTable::default().encode_to_vec();
        assert_eq!(stream.own.take(response("2", &[&table])), None);
        assert!(stream.names.are_known());
        let ack = stream.next().await.unwrap();
        assert_eq!((ack.version_info.as_str(), ack.error_detail), ("2", None));
        let others = DiscoveryResponse {
            type_url: Kind::Cds.url().to_owned(),
            ..DiscoveryResponse::default()
        };
        assert_eq!(stream.own.take(others.clone()), Some(others));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_table_is_refused_and_the_one_before_stays() {
        let mut stream = stream();
        stream
            .own
            .take(response("1", &[&NameTable::default().encode_to_vec()]));
        stream.next().await.unwrap();
        stream.own.take(response("2", &[b"\x0a\xff"]));
        let nack = stream.next().await.unwrap();
        assert_eq!(
            (nack.version_info.as_str(), nack.response_nonce.as_str()),
            ("1", "nonce-2")
        );
        assert!(nack.error_detail.unwrap().message.starts_with("the name table: "));
        assert!(stream.names.are_known());
    }
}
