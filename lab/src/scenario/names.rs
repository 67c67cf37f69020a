//! Names resolved once, to ids: pods, their containers, their processes, their gates.

use std::cell::RefCell;

use super::families::IpFamilies;
use super::fields::{At, Reader, nearest, suggestion};
use super::lifecycle::ContainerKind;
use super::model::{
    Actor, Container, ContainerId, DestinationRule, Gate, Pod, PodId, ProcessName, Scenario, Service,
    Sidecar, Target, Workload, XdsType,
};
use super::objects::Object;

/// What a scenario has, to look names up in.
pub(super) struct Names<'p> {
    pods: &'p [Pod],
    scenario: &'p Scenario,
    /// What the steps that were read so far apply.
    applied: RefCell<Vec<Object>>,
}

impl<'p> Names<'p> {
    pub(super) fn new(scenario: &'p Scenario) -> Self {
        Self {
            pods: &scenario.pods,
            scenario,
            applied: RefCell::default(),
        }
    }

    /// All services, held ones too.
    pub(super) fn services(&self) -> &'p [Service] {
        &self.scenario.services
    }

    /// The mesh's families.
    pub(super) const fn families(&self) -> IpFamilies {
        self.scenario.mesh.ip_families
    }

    /// A step applies this; those after it may name it.
    pub(super) fn applied(&self, object: &Object) {
        self.applied.borrow_mut().push(object.clone());
    }

    /// Destination rules that are or were there.
    pub(super) fn all_destination_rules(&self) -> Vec<DestinationRule> {
        let applied = self.applied.borrow();
        let applied = applied.iter().filter_map(|object| match object {
            Object::DestinationRule(rule) => Some(rule),
            Object::Service(..) | Object::VirtualService(_) => None,
        });
        self.scenario
            .destination_rules
            .iter()
            .chain(applied)
            .cloned()
            .collect()
    }

    /// The names of virtual services that are or were there.
    pub(super) fn virtual_services(&self) -> Vec<String> {
        let applied = self.applied.borrow();
        let applied = applied.iter().flat_map(|object| match object {
            Object::VirtualService(all) => all.as_slice(),
            Object::Service(..) | Object::DestinationRule(_) => &[],
        });
        let all = self.scenario.virtual_services.iter().chain(applied);
        all.map(|it| it.name.clone()).collect()
    }

    /// A service by its name.
    pub(super) fn service(&self, reader: &Reader<'_>, at: &At<'_>, name: &str) -> Option<usize> {
        let services = self.services();
        let found = services.iter().position(|service| service.name == name);
        if found.is_none() {
            let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
            reader.wrong(
                at,
                &format!("`{name}` is no service of this file"),
                &suggestion(name, "services (`hold: true` for those that come later)", &names),
            );
        }
        found
    }

    pub(super) fn pod_of(&self, id: PodId) -> &'p Pod {
        &self.pods[id.0]
    }

    /// A pod by its name; `what` says in the message what names it.
    pub(super) fn pod(&self, reader: &Reader<'_>, at: &At<'_>, name: &str, what: &str) -> Option<PodId> {
        let found = self.pods.iter().position(|pod| pod.name == name).map(PodId);
        if found.is_none() {
            let known: Vec<&str> = self.pods.iter().map(|pod| pod.name.as_str()).collect();
            let help = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`? pods are: {}", known.join(", ")),
                None => format!("pods are: {}", known.join(", ")),
            };
            reader.wrong(
                at,
                &format!("{what} names pod `{name}`, which is not there"),
                &help,
            );
        }
        found
    }

    /// `POD`, `POD/CONTAINER`, `POD/sidecar`, `POD/agent`.
    pub(super) fn target(&self, reader: &Reader<'_>, at: &At<'_>, text: &str, what: &str) -> Option<Target> {
        let (pod, process) = match text.split_once('/') {
            Some((pod, process)) => (pod, Some(process)),
            None => (text, None),
        };
        let pod = self.pod(reader, at, pod, what)?;
        let process = match process {
            Some(process) => self.process(reader, at, pod, process, what)?,
            None => match self.mains(pod).as_slice() {
                [(id, _)] => ProcessName::Container(*id),
                several => {
                    let names: Vec<&str> = several.iter().map(|(_, it)| it.name.as_str()).collect();
                    let help = format!("write `{text}/CONTAINER`; containers are: {}", names.join(", "));
                    reader.wrong(
                        at,
                        &format!("{what} names pod `{text}`, which has several containers"),
                        &help,
                    );
                    return None;
                }
            },
        };
        Some(Target { pod, process })
    }

    /// The pod's own containers; init containers are named in full.
    fn mains(&self, pod: PodId) -> Vec<(ContainerId, &'p Container)> {
        self.pod_of(pod)
            .containers_with_ids()
            .filter(|(_, it)| it.kind == ContainerKind::Main)
            .collect()
    }

    pub(super) fn process(
        &self,
        reader: &Reader<'_>,
        at: &At<'_>,
        pod: PodId,
        name: &str,
        what: &str,
    ) -> Option<ProcessName> {
        let known = self.pod_of(pod);
        match name {
            "sidecar" | "agent" if known.sidecar.is_none() => {
                reader.wrong(
                    at,
                    &format!(
                        "{what} names the {name} of pod `{}`, which has no sidecar",
                        known.name
                    ),
                    "",
                );
                None
            }
            "sidecar" => Some(ProcessName::Sidecar),
            "agent" => Some(ProcessName::Agent),
            _ => {
                let found = known.containers.iter().position(|it| it.name == name);
                if found.is_none() {
                    let mut names: Vec<&str> = known.containers.iter().map(|it| it.name.as_str()).collect();
                    if known.sidecar.is_some() {
                        names.extend(["sidecar", "agent"]);
                    }
                    let what = format!(
                        "{what} names container `{name}`, which pod `{}` has not",
                        known.name
                    );
                    reader.wrong(at, &what, &suggestion(name, "its processes", &names));
                }
                found.map(|index| ProcessName::Container(ContainerId(index)))
            }
        }
    }

    pub(super) fn actor(&self, reader: &Reader<'_>, at: &At<'_>, what: &str) -> Option<Actor> {
        let text = reader.string(at.clone())?;
        let target = self.target(reader, at, &text, what)?;
        Some(Actor {
            target,
            user: None,
            group: None,
        })
    }

    pub(super) fn gates(&self, reader: &Reader<'_>, at: At<'_>, pod: PodId) -> Vec<Gate> {
        gates(reader, at, self.pod_of(pod))
    }
}

/// The gates of a pod, by their names.
pub(super) fn gates(reader: &Reader<'_>, at: At<'_>, pod: &Pod) -> Vec<Gate> {
    reader
        .list(at)
        .into_iter()
        .filter_map(|item| one_gate(reader, item, pod))
        .collect()
}

/// A gate of a pod, by its name.
pub(super) fn one_gate(reader: &Reader<'_>, at: At<'_>, pod: &Pod) -> Option<Gate> {
    let text = reader.string(at.clone())?;
    let fixed = match text.as_str() {
        "rules" => Some(Gate::Rules),
        "agent" => Some(Gate::Agent),
        "sidecar" => Some(Gate::Sidecar),
        "xds.cds" => Some(Gate::Xds(XdsType::Cds)),
        "xds.eds" => Some(Gate::Xds(XdsType::Eds)),
        "xds.lds" => Some(Gate::Xds(XdsType::Lds)),
        "xds.rds" => Some(Gate::Xds(XdsType::Rds)),
        "xds.nds" => Some(Gate::Xds(XdsType::Nds)),
        _ => None,
    };
    if let Some(gate) = fixed {
        let has = pod.sidecar.is_some() || (gate == Gate::Rules && pod.has_rules());
        if !has {
            reader.wrong(
                &at,
                &format!("gate `{text}`: pod `{}` has no sidecar", pod.name),
                "",
            );
            return None;
        }
        if gate == Gate::Xds(XdsType::Nds) && !pod.sidecar.as_ref().is_some_and(Sidecar::captures_dns) {
            reader.wrong(
                &at,
                &format!(
                    "gate `{text}`: pod `{}` does not capture DNS, so its agent asks for no names",
                    pod.name
                ),
                "write `interception: {redirectDNS: true}` in the pod or in `mesh`",
            );
            return None;
        }
        return Some(gate);
    }
    if text == "endpoints" {
        return Some(Gate::Endpoints);
    }
    if text == "xds.sds" {
        reader.wrong(&at, "gate `xds.sds` is not supported yet", "");
        return None;
    }
    let container = |name: &str| {
        pod.containers
            .iter()
            .position(|it| it.name == name)
            .map(ContainerId)
    };
    let listens = |id: ContainerId| matches!(pod.container(id).workload, Workload::App(_));
    if let Some(id) = text.strip_suffix(".listen").and_then(container) {
        if listens(id) {
            return Some(Gate::Listen(id));
        }
        reader.wrong(
            &at,
            &format!("gate `{text}`: only a built-in `app` can be held before it listens"),
            "",
        );
        return None;
    }
    if let Some(id) = text.strip_suffix(".exit").and_then(container) {
        if listens(id) {
            return Some(Gate::Exit(id));
        }
        reader.wrong(
            &at,
            &format!("gate `{text}`: only a built-in `app` can be held before it ends"),
            "",
        );
        return None;
    }
    let found = container(&text).map(Gate::Container);
    if found.is_none() {
        let mut known: Vec<String> = vec!["endpoints".to_owned()];
        if pod.sidecar.is_some() {
            known.extend(
                [
                    "rules", "agent", "sidecar", "xds.cds", "xds.eds", "xds.lds", "xds.rds", "xds.nds",
                ]
                .map(str::to_owned),
            );
        }
        for (index, it) in pod.containers.iter().enumerate() {
            known.push(it.name.clone());
            if listens(ContainerId(index)) {
                known.extend([format!("{}.listen", it.name), format!("{}.exit", it.name)]);
            }
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        reader.wrong(
            &at,
            &format!("unknown gate `{text}`"),
            &suggestion(&text, "gates of this pod", &known),
        );
    }
    found
}

/// A DNS label (RFC 1123), as Kubernetes names pods, services and containers.
pub(super) fn label(reader: &Reader<'_>, at: &At<'_>, what: &str) -> Option<String> {
    let name = reader.string(at.clone())?;
    let right = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let valid = !name.is_empty()
        && name.len() <= 63
        && name.chars().all(right)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !valid {
        let help =
            "write lower-case letters, digits and `-`, at most 63 characters, a letter or digit at both ends";
        reader.wrong(at, &format!("`{name}` cannot name a {what}"), help);
        return None;
    }
    Some(name)
}
