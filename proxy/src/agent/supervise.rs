//! The data plane's process: started when it may, started again when it ends, ended with the agent.

use std::future::Future;
use std::io::{self, Write as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::Shared;
use crate::within::{back_off, within};

/// The first pause before a start that follows an early end; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A data plane that lived this long starts again at once.
const LIVED: Duration = Duration::from_secs(10);
/// What a data plane gets between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Keeps a data plane running until `stop` is ready, then ends it.
pub(super) async fn run(
    shared: &Rc<Shared>,
    exec: Vec<String>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    tokio::pin!(stop);
    tokio::select! {
        opened = gate(shared) => opened?,
        () = &mut stop => return Ok(()),
    }
    let mut pause = Duration::ZERO;
    loop {
        let started = Instant::now();
        shared.begun.set(started);
        let mut child = start(shared, &exec)?;
        shared.turn(true);
        shared
            .events
            .tell(&json!({ "event": "data-plane-started", "pid": child.id() }));
        tokio::select! {
            status = child.wait() => {
                pause = match (started.elapsed() >= LIVED, pause) {
                    (true, _) => Duration::ZERO,
                    (false, Duration::ZERO) => FIRST_PAUSE,
                    (false, pause) => (pause * 2).min(LONGEST_PAUSE),
                };
                shared.turn(false);
                end_line();
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                let restart_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                shared.events.tell(&json!({ "event": "data-plane-exited", "status": status, "restart_in_ms": restart_in_ms }));
            }
            () = &mut stop => return end(&mut child).await,
        }
        tokio::select! {
            () = back_off(pause) => {}
            () = &mut stop => return Ok(()),
        }
    }
}

/// A data plane that was killed may have been writing a line of its access log: what the next one writes is another line.
fn end_line() {
    // Nobody reading it is no reason to stop.
    drop(io::stdout().lock().write_all(b"\n"));
}

/// Waits until the data plane may be started.
async fn gate(shared: &Shared) -> io::Result<()> {
    let Some(number) = shared.args.wait_fd else {
        return Ok(());
    };
    let mut pipe = pipe::Receiver::from_file(crate::sys::take_descriptor(number))?;
    let mut rest = Vec::new();
    pipe.read_to_end(&mut rest).await.map(drop)
}

fn start(shared: &Shared, exec: &[String]) -> io::Result<Child> {
    let mut command = match &shared.envoy {
        Some(envoy) => envoy.command(),
        None => builtin(shared, exec),
    };
    crate::sys::die_together(&mut command);
    Command::from(command).kill_on_drop(true).spawn()
}

fn builtin(shared: &Shared, exec: &[String]) -> std::process::Command {
    #[expect(clippy::disallowed_methods, reason = "the agent starts the data plane")]
    let mut command = std::process::Command::new("/proc/self/exe");
    let concurrency = shared.args.concurrency.to_string();
    command
        .args(exec)
        .args(["data-plane", "--node-id", &shared.args.node_id])
        .args(["--concurrency", &concurrency])
        .args(["--interception-mode", shared.args.interception_mode.name()])
        .args(["--drain-time-s", &shared.args.drain_time_s.to_string()]);
    if let Some(idle) = &shared.args.idle_timeout {
        command.args(["--idle-timeout", idle]);
    }
    if !shared.args.instance_ips.is_empty() {
        let all: Vec<String> = shared.args.instance_ips.iter().map(ToString::to_string).collect();
        command.args(["--instance-ips", &all.join(",")]);
    }
    command
}

async fn end(child: &mut Child) -> io::Result<()> {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).map_err(io::Error::from)?;
    }
    match within(GRACE, "the data plane to end", child.wait()).await {
        Ok(ended) => ended.map(drop),
        Err(_) => child.kill().await,
    }
}
