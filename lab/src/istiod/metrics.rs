//! What is counted, under the names that Istio's control plane has for it, as Prometheus text.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::kind::Kind;
use super::mesh::Mesh;

/// Istio's buckets of `pilot_proxy_convergence_time`, in seconds.
const BUCKETS: [f64; 9] = [0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0];

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pushes: [AtomicU64; Kind::COUNT],
    rejects: [AtomicU64; Kind::COUNT],
    overtaken: AtomicU64,
    convergence: Mutex<Convergence>,
}

/// How long proxies took to have a state.
#[derive(Debug, Default)]
struct Convergence {
    /// How often at most as long as each of [`BUCKETS`].
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

impl Counters {
    /// A response was sent.
    pub(super) fn pushed(&self, kind: Kind) {
        self.pushes[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A response was refused.
    pub(super) fn rejected(&self, kind: Kind) {
        self.rejects[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A request came with an old nonce.
    pub(super) fn overtaken(&self) {
        self.overtaken.fetch_add(1, Ordering::Relaxed);
    }

    /// A proxy had all of a state so long after the state was taken in.
    pub(super) fn converged(&self, delay: Duration) {
        let mut convergence = self.convergence.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = delay.as_secs_f64();
        convergence.count += 1;
        convergence.seconds += seconds;
        for (bucket, count) in BUCKETS.iter().zip(&mut convergence.buckets) {
            *count += u64::from(seconds <= *bucket);
        }
    }
}

/// All metrics.
pub(super) fn text(mesh: &Mesh) -> String {
    let mut out = String::new();
    let counters = &mesh.counters;
    let family = |out: &mut String, name: &str, kind: &str, help: &str| {
        line(out, format_args!("# HELP {name} {help}"));
        line(out, format_args!("# TYPE {name} {kind}"));
    };

    family(
        &mut out,
        "pilot_xds_pushes",
        "counter",
        "Responses sent, by type.",
    );
    for kind in Kind::ALL {
        let count = counters.pushes[kind as usize].load(Ordering::Relaxed);
        line(
            &mut out,
            format_args!("pilot_xds_pushes{{type=\"{kind}\"}} {count}"),
        );
    }
    for kind in Kind::ALL {
        let name = format!("pilot_xds_{kind}_reject");
        family(
            &mut out,
            &name,
            "counter",
            "Responses of this type refused by a proxy.",
        );
        let count = counters.rejects[kind as usize].load(Ordering::Relaxed);
        line(&mut out, format_args!("{name} {count}"));
    }
    family(
        &mut out,
        "pilot_total_xds_rejects",
        "counter",
        "Responses refused by a proxy.",
    );
    let rejects: u64 = counters
        .rejects
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .sum();
    line(&mut out, format_args!("pilot_total_xds_rejects {rejects}"));
    let overtaken = counters.overtaken.load(Ordering::Relaxed);
    family(
        &mut out,
        "pilot_xds_expired_nonce",
        "counter",
        "Requests with an old nonce.",
    );
    line(&mut out, format_args!("pilot_xds_expired_nonce {overtaken}"));

    let connected = mesh.connections().len();
    family(&mut out, "pilot_xds", "gauge", "Proxies connected.");
    line(&mut out, format_args!("pilot_xds {connected}"));
    let services = mesh
        .snapshot()
        .map_or(0, |snapshot| snapshot.registry.services.len());
    family(&mut out, "pilot_services", "gauge", "Services known.");
    line(&mut out, format_args!("pilot_services {services}"));

    family(
        &mut out,
        "pilot_proxy_convergence_time",
        "histogram",
        "Seconds from a change of the mesh to a proxy having all that follows from it.",
    );
    convergence(&mut out, counters);
    out
}

fn convergence(out: &mut String, counters: &Counters) {
    const NAME: &str = "pilot_proxy_convergence_time";
    let convergence = counters
        .convergence
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for (bucket, count) in BUCKETS.iter().zip(&convergence.buckets) {
        line(out, format_args!("{NAME}_bucket{{le=\"{bucket}\"}} {count}"));
    }
    let Convergence { count, seconds, .. } = &*convergence;
    line(out, format_args!("{NAME}_bucket{{le=\"+Inf\"}} {count}"));
    line(out, format_args!("{NAME}_sum {seconds}"));
    line(out, format_args!("{NAME}_count {count}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.push_str(&text.to_string());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn every_sample_belongs_to_a_family_and_buckets_add_up() {
        let (reports, _kept) = mpsc::unbounded_channel();
        let mesh = Mesh::new(reports);
        mesh.counters.pushed(Kind::Eds);
        mesh.counters.rejected(Kind::Lds);
        mesh.counters.converged(Duration::from_millis(50));
        mesh.counters.converged(Duration::from_secs(4));
        insta::assert_snapshot!(text(&mesh));
    }
}
