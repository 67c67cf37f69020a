//! The numbers in Prometheus' text format, with labels taken out of the names as Envoy does it
//! (`envoy.config.metrics.v3.StatsConfig`: well-known tag extractors).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::histogram::{LIMITS, Snapshot};
use super::{Kind, Stats};

/// A name without its labels, and the labels.
type Split = (String, Vec<(&'static str, String)>);

/// All numbers; a family's lines stand together, as the format demands.
pub fn render(stats: &Stats) -> String {
    let mut families: BTreeMap<String, (Kind, Vec<String>)> = BTreeMap::new();
    for (name, kind, value) in stats.all() {
        let (name, labels) = split(&name);
        let name = format!("envoy_{}", sanitize(&name));
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escape(value)))
            .collect();
        let line = format!("{name}{{{}}} {value}\n", labels.join(","));
        families
            .entry(name)
            .or_insert_with(|| (kind, Vec::new()))
            .1
            .push(line);
    }
    let mut families: BTreeMap<String, (&str, Vec<String>)> = families
        .into_iter()
        .map(|(name, (kind, lines))| (name, (kind.word(), lines)))
        .collect();
    for (name, seen) in stats.histograms() {
        let (name, labels) = split(&name);
        let name = format!("envoy_{}", sanitize(&name));
        let lines = histogram(&name, &labels, &seen);
        families
            .entry(name)
            .or_insert_with(|| ("histogram", Vec::new()))
            .1
            .extend(lines);
    }
    let mut text = String::new();
    for (name, (kind, lines)) in families {
        #[expect(clippy::expect_used, reason = "invariant: a String takes every write")]
        writeln!(
            text,
            "# HELP {name} Statistic of this name.\n# TYPE {name} {kind}"
        )
        .expect("a String takes every write");
        text.extend(lines);
    }
    text
}

fn histogram(name: &str, labels: &[(&'static str, String)], seen: &Snapshot) -> Vec<String> {
    let labels: String = labels
        .iter()
        .map(|(label, value)| format!("{label}=\"{}\",", escape(value)))
        .collect();
    let plain = labels.trim_end_matches(',');
    let limits = LIMITS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
    let counts = seen.within.iter().chain([&seen.count]);
    let mut lines: Vec<String> = limits
        .zip(counts)
        .map(|(limit, count)| format!("{name}_bucket{{{labels}le=\"{limit}\"}} {count}\n"))
        .collect();
    lines.push(format!("{name}_sum{{{plain}}} {}\n", seen.sum));
    lines.push(format!("{name}_count{{{plain}}} {}\n", seen.count));
    lines
}

/// `cluster.NAME.rest`, `http.PREFIX.rest`, `listener.ADDRESS.rest`: the middle may hold dots, the rest does not.
fn split(name: &str) -> Split {
    for (head, label) in [
        ("cluster.", "cluster_name"),
        ("http.", "http_conn_manager_prefix"),
        ("tcp.", "tcp_prefix"),
        ("listener.", "listener_address"),
    ] {
        let Some(rest) = name.strip_prefix(head) else {
            continue;
        };
        if let Some((middle, last)) = rest.rsplit_once('.') {
            let mut labels = vec![(label, middle.to_owned())];
            let last = response_class(last, &mut labels);
            return (format!("{head}{last}"), labels);
        }
    }
    (name.to_owned(), Vec::new())
}

/// `upstream_rq_503` -> `upstream_rq` and the code as a label; `downstream_rq_2xx` -> `downstream_rq_xx` and the class as a label.
fn response_class(last: &str, labels: &mut Vec<(&'static str, String)>) -> String {
    if let Some(before) = last.strip_suffix("xx")
        && let Some(class) = before.chars().last().filter(char::is_ascii_digit)
    {
        labels.push(("envoy_response_code_class", class.to_string()));
        return format!("{}xx", &before[..before.len() - 1]);
    }
    if let Some(code) = last.strip_prefix("upstream_rq_")
        && code.len() == 3
        && code.bytes().all(|byte| byte.is_ascii_digit())
    {
        labels.push(("envoy_response_code", code.to_owned()));
        return "upstream_rq".to_owned();
    }
    last.to_owned()
}

fn sanitize(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_taken_out_of_names() {
        let stats = Stats::default();
        stats
            .counter("cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_cx_total")
            .add(3);
        stats.counter("http.inbound_0.0.0.0_9080.downstream_rq_2xx").inc();
        stats.gauge("server.live").set(1);
        stats.counter("cluster.a.upstream_rq_503").inc();
        stats.histogram("cluster.a.upstream_rq_time").record(7);
        let text = render(&stats);
        for line in [
            "# TYPE envoy_cluster_upstream_cx_total counter",
            "envoy_cluster_upstream_cx_total{cluster_name=\"outbound|9080||reviews.default.svc.cluster.local\"} 3",
            "envoy_http_downstream_rq_xx{http_conn_manager_prefix=\"inbound_0.0.0.0_9080\",envoy_response_code_class=\"2\"} 1",
            "envoy_server_live{} 1",
            "envoy_cluster_upstream_rq{cluster_name=\"a\",envoy_response_code=\"503\"} 1",
            "# TYPE envoy_cluster_upstream_rq_time histogram",
            "envoy_cluster_upstream_rq_time_bucket{cluster_name=\"a\",le=\"5\"} 0",
            "envoy_cluster_upstream_rq_time_bucket{cluster_name=\"a\",le=\"10\"} 1",
            "envoy_cluster_upstream_rq_time_sum{cluster_name=\"a\"} 7",
        ] {
            assert!(text.lines().any(|seen| seen == line), "no {line} in\n{text}");
        }
    }
}
