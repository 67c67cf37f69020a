//! Counters and gauges under Envoy's names, and their two renderings.

pub mod histogram;
pub mod prometheus;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use histogram::{Histogram, Snapshot};

/// A counter or gauge. Cheap to clone and to change: made once, held where it is counted. All workers count on it.
#[derive(Debug, Clone, Default)]
pub struct Stat(Arc<AtomicU64>);

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// In Prometheus' word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// All numbers of a data plane.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    numbers: Arc<Mutex<BTreeMap<String, (Kind, Stat)>>>,
    histograms: Arc<Mutex<BTreeMap<String, Histogram>>>,
}

impl Stat {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Exactly this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more when the returned value is dropped.
    pub fn at_end(&self) -> AtEnd {
        AtEnd(self.clone())
    }

    /// One more for as long as the returned value lives.
    pub fn hold(&self) -> Held {
        self.inc();
        Held(self.clone())
    }
}

/// Counts when it is dropped.
#[derive(Debug)]
pub struct AtEnd(Stat);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.inc();
    }
}

/// A gauge that counts this value.
#[derive(Debug)]
pub struct Held(Stat);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Stats {
    /// The counter of this name.
    pub fn counter(&self, name: &str) -> Stat {
        self.named(name, Kind::Counter)
    }

    /// The gauge of this name.
    pub fn gauge(&self, name: &str) -> Stat {
        self.named(name, Kind::Gauge)
    }

    fn named(&self, name: &str, kind: Kind) -> Stat {
        lock(&self.numbers)
            .entry(name.to_owned())
            .or_insert_with(|| (kind, Stat::default()))
            .1
            .clone()
    }

    /// The histogram of this name.
    pub fn histogram(&self, name: &str) -> Histogram {
        lock(&self.histograms).entry(name.to_owned()).or_default().clone()
    }

    /// All histograms, sorted by name.
    pub fn histograms(&self) -> Vec<(String, Snapshot)> {
        let all = lock(&self.histograms);
        all.iter()
            .map(|(name, it)| (name.clone(), it.snapshot()))
            .collect()
    }

    /// All numbers, sorted by name.
    pub fn all(&self) -> Vec<(String, Kind, u64)> {
        lock(&self.numbers)
            .iter()
            .map(|(name, (kind, stat))| (name.clone(), *kind, stat.get()))
            .collect()
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds the lock can panic half-way through a change.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
