//! Kubernetes objects that steps change: services, virtual services, destination rules, as `kubectl apply` and `kubectl
//! delete` do it.

use serde_yaml::Value;

use super::fields::{At, Reader, suggestion};
use super::model::{Action, DestinationRule, Scenario, Service, VirtualService};
use super::names::Names;
use super::services;
use super::steps::pod;

/// What a step puts there.
#[derive(Debug, Clone)]
pub enum Object {
    /// A service: index into [`Scenario::services`].
    Service(usize, Service),
    /// A virtual service, once for each of its hosts.
    VirtualService(Vec<VirtualService>),
    /// A destination rule.
    DestinationRule(DestinationRule),
}

/// What a step takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectName {
    /// A service: index into [`Scenario::services`].
    Service(usize),
    /// A virtual service.
    VirtualService(String),
    /// A destination rule.
    DestinationRule(String),
}

/// The objects that are there: the file's, as the steps so far have changed them.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// Services, as in [`Scenario::services`]; none where it is not there.
    pub services: Vec<Option<Service>>,
    /// Destination rules.
    pub destination_rules: Vec<DestinationRule>,
    /// Virtual services.
    pub virtual_services: Vec<VirtualService>,
}

impl Objects {
    /// Those of a file, before its first step.
    pub fn of(scenario: &Scenario) -> Self {
        let services = scenario.services.iter();
        Self {
            services: services
                .map(|service| (!service.held).then(|| service.clone()))
                .collect(),
            destination_rules: scenario.destination_rules.clone(),
            virtual_services: scenario.virtual_services.clone(),
        }
    }

    /// This one is there, in the place of its former self.
    pub fn apply(&mut self, object: &Object) {
        match object {
            Object::Service(index, service) => self.services[*index] = Some(service.clone()),
            Object::VirtualService(all) => {
                let is_another = |it: &VirtualService| all.iter().all(|new| new.name != it.name);
                self.virtual_services.retain(is_another);
                self.virtual_services.extend(all.iter().cloned());
            }
            Object::DestinationRule(rule) => {
                self.destination_rules.retain(|it| it.name != rule.name);
                self.destination_rules.push(rule.clone());
            }
        }
    }

    /// This one is there no more; false if it was not.
    pub fn delete(&mut self, which: &ObjectName) -> bool {
        match which {
            ObjectName::Service(index) => self.services[*index].take().is_some(),
            ObjectName::VirtualService(name) => {
                let before = self.virtual_services.len();
                self.virtual_services.retain(|it| it.name != *name);
                self.virtual_services.len() < before
            }
            ObjectName::DestinationRule(name) => {
                let before = self.destination_rules.len();
                self.destination_rules.retain(|it| it.name != *name);
                self.destination_rules.len() < before
            }
        }
    }
}

const KINDS: [&str; 3] = ["service", "virtualService", "destinationRule"];

/// `apply: {service: NAME}`, or an object as `services`, `virtualServices` and `destinationRules` have it.
pub(super) fn apply(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Action> {
    let (kind, item) = one(reader, at, &KINDS, "write `apply: {service: NAME}`")?;
    let object = match kind {
        "service" => service(reader, item, names)?,
        "virtualService" => {
            let rules = names.all_destination_rules();
            let all = services::virtual_service(reader, &item, names.services(), &rules);
            if all.is_empty() {
                return None;
            }
            Object::VirtualService(all)
        }
        _ => Object::DestinationRule(services::destination_rule(reader, &item, names.services())?),
    };
    names.applied(&object);
    Some(Action::Apply(object))
}

/// A service by its name, as the file has it; or one that has changed.
fn service(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Object> {
    if !matches!(at.value, Value::Mapping(_)) {
        let name = reader.string(at.clone())?;
        let index = names.service(reader, &at, &name)?;
        return Some(Object::Service(index, names.services()[index].clone()));
    }
    // Families cannot change: its addresses stay.
    let name = at
        .value
        .get("name")
        .or_else(|| at.value.get("metadata")?.get("name"));
    let known = names
        .services()
        .iter()
        .find(|known| name.and_then(Value::as_str) == Some(&known.name));
    let families = known.map_or_else(|| names.families(), |known| known.ip_families);
    let (service, name_at) = services::service(reader, &at, families)?;
    let index = names.service(reader, &name_at, &service.name)?;
    if service.held {
        reader.wrong(
            &name_at,
            "a service that is applied is not held",
            "take `hold` out",
        );
    }
    if service.ip_families != names.services()[index].ip_families {
        let help = format!("write `ipFamilies: [{}]`", families.names());
        reader.wrong(&name_at, "the families of a service do not change", &help);
    }
    Some(Object::Service(index, service))
}

/// `delete: {pod: NAME}`, or an object's.
pub(super) fn delete(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Action> {
    let kinds = ["pod", "service", "virtualService", "destinationRule"];
    let (kind, item) = one(reader, at.clone(), &kinds, "write `delete: {pod: NAME}`")?;
    if kind == "pod" {
        let fields = reader.map(at.clone(), &kinds)?;
        return pod(reader, &at, &fields, names).map(Action::Delete);
    }
    let name = reader.string(item.clone())?;
    let which = match kind {
        "service" => ObjectName::Service(names.service(reader, &item, &name)?),
        "virtualService" => {
            known(reader, &item, &name, "virtual service", &names.virtual_services())?;
            ObjectName::VirtualService(name)
        }
        _ => {
            let rules = names.all_destination_rules();
            let rules: Vec<String> = rules.into_iter().map(|rule| rule.name).collect();
            known(reader, &item, &name, "destination rule", &rules)?;
            ObjectName::DestinationRule(name)
        }
    };
    Some(Action::Withdraw(which))
}

fn known(reader: &Reader<'_>, at: &At<'_>, name: &str, what: &str, known: &[String]) -> Option<()> {
    if known.iter().any(|known| known == name) {
        return Some(());
    }
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    reader.wrong(
        at,
        &format!("there is no {what} `{name}`"),
        &suggestion(name, &format!("{what}s of this file so far"), &names),
    );
    None
}

/// The one field that there is.
fn one<'v>(
    reader: &Reader<'_>,
    at: At<'v>,
    kinds: &[&'static str],
    example: &str,
) -> Option<(&'static str, At<'v>)> {
    let fields = reader.map(at.clone(), kinds)?;
    let given: Vec<&'static str> = kinds
        .iter()
        .copied()
        .filter(|kind| fields.get(kind).is_some())
        .collect();
    let [kind] = given.as_slice() else {
        let what = format!("it is for one of {}", kinds.join(", "));
        reader.wrong(&at, &what, example);
        return None;
    };
    Some((kind, fields.get(kind)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::parse;
    use crate::scenario::tests::refused_in;

    const GOOD: &str = r"
services:
  - {name: web, ports: [{name: http, port: 80}], selector: {app: a}}
  - {name: late, hold: true, ports: [{port: 81}], selector: {app: a}}
destinationRules: [{host: web, subsets: [{name: v1, labels: {version: v1}}]}]
virtualServices: [{name: ways, hosts: [web], http: [{route: [{destination: {host: web, subset: v1}}]}]}]
pods: [{name: a, labels: {app: a}, containers: [{name: web, app: {http: 80}}]}]
steps:
  - apply: {service: late}
  - apply: {service: {name: web, ports: [{name: tcp, port: 80}], selector: {app: a}}}
  - apply: {destinationRule: {name: more, host: late, subsets: [{name: v2, labels: {version: v2}}]}}
  - apply: {virtualService: {name: ways, hosts: [web, late], http: [{route: [{destination: {host: late, subset: v2}}]}]}}
  - delete: {virtualService: ways}
  - delete: {destinationRule: more}
  - delete: {service: web}
";

    #[test]
    fn objects_change_step_by_step() {
        let loaded = parse("f.yaml", GOOD).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
        let mut objects = Objects::of(&loaded.scenario);
        assert!(objects.services[1].is_none());
        let mut there = Vec::new();
        for step in &loaded.scenario.steps {
            if let Action::Apply(object) = &step.action {
                objects.apply(object);
            } else if let Action::Withdraw(which) = &step.action {
                assert!(objects.delete(which), "{which:?}");
            }
            there.push((
                objects.services.iter().flatten().count(),
                objects.destination_rules.len(),
                objects.virtual_services.len(),
            ));
        }
        assert_eq!(
            there,
            [
                (2, 1, 1),
                (2, 1, 1),
                (2, 2, 1),
                (2, 2, 2),
                (2, 2, 0),
                (2, 1, 0),
                (1, 1, 0)
            ]
        );
        assert!(!objects.delete(&ObjectName::Service(0)), "it is gone");
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (from, to, wanted) in [
            ("{service: late}", "{service: later}", "did you mean `late`?"),
            (
                "{service: late}",
                "{service: late, pod: a}",
                "unknown field `pod`",
            ),
            ("{service: late}", "{}", "it is for one of service"),
            (
                "{service: {name: web,",
                "{service: {name: wob,",
                "did you mean `web`?",
            ),
            (
                "{service: {name: web,",
                "{service: {name: web, hold: true,",
                "take `hold` out",
            ),
            (
                "{service: {name: web,",
                "{service: {name: web, ipFamilies: [IPv6],",
                "the families of a service do not change",
            ),
            ("subset: v2", "subset: v3", "has no subset `v3`"),
            (
                "{virtualService: ways}",
                "{virtualService: way}",
                "did you mean `ways`?",
            ),
            (
                "{destinationRule: more}",
                "{destinationRule: moor}",
                "there is no destination rule `moor`",
            ),
            (
                "delete: {service: web}",
                "delete: {service: wib}",
                "did you mean `web`?",
            ),
            (
                "delete: {service: web}",
                "delete: {service: web, pod: a}",
                "it is for one of pod",
            ),
        ] {
            refused_in(GOOD, from, to, wanted);
        }
    }
}
