//! Dead rules: those of Istio's that no packet reaches, and what stands in their way.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use iptables::evaluate::Program;
use iptables::generate::generate;
use iptables::options::{Raw, Start};
use iptables::parse::save;
use iptables::reach::{Cause, Scope, dead};
use iptables::ruleset::Family;

fn told(program: &Program) -> Vec<String> {
    let name = |at| format!("{}#{}", program.chain(at).name(), at.position());
    dead(program)
        .into_iter()
        .map(|each| {
            let scope = match each.scope {
                Scope::Always => "",
                Scope::UsualRouting => " (usual routing)",
            };
            let cause = match each.cause {
                Cause::NoWayIn => "no way in".to_owned(),
                Cause::Contradiction => "contradiction".to_owned(),
                Cause::Shadowed(by) => {
                    let by: Vec<String> = by.into_iter().map(name).collect();
                    format!("by {}", by.join(" "))
                }
            };
            format!("{}{scope}: {cause}", name(each.at))
        })
        .collect()
}

fn of(yaml: &str, family: Family) -> Vec<String> {
    let raw: Raw = serde_yaml::from_str(yaml).unwrap();
    let ruleset = generate(&raw.resolve(Start::Injector).unwrap());
    told(&Program::compile(&ruleset, family))
}

#[test]
fn five_and_six_of_the_nine_and_eight_as_routing_goes() {
    let want = [
        "ISTIO_OUTPUT#5: by ISTIO_OUTPUT#2 ISTIO_OUTPUT#3",
        "ISTIO_OUTPUT#6: by ISTIO_OUTPUT#3 ISTIO_OUTPUT#4",
        "ISTIO_OUTPUT#8 (usual routing): by ISTIO_OUTPUT#3 ISTIO_OUTPUT#4",
    ];
    assert_eq!(of("{}", Family::V4), want);
    assert_eq!(of("enableIPv6: true", Family::V6), want);
}

#[test]
fn dns_capture_brings_rules_to_life() {
    assert_eq!(
        of("{redirectDNS: true, captureAllDNS: true}", Family::V4),
        ["ISTIO_OUTPUT#6: by ISTIO_OUTPUT#3 ISTIO_OUTPUT#4"]
    );
}

#[test]
fn loopback_in_the_included_ranges_brings_the_groups_rule_to_life() {
    let dead = of("includeOutboundIPRanges: '127.0.0.0/8'", Family::V4);
    assert!(
        !dead.iter().any(|each| each.starts_with("ISTIO_OUTPUT#4")),
        "{dead:?}"
    );
}

#[test]
fn of_two_users_the_second_has_no_rules() {
    let dead = of("proxyUID: '3,4'", Family::V4);
    assert!(
        dead.contains(&"ISTIO_OUTPUT#5: by ISTIO_OUTPUT#3".to_owned()),
        "{dead:?}"
    );
    assert!(
        dead.iter().any(|each| each.starts_with("ISTIO_OUTPUT#6: ")),
        "{dead:?}"
    );
}

#[test]
fn under_tproxy_the_nat_chains_for_inbound_are_orphans() {
    let dead = of("mode: TPROXY", Family::V4);
    assert!(
        dead.contains(&"ISTIO_INBOUND#1: no way in".to_owned()),
        "{dead:?}"
    );
}

#[test]
fn an_unknown_condition_shadows_nothing() {
    let text = "*filter\n-A INPUT -m set --match-set x src -j DROP\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j DROP\n-A INPUT -p tcp -j ACCEPT\n-A INPUT -o eth0 -j DROP\nCOMMIT\n";
    let parsed = save::parse(text, Family::V4).unwrap();
    let program = Program::compile(&parsed.ruleset, Family::V4);
    assert_eq!(told(&program), ["INPUT#4: by INPUT#3", "INPUT#5: contradiction"]);
}
