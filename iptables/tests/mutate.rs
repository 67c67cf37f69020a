//! Changes of Istio's rules: which there are, and what they make of the text.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use iptables::generate::generate;
use iptables::mutate::{Change, Mutation, Packets, mutations};
use iptables::options::{Raw, Start};
use iptables::render::{nft, restore};
use iptables::ruleset::{Family, Ruleset};

fn ruleset(yaml: &str) -> Ruleset {
    let raw: Raw = serde_yaml::from_str(yaml).unwrap();
    generate(&raw.resolve(Start::Injector).unwrap())
}

fn name(mutation: &Mutation) -> String {
    format!("{}#{}", mutation.chain.name(), mutation.position)
}

fn names(all: &[Mutation], change: Change, by: Packets) -> Vec<String> {
    let wanted = all.iter().filter(|it| it.change == change && it.noticed_by == by);
    wanted.map(name).collect()
}

#[test]
fn every_rule_is_dropped_and_only_orders_that_matter_are_changed() {
    let all = mutations(&ruleset("{}"));
    assert_eq!(all.iter().filter(|it| it.change == Change::Drop).count(), 18);
    assert_eq!(
        names(&all, Change::Swap, Packets::Usual),
        ["ISTIO_INBOUND#4", "ISTIO_OUTPUT#1"]
    );
    assert_eq!(
        names(&all, Change::Drop, Packets::None),
        ["ISTIO_OUTPUT#5", "ISTIO_OUTPUT#6"]
    );
    assert_eq!(names(&all, Change::Drop, Packets::Unusual), ["ISTIO_OUTPUT#8"]);
    let nft = mutations(&ruleset("backend: nftables"));
    // A packet without a socket passes nft's rules of owners, both ways.
    assert_eq!(
        names(&nft, Change::Swap, Packets::Usual),
        ["istio-inbound#4", "istio-output#1", "istio-output#8"]
    );
    assert_eq!(names(&nft, Change::Drop, Packets::Unusual), [""; 0]);
}

/// The lines that two texts do not share.
fn difference(before: &str, after: &str) -> Vec<(String, String)> {
    assert_eq!(before.lines().count(), after.lines().count());
    let pairs = before
        .lines()
        .zip(after.lines())
        .filter(|(one, other)| one != other);
    pairs
        .map(|(one, other)| (one.to_owned(), other.to_owned()))
        .collect()
}

#[test]
fn a_dropped_rule_keeps_its_place() {
    let ruleset = ruleset("{}");
    let before = restore::render(&ruleset, Family::V4);
    for mutation in mutations(&ruleset).iter().filter(|it| it.change == Change::Drop) {
        let after = restore::render(&mutation.of(&ruleset), Family::V4);
        let changed = difference(&before, &after);
        assert_eq!(changed.len(), 1, "{}", name(mutation));
        let (was, is) = &changed[0];
        assert!(
            was.starts_with(is.as_str()) && was.contains(" -j ") && !is.contains(" -j "),
            "{was}\n{is}"
        );
    }
}

#[test]
fn swapped_rules_stand_in_each_others_place() {
    for yaml in [
        "{}",
        "backend: nftables",
        "{mode: TPROXY, excludeInterfaces: eth1}",
    ] {
        let ruleset = ruleset(yaml);
        let text = |ruleset: &Ruleset| restore::render(ruleset, Family::V4) + &nft::render(ruleset);
        for mutation in mutations(&ruleset).iter().filter(|it| it.change == Change::Swap) {
            let changed = mutation.of(&ruleset);
            assert_ne!(text(&ruleset), text(&changed), "{}", name(mutation));
            let rules = |of: &Ruleset| {
                let rules = of.rules(mutation.family, &mutation.chain);
                rules.into_iter().cloned().collect::<Vec<_>>()
            };
            let mut back = rules(&changed);
            back.swap(mutation.position.get() - 1, mutation.position.get());
            assert_eq!(back, rules(&ruleset));
        }
    }
}
