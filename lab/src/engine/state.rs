//! What is known of a running lab, and the one way to wait for it to change.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use tokio::sync::watch;

use crate::scenario::lifecycle::{ContainerKind, Phase, ProbeKind};
use crate::scenario::model::{Container, ContainerId, Gate, PodId, ProcessName, Scenario, Target, Workload};
use crate::scenario::objects::Objects;
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
    /// The Kubernetes objects that are there.
    pub(super) objects: Objects,
    /// istiod was stopped by a step.
    pub(super) istiod_down: bool,
    /// The node ids of the proxies whose streams istiod has.
    pub(super) connected: BTreeSet<String>,
    /// A background task failed: the lab can't go on.
    pub(super) failure: Option<String>,
}

/// Why nothing that is sent to a pod arrives.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CutOff {
    /// Its link is down.
    pub(super) link: bool,
    /// netem drops all.
    pub(super) loss: bool,
}

/// What is known of a pod.
#[derive(Debug, Default)]
pub(super) struct PodState {
    /// Whether anything that is sent to it arrives.
    pub(super) cut_off: CutOff,
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
    /// What kubelet knows of the sidecar's container.
    pub(super) proxy: Member,
    /// What kubelet does with the pod.
    pub(super) kubelet: Kubelet,
    /// What has happened, in order.
    pub(super) events: Vec<String>,
}

/// What kubelet does with a pod.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub(super) struct Kubelet {
    /// What the start waits for; none while it goes on, and when it is over.
    pub(super) waits_for: Option<String>,
    /// Init containers have done their part.
    pub(super) initialized: bool,
    /// An init container failed for good.
    pub(super) init_failed: bool,
    /// Every container has been started once.
    pub(super) started: bool,
    /// All containers have ended for good, so native sidecars end too.
    pub(super) finished: bool,
    /// The pod was deleted.
    pub(super) deleting: bool,
    /// It was deleted, and nothing of it runs.
    pub(super) terminated: bool,
}

/// What kubelet knows of a container that it keeps running.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub(super) struct Member {
    /// Its postStart hook has ended, or it has none.
    pub(super) hooked: bool,
    /// Its startup probe has succeeded, or it has none.
    pub(super) started: bool,
    /// Its readiness probe holds, or it has none.
    pub(super) ready: bool,
    /// Its readiness probe has failed for good: as often in a row as its threshold says.
    pub(super) unready: bool,
    /// It waits before it is started again.
    pub(super) backing_off: bool,
    /// It was stopped by a step, and waits for one that starts it.
    pub(super) stopped: bool,
    /// The probe that was sent last failed: which one, and why.
    pub(super) failed_probe: Option<(ProbeKind, String)>,
    /// A failed probe had it killed.
    pub(super) killed: bool,
    /// It has ended, and is not started again.
    pub(super) over: bool,
    /// How often it was started again.
    pub(super) restarts: u32,
    /// The status of its last end.
    pub(super) exit: Option<i32>,
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
    /// What kubelet knows of it.
    pub(super) member: Member,
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
            objects: Objects::of(scenario),
            istiod_down: false,
            connected: BTreeSet::new(),
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
        let pod = self.pod(target.pod);
        match target.process {
            ProcessName::Container(id) => &pod.containers[id.index()].process,
            ProcessName::Sidecar => &pod.data_plane,
            ProcessName::Agent => &pod.agent,
        }
    }

    /// What kubelet knows of the container of this process.
    pub(super) fn member(&self, target: Target) -> &Member {
        let pod = self.pod(target.pod);
        match target.process {
            ProcessName::Container(id) => &pod.containers[id.index()].member,
            ProcessName::Sidecar | ProcessName::Agent => &pod.proxy,
        }
    }

    /// The same, to change it.
    pub(super) fn member_mut(&mut self, target: Target) -> &mut Member {
        let pod = self.pod_mut(target.pod);
        match target.process {
            ProcessName::Container(id) => &mut pod.containers[id.index()].member,
            ProcessName::Sidecar | ProcessName::Agent => &mut pod.proxy,
        }
    }

    /// True if no gate holds this.
    pub(super) fn open(&self, pod: PodId, gate: Gate) -> bool {
        !self.closed.contains(&(pod, gate))
    }

    /// True if nothing holds this pod's sidecar back from getting ready.
    fn sidecar_free(&self, pod: PodId) -> bool {
        let holds_sidecar = |gate: &Gate| matches!(gate, Gate::Agent | Gate::Sidecar | Gate::Xds(_));
        !self.istiod_down
            && !self
                .closed
                .iter()
                .any(|(id, gate)| *id == pod && holds_sidecar(gate))
    }

    /// What of this pod's start is still to come although no gate holds it; empty = settled.
    pub(super) fn unsettled(&self, scenario: &Scenario, id: PodId) -> Vec<String> {
        let (pod, known) = (scenario.pod(id), self.pod(id));
        if known.kubelet.deleting {
            return Vec::new();
        }
        if pod.life.ordered {
            return self.unsettled_in_order(scenario, id);
        }
        let mut missing = Vec::new();
        if pod.has_rules() && self.open(id, Gate::Rules) && !known.rules {
            missing.push("its rules are not installed".to_owned());
        }
        if pod.sidecar.is_some() {
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

    /// The same of a pod that starts in kubelet's order: that it goes on until a gate holds it, it is ready, or it
    /// fails for good or again and again.
    fn unsettled_in_order(&self, scenario: &Scenario, id: PodId) -> Vec<String> {
        let (pod, known) = (scenario.pod(id), self.pod(id));
        let mut missing = Vec::new();
        if self.phase(scenario, id) == Phase::Failed || known.kubelet.init_failed {
            return missing;
        }
        let holds_start = |gate: &Gate| !matches!(gate, Gate::Exit(_) | Gate::Endpoints);
        let held = self.istiod_down
            || self
                .closed
                .iter()
                .any(|(of, gate)| *of == id && holds_start(gate));
        let all = self.members(scenario, id);
        let mut init = known.containers.iter().map(|container| &container.member);
        let fails = all.iter().any(|member| member.backing_off) || init.any(|member| member.backing_off);
        match &known.kubelet.waits_for {
            Some(what) if !held && !fails => missing.push(format!("it waits for {what}")),
            None if !known.kubelet.started => missing.push("its containers are being started".to_owned()),
            _ => {}
        }
        if pod.has_rules() && pod.life.cni && self.open(id, Gate::Rules) && !known.rules {
            missing.push("its rules are not installed".to_owned());
        }
        if known.agent.pid().is_some() && !known.proxy.killed {
            if !known.agent_listening {
                missing.push(format!("its agent does not listen ({})", describe(&known.agent)));
            }
            if self.sidecar_free(id) && !known.sidecar_ready && !fails {
                missing.push(format!(
                    "its sidecar is not ready ({})",
                    describe(&known.data_plane)
                ));
            }
        }
        for (container_id, container) in pod.containers_with_ids() {
            let state = &known.containers[container_id.index()];
            let serves = matches!(&container.workload, Workload::App(app) if !app.exits);
            let is_open = self.open(id, Gate::Listen(container_id));
            if state.process.pid().is_none() || container.kind == ContainerKind::Init {
                continue;
            }
            if serves && is_open && !state.listening {
                missing.push(format!("container {} does not listen", container.name));
            }
            let member = &state.member;
            if is_open && member.hooked && !held && !(member.ready || member.unready || member.killed) {
                missing.push(format!("container {} is not ready", container.name));
            }
        }
        missing
    }

    /// The containers that live as long as the pod: its own, native sidecars, the proxy.
    fn members(&self, scenario: &Scenario, id: PodId) -> Vec<&Member> {
        let (pod, known) = (scenario.pod(id), self.pod(id));
        let own = pod
            .containers_with_ids()
            .filter(|(_, container)| container.kind != ContainerKind::Init)
            .map(|(id, _)| &known.containers[id.index()].member);
        own.chain(pod.sidecar.as_ref().map(|_| &known.proxy)).collect()
    }

    /// The pod's phase.
    pub(super) fn phase(&self, scenario: &Scenario, id: PodId) -> Phase {
        let (pod, known) = (scenario.pod(id), self.pod(id));
        if !pod.life.ordered {
            return Phase::Running;
        }
        if known.kubelet.init_failed {
            return Phase::Failed;
        }
        if !known.kubelet.initialized {
            return Phase::Pending;
        }
        let mains = pod
            .containers_with_ids()
            .filter(|(_, container)| container.kind == ContainerKind::Main)
            .map(|(id, _)| &known.containers[id.index()].member);
        let ordinary_proxy = pod.sidecar.as_ref().filter(|sidecar| !sidecar.life.native);
        let mains: Vec<&Member> = mains.chain(ordinary_proxy.map(|_| &known.proxy)).collect();
        if mains.iter().any(|member| !member.over) {
            return Phase::Running;
        }
        if mains.iter().all(|member| member.exit == Some(0)) {
            Phase::Succeeded
        } else {
            Phase::Failed
        }
    }

    /// True if the pod is Ready as Kubernetes means it: every container runs and its probe holds, and the sidecar,
    /// which has a readiness probe of Istio's, is ready.
    pub(super) fn ready(&self, scenario: &Scenario, id: PodId) -> bool {
        let (pod, known) = (scenario.pod(id), self.pod(id));
        let holds = |(container, state): (&Container, &ContainerState)| {
            let probed = !pod.life.ordered || (state.member.hooked && state.member.ready);
            container.kind == ContainerKind::Init || (state.process.pid().is_some() && probed)
        };
        !known.kubelet.deleting
            && pod.containers.iter().zip(&known.containers).all(holds)
            && (pod.sidecar.is_none() || known.sidecar_ready)
    }

    /// Why a pod is not ready, as far as its containers' probes tell.
    pub(super) fn failed_probes(&self, scenario: &Scenario, id: PodId) -> Vec<String> {
        let all = scenario.pod(id).containers.iter().zip(&self.pod(id).containers);
        all.filter_map(|(container, state)| {
            let (kind, why) = state.member.failed_probe.as_ref()?;
            Some(format!(
                "container {}: {} failed: {why}",
                container.name,
                kind.name()
            ))
        })
        .collect()
    }
}

fn describe(process: &Running) -> String {
    match process {
        Running::NotYet => "not started".to_owned(),
        Running::As(pid) => format!("running as process {pid}"),
        Running::Ended(how) => format!("ended: {how}"),
    }
}
