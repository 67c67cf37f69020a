//! Istio's debug pages and metrics, by HTTP.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::kind::Kind;
use super::mesh::{Connection, Mesh, TypeStatus};
use super::metrics;
use super::names::outbound_cluster;
use super::registry::Registry;

/// Serves the pages until the listener breaks. Dropped, it closes all connections.
pub(super) async fn serve(listener: TcpListener, mesh: Arc<Mesh>) -> Result<Infallible, io::Error> {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _client) = accepted?;
                let mesh = Arc::clone(&mesh);
                let service = service_fn(move |request| {
                    let answer = answer(&mesh, &request);
                    async { Ok::<_, Infallible>(answer) }
                });
                open.spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
            // How a client's connection ended is the client's affair.
            Some(_ended) = open.join_next() => {}
        }
    }
}

fn answer(mesh: &Mesh, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, content_type, body) = page(mesh, request.method(), request.uri().path());
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// Status, content type and body of a page.
fn page(mesh: &Mesh, method: &Method, path: &str) -> (StatusCode, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
    if method != Method::GET && method != Method::HEAD {
        return (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "only GET is answered here\n".to_owned(),
        );
    }
    let pretty = |value: Value| (StatusCode::OK, "application/json", format!("{value:#}\n"));
    let registry = mesh.snapshot();
    match (path, registry) {
        ("/ready", Some(_)) => (StatusCode::OK, TEXT, String::new()),
        ("/ready", None) => {
            let why = "the lab has not told a state of the mesh yet\n";
            (StatusCode::SERVICE_UNAVAILABLE, TEXT, why.to_owned())
        }
        ("/metrics", _) => (StatusCode::OK, METRICS, metrics::text(mesh)),
        ("/debug/syncz", _) => pretty(mesh.connections().iter().map(sync_status).collect()),
        ("/debug/connections", _) => pretty(connections(&mesh.connections())),
        ("/debug/edsz", snapshot) => {
            pretty(snapshot.map_or_else(|| json!([]), |snapshot| endpoints(&snapshot.registry)))
        }
        ("/debug/registryz", snapshot) => {
            pretty(snapshot.map_or_else(|| json!([]), |snapshot| json!(snapshot.registry.services)))
        }
        (_, _) => (
            StatusCode::NOT_FOUND,
            TEXT,
            format!("404 page not found: {path}\n"),
        ),
    }
}

/// As `SyncStatus` of `pilot/pkg/xds/debug.go`: nonces of what was sent and taken. `*_nacked` is the lab's own.
fn sync_status(connection: &Connection) -> Value {
    let mut status = Map::new();
    status.insert("cluster_id".to_owned(), json!("Kubernetes"));
    status.insert("proxy".to_owned(), json!(format!("{}.default", connection.pod)));
    status.insert("proxy_type".to_owned(), json!("sidecar"));
    for (kind, watch) in Kind::ALL.into_iter().zip(&connection.types) {
        let prefix = match kind {
            Kind::Cds => "cluster",
            Kind::Eds => "endpoint",
            Kind::Lds => "listener",
            Kind::Rds => "route",
        };
        let TypeStatus {
            sent, acked, nacked, ..
        } = watch;
        let mut put = |what: &str, nonce: Option<&String>| {
            if let Some(nonce) = nonce {
                status.insert(format!("{prefix}_{what}"), json!(nonce));
            }
        };
        put("sent", sent.as_ref().map(|version| &version.nonce));
        put("acked", acked.as_ref().map(|version| &version.nonce));
        put("nacked", nacked.as_ref().map(|(version, _)| &version.nonce));
        put("error", nacked.as_ref().map(|(_, message)| message));
    }
    Value::Object(status)
}

/// As `AdsClients` of `pilot/pkg/xds/debug.go`.
fn connections(connections: &[Connection]) -> Value {
    let clients = connections.iter().map(|connection| {
        let watches = Kind::ALL.into_iter().zip(&connection.types);
        let watches =
            watches.filter_map(|(kind, status)| Some((kind.type_url(), json!(status.names.as_ref()?))));
        json!({
            "connectionId": format!("{}.default-{}", connection.pod, connection.id.number()),
            "connectedAt": seconds(connection.since),
            "address": connection.peer.map(|peer: SocketAddr| peer.to_string()),
            "nodeId": connection.node_id,
            "watches": watches.collect::<Map<_, _>>(),
        })
    });
    let clients: Vec<Value> = clients.collect();
    json!({"totalClients": clients.len(), "clients": clients})
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// The endpoints of each service's ports, in the shape of `ClusterLoadAssignment`.
fn endpoints(registry: &Registry) -> Value {
    let ports = registry
        .services
        .iter()
        .flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    ports
        .map(|(service, port)| {
            let endpoints = service.endpoints.iter().map(|endpoint| {
                let address = json!({"address": endpoint.ip, "portValue": port.target_port});
                json!({
                    "endpoint": {"address": {"socketAddress": address}},
                    "metadata": {"filterMetadata": {"istio": {"workload": endpoint.pod}}},
                    "labels": endpoint.labels,
                })
            });
            json!({
                "clusterName": outbound_cluster(port.port, "", &service.name),
                "endpoints": [{"lbEndpoints": endpoints.collect::<Vec<_>>()}],
            })
        })
        .collect()
}
