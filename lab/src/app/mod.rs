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
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::rc::Rc;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::report::terminal;
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
    match LocalSet::new().block_on(&runtime, live(app, args.wait_fd)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(words: &str) -> ExitCode {
    terminal::complain(&format!("error: {words}\n"));
    ExitCode::FAILURE
}

async fn live(app: Rc<App>, gate: Option<RawFd>) -> Result<(), String> {
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| format!("catching SIGTERM: {error}"))?;
    tokio::select! {
        served = open_and_serve(app, gate) => served,
        _ = terminate.recv() => Ok(()),
    }
}

async fn open_and_serve(app: Rc<App>, gate: Option<RawFd>) -> Result<(), String> {
    if let Some(number) = gate {
        let file = File::from(crate::sys::take_descriptor(number));
        let mut pipe = pipe::Receiver::from_file(file).map_err(|error| format!("--wait-fd: {error}"))?;
        let mut rest = Vec::new();
        pipe.read_to_end(&mut rest)
            .await
            .map_err(|error| format!("--wait-fd: {error}"))?;
    }
    let Some(port) = app.spec.serve.port() else {
        return std::future::pending().await;
    };
    let address = SocketAddr::new(IpAddr::V4(app.spec.bind.unwrap_or(Ipv4Addr::UNSPECIFIED)), port);
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
