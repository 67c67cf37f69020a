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
        "delete" => {
            let fields = reader.map(at.clone(), &["pod"])?;
            pod(reader, &at, &fields, names).map(Action::Delete)
        }
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
            let has_rules = names.pod_of(pod).sidecar.as_ref().is_some_and(|it| it.intercept);
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
    Some(Action::Netem(
        pod,
        Impairment {
            delay: time("delay"),
            jitter: time("jitter"),
            loss,
        },
    ))
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
