//! Pods, their sidecars and containers, and what of their lives can be held.

use std::collections::BTreeMap;

use iptables::options::{Backend, DnsCapture, Interception};

use super::{App, ContainerId, ProxyKind};
use crate::scenario::custom::CustomRules;
use crate::scenario::families::IpFamilies;
use crate::scenario::lifecycle::{ContainerKind, ContainerLife, PodLife, ProxyLife};

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name, a DNS label.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its sidecar, or none (`sidecar: false`, or annotation/label `sidecar.istio.io/inject: "false"`).
    pub sidecar: Option<Sidecar>,
    /// Rules of the user's own in the place of Istio's; a pod without a sidecar may have them too.
    pub custom_rules: Option<CustomRules>,
    /// Containers, at least one; init containers come after the pod's own.
    pub containers: Vec<Container>,
    /// Gates that start closed.
    pub hold: Vec<Gate>,
    /// `securityContext.sysctls`, of its network namespace.
    pub sysctls: Vec<(String, String)>,
    /// Of which families it has an address.
    pub ip_families: IpFamilies,
    /// How it lives.
    pub life: PodLife,
}

impl Pod {
    /// Whether interception rules are installed in it.
    pub fn has_rules(&self) -> bool {
        self.custom_rules.is_some() || self.sidecar.as_ref().is_some_and(|sidecar| sidecar.intercept)
    }

    /// The tool that loads its rules, if it has any.
    pub fn backend(&self) -> Option<Backend> {
        let sidecar = self.sidecar.as_ref().filter(|sidecar| sidecar.intercept);
        let custom = self.custom_rules.as_ref().map(|rules| rules.backend);
        custom.or_else(|| sidecar.map(|sidecar| sidecar.interception.backend))
    }

    /// The container of this id.
    pub fn container(&self, id: ContainerId) -> &Container {
        &self.containers[id.0]
    }

    /// All containers with their ids.
    pub fn containers_with_ids(&self) -> impl Iterator<Item = (ContainerId, &Container)> {
        self.containers
            .iter()
            .enumerate()
            .map(|(index, container)| (ContainerId(index), container))
    }

    /// The name of one of its processes, as a path's role.
    pub fn role(&self, process: ProcessName) -> &str {
        match process {
            ProcessName::Container(id) => &self.container(id).name,
            ProcessName::Sidecar => "sidecar",
            ProcessName::Agent => "agent",
        }
    }
}

/// What a pod's sidecar is like.
#[derive(Debug, Clone)]
pub struct Sidecar {
    /// Which data plane.
    pub proxy: ProxyKind,
    /// The interception rules' options, mesh, pod and annotations merged.
    pub interception: Interception,
    /// Whether rules are installed at all (`mode: NONE` = not).
    pub intercept: bool,
    /// Who agent and data plane run as: 1337, or 0 in mode TPROXY, as Istio's injector has it, unless a container
    /// `istio-proxy` says otherwise.
    pub run_as_user: u32,
    /// Their group.
    pub run_as_group: u32,
    /// A change of its rules, by its number among all that there are (`lab rules mutate`).
    pub mutation: Option<usize>,
    /// How it lives.
    pub life: ProxyLife,
}

impl Sidecar {
    /// Its agent answers DNS.
    pub fn captures_dns(&self) -> bool {
        match self.interception.dns {
            DnsCapture::Off | DnsCapture::NoServers => false,
            DnsCapture::Servers(_) | DnsCapture::All => true,
        }
    }
}

/// A container.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name, the role in a path.
    pub name: String,
    /// What it runs.
    pub workload: Workload,
    /// `securityContext.runAsUser`, 1000 if none.
    pub run_as_user: u32,
    /// `securityContext.runAsGroup`, as the user if none.
    pub run_as_group: u32,
    /// `securityContext.supplementalGroups`.
    pub supplemental_groups: Vec<u32>,
    /// Environment, beyond the lab's own.
    pub env: Vec<(String, String)>,
    /// Which list it stands in.
    pub kind: ContainerKind,
    /// Its probes and hooks.
    pub life: ContainerLife,
}

/// What a container runs.
#[derive(Debug, Clone)]
pub enum Workload {
    /// Nothing but a place to send requests from.
    Idle,
    /// The built-in workload.
    App(App),
    /// A program that is installed on this machine, with its arguments.
    Command(Vec<String>),
}

/// A process of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProcessName {
    /// A container's.
    Container(ContainerId),
    /// The data plane.
    Sidecar,
    /// The agent.
    Agent,
}

/// Something of a pod's life that can be held and released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// The interception rules are installed.
    Rules,
    /// The agent is started.
    Agent,
    /// The data plane is started by the agent.
    Sidecar,
    /// istiod answers this pod's sidecar for one xDS type.
    Xds(XdsType),
    /// The container is started.
    Container(ContainerId),
    /// A built-in app begins to listen.
    Listen(ContainerId),
    /// A built-in app that got SIGTERM makes its last calls and ends.
    Exit(ContainerId),
    /// What others are told of the pod's readiness.
    Endpoints,
}

/// An xDS resource type, as gates name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum XdsType {
    /// Clusters.
    Cds,
    /// Endpoints.
    Eds,
    /// Listeners.
    Lds,
    /// Routes.
    Rds,
    /// Names, for the agent's DNS.
    Nds,
}
