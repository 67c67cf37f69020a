//! The steps of a scenario, in order, in a lab that is built for them and taken down after them.
//!
//! This runs in the world process, on one thread: a `current_thread` runtime and a `LocalSet`. Every task belongs to
//! the `Lab` and ends with it.

mod command;
mod facts;
mod faults;
mod identity;
mod lab;
mod life;
mod logs;
mod mesh;
mod reports;
mod request;
mod rules;
mod state;
mod steps;
mod up;
pub mod wire;

use std::os::fd::{OwnedFd, RawFd};
use std::time::Instant;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::LocalSet;

use crate::causes::causes as chain;
use crate::race;
use crate::report::{LabError, Outcome, RunEvent, ScenarioReport};
use crate::scenario::{self, custom::Files};
use crate::world::entry;
use wire::RunRequest;

/// Why the world process could not even report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime did not start.
    #[error("starting the runtime")]
    Runtime(#[source] std::io::Error),
    /// The control socket failed.
    #[error("the control socket: {doing}")]
    Control {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The host side said something that is no request.
    #[error("the host side said something that is no request: {0}")]
    Request(String),
}

/// The world process: reads a request from the control socket, runs it, reports on the same socket.
pub fn world_main(control: RawFd) -> Result<(), Error> {
    let started = Instant::now();
    let control = crate::sys::take_descriptor(control);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    LocalSet::new().block_on(&runtime, serve(control, started))
}

async fn serve(control: OwnedFd, started: Instant) -> Result<(), Error> {
    let failed = |doing: &'static str| move |source| Error::Control { doing, source };
    let control = std::os::unix::net::UnixStream::from(control);
    control
        .set_nonblocking(true)
        .map_err(failed("making it non-blocking"))?;
    let (read, write) = UnixStream::from_std(control)
        .map_err(failed("registering it"))?
        .into_split();
    let mut lines = BufReader::new(read).lines();
    let line = lines.next_line().await.map_err(failed("reading the request"))?;
    let line = line.ok_or_else(|| Error::Request("end of file".to_owned()))?;
    let request: RunRequest =
        serde_json::from_str(&line).map_err(|error| Error::Request(error.to_string()))?;
    let mut events = Events { write };
    let report = run(&request, started, &mut events, lines.into_inner()).await;
    events
        .send(&RunEvent::Ended {
            report: Box::new(report),
        })
        .await;
    Ok(())
}

/// Where events go. If the host side is gone there is nobody to tell, and the lab comes down by itself.
struct Events {
    write: OwnedWriteHalf,
}

impl Events {
    async fn send(&mut self, event: &RunEvent) {
        if let Ok(mut text) = serde_json::to_string(event) {
            text.push('\n');
            drop(self.write.write_all(text.as_bytes()).await);
        }
    }
}

async fn run(
    request: &RunRequest,
    started: Instant,
    events: &mut Events,
    control: BufReader<OwnedReadHalf>,
) -> ScenarioReport {
    let mut report = ScenarioReport {
        name: String::new(),
        file: request.file.clone(),
        proxies: request.proxies.clone(),
        up_seconds: None,
        seconds: 0.0,
        steps: Vec::new(),
        error: None,
        rules: Vec::new(),
    };
    let outcome = tokio::select! {
        outcome = run_steps(request, started, events, &mut report) => outcome,
        () = end_of_file(control) => Err(LabError::lab("interrupted".to_owned())),
    };
    report.error = outcome.err();
    report.seconds = started.elapsed().as_secs_f64();
    report
}

/// Returns when the host side has closed its end, which means: come down.
async fn end_of_file(mut control: BufReader<OwnedReadHalf>) {
    let mut rest = String::new();
    while let Ok(1..) = control.read_line(&mut rest).await {
        rest.clear();
    }
}

async fn run_steps(
    request: &RunRequest,
    started: Instant,
    events: &mut Events,
    report: &mut ScenarioReport,
) -> Result<(), LabError> {
    let mistaken = |_mistakes: scenario::Mistakes| {
        LabError::lab("the file that the host side checked has mistakes".to_owned())
    };
    let files = Files::Read(request.files.clone());
    let mut scenario = match &request.order {
        None => {
            scenario::parse_with(&request.file, &request.text, files)
                .map_err(mistaken)?
                .scenario
        }
        Some(order) => {
            let race = scenario::race::parse_with(&request.file, &request.text, files).map_err(mistaken)?;
            race::staged(&race, order)
        }
    };
    if let Some(proxy) = request.proxy {
        scenario.run_by(proxy);
    }
    if let Some(mutant) = &request.mutant {
        scenario.mutate(mutant);
    }
    report.name.clone_from(&scenario.name);
    entry::settle_in(request.envoy.as_deref()).map_err(|error| LabError::lab(chain(&error)))?;
    let steps = scenario.steps.clone();
    events
        .send(&RunEvent::Progress {
            text: "namespaces, rules, sidecars".to_owned(),
        })
        .await;
    let lab = up::up(scenario).await?;
    let seconds = started.elapsed().as_secs_f64();
    report.up_seconds = Some(seconds);
    events.send(&RunEvent::Up { seconds }).await;
    let wanted =
        |name: &str| request.only.is_empty() || request.only.iter().any(|part| name.contains(part.as_str()));
    for step in steps.iter().filter(|step| wanted(&step.name)) {
        events
            .send(&RunEvent::StepStarted {
                name: step.name.clone(),
            })
            .await;
        let mut ended = steps::run(&lab, step, true).await;
        if ended.result != Outcome::Pass {
            // What a sidecar refused may be why.
            ended.notes.extend(lab.nacks.borrow().iter().cloned());
        }
        events
            .send(&RunEvent::StepEnded {
                step: Box::new(ended.clone()),
            })
            .await;
        let is_noticed = request.mutant.is_some() && ended.result != Outcome::Pass;
        report.steps.push(ended);
        if let Some(failure) = lab.watched.read(|state| state.failure.clone()) {
            return Err(LabError::lab(failure));
        }
        if is_noticed {
            break;
        }
    }
    if request.list_rules {
        report.rules = rules::listed(&lab).await.map_err(LabError::lab)?;
    }
    up::down(lab).await;
    Ok(())
}
