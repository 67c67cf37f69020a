//! Histograms: how many values came within each of Envoy's default limits (`envoy.config.metrics.v3.HistogramBucketSettings`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The upper limits, in the value's own unit; beyond the last one there is no limit.
pub const LIMITS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A histogram of whole numbers. Cheap to clone and to change.
#[derive(Debug, Clone, Default)]
pub struct Histogram(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    within: [AtomicU64; LIMITS.len()],
    all: AtomicU64,
    sum: AtomicU64,
}

/// What a histogram has counted by a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Values up to each limit.
    pub within: Vec<u64>,
    /// All values.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl Histogram {
    /// One more value.
    pub fn record(&self, value: u32) {
        for (limit, within) in LIMITS.iter().zip(&self.0.within).rev() {
            if f64::from(value) > *limit {
                break;
            }
            within.fetch_add(1, Ordering::Relaxed);
        }
        self.0.all.fetch_add(1, Ordering::Relaxed);
        self.0.sum.fetch_add(value.into(), Ordering::Relaxed);
    }

    /// What it has counted by now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            within: self
                .0
                .within
                .iter()
                .map(|it| it.load(Ordering::Relaxed))
                .collect(),
            count: self.0.all.load(Ordering::Relaxed),
            sum: self.0.sum.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_for_every_limit_that_it_does_not_pass() {
        let histogram = Histogram::default();
        for value in [0, 3, 4_000_000] {
            histogram.record(value);
        }
        let seen = histogram.snapshot();
        assert_eq!((seen.count, seen.sum), (3, 4_000_003));
        assert_eq!(seen.within[..3], [1, 1, 2]);
        assert_eq!(seen.within.last(), Some(&2));
    }
}
