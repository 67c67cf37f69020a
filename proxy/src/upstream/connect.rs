//! Connections to hosts, and why one failed, in Envoy's words.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};

use super::Cluster;
use super::counted::Counted;
use super::host::{Host, Http1, Http2, Link, more};
use crate::addr::Source;
use crate::within::{back_off, within};

/// How long an address may be silent until the next one of the same host is tried (Envoy's happy eyeballs).
const NEXT_ADDRESS: Duration = Duration::from_millis(300);

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// A number for a connection, never given twice in a process.
pub fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Why a connection was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// It took too long.
    TimedOut,
    /// The kernel refused at once, before anything was sent.
    Immediate {
        /// The kernel's words.
        words: String,
        /// The host.
        host: SocketAddr,
    },
    /// An answer came, and it was no.
    Delayed {
        /// The kernel's words.
        words: String,
    },
}

impl ConnectError {
    /// What stands in braces behind `upstream_reset_before_response_started`.
    pub fn details(&self) -> String {
        match self {
            Self::TimedOut => "connection_timeout".to_owned(),
            Self::Immediate { .. } | Self::Delayed { .. } => {
                format!(
                    "remote_connection_failure|{}",
                    self.transport_reason().unwrap_or_default()
                )
            }
        }
    }

    /// Envoy's transport failure reason.
    pub fn transport_reason(&self) -> Option<String> {
        match self {
            Self::TimedOut => None,
            Self::Immediate { words, host } => {
                Some(format!("immediate_connect_error:_{words}|remote_address:{host}"))
            }
            Self::Delayed { words } => Some(format!("delayed_connect_error:_{words}")),
        }
    }

    /// The reset reason that a client reads in the body.
    pub const fn reset_reason(&self) -> &'static str {
        match self {
            Self::TimedOut => "connection timeout",
            Self::Immediate { .. } | Self::Delayed { .. } => "remote connection failure",
        }
    }

    fn of(refused: &Refused, host: SocketAddr) -> Self {
        let text = refused.error.to_string();
        let words = text.split(" (os error").next().unwrap_or(&text).replace(' ', "_");
        if refused.at_once {
            Self::Immediate { words, host }
        } else {
            Self::Delayed { words }
        }
    }
}

/// Opens a connection to a host of a cluster, from `source` if one is given, else from where the cluster says.
pub async fn connect(
    cluster: &Cluster,
    host: &Host,
    source: Option<Source>,
) -> Result<TcpStream, ConnectError> {
    let opened = within(
        cluster.config.connect_timeout,
        "the host to accept",
        open_any(cluster, host.address, source),
    )
    .await;
    if !matches!(opened, Ok(Ok(_))) {
        more(&host.cx_connect_fail);
    }
    match opened {
        Ok(Ok(stream)) => {
            cluster.stats.cx_total.inc();
            more(&host.cx_total);
            Ok(stream)
        }
        Ok(Err(error)) => {
            cluster.stats.cx_connect_fail.inc();
            Err(ConnectError::of(&error, host.address))
        }
        Err(_) => {
            cluster.stats.cx_connect_fail.inc();
            cluster.stats.cx_connect_timeout.inc();
            Err(ConnectError::TimedOut)
        }
    }
}

/// What the kernel said, and whether it said so before anything was sent.
struct Refused {
    error: io::Error,
    at_once: bool,
}

/// The first of a host's addresses that takes the connection: the next one is tried when one has failed, or has not
/// answered for a while (RFC 8305, as Envoy has it).
async fn open_any(cluster: &Cluster, host: SocketAddr, source: Option<Source>) -> Result<TcpStream, Refused> {
    let mut left = cluster.additional(host).into_iter();
    if left.len() == 0 {
        return open(cluster, host, source).await;
    }
    let mut tried = FuturesUnordered::from_iter([open(cluster, host, source)]);
    loop {
        let has_more = left.len() > 0;
        let last = tokio::select! {
            ended = tried.next() => match ended {
                Some(Err(error)) => error,
                Some(Ok(stream)) => return Ok(stream),
                // Never: one is under way here.
                None => continue,
            },
            () = back_off(NEXT_ADDRESS), if has_more => {
                tried.extend(left.next().map(|next| open(cluster, next, source)));
                continue;
            }
        };
        match left.next() {
            Some(next) => tried.push(open(cluster, next, source)),
            None if tried.is_empty() => return Err(last),
            None => {}
        }
    }
}

async fn open(cluster: &Cluster, host: SocketAddr, source: Option<Source>) -> Result<TcpStream, Refused> {
    let at_once = |error| Refused { error, at_once: true };
    let socket = socket(cluster, host, source).map_err(at_once)?;
    let mut connecting = std::pin::pin!(socket.connect(host));
    // The first poll is connect(2) itself; what comes later came with a packet, or with its absence.
    let stream = match connecting.as_mut().now_or_never() {
        Some(connected) => connected.map_err(at_once)?,
        None => connecting.await.map_err(|error| Refused {
            error,
            at_once: false,
        })?,
    };
    stream.set_nodelay(true).map_err(at_once)?;
    Ok(stream)
}

fn socket(cluster: &Cluster, host: SocketAddr, source: Option<Source>) -> io::Result<TcpSocket> {
    let socket = if host.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(Source { ip, mark }) = source {
        crate::serve::make_transparent(&socket, ip)?;
        if mark != 0 {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
    }
    // As in Envoy, a client's address stands above the cluster's own.
    let client = source.map(|source| source.ip);
    let mut sources = client.iter().chain(&cluster.config.bind);
    if let Some(ip) = sources.find(|ip| ip.is_ipv4() == host.is_ipv4()).copied() {
        // The port is chosen with the destination known, so that as many connections fit as without bind (ip(7)).
        crate::sys::bind_without_port(&socket)?;
        socket.bind(SocketAddr::new(ip, 0))?;
    }
    Ok(socket)
}

/// Opens a connection to a host that speaks HTTP/1.1.
pub async fn connect_http1(
    cluster: &Cluster,
    host: &Host,
    source: Option<Source>,
) -> Result<Http1, ConnectError> {
    let stream = connect(cluster, host, source).await?;
    let link = link(cluster, host, source, &stream)?;
    Ok(Http1::new(stream, link))
}

/// Opens a connection to a host that speaks HTTP/2.
pub async fn connect_http2(
    cluster: &Cluster,
    host: &Host,
    source: Option<Source>,
) -> Result<Http2, ConnectError> {
    let stream = connect(cluster, host, source).await?;
    let Link {
        id,
        local,
        source,
        active,
        over,
    } = link(cluster, host, source, &stream)?;
    let builder = hyper::client::conn::http2::Builder::new(crate::http::LocalExecutor);
    let handshake = builder
        .handshake(TokioIo::new(Counted::new(stream, &cluster.stats)))
        .await;
    let (sender, connection) = handshake.map_err(|error| ConnectError::Delayed {
        words: error.to_string().replace(' ', "_"),
    })?;
    tokio::task::spawn_local(async move {
        // How it ended shows in the requests that rode it.
        drop(connection.await);
        drop((active, over));
    });
    Ok(Http2 {
        sender,
        id,
        local,
        source,
        streams: std::rc::Rc::default(),
    })
}

/// What is known of a connection that was made.
pub fn link(
    cluster: &Cluster,
    host: &Host,
    source: Option<Source>,
    stream: &TcpStream,
) -> Result<Link, ConnectError> {
    Ok(Link {
        id: next_id(),
        local: stream.local_addr().map_err(|error| {
            ConnectError::of(
                &Refused {
                    error,
                    at_once: false,
                },
                host.address,
            )
        })?,
        source,
        active: cluster.stats.cx_active.hold(),
        over: cluster.stats.cx_destroy.at_end(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_worded_as_envoy_words_them() {
        let host: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let of = |number, at_once| {
            let error = io::Error::from_raw_os_error(number);
            ConnectError::of(&Refused { error, at_once }, host)
        };
        let refused = of(libc::ECONNREFUSED, false);
        assert_eq!(
            refused.details(),
            "remote_connection_failure|delayed_connect_error:_Connection_refused"
        );
        let unreachable = of(libc::ENETUNREACH, true);
        assert_eq!(
            unreachable.details(),
            "remote_connection_failure|immediate_connect_error:_Network_is_unreachable|remote_address:10.0.0.1:80"
        );
        assert_eq!(ConnectError::TimedOut.details(), "connection_timeout");
    }
}
