//! Probes, as kubelet sends them: from the node's namespace to the pod's address, or as a program in the container.

use std::rc::Rc;
use std::time::Duration;

use super::super::lab::Lab;
use super::handlers;
use crate::client::wire;
use crate::scenario::lifecycle::{Handler, Probe, ProbeKind};
use crate::scenario::model::{ContainerId, PodId, ProcessName, Target};
use crate::within::within;

/// The agent's port.
const AGENT: u16 = 15020;

/// Where Istio's agent answers for a container's probe.
pub(super) fn rewritten_path(container: &str, kind: ProbeKind) -> String {
    format!("/app-health/{container}/{}", kind.rewritten())
}

/// Probes a container until one of its probes fails for good: which one.
pub(super) async fn watch(lab: &Rc<Lab>, target: Target, pid: u32) -> ProbeKind {
    let ProcessName::Container(id) = target.process else {
        return std::future::pending().await;
    };
    let life = &lab.scenario.pod(target.pod).container(id).life;
    if let Some(probe) = &life.startup
        && !starts(lab, target, probe).await
    {
        return ProbeKind::Startup;
    }
    lab.watched.change(|state| {
        let has_probe = life.readiness.is_some();
        let member = state.member_mut(target);
        (member.started, member.ready) = (true, !has_probe);
    });
    let runs = |state: &super::super::state::State| state.process(target).pid() == Some(pid);
    debug_assert!(lab.watched.read(runs) || lab.watched.read(|state| !runs(state)));
    tokio::select! {
        () = readiness(lab, target, life.readiness.as_ref()) => ProbeKind::Readiness,
        () = liveness(lab, target, life.liveness.as_ref()) => ProbeKind::Liveness,
    }
}

/// True as soon as it succeeds, false if it has failed as often as it may.
async fn starts(lab: &Rc<Lab>, target: Target, probe: &Probe) -> bool {
    let mut failures = 0;
    pass(lab, probe.initial_delay).await;
    loop {
        match send(lab, target, ProbeKind::Startup, probe).await {
            Ok(()) => {
                tell(lab, target, ProbeKind::Startup, true);
                return true;
            }
            Err(_) => failures += 1,
        }
        if failures >= probe.failure_threshold {
            return false;
        }
        pass(lab, probe.period).await;
    }
}

/// Follows readiness; never ends.
async fn readiness(lab: &Rc<Lab>, target: Target, probe: Option<&Probe>) {
    let Some(probe) = probe else {
        return std::future::pending().await;
    };
    let (mut successes, mut failures) = (0, 0);
    pass(lab, probe.initial_delay).await;
    loop {
        (successes, failures) = match send(lab, target, ProbeKind::Readiness, probe).await {
            Ok(()) => (successes + 1, 0),
            Err(_) => (0, failures + 1),
        };
        let (was_ready, was_unready) = lab.watched.read(|state| {
            let member = state.member(target);
            (member.ready, member.unready)
        });
        if successes >= probe.success_threshold && !was_ready {
            lab.watched.change(|state| {
                let member = state.member_mut(target);
                (member.ready, member.unready) = (true, false);
            });
            tell(lab, target, ProbeKind::Readiness, true);
        }
        if failures >= probe.failure_threshold && !was_unready {
            lab.watched.change(|state| {
                let member = state.member_mut(target);
                (member.ready, member.unready) = (false, true);
            });
            tell(lab, target, ProbeKind::Readiness, false);
        }
        pass(lab, probe.period).await;
    }
}

/// Ends when it has failed as often in a row as it may.
async fn liveness(lab: &Rc<Lab>, target: Target, probe: Option<&Probe>) {
    let Some(probe) = probe else {
        return std::future::pending().await;
    };
    let mut failures = 0;
    let mut told = false;
    pass(lab, probe.initial_delay).await;
    loop {
        match send(lab, target, ProbeKind::Liveness, probe).await {
            Ok(()) => {
                failures = 0;
                if !told {
                    tell(lab, target, ProbeKind::Liveness, true);
                    told = true;
                }
            }
            Err(_) => failures += 1,
        }
        if failures >= probe.failure_threshold {
            return;
        }
        pass(lab, probe.period).await;
    }
}

fn tell(lab: &Lab, target: Target, kind: ProbeKind, holds: bool) {
    let name = lab.scenario.pod(target.pod).role(target.process);
    let how = if holds { "succeeded" } else { "failed" };
    lab.note(target.pod, &format!("{name} {} {how}", kind.name()));
}

async fn pass(lab: &Lab, time: Duration) {
    let time = lab.scaled(time);
    if !time.is_zero() {
        // A period is time, and ends in no event.
        drop(within(time, "the probe's time", std::future::pending::<()>()).await);
    }
}

/// Sends one, and keeps why it failed, for whoever waits in vain.
async fn send(lab: &Rc<Lab>, target: Target, kind: ProbeKind, probe: &Probe) -> Result<(), String> {
    let ended = ask(lab, target, kind, probe).await;
    let failure = ended.as_ref().err().map(|why| (kind, why.clone()));
    if lab
        .watched
        .read(|state| state.member(target).failed_probe != failure)
    {
        lab.watched
            .change(|state| state.member_mut(target).failed_probe = failure);
    }
    ended
}

async fn ask(lab: &Rc<Lab>, target: Target, kind: ProbeKind, probe: &Probe) -> Result<(), String> {
    // Not while a step's connections are followed: what a probe causes would count as the step's.
    let _quiet = lab.quiet.read().await;
    let limit = lab.scaled(probe.timeout).max(SHORTEST);
    match request(lab, target, kind, probe) {
        Some(asked) => handlers::judged(&handlers::ask(asked, limit).await),
        None => match &probe.handler {
            Handler::Exec { command } => within(limit, "the probe", handlers::program(lab, target, command))
                .await
                .map_err(|error| error.to_string())?,
            Handler::HttpGet { .. } | Handler::TcpSocket { .. } | Handler::Pause(_) => {
                Err("no probe".to_owned())
            }
        },
    }
}

/// Whatever the clock's scale, a process needs some time to answer at all.
const SHORTEST: Duration = Duration::from_secs(2);

/// What a probe sends, rewritten or not; none if it runs a program.
fn request(lab: &Lab, target: Target, kind: ProbeKind, probe: &Probe) -> Option<wire::Kind> {
    let pod = lab.scenario.pod(target.pod);
    let rewrites = pod
        .sidecar
        .as_ref()
        .is_some_and(|sidecar| sidecar.life.rewrite_probes);
    match &probe.handler {
        Handler::HttpGet { .. } | Handler::TcpSocket { .. } if rewrites => {
            let path = rewritten_path(pod.role(target.process), kind);
            Some(handlers::http(lab, target, AGENT, &path, &[]))
        }
        Handler::HttpGet { port, path, headers } => {
            Some(handlers::http(lab, target, port.get(), path, headers))
        }
        Handler::TcpSocket { port } => Some(handlers::tcp(lab, target, port.get())),
        Handler::Exec { .. } | Handler::Pause(_) => None,
    }
}

/// Sends one probe of a container, now: how it ended.
pub(in super::super) async fn once(
    lab: &Rc<Lab>,
    pod: PodId,
    container: ContainerId,
    kind: ProbeKind,
) -> Result<wire::Result, String> {
    let target = Target {
        pod,
        process: ProcessName::Container(container),
    };
    let life = &lab.scenario.pod(pod).container(container).life;
    let probe = life
        .probe(kind)
        .ok_or_else(|| format!("the container has no {}", kind.name()))?;
    let asked = request(lab, target, kind, probe).ok_or("an exec probe sends nothing")?;
    Ok(handlers::ask(asked, lab.scaled(probe.timeout).max(SHORTEST)).await)
}
