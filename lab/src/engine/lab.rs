//! A running lab: what every part of the engine holds on to.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use iptables::apply::Snapshot;
use iptables::ruleset::Ruleset;
use tokio::sync::{Mutex, RwLock};
use tokio::task::JoinSet;

use super::logs::Tail;
use super::rules::{Rules, Tools};
use super::state::{State, Watched};
use crate::client::connect::any_towards;
use crate::dns;
use crate::net::tproxy::{self, Routes};
use crate::observe::{Lookup, Observer, Origin, Protocol, Role};
use crate::plan::Plan;
use crate::scenario::model::{Gate, PodId, RulesRerun, Scenario};
use crate::scenario::mutate::Swap;
use crate::world::node::Node;
use crate::world::pod::PodSpace;
use crate::world::process;

/// A running lab.
pub(super) struct Lab {
    pub(super) scenario: Scenario,
    /// Rules that `lab rules mutate` has put in each other's place.
    pub(super) swaps: Vec<Swap>,
    pub(super) plan: Plan,
    pub(super) watched: Watched,
    pub(super) observer: Observer,
    pub(super) tails: RefCell<HashMap<(PodId, String), Tail>>,
    /// What sidecars have refused of their configuration.
    pub(super) nacks: RefCell<Vec<String>>,
    pub(super) node: Node,
    pub(super) istiod: PodSpace,
    pub(super) dns: RefCell<Option<dns::Server>>,
    pub(super) istiod_commands: RefCell<Option<tokio::net::unix::OwnedWriteHalf>>,
    /// Whose turn it is to tell istiod something.
    pub(super) telling: Mutex<()>,
    /// istiod's process, while it runs.
    pub(super) istiod_pid: Cell<Option<u32>>,
    /// The ready pods that istiod and kube-proxy were last told.
    pub(super) told: RefCell<Option<BTreeSet<PodId>>>,
    /// What was told is to be told again.
    pub(super) stale: Cell<bool>,
    /// Held by a step while its path is observed, and by kubelet's probes: what they do is not to be mixed.
    pub(super) quiet: RwLock<()>,
    /// The rules of pods as they were right after they were installed, where a step will compare them.
    installed: RefCell<HashMap<PodId, Snapshot>>,
    /// kube-proxy's rules as they are now.
    routes: RefCell<Option<Ruleset>>,
    pub(super) tools: Tools,
    pods: Vec<PodSpace>,
    tasks: RefCell<JoinSet<()>>,
}

/// The pieces of a lab that are there before anything runs in it.
pub(super) struct Parts {
    pub(super) scenario: Scenario,
    pub(super) plan: Plan,
    pub(super) observer: Observer,
    pub(super) node: Node,
    pub(super) istiod: PodSpace,
    pub(super) pods: Vec<PodSpace>,
    pub(super) tools: Tools,
}

impl Lab {
    pub(super) fn new(parts: Parts) -> Rc<Self> {
        let Parts {
            scenario,
            plan,
            observer,
            node,
            istiod,
            pods,
            tools,
        } = parts;
        Rc::new(Self {
            watched: Watched::new(&scenario),
            swaps: scenario.swaps(),
            scenario,
            plan,
            observer,
            tails: RefCell::default(),
            nacks: RefCell::default(),
            node,
            istiod,
            dns: RefCell::new(None),
            istiod_commands: RefCell::new(None),
            telling: Mutex::new(()),
            istiod_pid: Cell::new(None),
            told: RefCell::new(None),
            stale: Cell::new(false),
            quiet: RwLock::new(()),
            installed: RefCell::default(),
            routes: RefCell::new(None),
            tools,
            pods,
            tasks: RefCell::default(),
        })
    }

    /// Runs a task until the lab comes down.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        // What has ended is let go, or a long run would keep every task's result.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(task);
    }

    /// Ends all tasks.
    pub(super) async fn end_tasks(&self) {
        let mut tasks = self.tasks.take();
        tasks.shutdown().await;
    }

    /// The pod's namespaces.
    pub(super) fn space(&self, id: PodId) -> &PodSpace {
        &self.pods[id.index()]
    }

    /// A process with this id plays this role in this pod.
    pub(super) fn register(&self, pod: PodId, pid: u32, role: &str) -> Result<(), String> {
        let pod = &self.scenario.pod(pod).name;
        self.observer
            .add_process(pod, pid, role_of(role))
            .map_err(|error| super::chain(&error))
    }

    /// A process that was registered has ended, and everything that it did was collected.
    pub(super) fn forget(&self, pod: PodId, pid: u32) {
        if let Err(error) = self.observer.remove_process(&self.scenario.pod(pod).name, pid) {
            self.watched.fail(super::chain(&error));
        }
    }

    /// Something happened to a pod.
    pub(super) fn note(&self, id: PodId, event: &str) {
        self.watched
            .change(|state| state.pod_mut(id).events.push(event.to_owned()));
    }

    /// A duration of a pod's life by the lab's clock.
    pub(super) fn scaled(&self, duration: Duration) -> Duration {
        self.scenario.clock.scaled(duration)
    }

    /// Installs a pod's rules, and tells the observer that there are rules now.
    pub(super) async fn apply_rules(&self, id: PodId) -> Result<(), String> {
        let Some(rules) = Rules::of(self.scenario.pod(id)) else {
            return Ok(());
        };
        let space = &self.space(id).netns;
        let failed = |error: iptables::apply::Error| super::chain(&error);
        self.tools.load(&rules, space).await.map_err(failed)?;
        let sidecar = self.scenario.pod(id).sidecar.as_ref();
        let routes = sidecar.map(|sidecar| Routes::of(&sidecar.interception));
        if let Some(routes) = routes.filter(|routes| !routes.is_empty()) {
            let added = tproxy::add(space, routes).await;
            added.map_err(|error| super::chain(&error))?;
        }
        if self.scenario.reruns_rules(id) {
            let now = self.tools.read(&rules, space).await.map_err(failed)?;
            self.installed.borrow_mut().insert(id, now);
        }
        Ok(())
    }

    /// Installs a pod's rules once more: the tool's exit status and words, as istio-init's would be.
    pub(super) async fn apply_rules_again(
        &self,
        id: PodId,
        mode: RulesRerun,
    ) -> Result<(i32, String), String> {
        let Some(rules) = Rules::of(self.scenario.pod(id)) else {
            return Err("the pod has no rules".to_owned());
        };
        let space = &self.space(id).netns;
        let applied = match mode {
            RulesRerun::Blindly => self.tools.load(&rules, space).await.map(|()| "loaded"),
            RulesRerun::Verify => {
                let installed = self.installed.borrow().get(&id).cloned();
                let before = installed.ok_or("the rules are not installed yet")?;
                self.tools.reload(&rules, &before, space).await
            }
        };
        Ok(match applied {
            Ok(words) => (0, words.to_owned()),
            Err(error) => (1, super::chain(&error)),
        })
    }

    /// Installs kube-proxy's rules in the node.
    pub(super) async fn apply_services(
        &self,
        services: &[iptables::kube_proxy::Service],
    ) -> Result<(), String> {
        let mut ruleset = iptables::kube_proxy::ruleset(services);
        let now = ruleset.clone();
        if let Some(previous) = self.routes.borrow().as_ref() {
            ruleset.retire(previous);
        }
        let spawn = |program: &Path, args: &[&OsStr]| process::spawn_tool(self.node.netns(), program, args);
        iptables::apply::load(&self.tools.iptables, &ruleset, &spawn)
            .await
            .map_err(|error| super::chain(&error))?;
        *self.routes.borrow_mut() = Some(now);
        Ok(())
    }

    /// Waits until istiod's sidecars and kube-proxy have the endpoints that the ready pods ask for.
    pub(super) async fn settled_mesh(&self, limit: Duration) -> Result<(), String> {
        let settled = |state: &State| {
            !self.readiness_untold(state)
                && (state.istiod_down || state.synced >= state.wanted)
                && state.routed >= state.wanted
        };
        let last = |state: &State| {
            let State {
                wanted,
                synced,
                routed,
                ..
            } = state;
            format!(
                "endpoints {wanted}, acknowledged by every sidecar {synced}, in kube-proxy's rules {routed}"
            )
        };
        self.watched
            .wait(limit, "every sidecar to know the ready endpoints", settled, last)
            .await
            .map_err(|error| self.with_logs(&error.to_string()))
    }

    fn readiness_untold(&self, state: &State) -> bool {
        self.stale.get() || self.told.borrow().as_ref() != Some(&self.ready(state))
    }

    /// The pods that are ready, as far as others are to know.
    pub(super) fn ready(&self, state: &State) -> BTreeSet<PodId> {
        let told = self.told.borrow();
        let was = |id: &PodId| told.as_ref().is_some_and(|told| told.contains(id));
        let ids = self.scenario.pods_with_ids().map(|(id, _)| id);
        ids.filter(|id| {
            if state.open(*id, Gate::Endpoints) {
                state.ready(&self.scenario, *id)
            } else {
                was(id)
            }
        })
        .collect()
    }

    /// An error if a sidecar has refused its configuration, in the sidecar's words.
    pub(super) fn accepted(&self) -> Result<(), String> {
        let nacks = self.nacks.borrow();
        if nacks.is_empty() {
            return Ok(());
        }
        Err(format!(
            "a sidecar refused its configuration\n  {}",
            nacks.join("\n  ")
        ))
    }

    /// A message, and what the lab's processes said last.
    pub(super) fn with_logs(&self, message: &str) -> String {
        let mut text = message.to_owned();
        for nack in self.nacks.borrow().iter() {
            text.push_str(&format!("\n  {nack}"));
        }
        for ((id, role), tail) in self.tails.borrow().iter() {
            for line in tail.last(3) {
                text.push_str(&format!("\n  {}/{role}: {line}", self.scenario.pod(*id).name));
            }
        }
        text
    }

    /// A built-in role says that it is about to connect.
    pub(super) fn report_connection(
        &self,
        pod: PodId,
        pid: u32,
        role: &str,
        proto: &str,
        local_port: u16,
        remote: SocketAddr,
    ) {
        let origin = Origin {
            carries: true,
            pod: self.scenario.pod(pod).name.clone(),
            role: role_of(role),
            pid: Some(pid),
            protocol: protocol_of(proto),
            local: {
                let mut local = any_towards(remote);
                local.set_port(local_port);
                local
            },
            remote,
        };
        if let Err(error) = self.observer.reported(origin) {
            self.watched.fail(super::chain(&error));
        }
    }
}

impl Lab {
    /// An agent says what it does with a question that came to its DNS: it answers, or asks elsewhere from this port.
    pub(super) fn report_lookup(
        &self,
        pod: PodId,
        proto: &str,
        client: SocketAddr,
        forward: Option<(u16, SocketAddr)>,
    ) {
        let lookup = Lookup {
            protocol: protocol_of(proto),
            client,
            forward,
        };
        let pod = &self.scenario.pod(pod).name;
        if let Err(error) = self.observer.looked_up(pod, lookup) {
            self.watched.fail(super::chain(&error));
        }
    }
}

/// The role that a name stands for.
pub(super) fn role_of(name: &str) -> Role {
    match name {
        "sidecar" => Role::Sidecar,
        "agent" => Role::Agent,
        container => Role::Container(container.to_owned()),
    }
}

/// The protocol that the client names.
pub(super) fn protocol_of(name: &str) -> Protocol {
    if name == "udp" {
        Protocol::Udp
    } else {
        Protocol::Tcp
    }
}
