//! The control plane (`lab istiod`): an ADS server that serves Istio's resources, a process of its own in its own pod.
//!
//! What it knows it is told over a control socket ([`registry`]); what each proxy gets of it is worked out by pure
//! functions (`snapshot`); who has what is kept by `ads`; and `debug` shows it.

mod ads;
mod clusters;
mod debug;
mod listeners;
mod logs;
pub mod registry;
mod routes;
mod snapshot;

use std::io::Write as _;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::report::terminal;
use registry::{Command, Report};

/// `lab istiod`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The control socket's descriptor
    #[arg(long)]
    control_fd: RawFd,
    /// Where xDS is served
    #[arg(long, default_value = "0.0.0.0:15010", hide = true)]
    xds: std::net::SocketAddr,
    /// Where `/ready`, `/debug/…` and `/metrics` are served
    #[arg(long, default_value = "0.0.0.0:15014", hide = true)]
    http: std::net::SocketAddr,
}

/// Where reports go.
type Reports = mpsc::UnboundedSender<Report>;

/// Runs until the control socket ends.
pub fn run(args: Args) -> ExitCode {
    // A name in `ps` is a convenience.
    nix::sys::prctl::set_name(c"istiod").unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(serve(&args)),
        Err(error) => Err(format!("starting the runtime: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&format!("error: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: &Args) -> Result<(), String> {
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| format!("catching SIGTERM: {error}"))?;
    let control = std::os::unix::net::UnixStream::from(crate::sys::take_descriptor(args.control_fd));
    let words = |error: std::io::Error| format!("the control socket: {error}");
    control.set_nonblocking(true).map_err(words)?;
    let mut out = control.try_clone().map_err(words)?;
    let mut lines = BufReader::new(UnixStream::from_std(control).map_err(words)?).lines();
    let (reports, mut outgoing) = mpsc::unbounded_channel::<Report>();
    let state = Arc::new(Mutex::new(ads::State::new(reports.clone())));
    let bind = |address| async move {
        tokio::net::TcpListener::bind(address)
            .await
            .map_err(|error| format!("listening on {address}: {error}"))
    };
    let (xds, http) = (bind(args.xds).await?, bind(args.http).await?);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(ads::serve(Arc::clone(&state), xds));
    tasks.spawn(debug::serve(Arc::clone(&state), http));
    let mut is_first = true;
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line.map_err(words)? else { return Ok(()) };
                let command = serde_json::from_str(&line).map_err(|error| format!("`{line}`: {error}"))?;
                let is_state = matches!(command, Command::State { .. });
                take(&state, command);
                if is_state && std::mem::take(&mut is_first) {
                    drop(reports.send(Report::Listening));
                }
            }
            Some(report) = outgoing.recv() => {
                let mut text = serde_json::to_string(&report).map_err(|error| error.to_string())?;
                text.push('\n');
                // Small, and read at once: the socket's buffer takes it.
                out.write_all(text.as_bytes()).map_err(words)?;
            }
            _ = terminate.recv() => return Ok(()),
        }
    }
}

fn take(state: &Mutex<ads::State>, command: Command) {
    let mut state = ads::lock(state);
    match command {
        Command::State { generation, registry } => state.set(generation, registry),
        Command::Hold { pod, kind } => state.hold(&pod, &kind, true),
        Command::Release { pod, kind } => state.hold(&pod, &kind, false),
    }
}
