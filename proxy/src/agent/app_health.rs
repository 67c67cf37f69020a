//! `/app-health/CONTAINER/PROBE` on 15020: a probe of the app that kubelet sent to the agent instead (Istio's probe
//! rewrite). The agent connects as the sidecar would, from 127.0.0.6 or `::6` to the pod's address, so the rules let it pass.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};

use super::Events;
use crate::within::within;

/// The source address of the sidecar's inbound connections (Istio's `InboundPassthroughBindIpv4` and `Ipv6`).
const fn from(app: SocketAddr) -> SocketAddr {
    let ip = match app {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
    };
    SocketAddr::new(ip, 0)
}

/// What an app is asked, and how long it may take, by path.
pub(crate) type Probers = BTreeMap<String, Prober>;

/// One of the app's probes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Prober {
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpPort>,
    timeout_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpGet {
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpPort {
    port: u16,
}

/// Reads `--app-probers`.
pub(super) fn read(text: Option<&str>) -> Result<Probers, serde_json::Error> {
    text.map_or_else(|| Ok(Probers::new()), serde_json::from_str)
}

/// Asks the app: its status, or 500 if there is none (Istio: `handleAppProbe`).
pub(super) async fn answer(
    probers: &Probers,
    events: &Events,
    node_id: &str,
    path: &str,
) -> (StatusCode, String) {
    let Some(prober) = probers.get(path) else {
        return (StatusCode::NOT_FOUND, format!("no probe is known for {path}\n"));
    };
    let Some(pod) = node_id.split('~').nth(1).and_then(|ip| ip.parse::<IpAddr>().ok()) else {
        let words = format!("the node id `{node_id}` has no address\n");
        return (StatusCode::INTERNAL_SERVER_ERROR, words);
    };
    // Never less than the kernel and a process need to answer at all.
    let limit = Duration::from_millis(prober.timeout_ms.max(1500));
    let asked = within(limit, "the app to answer", ask(prober, events, pod)).await;
    match asked.map_err(|error| error.to_string()) {
        Ok(Ok(status)) => (status, String::new()),
        Ok(Err(words)) | Err(words) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{words}\n")),
    }
}

async fn ask(prober: &Prober, events: &Events, pod: IpAddr) -> Result<StatusCode, String> {
    match (&prober.http_get, &prober.tcp_socket) {
        (Some(get), _) => http(get, events, pod).await,
        (None, Some(tcp)) => connect(events, SocketAddr::new(pod, tcp.port))
            .await
            .map(|_open| StatusCode::OK),
        (None, None) => Err("a probe that asks nothing".to_owned()),
    }
}

/// Connects from a port that is told before it is used: nobody else can tell this connection from the data plane's.
async fn connect(events: &Events, app: SocketAddr) -> Result<TcpStream, String> {
    let from = from(app);
    let said = |error: std::io::Error| format!("dialling {app} from {}: {error}", from.ip());
    let socket = match app {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(said)?;
    socket.bind(from).map_err(said)?;
    let local = socket.local_addr().map_err(said)?;
    events.tell(&json!({ "event": "connecting", "local_port": local.port(), "remote": app }));
    socket.connect(app).await.map_err(said)
}

async fn http(get: &HttpGet, events: &Events, pod: IpAddr) -> Result<StatusCode, String> {
    let app = SocketAddr::new(pod, get.port);
    let said = |error: hyper::Error| format!("GET {} of {app}: {error}", get.path);
    let stream = connect(events, app).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(said)?;
    let connection = tokio::task::spawn_local(connection);
    let slash = if get.path.starts_with('/') { "" } else { "/" };
    let mut request = Request::get(format!("{slash}{}", get.path))
        .header(header::HOST, app.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    for (name, value) in &get.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            request.headers_mut().insert(name, value);
        }
    }
    let answered = sender.send_request(request).await.map_err(said);
    connection.abort();
    answered.map(|response| response.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(probers: &str, path: &str) -> (StatusCode, String) {
        let probers = read(Some(probers)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let node = "sidecar~127.0.0.1~a.default~default.svc.cluster.local";
        tokio::task::LocalSet::new().block_on(&runtime, answer(&probers, &Events::open(None), node, path))
    }

    #[test]
    fn an_app_that_listens_is_healthy_and_one_that_does_not_is_an_error() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let probers =
            format!(r#"{{"/app-health/a/livez": {{"tcpSocket": {{"port": {port}}}, "timeoutMs": 1000}}}}"#);
        assert_eq!(asked(&probers, "/app-health/a/livez").0, StatusCode::OK);
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), Ipv4Addr::new(127, 0, 0, 6));
        drop(listener);
        let (status, words) = asked(&probers, "/app-health/a/livez");
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(words.contains("from 127.0.0.6"), "{words}");
        assert_eq!(asked(&probers, "/app-health/b/livez").0, StatusCode::NOT_FOUND);
    }

    #[test]
    fn what_is_no_prober_is_refused() {
        assert!(read(Some("{\"/x\": {\"grpc\": {}}}")).is_err());
        assert!(read(None).unwrap().is_empty());
    }
}
