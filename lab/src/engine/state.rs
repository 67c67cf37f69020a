//! What is known of a running lab, and the one way to wait for it to change.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;

use crate::scenario::model::{ContainerId, Gate, PodId, Scenario, Sidecar, Target, Workload};
use crate::within::within;

/// What is known of a running lab.
#[derive(Debug)]
pub(super) struct State {
    /// Gates that are closed now.
    pub(super) closed: HashSet<(PodId, Gate)>,
    /// Pods, by the index of their id.
    pub(super) pods: Vec<PodState>,
    /// istiod has its sockets and a first registry.
    pub(super) istiod_listening: bool,
    /// The generation of the registry that every connected sidecar has acknowledged.
    pub(super) synced: u64,
    /// The generation that kube-proxy's rules have.
    pub(super) routed: u64,
    /// The generation that the ready pods ask for.
    pub(super) wanted: u64,
    /// A background task failed: the lab can't go on.
    pub(super) failure: Option<String>,
}

/// What is known of a pod.
#[derive(Debug, Default)]
pub(super) struct PodState {
    /// The rules are installed.
    pub(super) rules: bool,
    /// The agent.
    pub(super) agent: Running,
    /// The agent's own ports are open.
    pub(super) agent_listening: bool,
    /// The data plane.
    pub(super) data_plane: Running,
    /// The data plane's admin port.
    pub(super) admin: Admin,
    /// The sidecar is ready (15021).
    pub(super) sidecar_ready: bool,
    /// Containers, by the index of their id.
    pub(super) containers: Vec<ContainerState>,
}

/// What a data plane does on its admin port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Admin {
    /// Nothing.
    #[default]
    Silent,
    /// It answers, ready or not.
    Answers,
}

/// What is known of a container.
#[derive(Debug, Default)]
pub(super) struct ContainerState {
    /// Its process.
    pub(super) process: Running,
    /// Its built-in app listens.
    pub(super) listening: bool,
}

/// What is known of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Running {
    /// It was never started.
    #[default]
    NotYet,
    /// It runs.
    As(u32),
    /// It has ended, and how.
    Ended(String),
}

impl Running {
    /// Its process id, if it runs.
    pub(super) const fn pid(&self) -> Option<u32> {
        match self {
            Self::As(pid) => Some(*pid),
            Self::NotYet | Self::Ended(_) => None,
        }
    }
}

/// Why a wait did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WaitError {
    /// The deadline came first.
    #[error("waited {} ms for {what}; last seen: {last}", limit.as_millis())]
    TooLong {
        /// What was awaited.
        what: String,
        /// How long.
        limit: Duration,
        /// What was the case when the deadline came.
        last: String,
    },
    /// Something else failed meanwhile.
    #[error("{0}")]
    Failed(String),
}

/// The state, and a bell that rings at each change.
#[derive(Debug)]
pub(super) struct Watched {
    state: RefCell<State>,
    bell: watch::Sender<u64>,
}

impl Watched {
    /// Nothing has happened yet; the scenario's gates are closed.
    pub(super) fn new(scenario: &Scenario) -> Self {
        let pods = scenario.pods.iter().map(|pod| PodState {
            containers: pod.containers.iter().map(|_| ContainerState::default()).collect(),
            ..PodState::default()
        });
        let closed = scenario
            .pods_with_ids()
            .flat_map(|(id, pod)| pod.hold.iter().map(move |gate| (id, *gate)))
            .collect();
        let state = State {
            closed,
            pods: pods.collect(),
            istiod_listening: false,
            synced: 0,
            routed: 0,
            wanted: 0,
            failure: None,
        };
        Self {
            state: RefCell::new(state),
            bell: watch::Sender::new(0),
        }
    }

    /// Reads the state.
    pub(super) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.state.borrow())
    }

    /// Changes the state and wakes whoever waits.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state.borrow_mut());
        self.bell.send_modify(|count| *count += 1);
        result
    }

    /// A background task failed.
    pub(super) fn fail(&self, why: String) {
        self.change(|state| {
            state.failure.get_or_insert(why);
        });
    }

    /// Waits for the next change.
    pub(super) async fn changed(&self) {
        // The sender lives as long as `self`, so this cannot end in an error.
        drop(self.bell.subscribe().changed().await);
    }

    /// Waits without limit until `holds`; for tasks that end with the lab.
    pub(super) async fn until(&self, holds: impl Fn(&State) -> bool) {
        let mut bell = self.bell.subscribe();
        while !self.read(&holds) {
            if bell.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until `holds`, at most `limit`; `missing` says what is not yet so.
    pub(super) async fn wait(
        &self,
        limit: Duration,
        what: &str,
        holds: impl Fn(&State) -> bool,
        missing: impl Fn(&State) -> String,
    ) -> Result<(), WaitError> {
        let ended = within(
            limit,
            what,
            self.until(|state| state.failure.is_some() || holds(state)),
        )
        .await;
        if let Some(failure) = self.read(|state| state.failure.clone()) {
            return Err(WaitError::Failed(failure));
        }
        ended.map_err(|too_long| WaitError::TooLong {
            what: too_long.what,
            limit: too_long.limit,
            last: self.read(missing),
        })
    }
}

impl State {
    /// What is known of this pod.
    pub(super) fn pod(&self, id: PodId) -> &PodState {
        &self.pods[id.index()]
    }

    /// What is known of this pod, to change it.
    pub(super) fn pod_mut(&mut self, id: PodId) -> &mut PodState {
        &mut self.pods[id.index()]
    }

    /// What is known of this process.
    pub(super) fn process(&self, target: Target) -> &Running {
        use crate::scenario::model::ProcessName;
        let pod = self.pod(target.pod);
        match target.process {
            ProcessName::Container(id) => &pod.containers[id.index()].process,
            ProcessName::Sidecar => &pod.data_plane,
            ProcessName::Agent => &pod.agent,
        }
    }

    fn open(&self, pod: PodId, gate: Gate) -> bool {
        !self.closed.contains(&(pod, gate))
    }

    /// True if nothing holds this pod's sidecar back from getting ready.
    fn sidecar_free(&self, pod: PodId) -> bool {
        let holds_sidecar = |gate: &Gate| matches!(gate, Gate::Agent | Gate::Sidecar | Gate::Xds(_));
        !self
            .closed
            .iter()
            .any(|(id, gate)| *id == pod && holds_sidecar(gate))
    }

    /// What of this pod's start is still to come although no gate holds it; empty = settled.
    pub(super) fn unsettled(&self, scenario: &Scenario, id: PodId) -> Vec<String> {
        let (pod, known) = (scenario.pod(id), self.pod(id));
        let mut missing = Vec::new();
        if let Some(Sidecar { intercept, .. }) = &pod.sidecar {
            if *intercept && self.open(id, Gate::Rules) && !known.rules {
                missing.push("its rules are not installed".to_owned());
            }
            if self.open(id, Gate::Agent) && !known.agent_listening {
                missing.push(format!("its agent does not listen ({})", describe(&known.agent)));
            }
            let started = self.open(id, Gate::Agent) && self.open(id, Gate::Sidecar);
            if started && !self.sidecar_free(id) && known.admin == Admin::Silent {
                missing.push(format!(
                    "its data plane does not answer on 15000 ({})",
                    describe(&known.data_plane)
                ));
            }
            if self.sidecar_free(id) && !known.sidecar_ready {
                missing.push(format!(
                    "its sidecar is not ready ({})",
                    describe(&known.data_plane)
                ));
            }
        }
        for (index, (container, known)) in pod.containers.iter().zip(&known.containers).enumerate() {
            let container_id = ContainerId(index);
            if !self.open(id, Gate::Container(container_id)) {
                continue;
            }
            let started = known.process != Running::NotYet;
            let listens = !matches!(container.workload, Workload::App(_))
                || !self.open(id, Gate::Listen(container_id))
                || known.listening;
            if !started || !listens {
                missing.push(format!(
                    "container {} does not serve ({})",
                    container.name,
                    describe(&known.process)
                ));
            }
        }
        missing
    }

    /// True if the pod is Ready as Kubernetes means it without probes of the user's: every container runs, and the
    /// sidecar, which has a readiness probe of Istio's, is ready.
    pub(super) fn ready(&self, scenario: &Scenario, id: PodId) -> bool {
        let known = self.pod(id);
        known
            .containers
            .iter()
            .all(|container| container.process.pid().is_some())
            && (scenario.pod(id).sidecar.is_none() || known.sidecar_ready)
    }
}

fn describe(process: &Running) -> String {
    match process {
        Running::NotYet => "not started".to_owned(),
        Running::As(pid) => format!("running as process {pid}"),
        Running::Ended(how) => format!("ended: {how}"),
    }
}
