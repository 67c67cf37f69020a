//! Races: the orders in which the events of a pod's start can come, what each leads to, and what decides it. Pure.

pub mod decide;
pub mod orders;

use crate::scenario::model::{Action, Scenario, Step};
use crate::scenario::race::{Event, Race};

/// The scenario in which the events of a race come in this order: all gates closed, then opened one after another,
/// with the requests between them.
pub fn staged(race: &Race, order: &[usize]) -> Scenario {
    let mut scenario = race.scenario.clone();
    let gates = race.events.iter().filter_map(|event| match event {
        Event::Gate { gate, .. } => Some(*gate),
        Event::Request(_) => None,
    });
    scenario.pods[race.pod.index()].hold.extend(gates);
    scenario.steps = order.iter().map(|index| step(race, *index)).collect();
    scenario
}

fn step(race: &Race, index: usize) -> Step {
    match &race.events[index] {
        Event::Request(step) => (**step).clone(),
        Event::Gate { name, gate, location } => Step {
            name: name.clone(),
            location: *location,
            action: Action::Release(race.pod, vec![*gate]),
            expect: crate::scenario::model::Expect::default(),
            article: None,
        },
    }
}

/// An order as it is written: the names of its events, joined by commas.
pub fn order_text(race: &Race, order: &[usize]) -> String {
    let names: Vec<&str> = order.iter().map(|index| race.events[*index].name()).collect();
    names.join(", ")
}

/// Reads an order that `order_text` has written.
pub fn parse_order(race: &Race, text: &str) -> Result<Vec<usize>, String> {
    let mut order = Vec::new();
    for name in text.split(',').map(str::trim) {
        let found = race.events.iter().position(|event| event.name() == name);
        let Some(index) = found else {
            let names: Vec<&str> = race.events.iter().map(Event::name).collect();
            return Err(format!(
                "`{name}` is no event of this race; events are: {}",
                names.join(", ")
            ));
        };
        if order.contains(&index) {
            return Err(format!("`{name}` is there twice"));
        }
        if let Some((_, after)) = race
            .before
            .iter()
            .find(|(before, after)| *after == index && !order.contains(before))
        {
            let needed = race
                .before
                .iter()
                .filter(|(before, of)| of == after && !order.contains(before))
                .map(|(before, _)| race.events[*before].name())
                .collect::<Vec<_>>();
            return Err(format!("`{name}` cannot come before {}", needed.join(", ")));
        }
        order.push(index);
    }
    Ok(order)
}
