//! The order in which kubelet starts a pod: init containers one after another, then containers one after another, each
//! of which is waited for until its postStart hook has ended.

use std::rc::Rc;
use std::time::Duration;

use super::super::lab::Lab;
use super::super::state::State;
use super::{install_rules, rules_first, supervise, termination};
use crate::scenario::lifecycle::{INIT, InitStep, Phase, RestartPolicy, StartOrder, container_name};
use crate::scenario::model::{ContainerId, Gate, PodId, ProcessName, Target};

/// Starts a pod and follows it to its end.
pub(super) async fn run(lab: Rc<Lab>, id: PodId) {
    let order = StartOrder::of(lab.scenario.pod(id));
    tell_readiness(&lab, id);
    tokio::select! {
        () = live(&lab, id, &order) => {}
        () = lab.watched.until(|state| state.pod(id).kubelet.deleting) => {}
    }
}

async fn live(lab: &Rc<Lab>, id: PodId, order: &StartOrder) {
    if order.cni {
        // The plugin is not part of the pod: if it is late, the pod does not wait for it.
        let task_lab = Rc::clone(lab);
        lab.spawn(async move { install_rules(&task_lab, id).await });
        rules_first(lab, id).await;
    }
    for step in &order.init {
        match *step {
            InitStep::Rules => {
                waits_for(lab, id, Some(INIT));
                install_rules(lab, id).await;
                lab.note(id, &format!("{INIT} completed"));
            }
            InitStep::Run(ProcessName::Container(container)) => {
                if !run_to_end(lab, id, container).await {
                    lab.watched
                        .change(|state| state.pod_mut(id).kubelet.init_failed = true);
                    return;
                }
            }
            InitStep::Native(process) => {
                supervise::begin(lab, Target { pod: id, process });
                wait_for(lab, id, process, "to start", |member| {
                    member.hooked && member.started
                })
                .await;
            }
            InitStep::Run(ProcessName::Agent | ProcessName::Sidecar) => {}
        }
    }
    lab.watched
        .change(|state| state.pod_mut(id).kubelet.initialized = true);
    for process in &order.main {
        supervise::begin(
            lab,
            Target {
                pod: id,
                process: *process,
            },
        );
        wait_for(lab, id, *process, "(container, postStart)", |member| {
            member.hooked
        })
        .await;
    }
    waits_for(lab, id, None);
    lab.watched
        .change(|state| state.pod_mut(id).kubelet.started = true);
    let over = |state: &State| matches!(state.phase(&lab.scenario, id), Phase::Succeeded | Phase::Failed);
    lab.watched.until(over).await;
    termination::end_natives(lab, id, order).await;
}

fn waits_for(lab: &Lab, id: PodId, what: Option<&str>) {
    lab.watched
        .change(|state| state.pod_mut(id).kubelet.waits_for = what.map(str::to_owned));
}

async fn wait_for(
    lab: &Lab,
    id: PodId,
    process: ProcessName,
    what: &str,
    holds: impl Fn(&super::super::state::Member) -> bool,
) {
    let name = container_name(lab.scenario.pod(id), process);
    waits_for(lab, id, Some(&format!("{name} {what}")));
    let target = Target { pod: id, process };
    lab.watched.until(|state| holds(state.member(target))).await;
}

/// An init container, again and again until it ends well; false if it is not tried again.
async fn run_to_end(lab: &Rc<Lab>, id: PodId, container: ContainerId) -> bool {
    let pod = lab.scenario.pod(id);
    let name = &pod.container(container).name;
    let target = Target {
        pod: id,
        process: ProcessName::Container(container),
    };
    waits_for(lab, id, Some(&format!("init container {name} to end")));
    let mut failures = 0;
    loop {
        let is_open = |state: &State| state.open(id, Gate::Container(container));
        lab.watched.until(is_open).await;
        let Some(pid) = supervise::start_process(lab, target) else {
            return false;
        };
        lab.watched
            .until(|state| state.process(target).pid() != Some(pid))
            .await;
        let code = lab.watched.read(|state| state.member(target).exit);
        if code == Some(0) {
            lab.note(id, &format!("{name} completed"));
            return true;
        }
        lab.note(id, &format!("{name} failed"));
        if pod.life.restart_policy == RestartPolicy::Never {
            return false;
        }
        supervise::back_off(lab, target, failures).await;
        failures += 1;
        lab.watched.change(|state| state.member_mut(target).restarts += 1);
    }
}

/// Notes when the pod becomes ready, and when it no longer is.
fn tell_readiness(lab: &Rc<Lab>, id: PodId) {
    let task_lab = Rc::clone(lab);
    lab.spawn(async move {
        let mut was = false;
        loop {
            let differs = |state: &State| state.ready(&task_lab.scenario, id) != was;
            task_lab.watched.until(differs).await;
            was = !was;
            task_lab.note(id, if was { "ready" } else { "not ready" });
        }
    });
}

/// What kubelet waits before a container is started again: nothing the first time, then 10 s, doubling, at most five
/// minutes (`MaxContainerBackOff` and `containerBackOffPeriod` of kubelet).
pub(super) fn pause(restarts: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(10);
    const LONGEST: Duration = Duration::from_mins(5);
    match restarts.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST.saturating_mul(1 << doublings.min(10)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_up_to_five_minutes() {
        let seconds: Vec<u64> = (0..8).map(|restarts| pause(restarts).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(pause(u32::MAX).as_secs(), 300);
    }
}
