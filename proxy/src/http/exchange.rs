//! One request and its answer: route, tries, answer, log.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};

use super::attempt::{self, Answered, Failure, Request};
use super::client::Client;
use super::head::RequestHead;
use super::headers::{self, Upgrade};
use super::local_reply::{self, Asked};
use super::request_body::RequestBody;
use super::stream_info::StreamInfo;
use super::{Connection, HttpStats};
use crate::access_log::Flags;
use crate::config::listener::{HttpConfig, Routes};
use crate::config::route::{Action, Forward, Retry, RouteTable};
use crate::upstream::Cluster;
use crate::upstream::host::{Http1, more};
use crate::within::back_off;

/// The base of Envoy's back-off between tries (`RetryPolicy.retry_back_off`).
const BACK_OFF: Duration = Duration::from_millis(25);

/// What becomes of the client's connection after an answer.
#[derive(Debug)]
pub(super) enum Fate {
    /// It may carry the next request.
    GoesOn,
    /// It is closed once the client has had time to read; the answer is whole.
    Closes,
    /// It is closed; the answer is not whole, or there is none.
    BreaksOff,
    /// It speaks something else with this host from now on.
    Upgraded(Box<Http1>, Box<Unlogged>),
}

/// What is still to be logged of an upgraded connection.
#[derive(Debug)]
pub(super) struct Unlogged {
    /// What is known.
    pub info: StreamInfo,
    /// The request.
    pub head: RequestHead,
}

/// Answers a request.
pub(super) async fn exchange(
    connection: &Connection,
    config: &HttpConfig,
    mut head: RequestHead,
    body: &mut RequestBody<'_>,
    client: &mut Client<'_>,
) -> Fate {
    let stats = config.stats(&connection.proxy.stats);
    stats.rq_total.inc();
    let _active = stats.rq_active.hold();
    let mut info = StreamInfo::begin();
    let asked = Asked::by(&head.method, &head.headers);
    let routed = route(connection, config, &mut head, &mut info);
    let answered = match routed {
        Routed::Local(status, text) => {
            if info.details == "upgrade_failed"
                && let Client::Http1(client) = client
            {
                client.close = true;
            }
            let fate = local(config, asked, status, &text, &mut info, client, body).await;
            unread(fate, client)
        }
        Routed::To(to) => forward(connection, config, &to, &mut head, asked, &mut info, body, client).await,
    };
    count(&stats, info.status);
    if let Fate::Upgraded(host, mut unlogged) = answered {
        (unlogged.info, unlogged.head) = (info, head);
        return Fate::Upgraded(host, unlogged);
    }
    info.log(connection, config, Some(&head), body.received);
    answered
}

/// Envoy does not take a request for over that no filter has read to its end.
fn unread(fate: Fate, client: &Client<'_>) -> Fate {
    match fate {
        Fate::GoesOn if client.closes() => Fate::Closes,
        fate @ (Fate::GoesOn | Fate::Closes | Fate::BreaksOff | Fate::Upgraded(..)) => fate,
    }
}

fn count(stats: &HttpStats, status: u16) {
    if status > 0 {
        stats.response(status);
    }
}

/// What the routes say.
enum Routed {
    /// The proxy answers by itself.
    Local(StatusCode, String),
    /// A host answers.
    To(Destination),
}

struct Destination {
    /// The protocol that the client asks for.
    upgrade: Option<HeaderValue>,
    table: Rc<RouteTable>,
    host: usize,
    route: usize,
    cluster: Rc<Cluster>,
}

fn route(
    connection: &Connection,
    config: &HttpConfig,
    head: &mut RequestHead,
    info: &mut StreamInfo,
) -> Routed {
    let local = |info: &mut StreamInfo, status, details: &'static str| {
        info.details = details.into();
        Routed::Local(status, String::new())
    };
    let Some(authority) = head.authority.clone() else {
        return local(info, StatusCode::BAD_REQUEST, "missing_host_header");
    };
    if head.path == "*" {
        return local(info, StatusCode::NOT_FOUND, "absolute_path_rejected");
    }
    if config.normalize_path && !headers::normalize(&mut head.path) {
        return local(info, StatusCode::BAD_REQUEST, "path_normalization_failed");
    }
    info.client = headers::forwarded_for(&head.headers);
    headers::on_arrival(config, &mut head.headers);
    let table = match &config.routes {
        Routes::Inline(table) => Some(Rc::clone(table)),
        Routes::Rds(name) => connection.proxy.route_table(name),
    };
    let found = table.and_then(|table| {
        // No route here is one for CONNECT.
        if head.method == Method::CONNECT {
            return None;
        }
        let (host, route) = table.find(&authority, &head.path, head.method.as_str(), &head.headers)?;
        Some((table, host, route))
    });
    let Some((table, host, route)) = found else {
        info.flags.set(Flags::NO_ROUTE_FOUND);
        return local(info, StatusCode::NOT_FOUND, "route_not_found");
    };
    let known = table.route(host, route);
    info.route.clone_from(&known.name);
    match &known.action {
        Action::Direct { status, body } => {
            info.details = "direct_response".into();
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Routed::Local(status, body.clone())
        }
        Action::Forward(to) => {
            let name = to.choose();
            let Some(cluster) = connection.proxy.cluster(name) else {
                info.flags.set(Flags::NO_CLUSTER_FOUND);
                return local(info, StatusCode::SERVICE_UNAVAILABLE, "cluster_not_found");
            };
            info.cluster = Some(name.to_owned());
            let upgrade = match headers::upgrade(config, &head.headers) {
                Upgrade::No => None,
                Upgrade::To(protocol) => Some(protocol),
                Upgrade::Refused => return local(info, StatusCode::FORBIDDEN, "upgrade_failed"),
            };
            Routed::To(Destination {
                upgrade,
                table,
                host,
                route,
                cluster,
            })
        }
    }
}

/// Answers by itself.
async fn local(
    config: &HttpConfig,
    asked: Asked,
    status: StatusCode,
    text: &str,
    info: &mut StreamInfo,
    client: &mut Client<'_>,
    body: &mut RequestBody<'_>,
) -> Fate {
    let whole = body.is_whole();
    if !whole && let Client::Http1(client) = client {
        // What follows of the body cannot be told from a new request.
        client.close = true;
    }
    match local_reply::send(config, asked, status, text, info, client).await {
        Ok(()) if whole => Fate::GoesOn,
        Ok(()) => Fate::Closes,
        Err(_gone) => {
            info.client_gone();
            Fate::BreaksOff
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one request, each borrowed for itself"
)]
async fn forward(
    connection: &Connection,
    config: &HttpConfig,
    to: &Destination,
    head: &mut RequestHead,
    asked: Asked,
    info: &mut StreamInfo,
    body: &mut RequestBody<'_>,
    client: &mut Client<'_>,
) -> Fate {
    let Action::Forward(action) = &to.table.route(to.host, to.route).action else {
        return Fate::BreaksOff;
    };
    let counts_attempts = to.table.counts_attempts(to.host);
    headers::to_upstream(&mut head.headers, to.upgrade.as_ref());
    let upgrade = to.upgrade.is_some();
    let answered = tries(
        connection,
        config,
        to,
        action,
        head,
        upgrade,
        counts_attempts,
        info,
        body,
        client,
    )
    .await;
    match answered {
        Ok(Answered::Whole { leftover: false }) => Fate::GoesOn,
        Ok(Answered::Whole { leftover: true }) => Fate::Closes,
        Ok(Answered::BrokeOff | Answered::Again) => Fate::BreaksOff,
        Ok(Answered::Upgraded(host)) => Fate::Upgraded(
            host,
            Box::new(Unlogged {
                info: StreamInfo::begin(),
                head: head.clone(),
            }),
        ),
        Err(Failure::ClientGone) => {
            info.client_gone();
            Fate::BreaksOff
        }
        Err(Failure::NotUpgraded(status)) => {
            info.details = "websocket_handshake_unsuccessful".into();
            if let Client::Http1(client) = client {
                client.close = true;
            }
            match local(config, asked, status, "", info, client, body).await {
                Fate::BreaksOff => Fate::BreaksOff,
                Fate::GoesOn | Fate::Closes | Fate::Upgraded(..) => Fate::Closes,
            }
        }
        Err(failure) => {
            if !matches!(failure, Failure::NoHost) {
                body.take_what_is_there();
            }
            let retry = action.retry.as_ref();
            let reply = Reply::to(&failure, retry, info.attempts);
            info.flags = reply.flags;
            info.details = reply.details.into();
            info.transport_reason = reply.transport_reason;
            let fate = local(config, asked, reply.status, &reply.body, info, client, body).await;
            if matches!(failure, Failure::NoHost) {
                return unread(fate, client);
            }
            fate
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one request, each borrowed for itself"
)]
async fn tries(
    connection: &Connection,
    config: &HttpConfig,
    to: &Destination,
    action: &Forward,
    head: &mut RequestHead,
    upgrade: bool,
    counts_attempts: bool,
    info: &mut StreamInfo,
    body: &mut RequestBody<'_>,
    client: &mut Client<'_>,
) -> Result<Answered, Failure> {
    let cluster = &*to.cluster;
    let retry = action.retry.as_ref();
    let most = retry.map_or(0, |retry| retry.attempts);
    let deadline = Cell::new(None);
    let mut tried: Vec<SocketAddr> = Vec::new();
    info.goes_upstream();
    loop {
        info.attempts += 1;
        let avoid: &[SocketAddr] = if retry.is_some_and(|retry| retry.other_host) {
            &tried
        } else {
            &[]
        };
        let Some(host) = cluster.choose(connection.downstream.local(), avoid) else {
            cluster.stats.cx_none_healthy.inc();
            return Err(Failure::NoHost);
        };
        (info.host, info.ridden) = (Some(host.address), None);
        cluster.stats.rq_total.inc();
        more(&host.rq_total);
        if counts_attempts {
            headers::count_attempt(&mut head.headers, info.attempts);
        }
        let left = info.attempts <= most;
        let again = |status: StatusCode| left && retry.is_some_and(|retry| retry.on_status(status.as_u16()));
        let request = Request {
            config,
            cluster,
            source: connection.downstream.source,
            head,
            upgrade,
            timeout: headers::grpc_timeout(&head.headers, action).unwrap_or(action.timeout),
            deadline: &deadline,
        };
        host.rq_active.set(host.rq_active.get() + 1);
        let active = cluster.stats.rq_active.hold();
        let result = attempt::attempt(&request, &host, body, client, info, &again).await;
        host.rq_active.set(host.rq_active.get().saturating_sub(1));
        drop(active);
        if let Ok(Answered::Whole { .. }) = result {
            let took = info.since_sent().as_millis();
            cluster
                .stats
                .rq_time
                .record(u32::try_from(took).unwrap_or(u32::MAX));
        }
        attempt::count(&host, &result, info.status);
        if info.status > 0 {
            cluster.stats.response(info.status);
        }
        let failure = match result {
            Ok(Answered::Again) => None,
            Ok(answered) => {
                let wanted = retry.is_some_and(|retry| retry.on_status(info.status));
                if wanted && most > 0 && !left {
                    info.flags.set(Flags::RETRY_LIMIT_EXCEEDED_HTTP);
                }
                return Ok(answered);
            }
            Err(failure) => Some(failure),
        };
        if matches!(failure, Some(Failure::TimedOut)) {
            cluster.stats.rq_timeout.inc();
        }
        if let Some(failure) = failure
            && !(left && retry.is_some_and(|retry| wants_again(retry, &failure)) && body.rewind())
        {
            return Err(failure);
        }
        body.rewind();
        tried.push(host.address);
        cluster.stats.rq_retry.inc();
        // Fully jittered, doubling: Envoy's JitteredExponentialBackOffStrategy.
        let longest = BACK_OFF.as_micros() * (1 << info.attempts.min(10));
        let longest = u64::try_from(longest.min(250_000)).unwrap_or(250_000);
        back_off(Duration::from_micros(fastrand::u64(0..longest))).await;
    }
}

const fn wants_again(retry: &Retry, failure: &Failure) -> bool {
    match failure {
        Failure::Connect(_) => retry.connect_failure,
        Failure::Terminated | Failure::Garbage => retry.reset,
        Failure::NoHost
        | Failure::TimedOut
        | Failure::ClientGone
        | Failure::ClientMalformed
        | Failure::NotUpgraded(_) => false,
    }
}

/// What a client is told of a request that failed.
struct Reply {
    status: StatusCode,
    body: String,
    flags: Flags,
    details: String,
    transport_reason: Option<String>,
}

impl Reply {
    fn to(failure: &Failure, retry: Option<&Retry>, attempts: u32) -> Self {
        let plain = |status, flag, body: &str, details: &str| Self {
            status,
            body: body.to_owned(),
            flags: flag,
            details: details.to_owned(),
            transport_reason: None,
        };
        let (status, flag, reason, details, transport_reason) = match failure {
            Failure::NoHost => {
                let (flag, body) = (Flags::NO_HEALTHY_UPSTREAM, "no healthy upstream");
                return plain(StatusCode::SERVICE_UNAVAILABLE, flag, body, "no_healthy_upstream");
            }
            Failure::TimedOut => {
                let (flag, body) = (Flags::UPSTREAM_REQUEST_TIMEOUT, "upstream request timeout");
                return plain(StatusCode::GATEWAY_TIMEOUT, flag, body, "response_timeout");
            }
            Failure::ClientMalformed | Failure::ClientGone | Failure::NotUpgraded(_) => {
                let flag = Flags::DOWNSTREAM_PROTOCOL_ERROR;
                return plain(StatusCode::BAD_REQUEST, flag, "Bad Request", "http1.codec_error");
            }
            Failure::Connect(error) => (
                StatusCode::SERVICE_UNAVAILABLE,
                Flags::UPSTREAM_CONNECTION_FAILURE,
                error.reset_reason(),
                error.details(),
                error.transport_reason(),
            ),
            Failure::Terminated => (
                StatusCode::SERVICE_UNAVAILABLE,
                Flags::UPSTREAM_CONNECTION_TERMINATION,
                "connection termination",
                "connection_termination".to_owned(),
                None,
            ),
            Failure::Garbage => (
                StatusCode::BAD_GATEWAY,
                Flags::UPSTREAM_PROTOCOL_ERROR,
                "protocol error",
                "protocol_error".to_owned(),
                None,
            ),
        };
        let mut flags = flag;
        let retried = attempts > 1;
        if retried && retry.is_none_or(|retry| attempts > retry.attempts) {
            flags.set(Flags::RETRY_LIMIT_EXCEEDED_HTTP);
        }
        let reset = if retried {
            "retried and the latest reset reason"
        } else {
            "reset reason"
        };
        Self {
            status,
            body: format!("upstream connect error or disconnect/reset before headers. {reset}: {reason}"),
            flags,
            details: format!("upstream_reset_before_response_started{{{details}}}"),
            transport_reason,
        }
    }
}
