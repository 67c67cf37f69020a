//! One lab, from the host's side: its world process is started, told what to run, and listened to until it ends.

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::watch;

use super::Stop;
use crate::causes::causes as chain;
use crate::engine::wire::RunRequest;
use crate::report::human::{self, Detail};
use crate::report::terminal::{self, Status};
use crate::report::{LabError, ProxyReport, RunEvent, ScenarioReport};
use crate::scenario::model::{ProxyKind, Scenario};
use crate::within::within;
use crate::world::envoy::Envoy;
use crate::world::supervisor::spawn_world;

/// How long an interrupted lab may take to come down before it is killed; the kernel then removes what is left.
const TEARDOWN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub(in crate::cmd) struct Show {
    /// Steps are printed as they end.
    pub(in crate::cmd) live: bool,
    pub(in crate::cmd) detail: Detail,
}

impl Show {
    /// Nothing is printed.
    pub(in crate::cmd) const NOTHING: Self = Self {
        live: false,
        detail: Detail::Brief,
    };
}

/// What the world process is told of any file.
pub(in crate::cmd) fn request_of(
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

/// What the world process told before it ended.
#[derive(Default)]
pub(in crate::cmd) struct Steps {
    pub(in crate::cmd) ended: Vec<crate::report::StepReport>,
    pub(in crate::cmd) up: Option<f64>,
}

/// Runs a lab of which only the end is told.
pub(in crate::cmd) async fn run_quietly(
    request: RunRequest,
    stopped: watch::Receiver<Stop>,
) -> Result<ScenarioReport, LabError> {
    drive(request, Show::NOTHING, stopped, &mut Steps::default()).await
}

/// Runs a lab to its end; what it tells on the way is kept in `steps`.
pub(in crate::cmd) async fn drive(
    request: RunRequest,
    show: Show,
    mut stopped: watch::Receiver<Stop>,
    steps: &mut Steps,
) -> Result<ScenarioReport, LabError> {
    let mut world = spawn_world().map_err(|error| LabError::lab(chain(&error)))?;
    let mut text = serde_json::to_string(&request).map_err(|error| LabError::lab(error.to_string()))?;
    text.push('\n');
    let control = world
        .take_control()
        .ok_or_else(|| LabError::lab("no control socket".to_owned()))?;
    let (read, mut write) = control.into_split();
    write
        .write_all(text.as_bytes())
        .await
        .map_err(|error| LabError::lab(format!("telling the world process: {error}")))?;
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
                        .map_err(|error| LabError::lab(format!("the world process said `{line}`: {error}")))?;
                    take(event, show, &mut status, steps, &mut report);
                }
                Ok(None) => break,
                Err(error) => return Err(LabError::lab(format!("listening to the world process: {error}"))),
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
            Err(LabError::lab(too_long.to_string()))
        }
        (None, Ok(status)) => Err(LabError::lab(format!(
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
