//! A pod's life: rules, agent, sidecar and containers, each as soon as its gate is open and what must come before it
//! has come.
//!
//! A pod for which the scenario asks for more of Kubernetes' life cycle is kubelet's (`kubelet`): one container after
//! another, hooks, probes, restarts. Of any other pod this holds:
//!
//! Gates are independent of each other: while `rules` is held the rest of the pod starts without rules, as it does
//! when Istio's CNI plugin comes too late. What no gate holds comes in Kubernetes' order: rules (istio-init) first.

mod handlers;
mod kubelet;
mod probes;
mod supervise;
mod termination;

use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::sys::signal::Signal;
use serde::Deserialize;

use super::identity;
use super::lab::Lab;
use super::logs::{self, Stream};
use super::state::{Admin, Running, State};
use crate::app::wire::{AppEvent, AppSpec};
pub(super) use probes::once as probe_once;
pub(super) use termination::delete;

use crate::plan::{ISTIOD, ISTIOD_XDS_PORT};
use crate::scenario::lifecycle::container_name;
use crate::scenario::model::{ContainerId, Gate, PodId, ProcessName, ProxyKind, Sidecar, Target, Workload};
use crate::world::entry::ENVOY;
use crate::world::process::{self, Process, Program, Spec, Stdin};

/// The descriptor on which a built-in role writes its events.
const EVENTS_FD: i32 = 3;
/// The descriptor whose end of file lets a built-in role go on.
const WAIT_FD: i32 = 4;

/// The descriptor whose end of file lets a built-in app end after SIGTERM.
const EXIT_FD: i32 = 5;

/// What the agent says on its events descriptor; what it says beyond this is not needed here.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum AgentEvent {
    AgentListening,
    DataPlaneStarted {
        pid: u32,
    },
    /// It is about to ask the app for a probe.
    Connecting {
        local_port: u16,
        remote: std::net::SocketAddr,
    },
    /// It answered a question from what it knows, or its asker went away without one.
    DnsAnswered {
        proto: String,
        client: std::net::SocketAddr,
    },
    /// It is about to pass a question on.
    DnsForwarding {
        proto: String,
        client: std::net::SocketAddr,
        local_port: u16,
        remote: std::net::SocketAddr,
    },
    Ready,
    Unready,
    Silent,
    DataPlaneExited {
        status: String,
    },
    #[serde(other)]
    Other,
}

/// Starts everything of this pod that no gate holds, and leaves tasks behind for what is held.
pub(super) fn begin(lab: &Rc<Lab>, id: PodId) {
    let pod = lab.scenario.pod(id);
    if pod.life.ordered {
        lab.spawn(kubelet::run(Rc::clone(lab), id));
        return;
    }
    if pod.has_rules() {
        let task_lab = Rc::clone(lab);
        lab.spawn(async move { install_rules(&task_lab, id).await });
    }
    if pod.sidecar.is_some() {
        let task_lab = Rc::clone(lab);
        lab.spawn(async move { start_agent(&task_lab, id).await });
    }
    for index in 0..pod.containers.len() {
        let task_lab = Rc::clone(lab);
        lab.spawn(async move { start_container(&task_lab, id, ContainerId(index)).await });
    }
}

/// Starts a process that a step has stopped.
pub(super) async fn start(lab: &Rc<Lab>, target: Target) {
    if lab.scenario.pod(target.pod).life.ordered {
        lab.watched
            .change(|state| state.member_mut(target).stopped = false);
        let runs = |state: &State| state.process(target).pid().is_some();
        lab.watched.until(runs).await;
        return;
    }
    match target.process {
        ProcessName::Container(container) => start_container(lab, target.pod, container).await,
        // The agent starts the data plane: its own, or again.
        ProcessName::Agent | ProcessName::Sidecar => start_agent(lab, target.pod).await,
    }
}

async fn install_rules(lab: &Rc<Lab>, id: PodId) {
    lab.watched
        .until(|state| !state.closed.contains(&(id, Gate::Rules)))
        .await;
    match lab.apply_rules(id).await {
        Ok(()) => {
            lab.watched.change(|state| state.pod_mut(id).rules = true);
            lab.note(id, "rules installed");
        }
        Err(error) => lab
            .watched
            .fail(format!("pod {}: {error}", lab.scenario.pod(id).name)),
    }
}

/// Everything else of a pod waits for its rules, unless these are held.
async fn rules_first(lab: &Lab, id: PodId) {
    if lab.scenario.pod(id).has_rules() {
        lab.watched
            .until(|state| state.pod(id).rules || state.closed.contains(&(id, Gate::Rules)))
            .await;
    }
}

async fn start_agent(lab: &Rc<Lab>, id: PodId) {
    lab.watched
        .until(|state| !state.closed.contains(&(id, Gate::Agent)))
        .await;
    rules_first(lab, id).await;
    if let Err(error) = spawn_agent(lab, id) {
        lab.watched.fail(error);
    }
}

fn spawn_agent(lab: &Rc<Lab>, id: PodId) -> Result<(), String> {
    let plan = lab.plan.pod(id);
    let said = |error: std::io::Error| format!("making a pipe for the agent of {}: {error}", plan.name);
    let (events, events_end) = std::io::pipe().map_err(said)?;
    let (wait_end, wait) = std::io::pipe().map_err(said)?;
    let mut args: Vec<String> = ["sidecar", "agent", "--node-id", &plan.node_id]
        .map(str::to_owned)
        .into();
    args.extend(["--istiod".to_owned(), format!("{ISTIOD}:{ISTIOD_XDS_PORT}")]);
    args.extend([
        "--events-fd".to_owned(),
        EVENTS_FD.to_string(),
        "--wait-fd".to_owned(),
        WAIT_FD.to_string(),
    ]);
    args.extend([
        "--concurrency".to_owned(),
        lab.scenario.mesh.concurrency.to_string(),
    ]);
    let pod = lab.scenario.pod(id);
    let sidecar = pod.sidecar.as_ref();
    if let Some(sidecar) = sidecar {
        args.extend([
            "--interception-mode".to_owned(),
            sidecar.interception.mode.name().to_owned(),
        ]);
    }
    if sidecar.is_some_and(Sidecar::captures_dns) {
        args.push("--dns-capture".to_owned());
    }
    if sidecar.is_some_and(|sidecar| sidecar.proxy == ProxyKind::Envoy) {
        args.extend(["--envoy".to_owned(), ENVOY.to_owned()]);
    }
    if plan.ips.second().is_some() {
        let all: Vec<String> = plan.ips.all().map(|ip| ip.to_string()).collect();
        args.extend(["--instance-ips".to_owned(), all.join(",")]);
    }
    if let Some(metrics) = &plan.app_metrics {
        args.extend(["--app-metrics".to_owned(), metrics.clone()]);
    }
    args.extend(supervise::agent_args(lab, id));
    let process = spawn(
        lab,
        id,
        Spec {
            role: "agent".to_owned(),
            program: Program::Lab(args),
            identity: identity::of(pod, ProcessName::Agent),
            env: Vec::new(),
            stdin: Stdin::Null,
            inherit: vec![(events_end.into(), EVENTS_FD), (wait_end.into(), WAIT_FD)],
        },
    )?;
    let pid = process.pid();
    lab.watched.change(|state| {
        let pod = state.pod_mut(id);
        (pod.agent, pod.data_plane) = (Running::As(pid), Running::NotYet);
    });
    own(lab, id, ProcessName::Agent, process);
    let listen_lab = Rc::clone(lab);
    lab.spawn(async move { listen_to_agent(&listen_lab, id, events.into()).await });
    let gate_lab = Rc::clone(lab);
    lab.spawn(async move {
        gate_lab
            .watched
            .until(|state| !state.closed.contains(&(id, Gate::Sidecar)))
            .await;
        drop(wait);
    });
    Ok(())
}

async fn listen_to_agent(lab: &Rc<Lab>, id: PodId, events: OwnedFd) {
    let heard = logs::json_lines(events, |event: AgentEvent| match event {
        AgentEvent::AgentListening => lab
            .watched
            .change(|state| state.pod_mut(id).agent_listening = true),
        AgentEvent::DataPlaneStarted { pid } => {
            if let Err(error) = lab.register(id, pid, "sidecar") {
                lab.watched.fail(error);
            }
            lab.watched
                .change(|state| state.pod_mut(id).data_plane = Running::As(pid));
        }
        AgentEvent::Connecting { local_port, remote } => {
            if let Some(pid) = lab.watched.read(|state| state.pod(id).agent.pid()) {
                lab.report_connection(id, pid, "agent", "tcp", local_port, remote);
            }
        }
        AgentEvent::DnsAnswered { proto, client } => lab.report_lookup(id, &proto, client, None),
        AgentEvent::DnsForwarding {
            proto,
            client,
            local_port,
            remote,
        } => {
            if let Some(pid) = lab.watched.read(|state| state.pod(id).agent.pid()) {
                lab.report_connection(id, pid, "agent", &proto, local_port, remote);
            }
            lab.report_lookup(id, &proto, client, Some((local_port, remote)));
        }
        AgentEvent::Ready => answers(lab, id, Admin::Answers, true),
        AgentEvent::Unready => answers(lab, id, Admin::Answers, false),
        AgentEvent::Silent => answers(lab, id, Admin::Silent, false),
        AgentEvent::DataPlaneExited { status } => {
            answers(lab, id, Admin::Silent, false);
            lab.watched
                .change(|state| state.pod_mut(id).data_plane = Running::Ended(status));
        }
        AgentEvent::Other => {}
    });
    if let Err(error) = heard.await {
        lab.watched.fail(format!(
            "listening to the agent of {}: {error}",
            lab.plan.pod(id).name
        ));
    }
}

/// What the data plane does on its admin port, and whether it is ready.
fn answers(lab: &Lab, id: PodId, admin: Admin, ready: bool) {
    lab.watched.change(|state| {
        let pod = state.pod_mut(id);
        (pod.admin, pod.sidecar_ready) = (admin, ready);
    });
}

async fn start_container(lab: &Rc<Lab>, id: PodId, container: ContainerId) {
    lab.watched
        .until(|state| !state.closed.contains(&(id, Gate::Container(container))))
        .await;
    rules_first(lab, id).await;
    if let Err(error) = spawn_container(lab, id, container) {
        lab.watched.fail(error);
    }
}

fn spawn_container(lab: &Rc<Lab>, id: PodId, container_id: ContainerId) -> Result<(), String> {
    let pod = lab.scenario.pod(id);
    let container = pod.container(container_id);
    let mut inherit = Vec::new();
    let mut events = None;
    let mut wait = None;
    let mut exit = None;
    let program = match &container.workload {
        Workload::Command(argv) => {
            let expand = |word: &String| lab.plan.expand(word, id);
            Program::Command(argv.iter().map(expand).collect())
        }
        Workload::Idle | Workload::App(_) => {
            let said = |error: std::io::Error| format!("making a pipe for {}: {error}", container.name);
            let (read, end) = std::io::pipe().map_err(said)?;
            let (wait_end, gate) = std::io::pipe().map_err(said)?;
            let (exit_end, exit_gate) = std::io::pipe().map_err(said)?;
            inherit.extend([
                (OwnedFd::from(end), EVENTS_FD),
                (OwnedFd::from(wait_end), WAIT_FD),
                (OwnedFd::from(exit_end), EXIT_FD),
            ]);
            (events, wait, exit) = (Some(OwnedFd::from(read)), Some(gate), Some(exit_gate));
            Program::Lab(app_args(lab, id, container_id)?)
        }
    };
    let process = spawn(
        lab,
        id,
        Spec {
            role: container.name.clone(),
            program,
            identity: identity::of(pod, ProcessName::Container(container_id)),
            env: container.env.clone(),
            stdin: Stdin::Null,
            inherit,
        },
    )?;
    let pid = process.pid();
    lab.watched.change(|state| {
        let known = &mut state.pod_mut(id).containers[container_id.index()];
        (known.process, known.listening) = (Running::As(pid), false);
    });
    own(lab, id, ProcessName::Container(container_id), process);
    if let Some(events) = events {
        let task_lab = Rc::clone(lab);
        lab.spawn(async move { listen_to_app(&task_lab, id, container_id, pid, events).await });
    }
    for (pipe, gate) in [
        (wait, Gate::Listen(container_id)),
        (exit, Gate::Exit(container_id)),
    ] {
        let Some(pipe) = pipe else { continue };
        let task_lab = Rc::clone(lab);
        lab.spawn(async move {
            let opened = |state: &State| state.open(id, gate);
            task_lab.watched.until(opened).await;
            drop(pipe);
        });
    }
    Ok(())
}

fn app_args(lab: &Lab, id: PodId, container: ContainerId) -> Result<Vec<String>, String> {
    let pod = lab.scenario.pod(id);
    let spec = AppSpec::of(&pod.name, pod.container(container), |text| {
        lab.plan.expand(text, id)
    });
    let spec = serde_json::to_string(&spec).map_err(|error| error.to_string())?;
    let fds = [
        "--events-fd".to_owned(),
        EVENTS_FD.to_string(),
        "--wait-fd".to_owned(),
        WAIT_FD.to_string(),
        "--exit-fd".to_owned(),
        EXIT_FD.to_string(),
    ];
    Ok(["app".to_owned(), "--spec".to_owned(), spec]
        .into_iter()
        .chain(fds)
        .collect())
}

async fn listen_to_app(lab: &Rc<Lab>, id: PodId, container: ContainerId, pid: u32, events: OwnedFd) {
    let role = &lab.scenario.pod(id).container(container).name;
    let heard = logs::json_lines(events, |event: AppEvent| match event {
        AppEvent::Listening { .. } => {
            lab.watched
                .change(|state| state.pod_mut(id).containers[container.index()].listening = true);
            lab.note(id, &format!("{role} listening"));
        }
        AppEvent::Connecting {
            proto,
            local_port,
            remote,
            ..
        } => {
            lab.report_connection(id, pid, role, &proto, local_port, remote);
        }
    });
    if let Err(error) = heard.await {
        lab.watched.fail(format!(
            "listening to {role} of {}: {error}",
            lab.plan.pod(id).name
        ));
    }
}

fn spawn(lab: &Lab, id: PodId, spec: Spec) -> Result<Process, String> {
    let (pod, role) = (&lab.scenario.pod(id).name, spec.role.clone());
    let process = process::spawn(lab.space(id), spec)
        .map_err(|error| format!("starting {role} in pod {pod}: {}", super::chain(&error)))?;
    lab.register(id, process.pid(), &role)?;
    Ok(process)
}

/// Keeps a process: reads what it prints, notices its end.
fn own(lab: &Rc<Lab>, id: PodId, name: ProcessName, mut process: Process) {
    let pid = process.pid();
    let role = lab.scenario.pod(id).role(name).to_owned();
    for (stream, output) in [
        (Stream::Stdout, process.take_stdout()),
        (Stream::Stderr, process.take_stderr()),
    ] {
        let (task_lab, role) = (Rc::clone(lab), role.clone());
        lab.spawn(async move {
            logs::keep(&task_lab, id, &role, stream, output).await;
        });
    }
    let task_lab = Rc::clone(lab);
    lab.spawn(async move {
        let ended = process.exited().await;
        let target = Target {
            pod: id,
            process: name,
        };
        let called = container_name(task_lab.scenario.pod(id), name);
        task_lab.note(id, &format!("{called} ended {}", ended.code()));
        task_lab.watched.change(|state| {
            state.member_mut(target).exit = Some(ended.code());
            if state.process(target).pid() != Some(pid) {
                return;
            }
            let pod = state.pod_mut(id);
            let how = Running::Ended(ended.to_string());
            match name {
                ProcessName::Container(container) => {
                    let known = &mut pod.containers[container.index()];
                    (known.process, known.listening) = (how, false);
                }
                ProcessName::Agent => {
                    // The data plane dies with its agent (PDEATHSIG).
                    (pod.agent, pod.agent_listening) = (how.clone(), false);
                    (pod.admin, pod.sidecar_ready) = (Admin::Silent, false);
                    pod.data_plane = how;
                }
                ProcessName::Sidecar => pod.data_plane = how,
            }
        });
    });
}

/// Sends a signal to a process of a pod.
pub(super) fn signal(pid: u32, signal: Signal) -> Result<(), String> {
    let raw = i32::try_from(pid).map_err(|error| format!("process id {pid}: {error}"))?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(raw), signal)
        .map_err(|errno| format!("sending {signal} to process {pid}: {errno}"))
}
