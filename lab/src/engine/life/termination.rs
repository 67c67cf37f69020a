//! The end of a pod: preStop hooks, SIGTERM, SIGKILL when the grace period is over, native sidecars last.

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::Signal;

use super::super::lab::Lab;
use super::super::state::State;
use super::{handlers, signal};
use crate::scenario::lifecycle::{ContainerKind, Handler, StartOrder, container_name};
use crate::scenario::model::{PodId, ProcessName, Target};
use crate::within::within;

/// What a hook gets beyond the grace period, and a native sidecar between SIGTERM and SIGKILL after it.
const EXTRA: Duration = Duration::from_secs(2);

/// Deletes a pod: from now on it is no endpoint; hooks and signals take their course.
pub(in super::super) fn delete(lab: &Rc<Lab>, id: PodId) {
    lab.watched
        .change(|state| state.pod_mut(id).kubelet.deleting = true);
    lab.note(id, "deleted");
    let task_lab = Rc::clone(lab);
    lab.spawn(async move { terminate(&task_lab, id).await });
}

async fn terminate(lab: &Rc<Lab>, id: PodId) {
    let pod = lab.scenario.pod(id);
    let deadline = Instant::now() + lab.scaled(pod.life.grace);
    let order = StartOrder::of(pod);
    let natives = order.natives();
    let mut mains = order.main.clone();
    mains.extend(running_init(lab, id));
    let mains = mains
        .into_iter()
        .map(|process| end(lab, Target { pod: id, process }, deadline));
    // The preStop hooks of native sidecars run from the beginning too; their SIGTERM waits.
    let hooks = natives.iter().map(|process| {
        let target = Target {
            pod: id,
            process: *process,
        };
        pre_stop(lab, target, deadline)
    });
    futures_util::future::join(join_all(mains), join_all(hooks)).await;
    for process in natives.into_iter().rev() {
        let target = Target { pod: id, process };
        end_process(lab, target, deadline.max(Instant::now() + lab.scaled(EXTRA))).await;
    }
    lab.watched
        .change(|state| state.pod_mut(id).kubelet.terminated = true);
    lab.note(id, "terminated");
}

/// Init containers that have not ended.
fn running_init(lab: &Lab, id: PodId) -> Vec<ProcessName> {
    let pod = lab.scenario.pod(id);
    let init = pod
        .containers_with_ids()
        .filter(|(_, container)| container.kind == ContainerKind::Init);
    init.map(|(id, _)| ProcessName::Container(id)).collect()
}

/// Ends the native sidecars of a pod whose containers have all ended, the last first.
pub(super) async fn end_natives(lab: &Rc<Lab>, id: PodId, order: &StartOrder) {
    let grace = lab.scaled(lab.scenario.pod(id).life.grace);
    // They are not started again.
    lab.watched
        .change(|state| state.pod_mut(id).kubelet.finished = true);
    for process in order.natives().into_iter().rev() {
        let target = Target { pod: id, process };
        end_process(lab, target, Instant::now() + grace).await;
    }
}

async fn end(lab: &Rc<Lab>, target: Target, deadline: Instant) {
    pre_stop(lab, target, deadline).await;
    end_process(lab, target, deadline).await;
}

fn pid(lab: &Lab, target: Target) -> Option<u32> {
    lab.watched.read(|state| state.process(target).pid())
}

async fn pre_stop(lab: &Rc<Lab>, target: Target, deadline: Instant) {
    let pod = lab.scenario.pod(target.pod);
    let hook: Option<&Handler> = match target.process {
        ProcessName::Container(id) => pod.container(id).life.pre_stop.as_ref(),
        ProcessName::Sidecar | ProcessName::Agent => {
            pod.sidecar.as_ref().and_then(|it| it.life.pre_stop.as_ref())
        }
    };
    let (Some(hook), Some(_)) = (hook, pid(lab, target)) else {
        return;
    };
    let left = deadline.saturating_duration_since(Instant::now()) + lab.scaled(EXTRA);
    let ran = within(left, "the preStop hook", handlers::run(lab, target, hook)).await;
    let how = if matches!(ran, Ok(Ok(()))) {
        "done"
    } else {
        "failed"
    };
    lab.note(
        target.pod,
        &format!("{} preStop {how}", container_name(pod, target.process)),
    );
}

async fn end_process(lab: &Rc<Lab>, target: Target, deadline: Instant) {
    let Some(running) = pid(lab, target) else { return };
    let name = container_name(lab.scenario.pod(target.pod), target.process);
    let gone = |state: &State| state.process(target).pid() != Some(running);
    for (number, word) in [(Signal::SIGTERM, "SIGTERM"), (Signal::SIGKILL, "SIGKILL")] {
        lab.note(target.pod, &format!("{name} {word}"));
        // An error means that it ended by itself in this very moment.
        drop(signal(running, number));
        let left = deadline.saturating_duration_since(Instant::now());
        let left = if number == Signal::SIGKILL {
            lab.scaled(EXTRA).max(EXTRA)
        } else {
            left
        };
        if within(left, "its end", lab.watched.until(gone)).await.is_ok() {
            return;
        }
    }
}
