//! Steps: what is done, and to whom.

use std::num::NonZeroU16;
use std::time::Duration;

use super::{Actor, ContainerId, Expect, Gate, Location, PodId, ProcessName, Request};
use crate::scenario::lifecycle::{Phase, ProbeKind};
use crate::scenario::objects::{Object, ObjectName};

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name; `step N` if the file gives none.
    pub name: String,
    /// Where the file has it.
    pub location: Location,
    /// What is done.
    pub action: Action,
    /// What must be seen.
    pub expect: Expect,
    /// What a published explanation says, shown beside what the kernel reported.
    pub article: Option<String>,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// One request.
    Request(Request),
    /// Run a program in a container and wait for its end.
    Exec {
        /// Where.
        from: Actor,
        /// Program and arguments.
        command: Vec<String>,
        /// How long it may take.
        timeout: Duration,
    },
    /// Close gates.
    Hold(PodId, Vec<Gate>),
    /// Open gates, and wait until what they held has happened.
    Release(PodId, Vec<Gate>),
    /// Start what was stopped.
    Start(Target),
    /// SIGTERM, then SIGKILL after the grace period; waits for the end.
    Stop(Target),
    /// A signal, SIGKILL if none is given; waits for the end if the signal ends it.
    Kill(Target, i32),
    /// Stop it, and start it.
    Restart(Target),
    /// SIGSTOP: it keeps its sockets and does nothing.
    Freeze(Target),
    /// SIGCONT.
    Thaw(Target),
    /// Kubernetes deletes the pod: returns when the endpoints are told; the rest takes its course.
    Delete(PodId),
    /// One probe of a container, as kubelet sends it.
    Probe {
        /// The pod.
        pod: PodId,
        /// Whose.
        container: ContainerId,
        /// Which.
        kind: ProbeKind,
    },
    /// An object is there from now on, in the place of what it was before.
    Apply(Object),
    /// An object is there no more.
    Withdraw(ObjectName),
    /// Stops istiod, or starts it again.
    Istiod(Power),
    /// Takes a pod's link down, or up again.
    Link(PodId, Power),
    /// Delays and drops what goes to a pod.
    Netem(PodId, Impairment),
    /// A segment of an open connection, out of its window, sent from where the connection was opened.
    InvalidSegment {
        /// Who opened it.
        from: Target,
        /// The port that it was opened to.
        port: NonZeroU16,
    },
    /// The pod's rules are installed once more, as when istio-init runs again.
    Rules {
        /// Whose.
        pod: PodId,
        /// How.
        mode: RulesRerun,
    },
    /// Wait for an event.
    Wait {
        /// Which.
        event: Event,
        /// How long at most.
        timeout: Duration,
    },
    /// All at once.
    Parallel(Vec<Step>),
    /// The same again and again; every round is held to the steps' expectations.
    Repeat {
        /// How often.
        times: u32,
        /// What.
        steps: Vec<Step>,
    },
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// It works.
    Up,
    /// It does not.
    Down,
}

/// How istio-init treats rules that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RulesRerun {
    /// It looks first, and does nothing if they are what it would install (Istio 1.24 and later).
    Verify,
    /// It installs them without looking, and fails (earlier).
    Blindly,
}

/// What a link does to packets (`netem`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impairment {
    /// Each is late by this.
    pub delay: Duration,
    /// More or less by this.
    pub jitter: Duration,
    /// This share of them is lost, 0 to 1.
    pub loss: f64,
}

/// A process of a pod that steps act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// The pod.
    pub pod: PodId,
    /// Which of its processes.
    pub process: ProcessName,
}

/// An event that a step can wait for.
#[derive(Debug, Clone)]
pub enum Event {
    /// The pod's sidecar is ready (15021), its containers are started, and their probes hold.
    Ready(PodId),
    /// The pod is not ready, and everybody knows.
    NotReady(PodId),
    /// A process runs.
    Started(Target),
    /// The pod is in this phase.
    Phase(PodId, Phase),
    /// The pod was deleted, and nothing of it runs any more.
    Terminated(PodId),
    /// This happened to the pod, at any time since it was made.
    Happened(PodId, String),
    /// A process has ended.
    Exited(Target),
    /// A connection from this process to this port was seen, at any time since the pod was made.
    Connection {
        /// Who opened it.
        from: Target,
        /// The destination port as the client asked for it.
        port: NonZeroU16,
    },
}
