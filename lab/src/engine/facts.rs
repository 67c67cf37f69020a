//! What is so of pods at the end of a step, as far as the step's expectation asks.

use super::lab::Lab;
use crate::scenario::lifecycle::container_name;
use crate::scenario::model::{Expect, PodId, ProcessName};
use crate::verdict::PodFacts;

/// The pods that an expectation speaks of.
pub(super) fn of(lab: &Lab, expect: &Expect) -> Vec<PodFacts> {
    let mut ids: Vec<PodId> = Vec::new();
    ids.extend(expect.phase.iter().map(|(pod, _)| *pod));
    ids.extend(expect.ready.iter().map(|(pod, _)| *pod));
    ids.extend(expect.restarts.iter().map(|(target, _)| target.pod));
    ids.extend(expect.events.iter().map(|(pod, _)| *pod));
    ids.extend(expect.never_events.iter().map(|(pod, _)| *pod));
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| pod(lab, id)).collect()
}

fn pod(lab: &Lab, id: PodId) -> PodFacts {
    let pod = lab.scenario.pod(id);
    lab.watched.read(|state| {
        let known = state.pod(id);
        let own = pod
            .containers
            .iter()
            .zip(&known.containers)
            .map(|(container, state)| (container.name.clone(), state.member.restarts));
        let proxy = (
            container_name(pod, ProcessName::Agent).to_owned(),
            known.proxy.restarts,
        );
        PodFacts {
            pod: pod.name.clone(),
            phase: state.phase(&lab.scenario, id),
            ready: state.ready(&lab.scenario, id),
            restarts: own.chain([proxy]).collect(),
            events: known.events.clone(),
        }
    })
}
