//! The command line of the sidecar's two processes.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::bootstrap::{Bootstrap, InterceptionMode};
use crate::{agent, data_plane};

/// Istio's `drainDuration`, in seconds.
const DRAIN_TIME: u64 = 45;

/// The sidecar's two processes.
#[derive(Debug, clap::Subcommand)]
pub enum Sidecar {
    /// Start and supervise the data plane, relay xDS to it, answer for its health
    Agent(AgentArgs),
    /// Proxy connections, as xDS says
    DataPlane(DataPlaneArgs),
}

/// The agent.
#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {
    /// The control plane, HOST:PORT
    #[arg(long)]
    pub istiod: String,
    /// `sidecar~IP~POD.NAMESPACE~DOMAIN`
    #[arg(long)]
    pub node_id: String,
    /// The pod's addresses, in order, if it has more than the one in the node id (`INSTANCE_IPS`)
    #[arg(long, value_delimiter = ',')]
    pub instance_ips: Vec<IpAddr>,
    /// Where the app has metrics, PORT/PATH
    #[arg(long)]
    pub app_metrics: Option<String>,
    /// The data plane is this Envoy, instead of the one in this program
    #[arg(long)]
    pub envoy: Option<PathBuf>,
    /// Worker threads of the data plane
    #[arg(long, default_value_t = NonZeroU16::MIN)]
    pub concurrency: NonZeroU16,
    /// How connections get into the sidecar
    #[arg(long, value_enum, default_value_t = InterceptionMode::Redirect)]
    pub interception_mode: InterceptionMode,
    /// How long connections of what is gone from the configuration go on (`drainDuration`)
    #[arg(long, default_value_t = DRAIN_TIME)]
    pub drain_time_s: u64,
    /// How long connections may be idle, as the control plane is told (`ISTIO_META_IDLE_TIMEOUT`)
    #[arg(long)]
    pub idle_timeout: Option<String>,
    /// How long the data plane goes on after SIGTERM (`terminationDrainDuration`)
    #[arg(long, default_value_t = 0)]
    pub termination_drain_ms: u64,
    /// After SIGTERM, go on until no connection is open, at least this long (`MINIMUM_DRAIN_DURATION`)
    #[arg(long)]
    pub exit_on_zero_ms: Option<u64>,
    /// How often connections are counted then
    #[arg(long, default_value_t = 1000)]
    pub exit_on_zero_poll_ms: u64,
    /// What is done for `/app-health/CONTAINER/PROBE`, as JSON by path (`ISTIO_KUBE_APP_PROBERS`)
    #[arg(long)]
    pub app_probers: Option<String>,
    /// Answer DNS on port 15053 of 127.0.0.1 and `::1`: names of the mesh by the name table, others by /etc/resolv.conf (`ISTIO_META_DNS_CAPTURE`)
    #[arg(long)]
    pub dns_capture: bool,
    /// The data plane is started when this descriptor reads end of file
    #[arg(long)]
    pub wait_fd: Option<RawFd>,
    /// Events are written to this descriptor, one JSON document a line
    #[arg(long)]
    pub events_fd: Option<RawFd>,
}

/// The data plane.
#[derive(Debug, Clone, clap::Args)]
pub struct DataPlaneArgs {
    /// `sidecar~IP~POD.NAMESPACE~DOMAIN`
    #[arg(long)]
    pub node_id: String,
    /// The pod's addresses, in order, if it has more than the one in the node id (`INSTANCE_IPS`)
    #[arg(long, value_delimiter = ',')]
    pub instance_ips: Vec<IpAddr>,
    /// Worker threads
    #[arg(long, default_value_t = NonZeroU16::MIN)]
    pub concurrency: NonZeroU16,
    /// How connections get into the sidecar
    #[arg(long, value_enum, default_value_t = InterceptionMode::Redirect)]
    pub interception_mode: InterceptionMode,
    /// How long connections of what is gone from the configuration go on
    #[arg(long, default_value_t = DRAIN_TIME)]
    pub drain_time_s: u64,
    /// How long connections may be idle, as the control plane is told
    #[arg(long)]
    pub idle_timeout: Option<String>,
}

impl DataPlaneArgs {
    fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            concurrency: self.concurrency,
            interception_mode: self.interception_mode,
            idle_timeout: self.idle_timeout.clone(),
            drain_time: Duration::from_secs(self.drain_time_s),
            ..Bootstrap::of_pod(&self.node_id, &self.instance_ips)
        }
    }
}

/// Runs one of them until SIGTERM. `exec` is what leads to these subcommands on the command line of this program.
pub fn run(sidecar: Sidecar, exec: &[&OsStr]) -> ExitCode {
    let name = match &sidecar {
        Sidecar::Agent(_) => c"agent",
        Sidecar::DataPlane(_) => c"data-plane",
    };
    // A name in `ps` is a convenience.
    nix::sys::prctl::set_name(name).unwrap_or_default();
    let runtime = match data_plane::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let exec = exec
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    LocalSet::new().block_on(&runtime, async {
        let mut terminate = match signal(SignalKind::terminate()) {
            Ok(terminate) => terminate,
            Err(error) => return failed(&error),
        };
        let stop = async move {
            terminate.recv().await;
        };
        match sidecar {
            Sidecar::Agent(args) => match agent::run(args, exec, stop).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            },
            Sidecar::DataPlane(args) => match data_plane::run(args.bootstrap(), stop).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            },
        }
    })
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    data_plane::log(&text);
    ExitCode::FAILURE
}
