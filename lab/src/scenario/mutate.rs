//! A scenario one of whose rules is changed: do its steps notice?

use std::num::NonZeroU16;

use iptables::generate::generate;
use iptables::mutate::{Change, Mutation, mutations};
use iptables::render::nft;
use iptables::ruleset::{Family, Ruleset};
use serde::{Deserialize, Serialize};

use super::model::{Pod, PodId, Scenario};

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

    /// Changes the rules of pods.
    pub fn mutate(&mut self, mutant: &Mutant) {
        for &index in &mutant.pods {
            let known = self.pods.get(index).and_then(generated);
            let is_there = known.is_some_and(|ruleset| mutant.number < mutations(&ruleset).len());
            if let Some(sidecar) = self.pods[index].sidecar.as_mut().filter(|_| is_there) {
                sidecar.mutation = Some(mutant.number);
            }
        }
    }

    /// The pods two of whose rules have changed places, by name.
    pub fn swaps(&self) -> Vec<Swap> {
        let swap = |pod: &Pod| {
            let number = pod.sidecar.as_ref()?.mutation?;
            let mutation = mutations(&generated(pod)?).into_iter().nth(number)?;
            (mutation.change == Change::Swap).then(|| Swap {
                pod: pod.name.clone(),
                mutation,
            })
        };
        self.pods.iter().filter_map(swap).collect()
    }
}

/// Two neighbouring rules of a pod in each other's place.
#[derive(Debug, Clone)]
pub struct Swap {
    /// The pod's name.
    pub pod: String,
    mutation: Mutation,
}

impl Swap {
    /// The number that a rule has where nothing is changed. What is expected of a pod is told of its rules, wherever they
    /// stand: only a packet that another rule decides makes a difference. `family` and `table` are as nft names them.
    pub fn number(&self, family: &str, table: &str, chain: &str, number: NonZeroU16) -> NonZeroU16 {
        let of = &self.mutation;
        let (own_family, own_table) = match of.family {
            Family::V4 => ("ip", of.chain.table().to_string()),
            Family::V6 => ("ip6", of.chain.table().to_string()),
            Family::Inet => ("inet", nft::table_name(of.chain.table())),
        };
        if (family, table, chain) != (own_family, own_table.as_str(), of.chain.name()) {
            return number;
        }
        let first = of.position.get();
        let other = match usize::from(number.get()) {
            at if at == first => number.checked_add(1),
            at if at == first + 1 => NonZeroU16::new(number.get() - 1),
            _ => None,
        };
        other.unwrap_or(number)
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
        \x20 - request: {from: client, url: 'http://${a.ip}/'}\n";

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
    fn rules_that_changed_places_are_known_by_their_old_numbers() {
        let mut scenario = scenario();
        let all = mutations(&generated(scenario.pod(PodId(0))).unwrap());
        let number = all
            .iter()
            .position(|it| it.change == Change::Swap && it.chain.name() == "ISTIO_INBOUND")
            .unwrap();
        assert_eq!(scenario.swaps().len(), 0);
        scenario.mutate(&Mutant {
            pods: vec![0],
            number,
        });
        let rules = |pod: usize| changed(&scenario.pods[pod]).unwrap();
        assert_ne!(rules(0), rules(1));
        assert_eq!(rules(1), generated(&scenario.pods[1]).unwrap());
        let swaps = scenario.swaps();
        assert_eq!(
            swaps.iter().map(|swap| swap.pod.as_str()).collect::<Vec<_>>(),
            ["a"]
        );
        let old = |family, table, chain, number| {
            let number = NonZeroU16::new(number).unwrap();
            swaps[0].number(family, table, chain, number).get()
        };
        assert_eq!(
            [3, 4, 5].map(|at| old("ip", "nat", "ISTIO_INBOUND", at)),
            [3, 5, 4]
        );
        // The other family's, another table's, and another chain's are where they were.
        assert_eq!(old("ip6", "nat", "ISTIO_INBOUND", 4), 4);
        assert_eq!(old("ip", "mangle", "ISTIO_INBOUND", 4), 4);
        assert_eq!(old("ip", "nat", "ISTIO_OUTPUT", 4), 4);
    }
}
