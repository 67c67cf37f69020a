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
use super::names::{self, outbound_cluster};
use super::registry::Registry;

/// Serves the pages until the listener breaks. Dropped, it closes all connections.
pub(super) async fn serve(listener: TcpListener, mesh: Arc<Mesh>) -> Result<Infallible, io::Error> {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _client) = accepted?;
                // A long answer's end does not wait for the acknowledgement of its beginning.
                drop(socket.set_nodelay(true));
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
        ("/debug/ndsz", snapshot) => {
            pretty(snapshot.map_or_else(|| json!({}), |snapshot| name_table(&snapshot.registry)))
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
            // Istio's `SyncStatus` says nothing of names.
            Kind::Nds => continue,
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

/// The name table, as protobuf's JSON has it.
fn name_table(registry: &Registry) -> Value {
    let hosts = names::table(registry).table.into_iter().map(|(host, info)| {
        let info = json!({
            "ips": info.ips, "registry": info.registry, "shortname": info.shortname, "namespace": info.namespace,
        });
        (host, info)
    });
    json!({ "table": hosts.collect::<Map<_, _>>() })
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
                let address = json!({"address": endpoint.ips.first(), "portValue": port.target_port});
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
    use tokio::sync::mpsc;

    use super::super::metadata::Metadata;
    use super::super::session::Session;
    use super::super::snapshot::Wanted;
    use super::super::tests::bookinfo;
    use super::*;

    fn mesh() -> Mesh {
        let (reports, _gone) = mpsc::unbounded_channel();
        Mesh::new(reports)
    }

    /// A mesh with a state, and a proxy that was sent its clusters.
    fn with_a_proxy() -> Mesh {
        let mesh = mesh();
        mesh.set_state(1, bookinfo());
        let snapshot = mesh.snapshot().unwrap();
        let proxy = &snapshot.registry.proxies[0];
        let mut session = Session::new(Wanted::new(&snapshot, proxy, Metadata::default()));
        let id = mesh.connect(&proxy.node_id, &proxy.pod, None);
        session.request(Kind::Cds, DiscoveryRequest::default());
        session.next(&BTreeSet::new()).unwrap();
        mesh.note(id, &session);
        mesh
    }

    #[track_caller]
    fn check(mesh: &Mesh, path: &str, status: u16, content_type: &str) -> String {
        let (found, kind, body) = page(mesh, &Method::GET, path);
        assert_eq!((found.as_u16(), kind), (status, content_type), "{path}: {body}");
        body
    }

    #[test]
    fn ready_is_said_when_the_first_state_has_come() {
        let mesh = mesh();
        check(&mesh, "/ready", 503, "text/plain; charset=utf-8");
        mesh.set_state(1, bookinfo());
        check(&mesh, "/ready", 200, "text/plain; charset=utf-8");
    }

    #[test]
    fn pages_are_there_before_the_first_state() {
        for path in ["/debug/edsz", "/debug/syncz", "/debug/registryz"] {
            assert_eq!(check(&mesh(), path, 200, "application/json"), "[]\n");
        }
        check(&mesh(), "/debug/connections", 200, "application/json");
        check(
            &mesh(),
            "/metrics",
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        );
    }

    #[test]
    fn other_pages_and_methods_are_refused() {
        check(&mesh(), "/debug/nothing", 404, "text/plain; charset=utf-8");
        let (status, ..) = page(&mesh(), &Method::POST, "/ready");
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn syncz_has_istio_s_keys() {
        insta::assert_snapshot!(check(&with_a_proxy(), "/debug/syncz", 200, "application/json"));
    }

    #[test]
    fn connections_name_the_proxy_and_what_it_watches() {
        let text = check(&with_a_proxy(), "/debug/connections", 200, "application/json");
        let page: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(page["totalClients"], 1);
        let client = &page["clients"][0];
        assert_eq!(client["connectionId"], "productpage-v1.default-1");
        assert_eq!(client["watches"][Kind::Cds.type_url()], json!([]));
        assert_eq!(client["watches"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn edsz_has_every_endpoint() {
        let text = check(&with_a_proxy(), "/debug/edsz", 200, "application/json");
        let page: Value = serde_json::from_str(&text).unwrap();
        let reviews = &page[1];
        assert_eq!(
            reviews["clusterName"],
            "outbound|9080||reviews.default.svc.cluster.local"
        );
        let endpoints = reviews["endpoints"][0]["lbEndpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), 3);
        assert_eq!(
            endpoints[0]["endpoint"]["address"]["socketAddress"],
            json!({"address": "10.244.0.11", "portValue": 9080})
        );
    }

    #[test]
    fn ndsz_has_every_name() {
        let text = check(&with_a_proxy(), "/debug/ndsz", 200, "application/json");
        let page: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            page["table"]["reviews.default.svc.cluster.local"]["shortname"],
            "reviews"
        );
        assert_eq!(check(&mesh(), "/debug/ndsz", 200, "application/json"), "{}\n");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn pages_are_served_over_http() {
        use std::time::Duration;

        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        use crate::within::within;

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = b"GET /ready HTTP/1.1\r\nhost: istiod\r\nconnection: close\r\n\r\n";
            socket.write_all(request).await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = async {
            tokio::select! {
                answer = client => answer,
                broke = serve(listener, Arc::new(with_a_proxy())) => panic!("{broke:?}"),
            }
        };
        let answer = within(Duration::from_secs(5), "the page", answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}
