//! A pod's life as core/v1 and Istio describe it: probes, hooks, restarts, the end; and the words for what happens in it.

use std::num::NonZeroU16;
use std::time::Duration;

use super::model::{Container, Pod, ProcessName};

/// What kubelet calls the sidecar's container.
pub const PROXY: &str = "istio-proxy";
/// What kubelet calls the init container that installs the rules.
pub const INIT: &str = "istio-init";

/// How fast the lab's clock goes: every duration of a pod's life is multiplied by this.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    /// Above 0, at most 1.
    pub scale: f64,
}

impl Clock {
    /// A duration as it is waited for.
    pub fn scaled(self, duration: Duration) -> Duration {
        duration.mul_f64(self.scale)
    }
}

/// When a container that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Always.
    Always,
    /// If it failed.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    /// True if a container that ended so is started again; `killed` = a failed probe ended it.
    pub const fn restarts(self, code: i32, killed: bool) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0 || killed,
            Self::Never => false,
        }
    }
}

/// Which list of the pod a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKind {
    /// `initContainers`: it runs to its end before the next starts.
    Init,
    /// `initContainers` with `restartPolicy: Always`: it starts before the next, and lives as long as the pod.
    NativeSidecar,
    /// `containers`.
    Main,
}

/// What a probe or a hook does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handler {
    /// A GET from the node, to the pod's address.
    HttpGet {
        /// The port.
        port: NonZeroU16,
        /// The path.
        path: String,
        /// `httpHeaders`.
        headers: Vec<(String, String)>,
    },
    /// A TCP connection from the node, to the pod's address.
    TcpSocket {
        /// The port.
        port: NonZeroU16,
    },
    /// A program in the container.
    Exec {
        /// It and its arguments.
        command: Vec<String>,
    },
    /// Hooks only: nothing but time (`sleep: {seconds: N}`).
    Pause(Duration),
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What it does.
    pub handler: Handler,
    /// `initialDelaySeconds`.
    pub initial_delay: Duration,
    /// `periodSeconds`.
    pub period: Duration,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// `successThreshold`.
    pub success_threshold: u32,
    /// `failureThreshold`.
    pub failure_threshold: u32,
}

/// One of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// `startupProbe`: the others wait for it.
    Startup,
    /// `readinessProbe`: without it the pod is no endpoint.
    Readiness,
    /// `livenessProbe`: without it the container is killed.
    Liveness,
}

impl ProbeKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    /// As core/v1 has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "startupProbe",
            Self::Readiness => "readinessProbe",
            Self::Liveness => "livenessProbe",
        }
    }

    /// The last part of the path that Istio's agent answers it on (`/app-health/CONTAINER/readyz`).
    pub const fn rewritten(self) -> &'static str {
        match self {
            Self::Startup => "startupz",
            Self::Readiness => "readyz",
            Self::Liveness => "livez",
        }
    }
}

/// What kubelet does with a container beyond starting it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerLife {
    /// `startupProbe`.
    pub startup: Option<Probe>,
    /// `readinessProbe`.
    pub readiness: Option<Probe>,
    /// `livenessProbe`.
    pub liveness: Option<Probe>,
    /// `lifecycle.postStart`.
    pub post_start: Option<Handler>,
    /// `lifecycle.preStop`.
    pub pre_stop: Option<Handler>,
}

impl ContainerLife {
    /// One of the probes.
    pub const fn probe(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
        }
    }
}

/// How a pod lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLife {
    /// True if anything of core/v1's or Istio's life cycle was asked for: containers then start in kubelet's order.
    /// Else nothing of the pod waits for anything but its own gate.
    pub ordered: bool,
    /// `restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// The rules come from Istio's CNI plugin, from outside, instead of from istio-init.
    pub cni: bool,
}

/// How a pod's sidecar lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyLife {
    /// `holdApplicationUntilProxyStarts`.
    pub hold_application: bool,
    /// It is a native sidecar (annotation `sidecar.istio.io/nativeSidecar`).
    pub native: bool,
    /// Probes of apps go to the agent (annotation `sidecar.istio.io/rewriteAppHTTPProbers`).
    pub rewrite_probes: bool,
    /// `terminationDrainDuration`.
    pub drain: Duration,
    /// `drainDuration`, whole seconds: how long connections of what is gone from the configuration go on.
    pub drain_duration: Duration,
    /// `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`, with `MINIMUM_DRAIN_DURATION`.
    pub exit_on_zero: Option<Duration>,
    /// `ISTIO_META_IDLE_TIMEOUT`: how long clients' HTTP connections and TCP connections may be idle.
    pub idle_timeout: Option<Duration>,
    /// `ISTIO_META_DNS_CAPTURE`, if it was given.
    pub dns_capture: Option<bool>,
    /// `lifecycle.preStop` of the container `istio-proxy` in the pod's spec.
    pub pre_stop: Option<Handler>,
}

impl Default for ProxyLife {
    /// Istio's: ordinary, not waited for, with probes rewritten.
    fn default() -> Self {
        Self {
            hold_application: false,
            native: false,
            rewrite_probes: true,
            drain: Duration::from_secs(5),
            drain_duration: Duration::from_secs(45),
            exit_on_zero: None,
            idle_timeout: None,
            dns_capture: None,
            pre_stop: None,
        }
    }
}

/// A pod's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Init containers have not all ended.
    Pending,
    /// Containers run, or will again.
    Running,
    /// All containers have ended well, for good.
    Succeeded,
    /// All containers have ended for good, and one of them badly.
    Failed,
}

impl Phase {
    /// All of them, by their names.
    pub const ALL: [(&'static str, Self); 4] = [
        ("Pending", Self::Pending),
        ("Running", Self::Running),
        ("Succeeded", Self::Succeeded),
        ("Failed", Self::Failed),
    ];

    /// As core/v1 has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// What can happen to a container, as events have it after the container's name.
pub const EVENTS: [&str; 20] = [
    "started",
    "ended",
    "back-off",
    "postStart done",
    "postStart failed",
    "preStop done",
    "preStop failed",
    "startupProbe succeeded",
    "startupProbe failed",
    "readinessProbe succeeded",
    "readinessProbe failed",
    "livenessProbe succeeded",
    "livenessProbe failed",
    "SIGTERM",
    "SIGKILL",
    "completed",
    "failed",
    "listening",
    "ready",
    "not ready",
];

/// What can happen to a pod as a whole.
pub const POD_EVENTS: [&str; 5] = ["rules installed", "ready", "not ready", "deleted", "terminated"];

/// What kubelet does before a pod's own containers, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitStep {
    /// istio-init installs the rules.
    Rules,
    /// A container runs to its end.
    Run(ProcessName),
    /// A container starts, and stays.
    Native(ProcessName),
}

/// The order in which kubelet starts what a pod has, with Istio's containers where its injector puts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOrder {
    /// The CNI plugin installs the rules when the sandbox is made.
    pub cni: bool,
    /// `initContainers`.
    pub init: Vec<InitStep>,
    /// `containers`.
    pub main: Vec<ProcessName>,
}

impl StartOrder {
    /// Istio's injector (`reorderPod`): istio-init is the last init container, so that it does not cut others off; the
    /// proxy is the last container, or the first if the application is to be held. As a native sidecar it is the first
    /// init container after istio-init, which then comes first of all.
    pub fn of(pod: &Pod) -> Self {
        let kind = |wanted: fn(&Container) -> bool| {
            pod.containers_with_ids()
                .filter(move |(_, container)| wanted(container))
                .map(|(id, _)| id)
        };
        let init = kind(|container| container.kind != ContainerKind::Main).map(|id| {
            let name = ProcessName::Container(id);
            match pod.container(id).kind {
                ContainerKind::NativeSidecar => InitStep::Native(name),
                ContainerKind::Init | ContainerKind::Main => InitStep::Run(name),
            }
        });
        let mut init: Vec<InitStep> = init.collect();
        let mut main: Vec<ProcessName> = kind(|container| container.kind == ContainerKind::Main)
            .map(ProcessName::Container)
            .collect();
        let rules = (pod.has_rules() && !pod.life.cni).then_some(InitStep::Rules);
        let Some(sidecar) = &pod.sidecar else {
            init.extend(rules);
            return Self {
                cni: pod.has_rules() && pod.life.cni,
                init,
                main,
            };
        };
        if sidecar.life.native {
            init.insert(0, InitStep::Native(ProcessName::Agent));
            if let Some(rules) = rules {
                init.insert(0, rules);
            }
        } else {
            init.extend(rules);
            let place = if sidecar.life.hold_application {
                0
            } else {
                main.len()
            };
            main.insert(place, ProcessName::Agent);
        }
        Self {
            cni: pod.has_rules() && pod.life.cni,
            init,
            main,
        }
    }

    /// Native sidecars, in the order in which they start.
    pub fn natives(&self) -> Vec<ProcessName> {
        let native = |step: &InitStep| match step {
            InitStep::Native(name) => Some(*name),
            InitStep::Rules | InitStep::Run(_) => None,
        };
        self.init.iter().filter_map(native).collect()
    }
}

/// The name under which kubelet knows a process of a pod.
pub fn container_name(pod: &Pod, process: ProcessName) -> &str {
    match process {
        ProcessName::Container(id) => &pod.container(id).name,
        ProcessName::Sidecar | ProcessName::Agent => PROXY,
    }
}
