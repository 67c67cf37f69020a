//! 15020: `/healthz/ready`, `/app-health/…`, `/stats/prometheus`, `/quitquitquit`; and the watch over the data plane's readiness.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::{Life, Shared};
use crate::within::within;

/// Where the data plane's metrics are.
const METRICS: u16 = 15090;

/// How long one question may take: the `timeoutSeconds` of Istio's readiness probe.
const ASK: Duration = Duration::from_secs(3);
/// When a data plane that is not ready is asked again, beyond the moments at which xDS moves; it doubles.
const IMPATIENT: Duration = Duration::from_millis(10);
const LESS_IMPATIENT: Duration = Duration::from_millis(160);
/// How often a data plane that is ready is asked.
const PATIENT: Duration = Duration::from_secs(1);

/// Serves 15020 until it is aborted.
pub(super) async fn serve(shared: Rc<Shared>, socket: TcpListener) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        while open.try_join_next().is_some() {}
        let shared = Rc::clone(&shared);
        let service = service_fn(move |request| {
            let shared = Rc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&shared, &request).await) }
        });
        open.spawn_local(async move {
            // A client that goes away is no concern of the port.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; version=0.0.4"),
    );
    response
}

async fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (_, "/healthz/ready") => match look(shared).await {
            Condition::Ready => text(StatusCode::OK, "ready\n"),
            Condition::Silent(why) | Condition::Starting(why) => {
                let why = format!("Envoy is not ready: {why}\n");
                text(StatusCode::SERVICE_UNAVAILABLE, why)
            }
        },
        (_, path) if path.starts_with("/app-health/") => {
            let (status, body) =
                super::app_health::answer(&shared.probers, &shared.events, &shared.args.node_id, path).await;
            text(status, body)
        }
        (_, "/stats/prometheus" | "/metrics") => text(StatusCode::OK, metrics(shared).await),
        (&Method::POST, "/quitquitquit") => {
            shared.quit.send_replace(true);
            text(StatusCode::OK, "")
        }
        (_, "/quitquitquit") => text(StatusCode::METHOD_NOT_ALLOWED, "POST required\n"),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// How a data plane is, by its admin port.
enum Condition {
    /// It does not answer.
    Silent(String),
    /// It is not LIVE yet, or no more.
    Starting(String),
    /// It is LIVE.
    Ready,
}

impl Condition {
    /// The event that tells that it has come to this.
    const fn event(&self) -> &'static str {
        match self {
            Self::Silent(_) => "silent",
            Self::Starting(_) => "unready",
            Self::Ready => "ready",
        }
    }
}

/// The data plane first, then the agent's own DNS, as pilot-agent's `/healthz/ready` asks them.
async fn look(shared: &Shared) -> Condition {
    match get(shared.admin(), "/ready").await {
        Ok((StatusCode::OK, _)) if shared.names.as_ref().is_some_and(|names| !names.are_known()) => {
            Condition::Starting("DNS capture is on and the name table has not come yet".to_owned())
        }
        Ok((StatusCode::OK, _)) => Condition::Ready,
        Ok((_, body)) => Condition::Starting(body.trim().to_owned()),
        Err(why) => Condition::Silent(why),
    }
}

/// Tells when the data plane first answers, when it becomes ready, and when it no longer is.
pub(super) async fn watch(shared: Rc<Shared>) {
    let mut moved = shared.moved.subscribe();
    let silent = Condition::Silent(String::new()).event();
    let (mut life, mut was) = (shared.life.get(), silent);
    let mut pause = IMPATIENT;
    let mut timed: Option<Life> = None;
    loop {
        let asked = shared.life.get();
        if !asked.runs {
            if moved.changed().await.is_err() {
                return;
            }
            continue;
        }
        let condition = look(&shared).await;
        // Of each data plane everything is told anew; what the one before answered says nothing.
        if asked == shared.life.get() {
            if std::mem::replace(&mut life, asked) != asked {
                was = silent;
            }
            let is = condition.event();
            if std::mem::replace(&mut was, is) != is {
                if matches!(condition, Condition::Ready) && timed.replace(asked) != Some(asked) {
                    shared.startup.set(Some(shared.begun.get().elapsed()));
                }
                shared.events.tell(&json!({ "event": is }));
            }
        }
        let patience = match condition {
            Condition::Ready => PATIENT,
            Condition::Silent(_) | Condition::Starting(_) => pause,
        };
        // Time passing is a reason to look again too.
        pause = match within(patience, "xDS to move", moved.changed()).await {
            Ok(_) => IMPATIENT,
            Err(_) => (pause * 2).min(LESS_IMPATIENT),
        };
    }
}

pub(super) async fn get(host: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let ask = async {
        let stream = TcpStream::connect(host).await.map_err(|error| words(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| words(&error))?;
        let connection = tokio::task::spawn_local(connection);
        let request = Request::get(path)
            .header(header::HOST, host.to_string())
            .body(Empty::<Bytes>::new());
        let request = request.map_err(|error| words(&error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| words(&error))?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| words(&error))?
            .to_bytes();
        connection.abort();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    within(ASK, "an answer", ask)
        .await
        .map_err(|error| error.to_string())?
}

/// The data plane's metrics, the app's, and the agent's own. What cannot be had is counted, and the rest is given.
async fn metrics(shared: &Shared) -> String {
    thread_local! {
        static STARTED: Instant = Instant::now();
        static ERRORS: std::cell::Cell<[u64; 2]> = const { std::cell::Cell::new([0, 0]) };
    }
    let failed = |which: usize| {
        ERRORS.with(|errors| {
            let mut all = errors.get();
            all[which] += 1;
            errors.set(all);
        });
    };
    let mut text = String::new();
    let local = |port| SocketAddr::new(shared.here.localhost, port);
    match get(local(METRICS), "/stats/prometheus").await {
        Ok((StatusCode::OK, body)) => text.push_str(&body),
        Ok(_) | Err(_) => failed(0),
    }
    if let Some((port, path)) = shared
        .args
        .app_metrics
        .as_deref()
        .and_then(|it| it.split_once('/'))
    {
        let host = port.parse().map(local);
        match host {
            Ok(host) => match get(host, &format!("/{path}")).await {
                Ok((StatusCode::OK, body)) => text.push_str(&body),
                Ok(_) | Err(_) => failed(1),
            },
            Err(_) => failed(1),
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let [envoy, app] = ERRORS.with(std::cell::Cell::get);
    let uptime = STARTED.with(Instant::elapsed).as_secs_f64();
    text.push_str(&format!(
        "# HELP istio_agent_scrape_failures_total Scrapes of the data plane or the app that gave nothing.\n\
         # TYPE istio_agent_scrape_failures_total counter\n\
         istio_agent_scrape_failures_total{{type=\"envoy\"}} {envoy}\n\
         istio_agent_scrape_failures_total{{type=\"application\"}} {app}\n\
         # HELP istio_agent_uptime_seconds Since the agent started.\n\
         # TYPE istio_agent_uptime_seconds gauge\nistio_agent_uptime_seconds {uptime}\n"
    ));
    if let Some(names) = &shared.names {
        text.push_str(&names.metrics());
    }
    if let Some(startup) = shared.startup.get() {
        text.push_str(&format!(
            "# HELP istio_agent_data_plane_startup_seconds From the start of the data plane's process to its readiness.\n\
             # TYPE istio_agent_data_plane_startup_seconds gauge\n\
             istio_agent_data_plane_startup_seconds {}\n",
            startup.as_secs_f64()
        ));
    }
    text
}
