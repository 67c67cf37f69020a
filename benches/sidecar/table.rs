//! The table: each figure for no sidecar, the built-in one and Envoy, and the ratio that is held to a limit.

use std::fmt::Write as _;

use crate::measure::{Figure, Measured};

/// How a ratio is held to its limit.
#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
    None,
}

/// A row.
struct Row {
    what: &'static str,
    load: &'static str,
    figure: Figure,
    /// The ratio is of what the sidecar adds to the figure without one.
    added: bool,
    limit: Limit,
}

const fn row(what: &'static str, load: &'static str, figure: Figure, limit: Limit) -> Row {
    Row {
        what,
        load,
        figure,
        added: false,
        limit,
    }
}

const fn added(what: &'static str, load: &'static str, figure: Figure, limit: Limit) -> Row {
    Row {
        added: true,
        ..row(what, load, figure, limit)
    }
}

const ROWS: [Row; 20] = [
    row("requests/s, 1 connection", "c1", Figure::Rate, Limit::None),
    row("requests/s, 16 connections", "c16", Figure::Rate, Limit::None),
    row(
        "requests/s, 64 connections",
        "c64",
        Figure::Rate,
        Limit::AtLeast(1.5),
    ),
    row("requests/s, 256 connections", "c256", Figure::Rate, Limit::None),
    added(
        "added p50 latency, 1 connection, us",
        "c1",
        Figure::P50,
        Limit::AtMost(0.7),
    ),
    added(
        "added p99 latency, 1 connection, us",
        "c1",
        Figure::P99,
        Limit::None,
    ),
    added(
        "added p50 latency, 64 connections, us",
        "c64",
        Figure::P50,
        Limit::None,
    ),
    added(
        "added p99 latency, 64 connections, us",
        "c64",
        Figure::P99,
        Limit::None,
    ),
    row(
        "new connections/s, 64 at a time",
        "new",
        Figure::Rate,
        Limit::AtLeast(1.5),
    ),
    row(
        "requests/s, HTTP/2, 16 x 10 streams",
        "h2",
        Figure::Rate,
        Limit::None,
    ),
    row(
        "100 MB bodies by HTTP, MB/s",
        "long",
        Figure::Throughput,
        Limit::AtLeast(1.0),
    ),
    row(
        "100 MB bodies by TCP, MB/s",
        "tcp",
        Figure::Throughput,
        Limit::AtLeast(1.0),
    ),
    row(
        "CPU of a request, 1 connection, us",
        "c1",
        Figure::Cpu,
        Limit::None,
    ),
    row(
        "CPU of a request, 64 connections, us",
        "c64",
        Figure::Cpu,
        Limit::None,
    ),
    row("CPU of a new connection, us", "new", Figure::Cpu, Limit::None),
    row(
        "resident memory, idle, MB",
        "idle",
        Figure::Resident,
        Limit::AtMost(0.125),
    ),
    row(
        "resident memory, 64 connections, MB",
        "c64",
        Figure::Resident,
        Limit::AtMost(0.125),
    ),
    row(
        "resident memory, 256 connections, MB",
        "c256",
        Figure::Resident,
        Limit::None,
    ),
    row(
        "exec to ready, ms",
        "startup",
        Figure::Startup,
        Limit::AtMost(0.2),
    ),
    row("kill to ready again, ms", "restart", Figure::Restart, Limit::None),
];

/// The whole table.
pub(crate) fn render(measured: &Measured) -> String {
    let mut text = format!(
        "{:<40}{:>12}{:>12}{:>12}{:>16}   limit\n",
        "", "none", "built-in", "Envoy", "built-in/Envoy"
    );
    for row in &ROWS {
        let get = |kind| {
            measured
                .median(row.load, kind, row.figure)
                .map(|value| scaled(row.figure, value))
        };
        let (none, builtin, envoy) = (get("none"), get("builtin"), get("envoy"));
        let base = if row.added { none.unwrap_or_default() } else { 0.0 };
        let (builtin, envoy) = (builtin.map(|it| it - base), envoy.map(|it| it - base));
        let ratio = builtin.zip(envoy).map(|(builtin, envoy)| builtin / envoy);
        let limit = match (row.limit, ratio) {
            (Limit::None, _) | (_, None) => String::new(),
            (Limit::AtLeast(limit), Some(ratio)) => format!("at least {limit}{}", missed(ratio >= limit)),
            (Limit::AtMost(limit), Some(ratio)) => format!("at most {limit}{}", missed(ratio <= limit)),
        };
        writeln!(
            text,
            "{:<40}{:>12}{:>12}{:>12}{:>16}   {limit}",
            row.what,
            number(none),
            number(builtin),
            number(envoy),
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
        )
        .expect("a String takes every write");
    }
    text
}

const fn missed(held: bool) -> &'static str {
    if held { "" } else { "   MISSED" }
}

fn scaled(figure: Figure, value: f64) -> f64 {
    match figure {
        Figure::Throughput => value / 1e6,
        Figure::Rate
        | Figure::P50
        | Figure::P99
        | Figure::Cpu
        | Figure::Resident
        | Figure::Restart
        | Figure::Startup => value,
    }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}
