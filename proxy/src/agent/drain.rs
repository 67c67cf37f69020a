//! What an agent does between SIGTERM and the data plane's end (pilot-agent: `terminate`).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Shared;
use super::health::get;
use crate::within::{back_off, within};

/// How long the data plane may take to take note.
const ASK: Duration = Duration::from_secs(1);

/// Connections of Istio's own listeners do not count.
const OWN: [&str; 4] = ["15020", "15021", "15090", "admin"];

/// Lets the data plane serve on for the drain time, or until nobody is connected any more.
pub(super) async fn drain(shared: &Shared) {
    let (args, admin) = (&shared.args, shared.admin());
    if args.termination_drain_ms == 0 && args.exit_on_zero_ms.is_none() {
        return;
    }
    // A data plane that does not answer has nothing to drain.
    drop(within(ASK, "the data plane to drain", tell(admin)).await);
    let Some(minimum) = args.exit_on_zero_ms else {
        return back_off(Duration::from_millis(args.termination_drain_ms)).await;
    };
    back_off(Duration::from_millis(minimum)).await;
    while connections(admin).await.is_some_and(|number| number > 0) {
        back_off(Duration::from_millis(args.exit_on_zero_poll_ms)).await;
    }
}

async fn tell(admin: SocketAddr) -> Result<(), String> {
    let stream = TcpStream::connect(admin)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::task::spawn_local(connection);
    let request = Request::post("/drain_listeners?inboundonly&graceful&skip_exit")
        .header(header::HOST, admin.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let told = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string());
    connection.abort();
    told.map(drop)
}

/// Connections from clients that are open now; none if the data plane does not tell.
async fn connections(admin: SocketAddr) -> Option<u64> {
    let (_, text) = get(admin, "/stats").await.ok()?;
    Some(active(&text))
}

/// `listener.….downstream_cx_active` where they are told, else those of the protocols.
fn active(stats: &str) -> u64 {
    let of = |prefix: &'static str| {
        let lines = stats.lines().filter_map(move |line| {
            let (name, value) = line.split_once(": ")?;
            let counts = name.starts_with(prefix) && name.ends_with(".downstream_cx_active");
            let own = OWN.iter().any(|own| name.contains(own));
            let own = own || name.contains("prometheus") || name.contains("http.health");
            (counts && !own).then(|| value.trim().parse::<u64>().ok())?
        });
        lines.collect::<Vec<_>>()
    };
    let listeners = of("listener.");
    if listeners.is_empty() {
        of("http.").into_iter().chain(of("tcp.")).sum()
    } else {
        listeners.into_iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_counted_and_istios_own_listeners_are_not() {
        let by_listener = "listener.0.0.0.0_15006.downstream_cx_active: 2\nlistener.0.0.0.0_15021.downstream_cx_active: 7\n\
            http.inbound.downstream_cx_active: 9\n";
        assert_eq!(active(by_listener), 2);
        let by_protocol = "http.inbound_0.0.0.0_80.downstream_cx_active: 1\ntcp.outbound.downstream_cx_active: 3\n\
            http.prometheus.downstream_cx_active: 5\nhttp.inbound.downstream_cx_total: 8\n";
        assert_eq!(active(by_protocol), 4);
    }
}
