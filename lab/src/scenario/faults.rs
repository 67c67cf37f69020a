//! Steps that break something, or mend it; and one probe, as kubelet sends it.

use std::time::Duration;

use super::fields::{At, Fields, Reader};
use super::lifecycle::{Handler, ProbeKind};
use super::model::{Action, ContainerId, Impairment, PodId, Power, ProcessName, RulesRerun};
use super::names::Names;
use super::steps::pod;

const POWER: [(&str, Power); 2] = [("up", Power::Up), ("down", Power::Down)];

pub(super) fn read(reader: &Reader<'_>, name: &str, at: At<'_>, names: &Names<'_>) -> Option<Action> {
    match name {
        "istiod" => reader.word(at, &POWER).map(Action::Istiod),
        "link" => {
            let fields = reader.map(at.clone(), &["pod", "state"])?;
            let pod = pod(reader, &at, &fields, names)?;
            let state = needed(reader, &at, &fields, "state", "`state: down`")?;
            Some(Action::Link(pod, reader.word(state, &POWER)?))
        }
        "rules" => {
            let fields = reader.map(at.clone(), &["pod", "again"])?;
            let pod = pod(reader, &at, &fields, names)?;
            let again = needed(
                reader,
                &at,
                &fields,
                "again",
                "`again: verify` or `again: blindly`",
            )?;
            let modes = [("verify", RulesRerun::Verify), ("blindly", RulesRerun::Blindly)];
            let mode = reader.word(again, &modes)?;
            let has_rules = names.pod_of(pod).has_rules();
            if !has_rules {
                reader.wrong(&at, "this pod has no rules", "name a pod with a sidecar");
                return None;
            }
            Some(Action::Rules { pod, mode })
        }
        "netem" => netem(reader, at, names),
        _ => probe(reader, at, names),
    }
}

fn needed<'v>(
    reader: &Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'v>,
    name: &str,
    example: &str,
) -> Option<At<'v>> {
    let found = fields.get(name);
    if found.is_none() {
        reader.wrong(at, &format!("no `{name}`"), &format!("write {example}"));
    }
    found
}

fn netem(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Action> {
    let fields = reader.map(at.clone(), &["pod", "delay", "jitter", "loss"])?;
    let pod = pod(reader, &at, &fields, names)?;
    let time = |name: &str| {
        fields
            .get(name)
            .and_then(|at| reader.duration(at))
            .unwrap_or(Duration::ZERO)
    };
    let loss = fields.get("loss").map_or(Some(0.0), |at| share(reader, at))?;
    let (delay, jitter) = (time("delay"), time("jitter"));
    if let Some(at) = fields.get("jitter").filter(|_| delay < jitter) {
        reader.wrong(
            &at,
            "a delay cannot vary by more than it is",
            "write a `delay` that is as long at least",
        );
    }
    Some(Action::Netem(pod, Impairment { delay, jitter, loss }))
}

/// `10%`.
fn share(reader: &Reader<'_>, at: At<'_>) -> Option<f64> {
    let text = reader.string(at.clone())?;
    let number = text.strip_suffix('%').and_then(|text| text.parse::<f64>().ok());
    match number {
        Some(number) if (0.0..=100.0).contains(&number) => Some(number / 100.0),
        _ => {
            reader.wrong(
                &at,
                &format!("`{text}` is no share of packets"),
                "write a percentage from 0% to 100%",
            );
            None
        }
    }
}

fn probe(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Action> {
    let fields = reader.map(at.clone(), &["pod", "container", "probe"])?;
    let pod = pod(reader, &at, &fields, names)?;
    let container = container(reader, &at, &fields, names, pod)?;
    let kinds = ProbeKind::ALL.map(|kind| (kind.name(), kind));
    let kind_at = needed(reader, &at, &fields, "probe", "`probe: readinessProbe`")?;
    let kind = reader.word(kind_at.clone(), &kinds)?;
    match names.pod_of(pod).container(container).life.probe(kind) {
        None => reader.wrong(
            &kind_at,
            &format!("the container has no {}", kind.name()),
            "name a probe that it has",
        ),
        Some(probe) if matches!(probe.handler, Handler::Exec { .. }) => reader.wrong(
            &kind_at,
            "an exec probe sends nothing that could be followed",
            "write an `exec` step with its command",
        ),
        Some(_) => return Some(Action::Probe { pod, container, kind }),
    }
    None
}

fn container(
    reader: &Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    names: &Names<'_>,
    pod: PodId,
) -> Option<ContainerId> {
    let container_at = needed(reader, at, fields, "container", "`container: NAME`")?;
    let name = reader.string(container_at.clone())?;
    match names.process(reader, &container_at, pod, &name, "`container`")? {
        ProcessName::Container(id) => Some(id),
        ProcessName::Sidecar | ProcessName::Agent => {
            reader.wrong(
                &container_at,
                "the sidecar's own probe is the agent's matter",
                "name a container of the pod's spec",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::scenario::parse;
    use crate::scenario::tests::refused_in;

    const GOOD: &str = r#"
services: [{name: late, hold: true, ports: [{port: 80}], selector: {app: a}}]
pods:
  - {name: a, labels: {app: a}, containers: [{name: web, app: {http: 80}, readinessProbe: {httpGet: {port: 80}}}]}
  - {name: b, sidecar: false, containers: [{name: b}]}
steps:
  - istiod: down
  - delete: {pod: a}
  - link: {pod: a, state: up}
  - netem: {pod: a, delay: 20ms, loss: 10%}
  - rules: {pod: a, again: verify}
  - apply: {service: late}
  - invalidSegment: {from: b, port: 80}
  - probe: {pod: a, container: web, probe: readinessProbe}
  - wait: {event: {pod: a, is: web ended 0}}
    expect: {phase: {a: Running}, ready: {a: false}, restarts: {a/web: ">=1"}, events: {a: [web started, ready]}}
"#;

    #[test]
    fn faults_and_what_is_asked_of_pods_are_read() {
        let loaded = parse("f.yaml", GOOD).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
        assert_eq!(loaded.scenario.steps.len(), 9);
        assert!(loaded.scenario.services[0].held);
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (from, to, wanted) in [
            ("istiod: down", "istiod: off", "is none of: up, down"),
            ("state: up", "state: on", "is none of: up, down"),
            ("loss: 10%", "loss: 0.1", "write a percentage from 0% to 100%"),
            ("loss: 10%", "loss: 101%", "write a percentage from 0% to 100%"),
            ("delay: 20ms", "delay: -20ms", "is not a duration"),
            ("rules: {pod: a,", "rules: {pod: b,", "this pod has no rules"),
            ("again: verify", "again: once", "is none of: verify, blindly"),
            ("service: late", "service: later", "did you mean `late`?"),
            (
                "probe: readinessProbe",
                "probe: livenessProbe",
                "has no livenessProbe",
            ),
            ("container: web,", "container: agent,", "the agent's matter"),
            (
                "is: web ended 0",
                "is: web begins",
                "does not happen to a container",
            ),
            (
                "is: web ended 0",
                "is: wib started",
                "containers are: web, istio-proxy, istio-init",
            ),
            ("\">=1\"", "some", "is no number of restarts"),
            ("a: Running", "a: Walking", "is none of: Pending"),
            (
                "event: {pod: a, is: web ended 0}",
                "ready: a, notReady: a",
                "several things to wait for",
            ),
        ] {
            refused_in(GOOD, from, to, wanted);
        }
    }
}
