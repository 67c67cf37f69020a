//! A container that lives as long as its pod: started, followed by hooks and probes, started again as the policy says.

use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::super::lab::Lab;
use super::super::state::State;
use super::{handlers, kubelet, probes, signal, spawn_agent, spawn_container};
use crate::scenario::lifecycle::{ContainerKind, Handler, ProbeKind, RestartPolicy, container_name};
use crate::scenario::model::{Gate, PodId, ProcessName, Target};
use crate::within::within;

/// How long `pilot-agent wait`, Istio's postStart hook, waits for the proxy.
const HOLD: Duration = Duration::from_mins(1);

/// How long a native proxy may take: its startup probe asks each second, 600 times.
const NATIVE: Duration = Duration::from_mins(10);

/// Keeps a container running until its policy or the pod's end says otherwise.
pub(super) fn begin(lab: &Rc<Lab>, target: Target) {
    let task_lab = Rc::clone(lab);
    lab.spawn(async move { keep(&task_lab, target).await });
}

async fn keep(lab: &Rc<Lab>, target: Target) {
    let name = container_name(lab.scenario.pod(target.pod), target.process).to_owned();
    loop {
        let may_start = |state: &State| {
            ends(state, target) || (state.open(target.pod, gate(target)) && !state.member(target).stopped)
        };
        lab.watched.until(may_start).await;
        if lab.watched.read(|state| ends(state, target)) {
            return;
        }
        let Some(pid) = start_process(lab, target) else {
            return;
        };
        let gone = |state: &State| state.process(target).pid() != Some(pid);
        tokio::select! {
            () = tend(lab, target, pid) => {}
            () = lab.watched.until(gone) => {}
        }
        let again = lab.watched.change(|state| {
            let policy = policy(lab, target);
            let deleting = ends(state, target);
            let member = state.member_mut(target);
            (member.started, member.ready, member.unready) = (false, false, false);
            // What comes next need not wait for a hook that will never run.
            member.hooked = true;
            let again =
                !deleting && (member.stopped || policy.restarts(member.exit.unwrap_or(-1), member.killed));
            member.over = !again;
            again
        });
        if !again {
            lab.note(
                target.pod,
                &format!(
                    "{name} {}",
                    if succeeded(lab, target) {
                        "completed"
                    } else {
                        "failed"
                    }
                ),
            );
            return;
        }
        let restarts = lab.watched.read(|state| state.member(target).restarts);
        if !lab.watched.read(|state| state.member(target).stopped) {
            back_off(lab, target, restarts).await;
        }
        lab.watched.change(|state| state.member_mut(target).restarts += 1);
    }
}

fn succeeded(lab: &Lab, target: Target) -> bool {
    lab.watched.read(|state| state.member(target).exit == Some(0))
}

const fn gate(target: Target) -> Gate {
    match target.process {
        ProcessName::Container(id) => Gate::Container(id),
        ProcessName::Sidecar | ProcessName::Agent => Gate::Agent,
    }
}

fn ends(state: &State, target: Target) -> bool {
    let kubelet = &state.pod(target.pod).kubelet;
    kubelet.deleting || kubelet.finished
}

/// A native sidecar is started again whatever the pod's policy says.
fn policy(lab: &Lab, target: Target) -> RestartPolicy {
    let pod = lab.scenario.pod(target.pod);
    let native = match target.process {
        ProcessName::Container(id) => pod.container(id).kind == ContainerKind::NativeSidecar,
        ProcessName::Sidecar | ProcessName::Agent => {
            pod.sidecar.as_ref().is_some_and(|sidecar| sidecar.life.native)
        }
    };
    if native {
        RestartPolicy::Always
    } else {
        pod.life.restart_policy
    }
}

/// Waits as long as kubelet would before the container is started once more.
pub(super) async fn back_off(lab: &Lab, target: Target, restarts: u32) {
    let pause = lab.scaled(kubelet::pause(restarts));
    if pause.is_zero() {
        return;
    }
    let name = container_name(lab.scenario.pod(target.pod), target.process);
    lab.note(target.pod, &format!("{name} back-off"));
    lab.watched
        .change(|state| state.member_mut(target).backing_off = true);
    let deleted = lab.watched.until(|state| ends(state, target));
    // The pause is over, or there is nothing to start any more.
    drop(within(pause, "the back-off", deleted).await);
    lab.watched
        .change(|state| state.member_mut(target).backing_off = false);
}

/// Starts the container's process; none if it could not be started, which fails the lab.
pub(super) fn start_process(lab: &Rc<Lab>, target: Target) -> Option<u32> {
    lab.watched.change(|state| {
        let member = state.member_mut(target);
        (member.killed, member.started, member.ready, member.unready) = (false, false, false, false);
        if member.restarts == 0 {
            member.hooked = false;
        }
    });
    let spawned = match target.process {
        ProcessName::Container(id) => spawn_container(lab, target.pod, id),
        ProcessName::Sidecar | ProcessName::Agent => spawn_agent(lab, target.pod),
    };
    if let Err(error) = spawned {
        lab.watched.fail(error);
        return None;
    }
    let name = container_name(lab.scenario.pod(target.pod), target.process);
    lab.note(target.pod, &format!("{name} started"));
    lab.watched.read(|state| {
        let agent = Target {
            process: ProcessName::Agent,
            ..target
        };
        match target.process {
            ProcessName::Container(_) => state.process(target).pid(),
            ProcessName::Sidecar | ProcessName::Agent => state.process(agent).pid(),
        }
    })
}

/// What kubelet does with a container that runs. Never returns before the container is gone or was killed.
async fn tend(lab: &Rc<Lab>, target: Target, pid: u32) {
    let name = container_name(lab.scenario.pod(target.pod), target.process);
    let Ok(ran) = post_start(lab, target).await else {
        lab.note(target.pod, &format!("{name} postStart failed"));
        // The next container is started all the same, but after this one was killed. Whether it starts again is
        // decided by its status alone: kubelet knows of no failure but that.
        return kill(lab, target, pid).await;
    };
    if ran {
        lab.note(target.pod, &format!("{name} postStart done"));
    }
    lab.watched.change(|state| state.member_mut(target).hooked = true);
    let failed = match target.process {
        ProcessName::Container(_) => probes::watch(lab, target, pid).await,
        ProcessName::Sidecar | ProcessName::Agent => watch_proxy(lab, target).await,
    };
    lab.note(target.pod, &format!("{name} {} failed", failed.name()));
    lab.watched.change(|state| state.member_mut(target).killed = true);
    kill(lab, target, pid).await;
}

/// The proxy's own probes are Istio's: what they ask for is what the agent tells.
async fn watch_proxy(lab: &Lab, target: Target) -> ProbeKind {
    let native = lab
        .scenario
        .pod(target.pod)
        .sidecar
        .as_ref()
        .is_some_and(|sidecar| sidecar.life.native);
    if native {
        let ready = lab.watched.until(|state| state.pod(target.pod).sidecar_ready);
        if within(lab.scaled(NATIVE), "the proxy's startup probe", ready)
            .await
            .is_err()
        {
            return ProbeKind::Startup;
        }
        lab.note(target.pod, "istio-proxy startupProbe succeeded");
    }
    lab.watched.change(|state| {
        let member = state.member_mut(target);
        (member.started, member.ready) = (true, true);
    });
    std::future::pending().await
}

/// Ends a container whose probe or hook failed: SIGTERM, and SIGKILL after the grace period.
async fn kill(lab: &Rc<Lab>, target: Target, pid: u32) {
    let gone = |state: &State| state.process(target).pid() != Some(pid);
    // It may have ended in this very moment.
    if signal(pid, Signal::SIGTERM).is_err() {
        return lab.watched.until(gone).await;
    }
    let grace = lab.scaled(lab.scenario.pod(target.pod).life.grace);
    if within(grace, "its end", lab.watched.until(gone)).await.is_err() {
        drop(signal(pid, Signal::SIGKILL));
        lab.watched.until(gone).await;
    }
}

/// Runs the container's postStart hook; false if it has none.
async fn post_start(lab: &Rc<Lab>, target: Target) -> Result<bool, String> {
    let pod = lab.scenario.pod(target.pod);
    match target.process {
        ProcessName::Container(id) => match &pod.container(id).life.post_start {
            Some(hook) => handlers::run(lab, target, hook).await.map(|()| true),
            None => Ok(false),
        },
        ProcessName::Sidecar | ProcessName::Agent => {
            let held = pod
                .sidecar
                .as_ref()
                .is_some_and(|it| it.life.hold_application && !it.life.native);
            if !held {
                return Ok(false);
            }
            let ready = lab.watched.until(|state| state.pod(target.pod).sidecar_ready);
            within(lab.scaled(HOLD), "the proxy to become ready", ready)
                .await
                .map(|()| true)
                .map_err(|error| error.to_string())
        }
    }
}

/// What an agent is told of its pod's life.
pub(super) fn agent_args(lab: &Lab, id: PodId) -> Vec<String> {
    let pod = lab.scenario.pod(id);
    let Some(sidecar) = &pod.sidecar else {
        return Vec::new();
    };
    let life = &sidecar.life;
    // What becomes of connections is the data plane's own time, not the pod's.
    let mut args = vec![
        "--drain-time-s".to_owned(),
        life.drain_duration.as_secs().to_string(),
    ];
    // These are compared with what traffic does, which the clock leaves alone.
    args.extend(life.idle_timeout.iter().flat_map(|idle| {
        let idle = format!("{}ms", idle.as_millis());
        ["--idle-timeout".to_owned(), idle]
    }));
    if !pod.life.ordered {
        return args;
    }
    let millis = |duration: Duration| lab.scaled(duration).as_millis().to_string();
    // A native sidecar is told to end when nothing is left that could need it.
    let drain = if life.native { Duration::ZERO } else { life.drain };
    args.extend(["--termination-drain-ms".to_owned(), millis(drain)]);
    if let Some(minimum) = life.exit_on_zero.filter(|_| !life.native) {
        args.extend(["--exit-on-zero-ms".to_owned(), millis(minimum)]);
        args.extend([
            "--exit-on-zero-poll-ms".to_owned(),
            millis(Duration::from_secs(1)),
        ]);
    }
    if life.rewrite_probes {
        let probers = probers(lab, id);
        args.extend(["--app-probers".to_owned(), probers]);
    }
    args
}

/// `ISTIO_KUBE_APP_PROBERS`: what the agent does for `/app-health/…`.
fn probers(lab: &Lab, id: PodId) -> String {
    let pod = lab.scenario.pod(id);
    let mut all = serde_json::Map::new();
    for (_, container) in pod.containers_with_ids() {
        for kind in ProbeKind::ALL {
            let Some(probe) = container.life.probe(kind) else {
                continue;
            };
            let timeout = lab.scaled(probe.timeout).as_millis();
            let handler = match &probe.handler {
                Handler::HttpGet { port, path, headers } => {
                    json!({ "httpGet": { "port": port.get(), "path": path, "headers": headers }, "timeoutMs": timeout })
                }
                Handler::TcpSocket { port } => {
                    json!({ "tcpSocket": { "port": port.get() }, "timeoutMs": timeout })
                }
                Handler::Exec { .. } | Handler::Pause(_) => continue,
            };
            all.insert(probes::rewritten_path(&container.name, kind), handler);
        }
    }
    serde_json::Value::Object(all).to_string()
}
