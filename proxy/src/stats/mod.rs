//! Counters and gauges under Envoy's names, and their two renderings.

pub mod prometheus;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A counter or gauge. Cheap to clone and to change: made once, held where it is counted.
#[derive(Debug, Clone, Default)]
pub struct Stat(Rc<Cell<u64>>);

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// All numbers of a data plane.
#[derive(Debug, Clone, Default)]
pub struct Stats(Rc<RefCell<BTreeMap<String, (Kind, Stat)>>>);

impl Stat {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.set(self.0.get().wrapping_add(more));
    }

    /// One less.
    pub fn dec(&self) {
        self.0.set(self.0.get().saturating_sub(1));
    }

    /// Exactly this.
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.get()
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
        let mut all = self.0.borrow_mut();
        all.entry(name.to_owned())
            .or_insert_with(|| (kind, Stat::default()))
            .1
            .clone()
    }

    /// All numbers, sorted by name.
    pub fn all(&self) -> Vec<(String, Kind, u64)> {
        self.0
            .borrow()
            .iter()
            .map(|(name, (kind, stat))| (name.clone(), *kind, stat.get()))
            .collect()
    }

    /// Envoy's `/stats`: `name: value`, sorted.
    pub fn text(&self) -> String {
        self.all()
            .into_iter()
            .map(|(name, _, value)| format!("{name}: {value}\n"))
            .collect()
    }
}
