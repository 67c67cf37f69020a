//! What is known of a request and its response: told to the access log when it is over.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;

use super::head::RequestHead;
use super::{Connection, Ended};
use crate::access_log::{Flags, Record};
use crate::config::listener::HttpConfig;
use crate::drain::Gone;

const REMOTE_DISCONNECT: &str = "downstream_remote_disconnect";
const REMOTE_RESET: &str = "http2.remote_reset";
/// In Envoy's words for a connection whose listener or filter chain ends before it.
const fn local_disconnect(gone: Gone) -> &'static str {
    match gone {
        Gone::Listener => {
            "downstream_local_disconnect(purging_socket_that_have_not_progressed_to_connections)"
        }
        Gone::FilterChain => "downstream_local_disconnect(filter_chain_is_being_removed)",
    }
}

/// What is known of a stream.
#[derive(Debug)]
pub(super) struct StreamInfo {
    start: SystemTime,
    clock: Instant,
    /// The status of the answer; 0 = none was sent.
    pub status: u16,
    /// Response flags.
    pub flags: Flags,
    /// Why the answer is what it is.
    pub details: Cow<'static, str>,
    /// Why the connection upstream failed.
    pub transport_reason: Option<String>,
    /// Body bytes to the client.
    pub sent: u64,
    /// The cluster.
    pub cluster: Option<String>,
    /// The host that was tried last.
    pub host: Option<SocketAddr>,
    /// The connection that was ridden last.
    pub ridden: Option<Ridden>,
    /// How often it was tried.
    pub attempts: u32,
    /// The route.
    pub route: String,
    /// Response headers.
    pub response_headers: HeaderMap,
    /// The client as it is told by `x-forwarded-for`, if it is.
    pub(super) client: Option<SocketAddr>,
    /// It came by HTTP/2; known here alone if no request could be made out.
    pub(super) http2: bool,
    sent_at: Instant,
}

/// The connection that a request rode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ridden {
    /// Its number.
    pub id: u64,
    /// This end of it.
    pub local: SocketAddr,
}

impl StreamInfo {
    /// A stream that begins now.
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self {
            start: SystemTime::now(),
            clock: now,
            client: None,
            http2: false,
            sent_at: now,
            status: 0,
            flags: Flags::default(),
            details: Cow::Borrowed(""),
            transport_reason: None,
            sent: 0,
            cluster: None,
            host: None,
            ridden: None,
            attempts: 0,
            route: String::new(),
            response_headers: HeaderMap::new(),
        }
    }

    /// It goes to a host from now on.
    pub(super) fn goes_upstream(&mut self) {
        self.sent_at = Instant::now();
    }

    /// How long it has been with the host.
    pub(super) fn since_sent(&self) -> Duration {
        self.sent_at.elapsed()
    }

    /// The host broke off after the answer had begun.
    pub(super) fn broke_off(&mut self) {
        self.flags.set(Flags::UPSTREAM_PROTOCOL_ERROR);
        self.details = "upstream_reset_after_response_started{protocol_error}".into();
    }

    /// The client went away.
    pub(super) fn client_gone(&mut self) {
        self.flags.set(Flags::DOWNSTREAM_CONNECTION_TERMINATION);
        self.details = REMOTE_DISCONNECT.into();
    }

    /// Tells the logs. `request` is none if no request could be made out.
    pub(super) fn log(
        &self,
        connection: &Connection,
        config: &HttpConfig,
        request: Option<&RequestHead>,
        received: u64,
    ) {
        // A client that was cut off did not go by itself.
        let is_http2 = request.map_or(self.http2, |request| request.http2);
        let (flags, details) = match (&*self.details, connection.chain.drain.gone()) {
            (REMOTE_DISCONNECT, Some(gone)) => (self.flags, local_disconnect(gone)),
            (REMOTE_DISCONNECT, None) if is_http2 => match connection.ended.get() {
                Ended::Quietly => (self.flags, REMOTE_DISCONNECT),
                // The stream alone has ended.
                Ended::Not if connection.refused.take() => (Flags::DOWNSTREAM_PROTOCOL_ERROR, REMOTE_RESET),
                Ended::Not => (Flags::DOWNSTREAM_REMOTE_RESET, REMOTE_RESET),
                Ended::By(offence) => (Flags::DOWNSTREAM_PROTOCOL_ERROR, offence.details()),
            },
            (details, _) => (self.flags, details),
        };
        let details = Some(details);
        let record = Record {
            start: self.start,
            duration: self.clock.elapsed(),
            method: request.map(|it| it.method.as_str()),
            path: request.map(|it| it.path.as_str()).filter(|it| !it.is_empty()),
            protocol: Some(if is_http2 { "HTTP/2" } else { "HTTP/1.1" }),
            authority: request.and_then(|it| it.authority.as_deref()),
            request_headers: request.map(|it| &it.headers),
            response_headers: Some(&self.response_headers),
            response_code: self.status,
            flags: &flags,
            details: details.filter(|it| !it.is_empty()),
            connection_termination_details: None,
            upstream_transport_failure_reason: self.transport_reason.as_deref(),
            bytes_received: received,
            bytes_sent: self.sent,
            upstream_cluster: self.cluster.as_deref(),
            upstream_host: self.host,
            upstream_local_address: self.ridden.map(|ridden| ridden.local),
            upstream_connection_id: self.ridden.map(|ridden| ridden.id),
            attempts: self.attempts,
            downstream_local_address: connection.downstream.local(),
            downstream_remote_address: self.client.unwrap_or(connection.downstream.client),
            downstream_direct_remote_address: connection.downstream.client,
            connection_id: connection.id,
            route_name: Some(self.route.as_str()).filter(|it| !it.is_empty()),
            filter_chain_name: Some(&connection.chain.name),
        };
        for log in &config.logs {
            log.log(&record);
        }
    }
}
