//! One request and its response: route, forward, answer, log.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Version, request};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::Connection;
use super::body::ResponseBody;
use super::forward::{self, Carrier, Failed, Outgoing, Ridden};
use super::headers;
use crate::access_log::{Flags, Record};
use crate::config::listener::{HttpConfig, Routes};
use crate::config::route::{Action, Route, RouteTable, VirtualHost};
use crate::upstream::Cluster;

/// What is known of a stream. It is logged when the response is over, one way or another.
pub struct Ending {
    connection: Rc<Connection>,
    start: SystemTime,
    clock: Instant,
    method: String,
    path: String,
    protocol: &'static str,
    authority: String,
    request_headers: HeaderMap,
    response_headers: HeaderMap,
    status: u16,
    flags: Flags,
    details: String,
    transport_reason: Option<String>,
    received: Rc<Cell<u64>>,
    sent: u64,
    cluster: Option<Rc<Cluster>>,
    cluster_name: Option<String>,
    host: Option<SocketAddr>,
    ridden: Option<Ridden>,
    attempts: u32,
    route_name: String,
    carrier: Carrier,
    over: bool,
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending")
            .field("path", &self.path)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Ending {
    fn new(connection: &Rc<Connection>, parts: &request::Parts, authority: &str) -> Self {
        connection.stats.rq_total.inc();
        connection.stats.rq_active.inc();
        Self {
            connection: Rc::clone(connection),
            start: SystemTime::now(),
            clock: Instant::now(),
            method: parts.method.to_string(),
            path: parts
                .uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
            protocol: protocol(parts.version),
            authority: authority.to_owned(),
            request_headers: HeaderMap::new(),
            response_headers: HeaderMap::new(),
            status: 0,
            flags: Flags::default(),
            details: String::new(),
            transport_reason: None,
            received: Rc::default(),
            sent: 0,
            cluster: None,
            cluster_name: None,
            host: None,
            ridden: None,
            attempts: 0,
            route_name: String::new(),
            carrier: Rc::default(),
            over: false,
        }
    }

    /// So many bytes of the body went to the client.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += u64::try_from(bytes).unwrap_or(0);
    }

    /// The response is complete: its connection may be ridden again.
    pub fn complete(mut self) {
        if let (Some(pooled), Some(cluster)) = (self.carrier.take(), &self.cluster) {
            cluster.put(pooled);
        }
        self.finish();
    }

    /// The host broke off after the response had begun.
    pub fn upstream_broke(mut self) {
        self.flags.set(Flags::UPSTREAM_PROTOCOL_ERROR);
        "upstream_reset_after_response_started{protocol_error}".clone_into(&mut self.details);
        self.finish();
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.connection.stats.rq_active.dec();
        self.connection.stats.response(self.status);
        let Some(config) = self.connection.config() else {
            return;
        };
        let text = |text: &'_ String| (!text.is_empty()).then(|| text.clone());
        let (details, route_name) = (text(&self.details), text(&self.route_name));
        let record = Record {
            start: self.start,
            duration: self.clock.elapsed(),
            method: Some(&self.method),
            path: Some(&self.path),
            protocol: Some(self.protocol),
            authority: Some(&self.authority),
            request_headers: Some(&self.request_headers),
            response_headers: Some(&self.response_headers),
            response_code: self.status,
            flags: &self.flags,
            details: details.as_deref(),
            connection_termination_details: None,
            upstream_transport_failure_reason: self.transport_reason.as_deref(),
            bytes_received: self.received.get(),
            bytes_sent: self.sent,
            upstream_cluster: self.cluster_name.as_deref(),
            upstream_host: self.host,
            upstream_local_address: self.ridden.map(|ridden| ridden.local),
            upstream_connection_id: self.ridden.map(|ridden| ridden.id),
            attempts: self.attempts,
            downstream_local_address: self.connection.downstream.local(),
            downstream_remote_address: self.connection.downstream.client,
            connection_id: self.connection.id,
            route_name: route_name.as_deref(),
            filter_chain_name: Some(&self.connection.chain.name),
        };
        for log in &config.logs {
            log.log(&record);
        }
    }
}

/// A stream that is dropped before its end: the client went away.
impl Drop for Ending {
    fn drop(&mut self) {
        if !self.over {
            self.flags.set(Flags::DOWNSTREAM_CONNECTION_TERMINATION);
            "downstream_remote_disconnect".clone_into(&mut self.details);
            self.finish();
        }
    }
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// Answers a request.
pub async fn answer(connection: Rc<Connection>, request: Request<Incoming>) -> Response<ResponseBody> {
    let (mut parts, body) = request.into_parts();
    let authority = authority(&parts);
    let mut ending = Ending::new(&connection, &parts, authority.as_deref().unwrap_or_default());
    let Some(config) = connection.config() else {
        return own(None, ending, Own::empty(500, "no_http_configuration"));
    };
    if parts.version == Version::HTTP_10 || parts.version == Version::HTTP_09 {
        ending.flags.set(Flags::DOWNSTREAM_PROTOCOL_ERROR);
        let mut response = own(
            Some(config),
            ending,
            Own::text(426, "low_version", "Upgrade Required"),
        );
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let Some(authority) = authority else {
        let mut response = own(Some(config), ending, Own::empty(400, "missing_host_header"));
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    headers::on_arrival(config, &mut parts.headers);
    ending.request_headers.clone_from(&parts.headers);
    let table = match &config.routes {
        Routes::Inline(table) => Some(Rc::clone(table)),
        Routes::Rds(name) => connection.proxy.route_table(name),
    };
    let Some((host, route)) = table.as_deref().and_then(|table| find(table, &authority, &parts)) else {
        ending.flags.set(Flags::NO_ROUTE_FOUND);
        return own(Some(config), ending, Own::empty(404, "route_not_found"));
    };
    ending.route_name.clone_from(&route.name);
    match &route.action {
        Action::Direct { status, body } => {
            own(Some(config), ending, Own::text(*status, "direct_response", body))
        }
        Action::Forward(to) => {
            let cluster_name = to.choose();
            let Some(cluster) = connection.proxy.cluster(cluster_name) else {
                ending.flags.set(Flags::NO_CLUSTER_FOUND);
                ending.cluster_name = Some(cluster_name.to_owned());
                return own(Some(config), ending, Own::empty(503, "cluster_not_found"));
            };
            ending.cluster_name = Some(cluster_name.to_owned());
            ending.cluster = Some(Rc::clone(&cluster));
            let outgoing = Outgoing {
                forward: to,
                cluster: &cluster,
                parts: &parts,
                authority: &authority,
                original: connection.downstream.local(),
                upgrade: headers::upgrade(config, &parts.headers),
                says_attempts: host.attempt_count,
            };
            through(&connection, config, &outgoing, body, ending).await
        }
    }
}

fn find<'a>(
    table: &'a RouteTable,
    authority: &str,
    parts: &request::Parts,
) -> Option<(&'a VirtualHost, &'a Route)> {
    let host = table.host(authority)?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    Some((
        host,
        host.route(path, parts.method.as_str(), authority, &parts.headers)?,
    ))
}

fn authority(parts: &request::Parts) -> Option<String> {
    let from_header = parts
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .map(str::to_owned);
    let from_uri = parts.uri.authority().map(ToString::to_string);
    from_uri.or(from_header).filter(|authority| !authority.is_empty())
}

async fn through(
    connection: &Rc<Connection>,
    config: &HttpConfig,
    outgoing: &Outgoing<'_>,
    body: Incoming,
    mut ending: Ending,
) -> Response<ResponseBody> {
    let (received, carrier) = (Rc::clone(&ending.received), Rc::clone(&ending.carrier));
    let sent_at = Instant::now();
    let seen = forward::forward(outgoing, body, &received, &carrier).await;
    (ending.host, ending.ridden, ending.attempts) = (seen.host, seen.ridden, seen.attempts);
    match seen.result {
        Ok(response) => {
            let (mut head, body) = response.into_parts();
            let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
            headers::to_downstream(config, &mut head.headers, sent_at.elapsed(), upgraded);
            ending.status = head.status.as_u16();
            "via_upstream".clone_into(&mut ending.details);
            ending.response_headers.clone_from(&head.headers);
            if upgraded {
                return bridge(connection, outgoing, head, body, ending);
            }
            // HTTP/1.1 is what this connection speaks, whatever the host speaks.
            head.version = Version::HTTP_11;
            Response::from_parts(head, ResponseBody::upstream(body, ending))
        }
        Err(failed) => {
            let Failed {
                status,
                body,
                flags,
                details,
                transport_reason,
            } = failed;
            ending.flags = flags;
            ending.transport_reason = transport_reason;
            own(
                Some(config),
                ending,
                Own {
                    status,
                    details,
                    body,
                },
            )
        }
    }
}

/// After a 101 both sides speak what they agreed on; the proxy passes bytes.
fn bridge(
    connection: &Rc<Connection>,
    outgoing: &Outgoing<'_>,
    head: http::response::Parts,
    body: Incoming,
    mut ending: Ending,
) -> Response<ResponseBody> {
    let upstream = hyper::upgrade::on(Response::from_parts(head.clone(), body));
    let downstream = outgoing
        .parts
        .extensions
        .get::<hyper::upgrade::OnUpgrade>()
        .cloned();
    let carrier = Rc::clone(&ending.carrier);
    connection.proxy.spawn(async move {
        if let (Ok(upstream), Some(Ok(downstream))) = (
            upstream.await,
            match downstream {
                Some(downstream) => Some(downstream.await),
                None => None,
            },
        ) {
            let (mut upstream, mut downstream) = (TokioIo::new(upstream), TokioIo::new(downstream));
            if let Ok((up, down)) = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await {
                ending.received.set(ending.received.get() + up);
                ending.sent += down;
            }
        }
        // An upgraded connection is no connection of the pool's any more.
        drop(carrier.take());
        ending.complete();
    });
    let empty = Ending::silent(connection, outgoing.parts);
    Response::from_parts(head, ResponseBody::own(Bytes::new(), empty))
}

impl Ending {
    /// An ending that logs nothing: another one does.
    fn silent(connection: &Rc<Connection>, parts: &request::Parts) -> Self {
        let mut ending = Self::new(connection, parts, "");
        ending.over = true;
        connection.stats.rq_total.dec();
        connection.stats.rq_active.dec();
        ending
    }
}

/// An answer of the proxy's own.
struct Own {
    status: u16,
    details: String,
    body: String,
}

impl Own {
    fn empty(status: u16, details: &str) -> Self {
        Self::text(status, details, "")
    }

    fn text(status: u16, details: &str, body: &str) -> Self {
        Self {
            status,
            details: details.to_owned(),
            body: body.to_owned(),
        }
    }
}

fn own(config: Option<&HttpConfig>, mut ending: Ending, answer: Own) -> Response<ResponseBody> {
    ending.status = answer.status;
    ending.details = answer.details;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut headers = HeaderMap::new();
    if !answer.body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    if let Some(config) = config {
        headers::own_server(config, &mut headers);
    }
    ending.response_headers.clone_from(&headers);
    let mut response = Response::new(ResponseBody::own(Bytes::from(answer.body), ending));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Something that was no HTTP came where HTTP was expected; hyper has answered 400 by itself.
pub fn log_garbage(connection: &Rc<Connection>) {
    let (parts, ()) = Request::new(()).into_parts();
    let mut ending = Ending::new(connection, &parts, "");
    ending.method.clear();
    ending.path.clear();
    ending.status = 400;
    ending.flags.set(Flags::DOWNSTREAM_PROTOCOL_ERROR);
    "http1.codec_error".clone_into(&mut ending.details);
    ending.finish();
}
