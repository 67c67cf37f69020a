//! A scenario that has been checked: every name resolved, every default filled in.
//!
//! Nothing after `resolve` sees a raw field. A pod, container or service is named by its index ([`PodId`] and so on),
//! made by `resolve` alone, so the engine has no "unknown pod" branch.

mod apps;
mod expect;
mod mesh;
mod pods;
mod requests;
mod services;
mod steps;

use std::collections::BTreeMap;

pub use apps::{App, AppRoute, Listen, Raw, Then};
pub use expect::{BodyMatch, Expect, Outcome, Restarts};
pub use mesh::{InboundCluster, Mesh, OutboundTrafficPolicy, ProxyKind};
pub use pods::{Container, Gate, Pod, ProcessName, Sidecar, Workload, XdsType};
pub use requests::{Actor, Body, Exchange, Piece, Read, Request, RequestKind, Slowly};
pub use services::{
    ConnectionPool, DestinationRule, HttpMatch, HttpRoute, Protocol, Service, ServicePort, StringMatch,
    VirtualService, WeightedDestination,
};
pub use steps::{Action, Event, Impairment, Power, RulesRerun, Step, Target};

use super::lifecycle::Clock;

/// A pod of the scenario, by its index in [`Scenario::pods`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId(pub(crate) usize);

/// A container of a pod, by its index in [`Pod::containers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub(crate) usize);

/// A whole scenario file.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its `name`, or the file's stem.
    pub name: String,
    /// Its `description`, empty if none.
    pub description: String,
    /// What holds for the whole mesh.
    pub mesh: Mesh,
    /// Services, in file order.
    pub services: Vec<Service>,
    /// Istio `DestinationRule`s.
    pub destination_rules: Vec<DestinationRule>,
    /// Istio `VirtualService`s.
    pub virtual_services: Vec<VirtualService>,
    /// Pods, in file order. istiod is not among them: the lab always has one.
    pub pods: Vec<Pod>,
    /// Steps, in file order.
    pub steps: Vec<Step>,
    /// `clock`.
    pub clock: Clock,
}

/// Where in the file something stands: 1-based line and column of its first character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

impl Scenario {
    /// The pod of this id.
    pub fn pod(&self, id: PodId) -> &Pod {
        &self.pods[id.0]
    }

    /// True if a step installs this pod's rules a second time.
    pub fn reruns_rules(&self, id: PodId) -> bool {
        fn within(steps: &[Step], id: PodId) -> bool {
            steps.iter().any(|step| {
                if let Action::Rules { pod, .. } = &step.action {
                    return *pod == id;
                }
                if let Action::Parallel(inner) | Action::Repeat { steps: inner, .. } = &step.action {
                    return within(inner, id);
                }
                false
            })
        }
        within(&self.steps, id)
    }

    /// The files that it names: texts by names.
    pub fn files(&self) -> BTreeMap<String, String> {
        let rules = self.pods.iter().filter_map(|pod| pod.custom_rules.as_ref());
        rules
            .map(|rules| (rules.file.clone(), rules.text.clone()))
            .collect()
    }

    /// All pods with their ids.
    pub fn pods_with_ids(&self) -> impl Iterator<Item = (PodId, &Pod)> {
        self.pods
            .iter()
            .enumerate()
            .map(|(index, pod)| (PodId(index), pod))
    }

    /// Makes this the data plane of every sidecar.
    pub fn run_by(&mut self, proxy: ProxyKind) {
        self.mesh.proxy = proxy;
        for sidecar in self.pods.iter_mut().filter_map(|pod| pod.sidecar.as_mut()) {
            sidecar.proxy = proxy;
        }
    }

    /// True if some sidecar's data plane is this.
    pub fn has(&self, proxy: ProxyKind) -> bool {
        let mut sidecars = self.pods.iter().filter_map(|pod| pod.sidecar.as_ref());
        sidecars.any(|sidecar| sidecar.proxy == proxy)
    }
}

impl PodId {
    /// Its index in [`Scenario::pods`].
    pub const fn index(self) -> usize {
        self.0
    }
}

impl ContainerId {
    /// Its index in [`Pod::containers`].
    pub const fn index(self) -> usize {
        self.0
    }
}
