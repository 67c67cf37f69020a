//! What hooks and probes do: a program in the container, or a connection from the node to the pod.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::super::lab::Lab;
use super::super::{command, identity};
use crate::client::{self, wire};
use crate::scenario::lifecycle::Handler;
use crate::scenario::model::Target;
use crate::within::within;
use crate::world::process;

/// kubelet's own limit to a hook's HTTP request.
const HOOK: Duration = Duration::from_secs(30);

/// Runs a hook to its end.
pub(super) async fn run(lab: &Rc<Lab>, target: Target, hook: &Handler) -> Result<(), String> {
    match hook {
        Handler::Exec { command } => program(lab, target, command).await,
        Handler::HttpGet { port, path, headers } => {
            let asked = http(lab, target, port.get(), path, headers);
            judged(&ask(asked, lab.scaled(HOOK)).await)
        }
        Handler::TcpSocket { port } => {
            let asked = tcp(lab, target, port.get());
            judged(&ask(asked, lab.scaled(HOOK)).await)
        }
        Handler::Pause(time) => {
            let never = std::future::pending::<()>();
            // That it ends in its deadline is what is wanted.
            drop(within(lab.scaled(*time), "the hook's time", never).await);
            Ok(())
        }
    }
}

/// A GET to the pod's address.
pub(super) fn http(
    lab: &Lab,
    target: Target,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> wire::Kind {
    let mut headers = headers.to_vec();
    headers.push(("user-agent".to_owned(), "kube-probe/1.33".to_owned()));
    let slash = if path.starts_with('/') { "" } else { "/" };
    wire::Kind::Http {
        method: "GET".to_owned(),
        url: format!("http://{}{slash}{path}", in_pod(lab, target, port)),
        headers,
        body: wire::Body::default(),
        http2: false,
    }
}

/// A connection to the pod's address, closed as soon as it is open.
pub(super) fn tcp(lab: &Lab, target: Target, port: u16) -> wire::Kind {
    wire::Kind::Connect {
        address: in_pod(lab, target, port).to_string(),
    }
}

/// At the pod's first address, which is what kubelet takes.
fn in_pod(lab: &Lab, target: Target, port: u16) -> SocketAddr {
    SocketAddr::new(lab.plan.pod(target.pod).ips.first(), port)
}

/// Sends it from this thread, which is in the node's namespace.
pub(super) async fn ask(kind: wire::Kind, limit: Duration) -> wire::Result {
    let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
    let spec = wire::Spec {
        kind,
        timeout_ms,
        ip_family: None,
    };
    client::perform(&spec).await
}

/// kubelet's rule: connected, or a status from 200 to 399.
pub(super) fn judged(result: &wire::Result) -> Result<(), String> {
    match (result.outcome.as_str(), result.status) {
        ("ok", None | Some(200..400)) => Ok(()),
        ("ok", Some(status)) => Err(format!("status {status}")),
        (outcome, _) => Err(outcome.to_owned()),
    }
}

/// Runs a program in the container, as its user.
pub(super) async fn program(lab: &Rc<Lab>, target: Target, words: &[String]) -> Result<(), String> {
    let identity = identity::of(lab.scenario.pod(target.pod), target.process);
    let spec = command::beside(lab, target, identity, words);
    let role = spec.role.clone();
    let mut process =
        process::spawn(lab.space(target.pod), spec).map_err(|error| super::super::chain(&error))?;
    let pid = process.pid();
    lab.register(target.pod, pid, &role)?;
    let ended = process.exited().await;
    lab.forget(target.pod, pid);
    match ended.code() {
        0 => Ok(()),
        _ => Err(ended.to_string()),
    }
}
