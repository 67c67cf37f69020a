//! A request on its way to a host: tries, and why they failed.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Response, request};
use hyper::body::{Body as _, Incoming};

use super::body::RequestBody;
use super::headers;
use crate::access_log::Flags;
use crate::config::route::{Forward, Retry};
use crate::upstream::connect::{ConnectError, connect_http};
use crate::upstream::{Cluster, Pooled, Sender};
use crate::within::{at_most, back_off};

/// The base of Envoy's back-off between tries (`RetryPolicy.retry_back_off`).
const BACK_OFF: Duration = Duration::from_millis(25);

/// A request to be forwarded.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Where requests of this route go.
    pub forward: &'a Forward,
    /// The cluster that was chosen.
    pub cluster: &'a Rc<Cluster>,
    /// The head of the request, marked as it came in.
    pub parts: &'a request::Parts,
    /// The host that the client named.
    pub authority: &'a str,
    /// Where the client's connection was going.
    pub original: SocketAddr,
    /// The upgrade that passes through.
    pub upgrade: Option<&'a str>,
    /// The request says how often it was tried.
    pub says_attempts: bool,
}

/// What became of a forwarded request.
#[derive(Debug)]
pub struct Forwarded {
    /// The host that was tried last.
    pub host: Option<SocketAddr>,
    /// The connection that was ridden last.
    pub ridden: Option<Ridden>,
    /// How often it was tried.
    pub attempts: u32,
    /// A response, or why there is none.
    pub result: Result<Response<Incoming>, Failed>,
}

/// The connection that a request rode.
#[derive(Debug, Clone, Copy)]
pub struct Ridden {
    /// Its number.
    pub id: u64,
    /// This end of it.
    pub local: SocketAddr,
}

/// A request without a response of the host's.
#[derive(Debug)]
pub struct Failed {
    /// The status that the client gets.
    pub status: u16,
    /// The body that the client gets.
    pub body: String,
    /// Response flags.
    pub flags: Flags,
    /// Response code details.
    pub details: String,
    /// Envoy's transport failure reason.
    pub transport_reason: Option<String>,
}

/// Why one try failed.
enum Failure {
    Connect(ConnectError),
    /// The host closed the connection before a response.
    Terminated,
    /// The answer was not HTTP.
    Garbage,
}

/// The connection goes back to its pool by this, when the response is over.
pub type Carrier = Rc<Cell<Option<Pooled>>>;

/// Forwards a request; the connection it rode is left in `carrier`.
pub async fn forward(
    outgoing: &Outgoing<'_>,
    body: Incoming,
    received: &Rc<Cell<u64>>,
    carrier: &Carrier,
) -> Forwarded {
    let timeout = outgoing.forward.timeout;
    let mut seen = Forwarded {
        host: None,
        ridden: None,
        attempts: 0,
        result: Err(timed_out()),
    };
    let tried = at_most(
        timeout,
        "the host to answer",
        attempts(outgoing, body, received, carrier, &mut seen),
    )
    .await;
    match tried {
        Ok(result) => seen.result = result,
        Err(_) => outgoing.cluster.stats.rq_timeout.inc(),
    }
    seen
}

fn timed_out() -> Failed {
    let mut flags = Flags::default();
    flags.set(Flags::UPSTREAM_REQUEST_TIMEOUT);
    Failed {
        status: 504,
        body: "upstream request timeout".to_owned(),
        flags,
        details: "response_timeout".to_owned(),
        transport_reason: None,
    }
}

async fn attempts(
    outgoing: &Outgoing<'_>,
    body: Incoming,
    received: &Rc<Cell<u64>>,
    carrier: &Carrier,
    seen: &mut Forwarded,
) -> Result<Response<Incoming>, Failed> {
    let retry = outgoing.forward.retry.clone().unwrap_or_default();
    // Only a request without a body can be sent twice: a body is not kept.
    let can_repeat = body.is_end_stream();
    let mut body = Some(RequestBody::new(body, Rc::clone(received)));
    let mut tried: Vec<SocketAddr> = Vec::new();
    loop {
        seen.attempts += 1;
        let avoid: &[SocketAddr] = if retry.other_host { &tried } else { &[] };
        let Some(host) = outgoing.cluster.choose(outgoing.original, avoid) else {
            outgoing.cluster.stats.cx_none_healthy.inc();
            return Err(no_host());
        };
        (seen.host, seen.ridden) = (Some(host), None);
        tried.push(host);
        outgoing.cluster.stats.rq_total.inc();
        outgoing.cluster.begin(host);
        let result = one_try(outgoing, host, &mut body, carrier, seen).await;
        outgoing.cluster.end(host);
        let left = retry.attempts.saturating_sub(seen.attempts - 1);
        let again = |wanted: bool, has_body: bool| wanted && left > 0 && (has_body || can_repeat);
        match result {
            Ok(response) => {
                let status = response.status().as_u16();
                if !again(retry.on_status(status), false) {
                    outgoing.cluster.stats.response(status);
                    return Ok(response);
                }
                // What is left of it is not read, so its connection cannot be ridden again.
                drop(carrier.take());
            }
            Err(failure) => {
                if !again(wants_again(&retry, &failure), body.is_some()) {
                    return Err(failed(&retry, &failure, seen.attempts));
                }
            }
        }
        outgoing.cluster.stats.rq_retry.inc();
        body.get_or_insert_with(RequestBody::empty);
        // Fully jittered, doubling: Envoy's JitteredExponentialBackOffStrategy.
        let most = BACK_OFF.as_micros() * (1 << seen.attempts.min(10));
        let most = u64::try_from(most.min(250_000)).unwrap_or(250_000);
        back_off(Duration::from_micros(fastrand::u64(0..most))).await;
    }
}

async fn one_try(
    outgoing: &Outgoing<'_>,
    host: SocketAddr,
    body: &mut Option<RequestBody>,
    carrier: &Carrier,
    seen: &mut Forwarded,
) -> Result<Response<Incoming>, Failure> {
    loop {
        let (mut pooled, is_new) = match ready_pooled(outgoing.cluster, host).await {
            Some(pooled) => (pooled, false),
            None => (
                connect_http(outgoing.cluster, host)
                    .await
                    .map_err(Failure::Connect)?,
                true,
            ),
        };
        let attempt = outgoing.says_attempts.then_some(seen.attempts);
        let http2 = matches!(pooled.sender, Sender::Http2(_));
        let head = headers::to_upstream(
            outgoing.parts,
            outgoing.authority,
            http2,
            outgoing.upgrade,
            attempt,
        );
        let request = head
            .body(body.take().unwrap_or_else(RequestBody::empty))
            .map_err(|_error| Failure::Garbage)?;
        seen.ridden = Some(Ridden {
            id: pooled.id,
            local: pooled.local,
        });
        pooled.requests += 1;
        let sent = match &mut pooled.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        match sent {
            Ok(response) => {
                carrier.set(Some(pooled));
                return Ok(response);
            }
            Err(mut error) => {
                let unsent = error.take_message().map(http::Request::into_body);
                let was_sent = unsent.is_none();
                *body = unsent;
                if !was_sent && !is_new {
                    // It was closed while it idled: nobody saw the request, so it goes to a new connection.
                    continue;
                }
                let error = error.into_error();
                return Err(if error.is_parse() {
                    Failure::Garbage
                } else {
                    Failure::Terminated
                });
            }
        }
    }
}

/// An idle connection that is still open.
async fn ready_pooled(cluster: &Rc<Cluster>, host: SocketAddr) -> Option<Pooled> {
    while let Some(mut pooled) = cluster.take(host) {
        if pooled.sender.ready().await {
            return Some(pooled);
        }
    }
    None
}

const fn wants_again(retry: &Retry, failure: &Failure) -> bool {
    match failure {
        Failure::Connect(_) => retry.connect_failure,
        Failure::Terminated | Failure::Garbage => retry.reset,
    }
}

fn no_host() -> Failed {
    let mut flags = Flags::default();
    flags.set(Flags::NO_HEALTHY_UPSTREAM);
    Failed {
        status: 503,
        body: "no healthy upstream".to_owned(),
        flags,
        details: "no_healthy_upstream".to_owned(),
        transport_reason: None,
    }
}

fn failed(retry: &Retry, failure: &Failure, attempts: u32) -> Failed {
    let (status, flag, reason, details) = match failure {
        Failure::Connect(error) => (
            503,
            Flags::UPSTREAM_CONNECTION_FAILURE,
            error.reset_reason(),
            error.details(),
        ),
        Failure::Terminated => (
            503,
            Flags::UPSTREAM_CONNECTION_TERMINATION,
            "connection termination",
            "connection_termination".to_owned(),
        ),
        Failure::Garbage => (
            502,
            Flags::UPSTREAM_PROTOCOL_ERROR,
            "protocol error",
            "protocol_error".to_owned(),
        ),
    };
    let mut flags = Flags::default();
    flags.set(flag);
    let retried = attempts > 1;
    if retried && attempts > retry.attempts {
        flags.set(Flags::RETRY_LIMIT_EXCEEDED_HTTP);
    }
    let reset = if retried {
        "retried and the latest reset reason"
    } else {
        "reset reason"
    };
    Failed {
        status,
        body: format!("upstream connect error or disconnect/reset before headers. {reset}: {reason}"),
        flags,
        details: format!("upstream_reset_before_response_started{{{details}}}"),
        transport_reason: match failure {
            Failure::Connect(error) => error.transport_reason(),
            Failure::Terminated | Failure::Garbage => None,
        },
    }
}
