//! The data plane's admin port: what it knows, in Envoy's shapes.

mod dump;

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::data_plane::{Leaving, Proxy, ServerState};
use crate::http::h1::encode::date;
use crate::stats::histogram::{LIMITS, Snapshot};
use crate::stats::prometheus;

/// Paths, in the order of the list that an unknown path gets.
const PATHS: [(&str, &str); 10] = [
    ("/clusters", "upstream cluster status"),
    ("/config_dump", "dump current configuration"),
    ("/drain_listeners", "drain listeners (POST)"),
    ("/help", "print out list of admin commands"),
    ("/listeners", "print listener info"),
    ("/quitquitquit", "exit the server (POST)"),
    (
        "/ready",
        "print server state, return 200 if LIVE, otherwise return 503",
    ),
    ("/server_info", "print server version/status information"),
    ("/stats", "print server stats"),
    ("/stats/prometheus", "print server stats in prometheus format"),
];

/// Pages of Envoy's that change something, and so want a POST; not all of them are here.
const CHANGES: [&str; 10] = [
    "/drain_listeners",
    "/quitquitquit",
    "/healthcheck/fail",
    "/healthcheck/ok",
    "/logging",
    "/reopen_logs",
    "/reset_counters",
    "/runtime_modify",
    "/cpuprofiler",
    "/heapprofiler",
];

/// Serves the admin port until it is aborted; `quit` is told when somebody asks for the end.
pub async fn serve(proxy: Rc<Proxy>, socket: TcpListener, quit: watch::Sender<bool>) {
    let quit = Rc::new(quit);
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let (task_proxy, quit) = (Rc::clone(&proxy), Rc::clone(&quit));
        let service = service_fn(move |request| {
            let (proxy, quit) = (Rc::clone(&task_proxy), Rc::clone(&quit));
            async move { Ok::<_, Infallible>(answer(&proxy, &quit, &request)) }
        });
        proxy.spawn(async move {
            // A client that goes away is no concern of the port.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

/// A page, whose length is not told: Envoy sends its pages in chunks.
struct Page(Option<Bytes>);

impl Body for Page {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Page> {
    let mut response = Response::new(Page(Some(Bytes::from(body))));
    *response.status_mut() = status;
    let fixed = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache, max-age=0"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::DATE, date());
    headers.insert(header::SERVER, HeaderValue::from_static("envoy"));
    response
}

fn plain(body: impl Into<String>) -> Response<Page> {
    text(StatusCode::OK, "text/plain; charset=UTF-8", body.into())
}

fn json(body: &serde_json::Value) -> Response<Page> {
    text(StatusCode::OK, "application/json", format!("{body:#}\n"))
}

fn answer(proxy: &Rc<Proxy>, quit: &watch::Sender<bool>, request: &Request<Incoming>) -> Response<Page> {
    let query = request.uri().query().unwrap_or_default();
    let wants = |word: &str| query.split('&').any(|part| part == word);
    match request.uri().path() {
        "/ready" => {
            let state = proxy.state();
            let status = if state == ServerState::Live {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            text(status, "text/plain; charset=UTF-8", format!("{}\n", state.name()))
        }
        "/server_info" => json(&json!({
            "version": concat!("lab-proxy/", env!("CARGO_PKG_VERSION")),
            "state": proxy.state().name(),
            "hot_restart_version": "disabled",
            "hot_restart_initializing": false,
            "uptime_current_epoch": format!("{}s", proxy.started.elapsed().as_secs()),
            "uptime_all_epochs": format!("{}s", proxy.started.elapsed().as_secs()),
            "command_line_options": { "concurrency": proxy.bootstrap.concurrency },
            "node": { "id": proxy.bootstrap.node_id },
        })),
        "/stats" if wants("format=prometheus") => plain(prometheus::render(&proxy.stats)),
        "/stats" => statistics(proxy, query),
        "/stats/prometheus" => text(
            StatusCode::OK,
            "text/plain; charset=UTF-8",
            prometheus::render(&proxy.stats),
        ),
        "/clusters" if wants("format=json") => json(&dump::clusters_json(proxy)),
        "/clusters" => plain(dump::clusters_text(proxy)),
        "/listeners" if wants("format=json") => json(&dump::listeners_json(proxy)),
        "/listeners" => plain(dump::listeners_text(proxy)),
        "/config_dump" => json(&dump::config(proxy, query.contains("include_eds"))),
        path if CHANGES.contains(&path) && request.method() != Method::POST => text(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain; charset=UTF-8",
            format!("Method {} not allowed, POST required.", request.method()),
        ),
        "/drain_listeners" => {
            if wants("graceful") {
                let inbound_only = wants("inboundonly");
                proxy.ask_to_leave(if inbound_only {
                    Leaving::Inbound
                } else {
                    Leaving::Everybody
                });
            } else {
                proxy.drain();
            }
            plain("OK\n")
        }
        "/quitquitquit" => {
            quit.send_replace(true);
            plain("OK\n")
        }
        "/help" | "/" => plain(help()),
        _ => text(
            StatusCode::NOT_FOUND,
            "text/plain; charset=UTF-8",
            format!("invalid path. {}", help()),
        ),
    }
}

/// `filter=REGEX` and `usedonly` narrow what is told.
fn statistics(proxy: &Proxy, query: &str) -> Response<Page> {
    let filter = query.split('&').find_map(|part| part.strip_prefix("filter="));
    let filter = match filter.map(regex::Regex::new).transpose() {
        Ok(filter) => filter,
        Err(error) => {
            let (status, kind) = (StatusCode::BAD_REQUEST, "text/plain; charset=UTF-8");
            return text(status, kind, format!("Invalid regex: \"{error}\"\n"));
        }
    };
    let used_only = query.split('&').any(|part| part == "usedonly");
    let lines = proxy.stats.all().into_iter().filter(|(name, _, value)| {
        filter.as_ref().is_none_or(|filter| filter.is_match(name)) && (!used_only || *value > 0)
    });
    let numbers = lines.map(|(name, _, value)| format!("{name}: {value}\n"));
    let histograms = proxy.stats.histograms().into_iter().filter(|(name, seen)| {
        filter.as_ref().is_none_or(|filter| filter.is_match(name)) && (!used_only || seen.count > 0)
    });
    let histograms = histograms.map(|(name, seen)| format!("{name}: {}\n", quantiles(&seen)));
    plain(numbers.chain(histograms).collect::<String>())
}

/// As Envoy words it; a quantile is told as the limit that it lies within.
fn quantiles(seen: &Snapshot) -> String {
    if seen.count == 0 {
        return "No recorded values".to_owned();
    }
    let within = |percent: u64| {
        let wanted = (seen.count * percent).div_ceil(100).max(1);
        let limit = LIMITS
            .iter()
            .zip(&seen.within)
            .find(|(_, count)| **count >= wanted);
        limit.map_or("inf".to_owned(), |(limit, _)| limit.to_string())
    };
    let quantile = |percent| format!("P{percent}(nan,{})", within(percent));
    [0, 25, 50, 75, 90, 95, 99, 100].map(quantile).join(" ")
}

fn help() -> String {
    let lines: String = PATHS
        .iter()
        .map(|(path, what)| format!("  {path}: {what}\n"))
        .collect();
    format!("admin commands are:\n{lines}")
}
