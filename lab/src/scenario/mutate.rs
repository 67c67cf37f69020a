//! A scenario one of whose rules is changed: do its steps notice?

use iptables::generate::generate;
use iptables::mutate::{Change, Mutation, mutations};
use iptables::ruleset::Ruleset;
use serde::{Deserialize, Serialize};

use super::model::{Action, Expect, Pod, PodId, Scenario, Step};
use crate::path::{Hop, HopPattern, Position};

/// A change of the generated rules of some pods, whose rules are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mutant {
    /// The pods, by their indices in [`Scenario::pods`].
    pub pods: Vec<usize>,
    /// Which of [`mutations`] of their rules.
    pub number: usize,
}

/// The rules that are generated for a pod as its options have them; none if it has no rules, or its user's own.
pub fn generated(pod: &Pod) -> Option<Ruleset> {
    let sidecar = pod.sidecar.as_ref().filter(|sidecar| sidecar.intercept)?;
    pod.custom_rules
        .is_none()
        .then(|| generate(&sidecar.interception))
}

/// The same with the change that was made to them.
pub fn changed(pod: &Pod) -> Option<Ruleset> {
    let ruleset = generated(pod)?;
    let number = pod.sidecar.as_ref().and_then(|sidecar| sidecar.mutation);
    Some(
        match number.and_then(|number| mutations(&ruleset).into_iter().nth(number)) {
            Some(mutation) => mutation.of(&ruleset),
            None => ruleset,
        },
    )
}

impl Scenario {
    /// Pods whose generated rules are made of the same options, in file order; of these pods alone, if any are named.
    pub fn with_same_rules(&self, only: &[PodId]) -> Vec<Vec<PodId>> {
        let mut groups: Vec<Vec<PodId>> = Vec::new();
        for (id, pod) in self.pods_with_ids() {
            let is_wanted = only.is_empty() || only.contains(&id);
            let Some(sidecar) = pod
                .sidecar
                .as_ref()
                .filter(|_| is_wanted && generated(pod).is_some())
            else {
                continue;
            };
            let options = |of: PodId| self.pod(of).sidecar.as_ref().map(|sidecar| &sidecar.interception);
            let same = groups
                .iter_mut()
                .find(|group| options(group[0]) == Some(&sidecar.interception));
            match same {
                Some(group) => group.push(id),
                None => groups.push(vec![id]),
            }
        }
        groups
    }

    /// Changes the rules of pods. What is expected of the pods is told of the same rules at their new places: only a
    /// packet that another rule decides makes a difference.
    pub fn mutate(&mut self, mutant: &Mutant) {
        for &index in &mutant.pods {
            let Some(mutation) = self.pods.get(index).and_then(|pod| {
                let ruleset = generated(pod)?;
                mutations(&ruleset).into_iter().nth(mutant.number)
            }) else {
                continue;
            };
            if let Some(sidecar) = self.pods[index].sidecar.as_mut() {
                sidecar.mutation = Some(mutant.number);
            }
            if mutation.change == Change::Swap {
                for step in &mut self.steps {
                    swap_in(step, PodId(index), &mutation);
                }
            }
        }
    }
}

fn swap_in(step: &mut Step, pod: PodId, mutation: &Mutation) {
    if let Action::Parallel(steps) | Action::Repeat { steps, .. } = &mut step.action {
        for inner in steps {
            swap_in(inner, pod, mutation);
        }
    }
    let Expect {
        path,
        contains,
        never,
        ..
    } = &mut step.expect;
    let legs = path.iter_mut().filter(|(of, _)| *of == pod);
    let legs = legs.flat_map(|(_, legs)| legs.iter_mut().map(|leg| &mut leg.hops));
    let parts = contains.iter_mut().filter(|(of, _)| *of == pod);
    let parts = parts.flat_map(|(_, parts)| parts.iter_mut());
    let hops = never
        .iter_mut()
        .filter(|(of, _)| *of == pod)
        .map(|(_, hops)| hops);
    for hop in legs.chain(parts).chain(hops).flatten() {
        if let HopPattern::Exactly(Hop::Rule {
            chain,
            position: Position::Rule(number),
        }) = hop
            && chain == mutation.chain.name()
        {
            let first = mutation.position.get();
            let other = match usize::from(number.get()) {
                at if at == first => number.checked_add(1),
                at if at == first + 1 => std::num::NonZeroU16::new(number.get() - 1),
                _ => None,
            };
            *number = other.unwrap_or(*number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::parse;

    const TEXT: &str = "pods:\n\
        \x20 - {name: a, containers: [{name: a}]}\n\
        \x20 - {name: b, containers: [{name: b}]}\n\
        \x20 - {name: other, interception: {excludeInboundPorts: 8}, containers: [{name: other}]}\n\
        \x20 - {name: none, interception: {mode: NONE}, containers: [{name: none}]}\n\
        \x20 - {name: client, sidecar: false, containers: [{name: client}]}\n\
        steps:\n\
        \x20 - parallel:\n\
        \x20     - request: {from: client, url: 'http://${a.ip}/'}\n\
        \x20       expect: {path: {a: [PREROUTING -> ISTIO_INBOUND#4, PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_OUTPUT#4], \
        b: [PREROUTING -> ISTIO_INBOUND#4]}, contains: {a: [ISTIO_INBOUND#3 -> ISTIO_INBOUND#5]}, never: {a: [ISTIO_INBOUND#4]}}\n";

    fn scenario() -> Scenario {
        parse("s.yaml", TEXT)
            .unwrap_or_else(|mistakes| panic!("{}", mistakes.render()))
            .scenario
    }

    #[test]
    fn pods_with_the_same_options_are_changed_together() {
        let scenario = scenario();
        let groups = |only: &[PodId]| -> Vec<Vec<usize>> {
            let groups = scenario.with_same_rules(only);
            groups
                .into_iter()
                .map(|group| group.into_iter().map(PodId::index).collect())
                .collect()
        };
        assert_eq!(groups(&[]), [vec![0, 1], vec![2]]);
        assert_eq!(groups(&[PodId(1)]), [[1]]);
        assert_eq!(groups(&[PodId(3), PodId(4)]), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn expectations_follow_rules_that_change_places() {
        let mut scenario = scenario();
        let all = mutations(&generated(scenario.pod(PodId(0))).unwrap());
        let number = all
            .iter()
            .position(|it| it.change == Change::Swap && it.chain.name() == "ISTIO_INBOUND")
            .unwrap();
        scenario.mutate(&Mutant {
            pods: vec![0],
            number,
        });
        let Action::Parallel(steps) = &scenario.steps[0].action else {
            panic!("{:?}", scenario.steps);
        };
        let expect = &steps[0].expect;
        let legs = |of: usize| -> Vec<String> { expect.path[of].1.iter().map(ToString::to_string).collect() };
        assert_eq!(
            legs(0),
            [
                "PREROUTING -> ISTIO_INBOUND#5",
                "PREROUTING -> ISTIO_INBOUND#4 -> ISTIO_OUTPUT#4"
            ]
        );
        assert_eq!(legs(1), ["PREROUTING -> ISTIO_INBOUND#4"]);
        assert_eq!(expect.contains[0].1[0][1].to_string(), "ISTIO_INBOUND#4");
        assert_eq!(expect.never[0].1[0].to_string(), "ISTIO_INBOUND#5");
        let rules = |pod: usize| changed(&scenario.pods[pod]).unwrap();
        assert_ne!(rules(0), rules(1));
        assert_eq!(rules(1), generated(&scenario.pods[1]).unwrap());
    }
}
