//! One request: sent by a process of its own in the pod, as that container's user; then what was observed of it.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use super::identity;
use super::lab::Lab;
use super::lab::{protocol_of, role_of};
use super::life;
use crate::client::wire;
use crate::observe::{Collected, NODE, Origin};
use crate::report::{AnswerReport, LogReport};
use crate::scenario::lifecycle::ProbeKind;
use crate::scenario::model::{Actor, Body, ContainerId, Outcome, PodId, Read, Request, RequestKind};
use crate::verdict::Seen;
use crate::within::within;
use crate::world::process::{self, Program, Spec, Stdin};

/// What a client process may need beyond the request's own limit: to start, and to write its answer.
const CLIENT_SLACK: Duration = Duration::from_secs(5);

/// How long a sidecar may take to log what it has done.
pub(super) const LOGS: Duration = Duration::from_secs(3);

/// How long nothing must be logged until all is taken for logged, where it is not known how many lines there will be.
const QUIET: Duration = Duration::from_millis(150);

/// The longest body that a report shows; the client keeps no more.
const LONGEST_SHOWN: u64 = 1 << 20;

/// What was seen of a request, and what the kernel and the proxies reported.
pub(super) struct Answer {
    pub(super) seen: Seen,
    pub(super) collected: Collected,
    /// Things worth saying to a reader.
    pub(super) notes: Vec<String>,
    /// All of the answer, for programs that read the report.
    pub(super) told: AnswerReport,
}

/// Sends a request and collects its path. `alone` is false while other steps run beside it.
pub(super) async fn send(lab: &Rc<Lab>, request: &Request, alone: bool) -> Result<Answer, String> {
    // Probes wait meanwhile, unless steps beside this one keep them from it: what they cause is not the request's.
    let _quiet = if alone {
        Some(lab.quiet.write().await)
    } else {
        None
    };
    let mark = lab.observer.mark();
    let actor = request.from;
    let pod = lab.scenario.pod(actor.target.pod);
    let role = pod.role(actor.target.process).to_owned();
    let spec = wire::Spec {
        kind: kind(lab, request),
        timeout_ms: wire::millis(request.timeout),
        ip_family: request.ip_family,
    };
    let stdin = serde_json::to_vec(&spec).map_err(|error| error.to_string())?;
    let (pid, output) = run_client(lab, &actor, &role, stdin, request.timeout).await?;
    let result: wire::Result = serde_json::from_slice(&output)
        .map_err(|error| format!("the client said `{}`: {error}", String::from_utf8_lossy(&output)))?;
    let origins = origins(&pod.name, &role, pid, request, &result);
    let collect = async |limit| {
        let collected = lab.observer.collect(mark, &origins, !alone, limit).await;
        collected.map_err(|error| super::chain(&error))
    };
    let mut collected = collect(LOGS).await?;
    if has_several_lines(request) {
        quiet(lab).await;
        collected = collect(Duration::ZERO).await?;
    }
    lab.forget(actor.target.pod, pid);
    Ok(Answer {
        seen: seen(&result, &collected),
        told: told(result, &collected),
        collected,
        notes: Vec::new(),
    })
}

/// One probe of a container, sent from the node, and its path in the pod.
pub(super) async fn probe(
    lab: &Rc<Lab>,
    pod: PodId,
    container: ContainerId,
    kind: ProbeKind,
) -> Result<Answer, String> {
    let _quiet = lab.quiet.write().await;
    let mark = lab.observer.mark();
    let result = life::probe_once(lab, pod, container, kind).await?;
    // Rewritten to a GET, a tcpSocket probe has a status.
    let is_tcp = result.status.is_none();
    let origins: Vec<Origin> = result
        .connections
        .iter()
        .map(|connection| Origin {
            carries: !is_tcp,
            pod: NODE.to_owned(),
            role: role_of("kubelet"),
            pid: None,
            protocol: protocol_of(&connection.proto),
            local: connection.local,
            remote: connection.remote,
        })
        .collect();
    let collected = lab
        .observer
        .collect(mark, &origins, false, LOGS)
        .await
        .map_err(|error| super::chain(&error))?;
    let seen = seen(&result, &collected);
    let told = told(result, &collected);
    Ok(Answer {
        seen,
        collected,
        notes: Vec::new(),
        told,
    })
}

/// A raw connection may carry several requests, each of which has a line in the log of its own.
fn has_several_lines(request: &Request) -> bool {
    match &request.kind {
        RequestKind::Tcp { exchange, .. } => exchange.read != Read::First || exchange.send.len() > 1,
        RequestKind::Http { .. } | RequestKind::Dns { .. } => false,
    }
}

/// Waits until nothing new has been observed for a while.
async fn quiet(lab: &Lab) {
    while within(QUIET, "news", lab.observer.news()).await.is_ok() {}
}

fn told(result: wire::Result, collected: &Collected) -> AnswerReport {
    let log = collected.entries.iter().map(|entry| LogReport {
        pod: entry.pod.clone(),
        fields: entry.fields(),
    });
    AnswerReport {
        error: result.error,
        headers: result.headers,
        body: (result.body_length <= LONGEST_SHOWN).then_some(result.body),
        body_hex: result.body_hex.filter(|_| result.body_length <= LONGEST_SHOWN),
        body_length: result.body_length,
        body_sha256: result.body_sha256,
        trailers: result.trailers,
        end: result.end,
        seconds: result.seconds,
        access_log: log.collect(),
    }
}

fn kind(lab: &Lab, request: &Request) -> wire::Kind {
    let own = request.from.target.pod;
    match &request.kind {
        RequestKind::Http {
            method,
            url,
            headers,
            body,
            chunked,
            trailers,
            http2,
            scrape_of: _,
        } => wire::Kind::Http {
            method: method.clone(),
            url: lab.plan.expand(url, own),
            headers: headers
                .iter()
                .map(|(name, value)| (name.clone(), lab.plan.expand(value, own)))
                .collect(),
            body: wire::Body {
                chunked: *chunked,
                trailers: trailers.clone(),
                ..wire_body(body)
            },
            http2: *http2,
        },
        RequestKind::Tcp { address, exchange } => wire::Kind::Tcp {
            address: lab.plan.expand(address, own),
            exchange: wire::Exchange::of(exchange, |text| lab.plan.expand(text, own)),
        },
        RequestKind::Dns { name, server, tcp } => wire::Kind::Dns {
            name: name.clone(),
            server: server.as_ref().map(|server| lab.plan.expand(server, own)),
            tcp: *tcp,
        },
    }
}

fn wire_body(body: &Body) -> wire::Body {
    match body {
        Body::Empty => wire::Body::default(),
        Body::Text(text) => wire::Body {
            text: Some(text.clone()),
            ..wire::Body::default()
        },
        Body::Generated(length) => wire::Body {
            generated: Some(*length),
            ..wire::Body::default()
        },
    }
}

async fn run_client(
    lab: &Rc<Lab>,
    actor: &Actor,
    role: &str,
    stdin: Vec<u8>,
    timeout: Duration,
) -> Result<(u32, Vec<u8>), String> {
    let spec = Spec {
        role: role.to_owned(),
        program: Program::Lab(vec!["request".to_owned()]),
        identity: identity::acting(&lab.scenario, actor),
        env: Vec::new(),
        stdin: Stdin::Bytes(stdin),
        inherit: Vec::new(),
    };
    let mut process = process::spawn(lab.space(actor.target.pod), spec)
        .map_err(|error| format!("starting a client as {role}: {}", super::chain(&error)))?;
    let pid = process.pid();
    lab.register(actor.target.pod, pid, role)?;
    let (Some(mut stdout), Some(mut stderr)) = (process.take_stdout(), process.take_stderr()) else {
        return Err("a client without output".to_owned());
    };
    let (mut output, mut words) = (Vec::new(), String::new());
    let ended = async {
        let (out, err) = tokio::join!(stdout.read_to_end(&mut output), stderr.read_to_string(&mut words));
        out.and(err)
            .map_err(|error| format!("reading the client's answer: {error}"))?;
        Ok::<_, String>(process.exited().await)
    };
    let status = within(timeout + CLIENT_SLACK, "the client to end", ended)
        .await
        .map_err(|e| e.to_string())??;
    if output.is_empty() {
        return Err(format!("the client gave no answer ({status}): {}", words.trim()));
    }
    Ok((pid, output))
}

/// The connections that the client made for the request itself; looking up a name is only the way to it.
fn origins(pod: &str, role: &str, pid: u32, request: &Request, result: &wire::Result) -> Vec<Origin> {
    let of_lookups = matches!(request.kind, RequestKind::Dns { .. });
    let connections = if of_lookups {
        &result.lookup_connections
    } else {
        &result.connections
    };
    connections
        .iter()
        .map(|connection| Origin {
            carries: true,
            pod: pod.to_owned(),
            role: role_of(role),
            pid: Some(pid),
            protocol: protocol_of(&connection.proto),
            local: connection.local,
            remote: connection.remote,
        })
        .collect()
}

fn seen(result: &wire::Result, collected: &Collected) -> Seen {
    Seen {
        outcome: Outcome::ALL
            .into_iter()
            .find(|outcome| outcome.name() == result.outcome),
        error: result.error.clone().unwrap_or_default(),
        status: result.status,
        headers: result.headers.clone(),
        body: result.body.clone(),
        flags: outermost_flags(collected),
        exit_code: None,
        legs: Vec::new(),
        unobserved: collected.unobserved.clone(),
        pods: Vec::new(),
    }
}

/// The response flags of the sidecar that the request met first.
fn outermost_flags(collected: &Collected) -> Option<String> {
    collected
        .entries
        .first()
        .map(|entry| match entry.response_flags.as_slice() {
            [] => "-".to_owned(),
            flags => flags.join(","),
        })
}
