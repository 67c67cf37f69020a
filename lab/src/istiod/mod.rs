//! The control plane: an ADS server that serves Istio's resources. `lab istiod` runs it, in a process and pod of its own.
//!
//! [`registry`] is what the lab tells it. `snapshot` makes resources of that (`clusters`, `endpoints`, `listeners`,
//! `routes`: pure), `session` decides what a proxy is sent and when (pure), `ads` moves it over gRPC, `debug` shows it,
//! `control` talks to the lab.

pub mod registry;

mod kind;
mod wire;

mod ip_mode;
mod names;

mod access_log;
mod filters;

mod clusters;
mod endpoints;
mod inbound;
mod listeners;
mod matches;
mod retries;
mod routes;

mod snapshot;

mod session;

mod mesh;
mod metadata;
mod metrics;

mod ads;
mod control;
mod debug;

#[cfg(test)]
mod tests;

use std::error::Error as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use tokio::net::{TcpListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::report::terminal;
use ads::Ads;
use mesh::Mesh;

/// The control plane, in its pod
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Descriptor of the control socket
    #[arg(long, value_name = "N")]
    control_fd: RawFd,
    /// Where proxies connect (xDS, plain gRPC)
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15010)))]
    xds_address: SocketAddr,
    /// Where debug pages and metrics are
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15014)))]
    monitoring_address: SocketAddr,
}

/// Why the control plane ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot start an async runtime")]
    Runtime {
        #[source]
        source: io::Error,
    },
    #[error("descriptor {descriptor}, named by --control-fd, is no usable socket")]
    ControlSocket {
        descriptor: RawFd,
        #[source]
        source: io::Error,
    },
    #[error("cannot wait for SIGTERM")]
    Signal {
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on {address} for {what}")]
    Listen {
        what: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the xDS server broke")]
    Xds {
        #[source]
        source: tonic::transport::Error,
    },
    #[error("the server of the debug pages broke")]
    Debug {
        #[source]
        source: io::Error,
    },
    #[error("lost the lab")]
    Control {
        #[source]
        source: control::Error,
    },
}

/// Runs the control plane until the lab closes the control socket, or SIGTERM.
pub fn run(args: Args) -> ExitCode {
    // A name in `ps` is a convenience.
    nix::sys::prctl::set_name(c"istiod").unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Runtime { source });
    match runtime.and_then(|runtime| runtime.block_on(serve(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            complain(&text);
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> Result<(), Error> {
    let mut terminated = signal(SignalKind::terminate()).map_err(|source| Error::Signal { source })?;
    let (commands, answers) = control_socket(args.control_fd)?.into_split();
    let xds = listen("proxies", args.xds_address).await?;
    let monitoring = listen("debug pages", args.monitoring_address).await?;
    let (reports, told) = mpsc::unbounded_channel();
    let mesh = Arc::new(Mesh::new(reports));
    // One of these ends, and the others are dropped with all their connections.
    tokio::select! {
        ended = control::obey(commands, &mesh) => ended.map_err(|source| Error::Control { source }),
        ended = control::tell(answers, told) => ended.map_err(|source| Error::Control { source }),
        broke = serve_xds(xds, Arc::clone(&mesh)) => broke.map_err(|source| Error::Xds { source }),
        broke = debug::serve(monitoring, Arc::clone(&mesh)) => match broke {
            Ok(never) => match never {},
            Err(source) => Err(Error::Debug { source }),
        },
        _ = terminated.recv() => Ok(()),
    }
}

fn control_socket(descriptor: RawFd) -> Result<UnixStream, Error> {
    let socket = StdUnixStream::from(crate::sys::take_descriptor(descriptor));
    let socket = socket
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(socket));
    socket.map_err(|source| Error::ControlSocket { descriptor, source })
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| Error::Listen {
        what,
        address,
        source,
    })
}

async fn serve_xds(listener: TcpListener, mesh: Arc<Mesh>) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = AggregatedDiscoveryServiceServer::new(Ads::new(mesh));
    Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await
}

/// A line on standard error, istiod's own log.
fn complain(text: &str) {
    terminal::complain(&format!("istiod: {text}\n"));
}

#[cfg(test)]
mod process_tests {
    use std::os::fd::IntoRawFd as _;
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;
    use crate::within::within;

    fn args(control: StdUnixStream) -> Args {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Args {
            control_fd: control.into_raw_fd(),
            xds_address: loopback,
            monitoring_address: loopback,
        }
    }

    /// Says `line`, reads until `expected` comes, and closes the socket.
    async fn lab(control: StdUnixStream, line: &str, expected: &str) {
        control.set_nonblocking(true).unwrap();
        let (read, mut write) = UnixStream::from_std(control).unwrap().into_split();
        write.write_all(line.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(read).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == expected {
                return;
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_ends_well_when_the_lab_closes_the_control_socket() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let command = registry::Command::State {
            generation: 1,
            registry: tests::bookinfo(),
        };
        let line = format!("{}\n", serde_json::to_string(&command).unwrap());
        let both = async {
            let lab = lab(ours, &line, "{\"event\":\"synced\",\"generation\":1}");
            tokio::join!(serve(args(theirs)), lab).0
        };
        let ended = within(Duration::from_secs(5), "istiod to end", both).await;
        assert!(matches!(ended, Ok(Ok(()))), "{ended:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_ends_badly_when_it_does_not_understand_the_lab() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let both = async { tokio::join!(serve(args(theirs)), lab(ours, "nonsense\n", "")).0 };
        let ended = within(Duration::from_secs(5), "istiod to end", both)
            .await
            .unwrap();
        assert!(matches!(ended, Err(Error::Control { .. })), "{ended:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_address_that_is_taken_is_said_by_name() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (_ours, theirs) = StdUnixStream::pair().unwrap();
        let address = taken.local_addr().unwrap();
        let args = Args {
            xds_address: address,
            ..args(theirs)
        };
        let error = serve(args).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {address} for proxies")
        );
    }
}
