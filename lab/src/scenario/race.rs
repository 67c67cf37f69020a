//! Race files: a scenario without steps, and the events whose order is to be explored.

use super::custom::Files;
use super::fields::{At, Fields, Reader, suggestion};
use super::mistake::Mistakes;
use super::model::{Action, ContainerId, Gate, Location, PodId, ProcessName, Scenario, Step};
use super::names::Names;
use super::steps;

/// Events of a race, at most: beyond that there are more orders than anyone would wait for.
const MOST: usize = 14;

/// A race.
#[derive(Debug, Clone)]
pub struct Race {
    /// The mesh, without steps.
    pub scenario: Scenario,
    /// The pod whose start is explored.
    pub pod: PodId,
    /// Its gates, then the requests.
    pub events: Vec<Event>,
    /// `(a, b)`: event a comes before event b.
    pub before: Vec<(usize, usize)>,
}

/// Something whose place in the order varies.
#[derive(Debug, Clone)]
pub enum Event {
    /// A gate of the pod is opened.
    Gate {
        /// As gates are named.
        name: String,
        /// Which.
        gate: Gate,
        /// Where the file names it.
        location: Location,
    },
    /// A request is sent.
    Request(Box<Step>),
}

impl Event {
    /// Its name in constraints and orders.
    pub fn name(&self) -> &str {
        match self {
            Self::Gate { name, .. } => name,
            Self::Request(step) => &step.name,
        }
    }
}

/// Reads and checks the text of a race file.
pub fn parse(file: &str, text: &str) -> Result<Race, Mistakes> {
    parse_with(file, text, Files::Nowhere)
}

/// The same of a text that may name other files.
pub fn parse_with(file: &str, text: &str, files: Files) -> Result<Race, Mistakes> {
    let reader = Reader::new(file, text, files)?;
    let race = super::mesh_of(&reader, reader.root(), file).and_then(|(scenario, fields)| {
        let Some(at) = fields.get("race") else {
            reader.wrong(
                reader.root(),
                "no `race`",
                "write `race: {pod: POD, events: [GATE], requests: [...]}`; a scenario is run by `lab run`",
            );
            return None;
        };
        if let Some(at) = fields.get("steps") {
            reader.wrong(&at, "a race has no `steps`", "write `race.requests`");
        }
        race(&reader, at, scenario)
    });
    reader.end(race)
}

fn race(reader: &Reader<'_>, at: At<'_>, scenario: Scenario) -> Option<Race> {
    let fields = reader.map(at.clone(), &["pod", "events", "order", "kubelet", "requests"])?;
    let names = Names::new(&scenario);
    let pod = steps::pod(reader, &at, &fields, &names)?;
    let mut events = gates(reader, &at, &fields, &names, pod);
    let requests_at = fields.get("requests");
    let requests = requests_at.clone().map(|at| steps::read(reader, at, &names));
    if requests.as_ref().is_none_or(Vec::is_empty) {
        reader.wrong(
            &at,
            "no `requests`",
            "write `requests: [{name: NAME, request: {...}, expect: {...}}]`",
        );
    }
    for step in requests.unwrap_or_default() {
        let sends = matches!(step.action, Action::Request(_));
        let doubled = events.iter().any(|event| event.name() == step.name) || step.name.contains(',');
        let place = requests_at.clone().unwrap_or_else(|| at.clone());
        if !sends {
            reader.wrong(
                &place,
                &format!("`{}` is no request", step.name),
                "write `request: {...}`",
            );
        }
        if doubled {
            reader.wrong(
                &place,
                &format!("`{}` cannot name a request of this race", step.name),
                "names are given once, without commas",
            );
        }
        events.push(Event::Request(Box::new(step)));
    }
    if events.len() > MOST {
        reader.wrong(
            &at,
            &format!("{} events and requests are too many", events.len()),
            &format!("leave out what does not matter: {MOST} at most"),
        );
    }
    let mut before = order(reader, &fields, &events);
    if fields.get("kubelet").and_then(|at| reader.flag(at)) == Some(true) {
        before.extend(kubelet(&scenario, pod, &events));
    }
    before.sort_unstable();
    before.dedup();
    Some(Race {
        scenario,
        pod,
        events,
        before,
    })
}

fn gates(reader: &Reader<'_>, at: &At<'_>, fields: &Fields<'_>, names: &Names<'_>, pod: PodId) -> Vec<Event> {
    let Some(events_at) = fields.get("events") else {
        reader.wrong(
            at,
            "no `events`",
            "write `events: [rules, sidecar]`: gates of the pod",
        );
        return Vec::new();
    };
    let mut events: Vec<Event> = Vec::new();
    for item in reader.list(events_at) {
        let found = super::names::one_gate(reader, item.clone(), names.pod_of(pod));
        let (Some(gate), Some(name)) = (found, reader.string(item.clone())) else {
            continue;
        };
        if events.iter().any(|event| event.name() == name) {
            reader.wrong(
                &item,
                &format!("`{name}` is there already"),
                "events are named once",
            );
        }
        events.push(Event::Gate {
            name,
            gate,
            location: reader.location(&item),
        });
    }
    events
}

/// `order: [[a, b, c]]`: a before b before c.
fn order(reader: &Reader<'_>, fields: &Fields<'_>, events: &[Event]) -> Vec<(usize, usize)> {
    let Some(order_at) = fields.get("order") else {
        return Vec::new();
    };
    let known: Vec<&str> = events.iter().map(Event::name).collect();
    let mut before = Vec::new();
    for chain in reader.list(order_at.clone()) {
        let mut last: Option<usize> = None;
        for item in reader.list(chain.clone()) {
            let Some(name) = reader.string(item.clone()) else {
                continue;
            };
            let Some(index) = known.iter().position(|known| *known == name) else {
                let help = suggestion(&name, "events of this race", &known);
                reader.wrong(&item, &format!("`{name}` is no event of this race"), &help);
                continue;
            };
            before.extend(last.map(|last| (last, index)));
            last = Some(index);
        }
        if let Some(circle) = circle(events.len(), &before) {
            let names: Vec<&str> = circle
                .iter()
                .chain(circle.first())
                .map(|index| known[*index])
                .collect();
            reader.wrong(
                &chain,
                &format!("this makes a circle: {}", names.join(" before ")),
                "no order could meet that: take one of them out",
            );
            return Vec::new();
        }
    }
    before
}

/// Events of which each comes before the next and the last before the first.
fn circle(number: usize, before: &[(usize, usize)]) -> Option<Vec<usize>> {
    let mut left: Vec<usize> = (0..number).collect();
    loop {
        let free = |event: &usize| !before.iter().any(|(b, a)| a == event && left.contains(b));
        let Some(place) = left.iter().position(free) else {
            break;
        };
        left.remove(place);
    }
    let mut way = vec![*left.first()?];
    loop {
        let last = *way.last()?;
        let (next, _) = before.iter().find(|(b, a)| *a == last && left.contains(b))?;
        if let Some(start) = way.iter().position(|event| event == next) {
            let mut circle = way.split_off(start);
            circle.reverse();
            return Some(circle);
        }
        way.push(*next);
    }
}

/// What kubelet and the injector leave no choice in: rules first (istio-init), the proxy's place among the containers, a
/// container before its listening, the agent before the data plane, an app before its own calls.
fn kubelet(scenario: &Scenario, pod: PodId, events: &[Event]) -> Vec<(usize, usize)> {
    let spec = scenario.pod(pod);
    let gate = |wanted: Gate| {
        events
            .iter()
            .position(|event| matches!(event, Event::Gate { gate, .. } if *gate == wanted))
    };
    let containers: Vec<ContainerId> = spec.containers_with_ids().map(|(id, _)| id).collect();
    let mut chains: Vec<(Option<usize>, Option<usize>)> = Vec::new();
    if !spec.life.cni {
        let rules = gate(Gate::Rules);
        chains.extend([Gate::Agent, Gate::Sidecar].map(|later| (rules, gate(later))));
        chains.extend(containers.iter().map(|id| (rules, gate(Gate::Container(*id)))));
    }
    chains.push((gate(Gate::Agent), gate(Gate::Sidecar)));
    let held = spec
        .sidecar
        .as_ref()
        .is_some_and(|it| it.life.hold_application || it.life.native);
    for id in &containers {
        let started = gate(Gate::Container(*id));
        chains.push((started, gate(Gate::Listen(*id))));
        for proxy in [Gate::Agent, Gate::Sidecar] {
            chains.push(if held {
                (gate(proxy), started)
            } else {
                (started, gate(proxy))
            });
        }
        for (index, event) in events.iter().enumerate() {
            let Event::Request(step) = event else { continue };
            let Action::Request(request) = &step.action else {
                continue;
            };
            let target = request.from.target;
            if target.pod == pod && target.process == ProcessName::Container(*id) {
                chains.push((started, Some(index)));
            }
        }
    }
    chains.into_iter().filter_map(|(a, b)| Some((a?, b?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
services: [{name: web, ports: [{name: http, port: 80, targetPort: 8080}]}]
pods:
  - {name: web-v1, labels: {app: web}, containers: [{name: web, app: {http: 8080}}]}
  - {name: shop, containers: [{name: shop, app: {http: 8080}}]}
race:
  pod: shop
  events: [rules, sidecar, shop]
  order: [[rules, sidecar]]
  requests:
    - {name: first call, request: {from: shop, url: 'http://web/'}, expect: {status: 200}}
";

    #[track_caller]
    fn said(from: &str, to: &str) -> String {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD);
        let mistakes = parse("a.race.yaml", &text).unwrap_err();
        anstream::adapter::strip_str(&mistakes.render()).to_string()
    }

    #[test]
    fn a_race_is_read() {
        let race = parse("a.race.yaml", GOOD).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
        let names: Vec<&str> = race.events.iter().map(Event::name).collect();
        assert_eq!(names, ["rules", "sidecar", "shop", "first call"]);
        assert_eq!(race.before, [(0, 1)]);
        let text = GOOD.replace("order: [[rules, sidecar]]", "kubelet: true");
        let race = parse("a.race.yaml", &text).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
        // Rules first, the app before the proxy, the app before its call.
        assert_eq!(race.before, [(0, 1), (0, 2), (2, 1), (2, 3)]);
    }

    #[test]
    fn mistakes_have_their_place() {
        let circle = said(
            "order: [[rules, sidecar]]",
            "order: [[rules, sidecar], [sidecar, shop, rules]]",
        );
        assert!(
            circle.contains("makes a circle") && circle.contains("a.race.yaml:9:"),
            "{circle}"
        );
        let unknown = said("events: [rules,", "events: [rulez,");
        assert!(
            unknown.contains("unknown gate `rulez`") && unknown.contains("a.race.yaml:8:12"),
            "{unknown}"
        );
        let event = said("[[rules, sidecar]]", "[[rules, sidecare]]");
        assert!(event.contains("did you mean `sidecar`?"), "{event}");
        let no_request = said(
            "request: {from: shop, url: 'http://web/'}, expect: {status: 200}",
            "istiod: down",
        );
        assert!(no_request.contains("is no request"), "{no_request}");
        let negative = said("url: 'http://web/'", "timeout: -1s, url: 'http://web/'");
        assert!(negative.contains("`-1s` is not a duration"), "{negative}");
    }
}
