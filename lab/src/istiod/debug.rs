//! 15014: `/ready`, `/debug/edsz`, `/debug/syncz`, `/debug/registryz`, `/metrics`.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::ads::{State, Watched, lock};
use super::clusters::endpoints;
use super::snapshot::Kind;

/// Serves it until it is aborted.
pub(super) async fn serve(state: Arc<Mutex<State>>, socket: TcpListener) {
    let mut open = JoinSet::new();
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        while open.try_join_next().is_some() {}
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(answer(&lock(&state), &request)) }
        });
        open.spawn(async move {
            // A client that goes away is no concern of the port.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn json(body: &Value) -> Response<Full<Bytes>> {
    text(StatusCode::OK, "application/json", format!("{body:#}\n"))
}

fn answer(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/ready" if state.registry.is_some() => text(StatusCode::OK, "text/plain", "ready\n".to_owned()),
        "/ready" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            "no configuration yet\n".to_owned(),
        ),
        "/debug/syncz" => json(&syncz(state)),
        "/debug/edsz" => json(&edsz(state)),
        "/debug/registryz" => json(&json!(state.registry.as_ref().map(|registry| &registry.services))),
        "/debug/connections" => json(&json!({
            "totalClients": state.streams().count(),
            "clients": state.streams().map(|stream| json!({ "connectionId": stream.node_id })).collect::<Vec<_>>(),
        })),
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4", metrics(state)),
        _ => text(
            StatusCode::NOT_FOUND,
            "text/plain",
            "404 page not found\n".to_owned(),
        ),
    }
}

/// What each proxy has of each type, as `istioctl proxy-status` reads it.
fn syncz(state: &State) -> Value {
    let status = |watched: Option<&Watched>| match watched {
        None
        | Some(Watched {
            sent: None,
            nacked: None,
            ..
        }) => "NOT_SENT",
        Some(Watched { nacked: Some(_), .. }) => "ERROR",
        Some(Watched {
            sent: Some((sent, _)),
            acked,
            ..
        }) if acked.as_ref() == Some(sent) => "SYNCED",
        Some(_) => "STALE",
    };
    let one = |stream: &super::ads::Connected| {
        let of = |kind| stream.watched.get(&kind);
        let version = |kind| of(kind).and_then(|watched: &Watched| watched.acked.clone());
        json!({
            "proxy": format!("{}.default", stream.pod),
            "proxy_id": stream.node_id,
            "cluster_status": status(of(Kind::Cds)), "cluster_acked": version(Kind::Cds),
            "endpoint_status": status(of(Kind::Eds)), "endpoint_acked": version(Kind::Eds),
            "listener_status": status(of(Kind::Lds)), "listener_acked": version(Kind::Lds),
            "route_status": status(of(Kind::Rds)), "route_acked": version(Kind::Rds),
        })
    };
    Value::Array(state.streams().map(one).collect())
}

/// The endpoints of every cluster.
fn edsz(state: &State) -> Value {
    use envoy_types::pb::envoy::config::core::v3::{address, socket_address::PortSpecifier};
    use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    let Some(registry) = &state.registry else {
        return json!([]);
    };
    let host = |endpoint: &envoy_types::pb::envoy::config::endpoint::v3::LbEndpoint| {
        let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
            return Value::Null;
        };
        let Some(address::Address::SocketAddress(socket)) =
            endpoint.address.as_ref().and_then(|it| it.address.as_ref())
        else {
            return Value::Null;
        };
        let port = match socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => json!(port),
            _ => Value::Null,
        };
        json!({ "endpoint": { "address": { "socketAddress": { "address": socket.address, "portValue": port } } } })
    };
    let one = |it: envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment| {
        let endpoints = it
            .endpoints
            .iter()
            .flat_map(|locality| &locality.lb_endpoints)
            .map(host);
        json!({ "clusterName": it.cluster_name, "endpoints": [{ "lbEndpoints": endpoints.collect::<Vec<_>>() }] })
    };
    Value::Array(endpoints(registry).into_iter().map(one).collect())
}

fn metrics(state: &State) -> String {
    let mut text = "# HELP pilot_xds_pushes Pilot build and send errors for lds, rds, cds and eds.\n# TYPE pilot_xds_pushes counter\n".to_owned();
    for (kind, number) in &state.pushes {
        text.push_str(&format!("pilot_xds_pushes{{type=\"{kind}\"}} {number}\n"));
    }
    let connected = state.streams().count();
    text.push_str(&format!("# HELP pilot_xds Number of endpoints connected to this pilot using XDS.\n# TYPE pilot_xds gauge\npilot_xds {connected}\n"));
    text
}
