//! `lab race FILE`: every order in which the events of a pod's start can come, each in a mesh of its own, some at a time.

use std::path::PathBuf;

use super::fail;
use super::labs::{Interruption, Jobs, Next, by_processors, ready, request_of, run_quietly};
use crate::engine::wire::RunRequest;
use crate::exit::Exit;
use crate::race::decide::{Deciding, Seen, decide};
use crate::race::orders::Problem;
use crate::race::{order_text, parse_order};
use crate::report::race::{RaceReport, Ran, Row, document, human};
use crate::report::terminal;
use crate::report::{Outcome, ScenarioReport, StepReport};
use crate::scenario::race::{Event, Race};

/// Run every order in which a pod's start can go, and say what decides
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Race file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Run only this order, as the matrix has it: names joined by commas
    #[arg(long, value_name = "ORDER", conflicts_with_all = ["max", "seed"])]
    replay: Option<String>,
    /// Run at most this many orders, drawn at random
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max: Option<u32>,
    /// What the drawing begins with
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// How many orders run at the same time [default: two for each processor, as a lab mostly waits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// What is written
    #[arg(long, value_enum, default_value_t = Format::Human)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Human,
    Json,
}

pub(super) fn run(args: Args) -> Result<Exit, Exit> {
    let (text, race) = match crate::scenario::load_race(&args.file) {
        Ok(loaded) => loaded,
        Err(error) => {
            terminal::complain(&format!("{}\n", error.render()));
            return Err(Exit::Usage);
        }
    };
    let problem = problem(&race);
    let (orders, kinds, chosen) =
        chosen(&args, &race, &problem).map_err(|why| fail(Exit::Usage, &format!("--replay: {why}")))?;
    let machine = ready([&race.scenario], None)?;
    let file = args.file.display().to_string();
    let request = request_of(file.clone(), text, &race.scenario, machine.envoy.as_ref());
    let (ran, exit) = machine.runtime.block_on(run_all(
        &request,
        &orders,
        args.jobs.unwrap_or_else(by_processors),
    ))?;
    let report = RaceReport {
        name: race.scenario.name.clone(),
        file,
        pod: race.scenario.pod(race.pod).name.clone(),
        orders: problem.count(),
        kinds,
        ran: chosen,
        decides: if chosen == Ran::Replayed {
            Vec::new()
        } else {
            decides(&race, &orders, &ran)
        },
        rows: orders
            .iter()
            .zip(&ran)
            .map(|(order, ran)| row(&race, order, ran.as_ref()))
            .collect(),
    };
    terminal::print(&match args.output {
        Format::Human => human(&report),
        Format::Json => format!("{:#}\n", document(&report)),
    });
    let exits = ran.iter().map(|ran| exit_of(ran.as_ref()));
    Ok(exits.fold(exit, Exit::worse))
}

/// A request that ends badly is what a race is about; only what could not be seen, or done, is a failure.
fn exit_of(ran: Option<&ScenarioReport>) -> Exit {
    let Some(report) = ran else { return Exit::Lab };
    if report.error.is_some() {
        return report.exit();
    }
    report.steps.iter().fold(Exit::Held, |worst, step| {
        worst.worse(match step.result {
            Outcome::Pass | Outcome::Fail => Exit::Held,
            Outcome::Unobserved => Exit::Unobserved,
            Outcome::Error => Exit::Lab,
        })
    })
}

fn problem(race: &Race) -> Problem {
    let requests = race.events.iter().enumerate();
    let requests = requests.filter(|(_, event)| matches!(event, Event::Request(_)));
    Problem {
        number: race.events.len(),
        requests: requests.map(|(index, _)| index).collect(),
        before: race.before.clone(),
    }
}

type Chosen = (Vec<Vec<usize>>, usize, Ran);

/// The orders to run, how many kinds there are, and which these are.
fn chosen(args: &Args, race: &Race, problem: &Problem) -> Result<Chosen, String> {
    if let Some(text) = &args.replay {
        let order = parse_order(race, text)?;
        return Ok((vec![order], problem.kinds().len(), Ran::Replayed));
    }
    let mut orders = problem.kinds();
    let kinds = orders.len();
    let most = args
        .max
        .and_then(|max| usize::try_from(max).ok())
        .unwrap_or(kinds);
    if most >= kinds {
        return Ok((orders, kinds, Ran::All));
    }
    let mut random = fastrand::Rng::with_seed(args.seed);
    random.shuffle(&mut orders);
    orders.truncate(most);
    orders.sort();
    Ok((orders, kinds, Ran::Drawn(args.seed)))
}

async fn run_all(
    request: &RunRequest,
    orders: &[Vec<usize>],
    most: u16,
) -> Result<(Vec<Option<ScenarioReport>>, Exit), Exit> {
    let user = Interruption::new()?;
    let stopped = user.stopped();
    let waiting = orders.iter().enumerate().map(|(index, order)| {
        let request = RunRequest {
            order: Some(order.clone()),
            ..request.clone()
        };
        let ended = run_quietly(request, stopped.clone());
        async move { (index, ended.await) }
    });
    let mut jobs = Jobs::new(most, waiting, user);
    let mut reports: Vec<Option<ScenarioReport>> = orders.iter().map(|_| None).collect();
    let mut exit = Exit::Held;
    while let Some(next) = jobs.next().await {
        exit = exit.worse(match next {
            Next::Ended((index, Ok(report))) => {
                reports[index] = Some(report);
                Exit::Held
            }
            Next::Ended((_, Err(error))) => fail(error.exit(), &error.message),
            Next::Lost(why) => fail(Exit::Lab, &why),
            Next::Interrupted(signalled, _) => signalled,
        });
    }
    Ok((reports, exit))
}

fn requests<'r>(race: &Race, order: &[usize], ran: &'r ScenarioReport) -> Vec<(usize, &'r StepReport)> {
    order
        .iter()
        .copied()
        .zip(&ran.steps)
        .filter(|(index, _)| matches!(race.events[*index], Event::Request(_)))
        .collect()
}

/// Why an event did not come in its turn; what the requests met then says nothing about the order.
fn unopened(race: &Race, order: &[usize], ran: &ScenarioReport) -> Option<String> {
    let mut events = order.iter().zip(&ran.steps);
    let (_, step) = events.find(|(index, step)| {
        matches!(race.events[**index], Event::Gate { .. }) && step.result != Outcome::Pass
    })?;
    Some(format!("{}: {}", step.name, step.notes.join("; ")))
}

fn row(race: &Race, order: &[usize], ran: Option<&ScenarioReport>) -> Row {
    let requests = match ran {
        None => Err("it was not run to its end".to_owned()),
        Some(ran) => match &ran.error {
            Some(error) => Err(error.message.clone()),
            None => match unopened(race, order, ran) {
                Some(why) => Err(why),
                None => Ok(requests(race, order, ran)
                    .into_iter()
                    .map(|(_, step)| step.clone())
                    .collect()),
            },
        },
    };
    Row {
        order: order_text(race, order),
        requests,
    }
}

/// What decides, for each request, in words.
fn decides(race: &Race, orders: &[Vec<usize>], ran: &[Option<ScenarioReport>]) -> Vec<(String, String)> {
    let all = race.events.iter().enumerate();
    all.filter_map(|(index, event)| match event {
        Event::Request(step) => Some((index, step.name.clone())),
        Event::Gate { .. } => None,
    })
    .map(|(request, name)| {
        let rows: Vec<Seen> = orders
            .iter()
            .zip(ran)
            .filter_map(|(order, ran)| seen(race, request, order, ran.as_ref()?))
            .collect();
        let words = words(race, request, &decide(&rows), rows.len());
        (name, words)
    })
    .collect()
}

/// An order as one request saw it; none if how it ended is not known.
fn seen(race: &Race, request: usize, order: &[usize], ran: &ScenarioReport) -> Option<Seen> {
    if unopened(race, order, ran).is_some() {
        return None;
    }
    let (_, step) = requests(race, order, ran)
        .into_iter()
        .find(|(index, _)| *index == request)?;
    let place = order.iter().position(|event| *event == request)?;
    let before = |event| order[..place].contains(&event);
    match step.result {
        Outcome::Pass | Outcome::Fail => Some(Seen {
            before: (0..race.events.len()).map(before).collect(),
            good: step.result == Outcome::Pass,
        }),
        Outcome::Unobserved | Outcome::Error => None,
    }
}

fn words(race: &Race, request: usize, deciding: &Deciding, rows: usize) -> String {
    let name = race.events[request].name();
    match deciding {
        _ if rows == 0 => "not known: no order was seen to its end".to_owned(),
        Deciding::Nothing { good: true } => "good in every order that was run".to_owned(),
        Deciding::Nothing { good: false } => "bad in every order that was run".to_owned(),
        Deciding::NotTheOrder => {
            "the order does not decide it: the same events came before, and it ended differently".to_owned()
        }
        Deciding::GoodWhen(ways) => {
            let literal = |(index, before): &(usize, bool)| {
                let event = race.events[*index].name();
                if *before {
                    format!("{event}{} before {name}", after(race, *index))
                } else {
                    format!("{name} before {event}")
                }
            };
            let way = |way: &Vec<(usize, bool)>| way.iter().map(literal).collect::<Vec<_>>().join(" and ");
            let ways: Vec<String> = ways.iter().map(way).collect();
            format!("good if and only if {}", ways.join(", or "))
        }
    }
}

/// What has come before an event, whatever the order: it is as necessary as the event.
fn after(race: &Race, event: usize) -> String {
    let before = problem(race).always_before(event);
    let names: Vec<&str> = before.iter().map(|event| race.events[*event].name()).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" (after {})", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, result: Outcome, note: &str) -> StepReport {
        StepReport {
            notes: vec![note.to_owned()],
            ..StepReport::bare(name, result)
        }
    }

    #[test]
    fn an_order_whose_event_did_not_come_decides_nothing() {
        let text = "name: x\npods: [{name: a, containers: [{name: c, app: {http: 80}}]}]\n\
                    race: {pod: a, events: [rules, sidecar], requests: [{name: call, request: {from: a, tcp: \"${a.ip}:80\"}}]}\n";
        let race = crate::scenario::race::parse("x.race.yaml", text).unwrap();
        let order = [0, 1, 2];
        let ran = |sidecar, note| ScenarioReport {
            name: "x".to_owned(),
            file: "x.race.yaml".to_owned(),
            proxies: Vec::new(),
            up_seconds: None,
            seconds: 0.0,
            steps: vec![
                step("rules", Outcome::Pass, ""),
                step("sidecar", sidecar, note),
                step("call", Outcome::Fail, ""),
            ],
            error: None,
            rules: Vec::new(),
        };
        let whole = ran(Outcome::Pass, "");
        assert!(seen(&race, 2, &order, &whole).is_some());
        assert_eq!(row(&race, &order, Some(&whole)).requests.unwrap().len(), 1);
        let broken = ran(Outcome::Error, "waited 15000 ms");
        assert!(seen(&race, 2, &order, &broken).is_none());
        let why = row(&race, &order, Some(&broken)).requests.unwrap_err();
        assert_eq!(why, "sidecar: waited 15000 ms");
        assert_eq!(exit_of(Some(&broken)), Exit::Lab);
    }
}
