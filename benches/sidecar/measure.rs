//! Figures out of what wrk, h2load and /proc printed.

use std::collections::BTreeMap;

/// Figures by load and kind, one for each round.
#[derive(Debug, Default)]
pub(crate) struct Measured(BTreeMap<(String, String, Figure), Vec<f64>>);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// Requests per second.
    Rate,
    /// Median latency, microseconds.
    P50,
    /// 99th percentile of latency, microseconds.
    P99,
    /// Bytes per second.
    Throughput,
    /// Processor time of the sidecar for one request, microseconds.
    Cpu,
    /// Resident memory of the sidecar, MB.
    Resident,
    /// From the kill of a sidecar to the readiness of the next and of the mesh, milliseconds.
    Restart,
    /// From the exec of a sidecar to its readiness, as its agent saw it, milliseconds.
    Startup,
}

/// One process of a sidecar at a moment: clock ticks that it has used, and its resident memory.
#[derive(Debug, Clone, Copy, Default)]
struct Process {
    ticks: f64,
    resident_mb: f64,
}

impl Measured {
    /// From the steps of a run.
    pub(crate) fn read(steps: &[(String, f64, String)]) -> Self {
        let mut all = Self::default();
        let mut before = BTreeMap::new();
        let mut requests = 0.0;
        for (name, seconds, printed) in steps {
            let words: Vec<&str> = name.split(' ').collect();
            match words.as_slice() {
                ["load", load, kind] => requests = all.load(load, kind, printed),
                ["processes", "idle"] => {
                    for (kind, process) in processes(printed) {
                        all.add("idle", kind, Figure::Resident, process.resident_mb);
                    }
                }
                ["processes", "before", ..] => before = processes(printed),
                ["processes", "after", load, kind] => {
                    if let (Some(now), Some(then)) = (processes(printed).get(kind), before.get(kind)) {
                        let micros = (now.ticks - then.ticks) * 10_000.0;
                        all.add(load, kind, Figure::Cpu, micros / requests);
                        all.add(load, kind, Figure::Resident, now.resident_mb);
                    }
                }
                ["startup", kind] => {
                    let told = printed.split_once("\nistio_agent_data_plane_startup_seconds ");
                    let told = told.and_then(|(_, rest)| rest.lines().next()?.parse::<f64>().ok());
                    let seconds = told.expect("the agent tells how long it took");
                    all.add("startup", kind, Figure::Startup, seconds * 1e3);
                }
                ["ready", kind] => all.add("restart", kind, Figure::Restart, seconds * 1e3),
                _ => {}
            }
        }
        all
    }

    fn add(&mut self, load: &str, kind: &str, figure: Figure, value: f64) {
        let key = (load.to_owned(), kind.to_owned(), figure);
        self.0.entry(key).or_default().push(value);
    }

    /// Takes in what a load printed; returns how many requests it made.
    fn load(&mut self, load: &str, kind: &str, printed: &str) -> f64 {
        let after = |mark: &str| {
            let rest = printed.split_once(mark).map(|(_, rest)| rest);
            rest.and_then(|rest| rest.split_whitespace().next())
                .unwrap_or_default()
        };
        let before = |mark: &str| {
            let rest = printed.split_once(mark).map(|(rest, _)| rest);
            rest.and_then(|rest| rest.split_whitespace().last())
                .unwrap_or_default()
        };
        if printed.contains("finished in") {
            let rate: f64 = before(" req/s").parse().expect("h2load tells its rate");
            self.add(load, kind, Figure::Rate, rate);
            return after("requests: ").parse().unwrap_or(rate);
        }
        let rate = after("Requests/sec:").parse().expect("wrk tells its rate");
        self.add(load, kind, Figure::Rate, rate);
        self.add(load, kind, Figure::Throughput, size(after("Transfer/sec:")));
        let distribution = printed.split_once("Latency Distribution").map(|(_, rest)| rest);
        for (mark, figure) in [("50%", Figure::P50), ("99%", Figure::P99)] {
            let told = distribution.and_then(|text| text.split_once(mark));
            if let Some(value) = told.and_then(|(_, rest)| rest.split_whitespace().next()) {
                self.add(load, kind, figure, micros(value));
            }
        }
        before(" requests in").parse().unwrap_or(rate)
    }

    /// The median of a figure, if it was measured.
    pub(crate) fn median(&self, load: &str, kind: &str, figure: Figure) -> Option<f64> {
        let mut values = self.0.get(&(load.to_owned(), kind.to_owned(), figure))?.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

/// `1.23MB` and so on, in bytes.
fn size(text: &str) -> f64 {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let factor = match &text[end..] {
        "GB" => 1024.0 * 1024.0 * 1024.0,
        "MB" => 1024.0 * 1024.0,
        "KB" => 1024.0,
        _ => 1.0,
    };
    text[..end].parse().unwrap_or(f64::NAN) * factor
}

/// `123.00us`, `1.23ms`, `1.00s` in microseconds.
fn micros(text: &str) -> f64 {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let factor = match &text[end..] {
        "ms" => 1e3,
        "s" => 1e6,
        _ => 1.0,
    };
    text[..end].parse().unwrap_or(f64::NAN) * factor
}

/// The data planes, by kind: lines of `/proc/PID/stat` (proc(5): the name in brackets, 14 and 15 the times) and `VmRSS`.
fn processes(printed: &str) -> BTreeMap<&'static str, Process> {
    let mut kinds = BTreeMap::new();
    let mut found: BTreeMap<&'static str, Process> = BTreeMap::new();
    for line in printed.lines() {
        let Some((path, rest)) = line.split_once(':') else {
            continue;
        };
        let pid = path
            .trim_start_matches("/proc/")
            .split('/')
            .next()
            .unwrap_or_default();
        if let Some((head, fields)) = rest.rsplit_once(") ") {
            let kind = match head.split_once('(').map(|(_, name)| name) {
                Some("data-plane") => "builtin",
                Some("envoy") => "envoy",
                _ => continue,
            };
            let fields: Vec<&str> = fields.split(' ').collect();
            let ticks = |index: usize| {
                fields
                    .get(index)
                    .and_then(|text| text.parse::<f64>().ok())
                    .unwrap_or_default()
            };
            kinds.insert(pid, kind);
            found.entry(kind).or_default().ticks += ticks(11) + ticks(12);
        } else if let (Some(kind), Some(size)) = (kinds.get(pid), rest.strip_prefix("VmRSS:")) {
            let kb: f64 = size.trim().trim_end_matches(" kB").parse().unwrap_or_default();
            found.entry(kind).or_default().resident_mb += kb / 1024.0;
        }
    }
    found
}
