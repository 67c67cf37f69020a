//! The built-in workload (`lab app`): an HTTP or TCP server that calls others as a scenario says.

mod calls;
mod raw;
mod replies;
mod serve;
mod tcp;
pub mod wire;

use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::rc::Rc;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::client::families;
use crate::report::terminal;
use crate::scenario::families::IpFamily;
use wire::{AppEvent, AppSpec, Serve};

/// `lab app`: what it does is in `--spec`, as JSON.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What it listens on, answers and calls
    #[arg(long)]
    spec: String,
    /// Events are written to this descriptor, one JSON document a line
    #[arg(long)]
    events_fd: Option<RawFd>,
    /// It begins to listen when this descriptor reads end of file
    #[arg(long)]
    wait_fd: Option<RawFd>,
    /// After SIGTERM it makes its last calls and ends when this descriptor reads end of file
    #[arg(long)]
    exit_fd: Option<RawFd>,
}

/// A running workload.
struct App {
    spec: AppSpec,
    events: Option<RefCell<File>>,
    /// Requests answered, by path and status.
    counts: RefCell<std::collections::BTreeMap<(String, u16), u64>>,
}

impl App {
    fn tell(&self, event: &AppEvent) {
        if let (Some(file), Ok(mut text)) = (&self.events, serde_json::to_string(event)) {
            text.push('\n');
            // Whoever listened may be gone.
            drop(file.borrow_mut().write_all(text.as_bytes()));
        }
    }
}

/// Runs until SIGTERM.
pub fn run(args: Args) -> ExitCode {
    // A name in `ps` is a convenience.
    nix::sys::prctl::set_name(c"lab-app").unwrap_or_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("starting the runtime: {error}")),
    };
    let spec: AppSpec = match serde_json::from_str(&args.spec) {
        Ok(spec) => spec,
        Err(error) => return failed(&format!("--spec: {error}")),
    };
    let events = args
        .events_fd
        .map(|number| RefCell::new(File::from(crate::sys::take_descriptor(number))));
    let app = Rc::new(App {
        spec,
        events,
        counts: RefCell::default(),
    });
    match LocalSet::new().block_on(&runtime, live(app, args.wait_fd, args.exit_fd)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(words: &str) -> ExitCode {
    terminal::complain(&format!("error: {words}\n"));
    ExitCode::FAILURE
}

async fn live(app: Rc<App>, gate: Option<RawFd>, exit_gate: Option<RawFd>) -> Result<(), String> {
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| format!("catching SIGTERM: {error}"))?;
    let serving = open_and_serve(Rc::clone(&app), gate);
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        _ = terminate.recv() => {}
    }
    // It serves on while it waits to end, as an app does that shuts down gracefully.
    tokio::select! {
        served = &mut serving => served,
        ended = last_calls(&app, exit_gate) => ended,
    }
}

async fn last_calls(app: &App, gate: Option<RawFd>) -> Result<(), String> {
    if let Some(number) = gate {
        open(number, "--exit-fd").await?;
    }
    call_all(app, &app.spec.at_stop).await
}

/// A socket for `::` takes IPv4 too; one for 0.0.0.0 does not need IPv6 to be there.
fn every_address() -> IpAddr {
    if families::of_pod().contains(&IpFamily::V6) {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// Waits until a descriptor reads end of file.
async fn open(number: RawFd, name: &str) -> Result<(), String> {
    let said = |error: std::io::Error| format!("{name}: {error}");
    let file = File::from(crate::sys::take_descriptor(number));
    let mut pipe = pipe::Receiver::from_file(file).map_err(said)?;
    let mut rest = Vec::new();
    pipe.read_to_end(&mut rest).await.map_err(said).map(drop)
}

/// Calls that must all succeed.
async fn call_all(app: &App, urls: &[String]) -> Result<(), String> {
    for url in urls {
        let answer = calls::call(app, url, &http::HeaderMap::new()).await;
        let status = answer["status"].as_u64();
        if status.is_none_or(|status| status >= 400) {
            return Err(format!(
                "{url}: {}",
                status.map_or_else(|| answer["outcome"].to_string(), |status| status.to_string())
            ));
        }
    }
    Ok(())
}

async fn open_and_serve(app: Rc<App>, gate: Option<RawFd>) -> Result<(), String> {
    if let Some(number) = gate {
        open(number, "--wait-fd").await?;
    }
    call_all(&app, &app.spec.at_start).await?;
    if app.spec.exits {
        return Ok(());
    }
    let Some(port) = app.spec.serve.port() else {
        return std::future::pending().await;
    };
    let address = SocketAddr::new(app.spec.bind.unwrap_or_else(every_address), port);
    let socket = tokio::net::TcpListener::bind(address).await;
    let socket = socket.map_err(|error| format!("listening on {address}: {error}"))?;
    app.tell(&AppEvent::Listening { port });
    match app.spec.serve {
        Serve::Http { .. } => serve::http(app, socket).await,
        Serve::Tcp { .. } => tcp::serve(socket, None).await,
        Serve::TcpServerFirst { .. } => tcp::serve(socket, Some(b"lab-greeting\n")).await,
        Serve::RawHttp { .. } => raw::serve(app, socket).await,
        Serve::Nothing => std::future::pending().await,
    }
}
