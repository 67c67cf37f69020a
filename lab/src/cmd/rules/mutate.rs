//! `lab rules mutate FILE…`: each generated rule without effect, or in its neighbour's place; which step notices?

use std::path::PathBuf;
use std::time::{Duration, Instant};

use iptables::mutate::{Change, Mutation, Packets, mutations};
use iptables::options::Backend;
use iptables::render::{nft, restore};
use iptables::ruleset::{Family, Ruleset};
use tokio::sync::watch;

use super::super::labs::{
    Checked, Interruption, Jobs, Next, Show, Steps, Stop, check_files, drive, ready, request_of, run_quietly,
};
use super::{Output, fail};
use crate::engine::wire::RunRequest;
use crate::exit::Exit;
use crate::report::human::{self, Detail};
use crate::report::mutate::{Fate, MutantReport, document, line, summary};
use crate::report::terminal::{self, Status};
use crate::report::{LabError, Outcome, ScenarioReport};
use crate::scenario::model::{PodId, ProxyKind, Scenario};
use crate::scenario::mutate::{Mutant, generated};
use crate::within::within;

/// A mutant may take as many times as long as the file itself, and at least so long.
const TIMES: u32 = 10;
const LEAST: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(in crate::cmd) struct Args {
    /// Scenario files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Change the rules of this pod alone (repeatable)
    #[arg(long, value_name = "POD")]
    only: Vec<String>,
    /// The data plane of every sidecar, whatever the files say
    #[arg(long, value_name = "KIND")]
    proxy: Option<ProxyKind>,
    /// How many mutants run at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// What is written
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
}

/// A file and what is to be changed in it.
struct Case {
    request: RunRequest,
    scenario: Scenario,
    mutants: Vec<Wanted>,
}

/// A mutant that is to be run.
struct Wanted {
    pods: Vec<PodId>,
    number: usize,
    mutation: Mutation,
    text: String,
}

pub(super) fn run(args: &Args) -> Result<Exit, Exit> {
    // What is odd in a file is said when it is run.
    let checked = check_files(&args.files, args.proxy, |_| ())?;
    check_only(&args.only, &checked)?;
    let machine = ready(checked.iter().map(|file| &file.loaded.scenario), None)?;
    let cases: Vec<Case> = checked
        .into_iter()
        .map(|file| {
            let (name, scenario) = (file.file.display().to_string(), file.loaded.scenario);
            let request = RunRequest {
                proxy: args.proxy,
                ..request_of(name, file.text, &scenario, machine.envoy.as_ref())
            };
            case(request, scenario, &args.only)
        })
        // With `--only`, of other files nothing is asked.
        .filter(|case| !case.mutants.is_empty())
        .collect();
    machine.runtime.block_on(all(args, &cases))
}

/// Each name must be a pod of some file, with rules that are generated.
fn check_only(only: &[String], checked: &[Checked]) -> Result<(), Exit> {
    let pods = || checked.iter().flat_map(|file| &file.loaded.scenario.pods);
    let mut names: Vec<&str> = pods()
        .filter(|pod| generated(pod).is_some())
        .map(|pod| pod.name.as_str())
        .collect();
    names.dedup();
    if names.is_empty() {
        return Err(fail(
            Exit::Usage,
            "no pod has rules that are generated: there is nothing to change",
        ));
    }
    match only.iter().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(fail(
            Exit::Usage,
            &format!(
                "--only `{name}`: no pod of this name has rules that are generated; such pods are: {}",
                names.join(", ")
            ),
        )),
    }
}

fn case(request: RunRequest, scenario: Scenario, only: &[String]) -> Case {
    let ids: Vec<PodId> = scenario
        .pods_with_ids()
        .filter(|(_, pod)| only.contains(&pod.name))
        .map(|(id, _)| id)
        .collect();
    // Only pods of another file are named.
    let groups = if ids.is_empty() && !only.is_empty() {
        Vec::new()
    } else {
        scenario.with_same_rules(&ids)
    };
    let mut mutants = Vec::new();
    for pods in groups {
        let Some(ruleset) = generated(scenario.pod(pods[0])) else {
            continue;
        };
        let backend = scenario.pod(pods[0]).backend();
        for (number, mutation) in mutations(&ruleset).into_iter().enumerate() {
            mutants.push(Wanted {
                pods: pods.clone(),
                number,
                text: rule_text(&ruleset, &mutation, backend),
                mutation,
            });
        }
    }
    Case {
        request,
        scenario,
        mutants,
    }
}

fn rule_text(ruleset: &Ruleset, mutation: &Mutation, backend: Option<Backend>) -> String {
    let rule = mutation.rule(ruleset);
    rule.map_or_else(String::new, |rule| match backend {
        Some(Backend::Nftables) => nft::rule_text(rule),
        Some(Backend::Iptables) | None => restore::rule_text(rule),
    })
}

/// A file that does not hold by itself says nothing about its rules.
async fn baseline(cases: &[Case], stopped: &watch::Receiver<Stop>) -> Result<Vec<Duration>, Exit> {
    let mut limits = Vec::new();
    for case in cases {
        let started = Instant::now();
        let ended = run_quietly(case.request.clone(), stopped.clone()).await;
        let report = ended.map_err(|error| fail(error.exit(), &error.message))?;
        if report.exit() != Exit::Held {
            for step in report.steps.iter().filter(|step| step.result != Outcome::Pass) {
                terminal::complain(&human::step(step, Detail::Brief));
            }
            terminal::complain(&human::summary(&report));
            let message = format!(
                "{}: must hold as it is before its rules are changed",
                case.request.file
            );
            return Err(fail(report.exit(), &message));
        }
        limits.push((started.elapsed() * TIMES).max(LEAST));
    }
    Ok(limits)
}

async fn all(args: &Args, cases: &[Case]) -> Result<Exit, Exit> {
    let mut user = Interruption::new()?;
    let stopped = user.stopped();
    let limits = tokio::select! {
        limits = baseline(cases, &stopped) => limits?,
        (signalled, _) = user.next() => return Err(signalled),
    };
    let number: usize = cases.iter().map(|case| case.mutants.len()).sum();
    let waiting = (0..cases.len())
        .flat_map(|case| (0..cases[case].mutants.len()).map(move |mutant| (case, mutant)))
        .map(|at| {
            let ended = run_mutant(
                &cases[at.0],
                &cases[at.0].mutants[at.1],
                limits[at.0],
                stopped.clone(),
            );
            async move {
                let started = Instant::now();
                let fate = ended.await;
                (at, started.elapsed().as_secs_f64(), fate)
            }
        });
    let mut jobs = Jobs::new(args.jobs, waiting, user);
    let mut reports: Vec<((usize, usize), MutantReport)> = Vec::new();
    let mut status = Status::new();
    let mut exit = Exit::Held;
    loop {
        let missed = reports
            .iter()
            .filter(|(_, report)| report.fate == Fate::Missed)
            .count();
        status.show(&format!(
            "     running mutant {} of {number}, {missed} missed",
            reports.len() + 1
        ));
        let next = jobs.next().await;
        status.clear();
        match next {
            None => break,
            Some(Next::Interrupted(signalled, _)) => exit = exit.worse(signalled),
            // What was interrupted was not judged.
            Some(Next::Ended(_)) if *stopped.borrow() != Stop::No => {}
            Some(Next::Ended((at, seconds, fate))) => {
                let report = report(&cases[at.0], &cases[at.0].mutants[at.1], seconds, fate);
                if matches!(report.fate, Fate::Failed(_)) {
                    exit = exit.worse(Exit::Lab);
                }
                if args.output == Output::Human {
                    terminal::print(&line(&report));
                }
                reports.push((at, report));
            }
            Some(Next::Lost(why)) => exit = exit.worse(fail(Exit::Lab, &why)),
        }
    }
    drop(jobs);
    reports.sort_by_key(|(at, _)| *at);
    let reports: Vec<MutantReport> = reports.into_iter().map(|(_, report)| report).collect();
    terminal::print(&match args.output {
        Output::Human => summary(&reports),
        Output::Json => format!("{:#}\n", document(&reports)),
    });
    let is_missed = reports.iter().any(|report| report.fate == Fate::Missed);
    Ok(if is_missed { exit.worse(Exit::Failed) } else { exit })
}

fn report(case: &Case, wanted: &Wanted, seconds: f64, fate: Fate) -> MutantReport {
    let mutation = &wanted.mutation;
    MutantReport {
        file: case.request.file.clone(),
        scenario: case.scenario.name.clone(),
        pods: wanted
            .pods
            .iter()
            .map(|pod| case.scenario.pod(*pod).name.clone())
            .collect(),
        family: match mutation.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
            Family::Inet => "inet",
        },
        table: match mutation.family {
            Family::Inet => nft::table_name(mutation.chain.table()),
            Family::V4 | Family::V6 => mutation.chain.table().to_string(),
        },
        chain: mutation.chain.name().to_owned(),
        rule: mutation.position.get(),
        text: wanted.text.clone(),
        is_swap: mutation.change == Change::Swap,
        seconds,
        fate,
    }
}

/// Runs a mutant until a step notices.
fn run_mutant(
    case: &Case,
    wanted: &Wanted,
    limit: Duration,
    stopped: watch::Receiver<Stop>,
) -> impl Future<Output = Fate> + use<> {
    let request = RunRequest {
        mutant: Some(Mutant {
            pods: wanted.pods.iter().map(|pod| pod.index()).collect(),
            number: wanted.number,
        }),
        ..case.request.clone()
    };
    let steps = &case.scenario.steps;
    let names = steps.iter().map(|step| step.name.clone()).collect();
    fate(request, wanted.mutation.noticed_by, limit, names, stopped)
}

async fn fate(
    request: RunRequest,
    packets: Packets,
    limit: Duration,
    names: Vec<String>,
    stopped: watch::Receiver<Stop>,
) -> Fate {
    if packets == Packets::None {
        return Fate::Unreachable;
    }
    // A world process that is let go is killed, and the kernel removes what it made.
    let mut steps = Steps::default();
    let ended = within(
        limit,
        "a mutant to end",
        drive(request, Show::NOTHING, stopped, &mut steps),
    )
    .await;
    match ended {
        Err(_too_long) => {
            let at = steps.up.and_then(|_| names.get(steps.ended.len()));
            let under_way = at.map_or("coming up", String::as_str);
            Fate::Timeout(under_way.to_owned(), limit.as_secs_f64())
        }
        Ok(Err(error)) => Fate::Failed(error.message),
        Ok(Ok(report)) => judge(&report, packets),
    }
}

fn judge(report: &ScenarioReport, packets: Packets) -> Fate {
    let step = report.steps.iter().find(|step| step.result != Outcome::Pass);
    match (step, &report.error) {
        (Some(step), _) => Fate::Noticed(step.name.clone()),
        (None, Some(LabError { message, .. })) => {
            Fate::NeverUp(message.lines().next().unwrap_or_default().to_owned())
        }
        (None, None) if packets == Packets::Unusual => Fate::Unreachable,
        (None, None) => Fate::Missed,
    }
}
