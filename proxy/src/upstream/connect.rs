//! Connections to hosts, and why one failed, in Envoy's words.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};

use super::{Cluster, Pooled, Sender};
use crate::within::within;

thread_local! {
    static NEXT_ID: Cell<u64> = const { Cell::new(0) };
}

/// A number for a connection, never given twice in a process.
pub fn next_id() -> u64 {
    NEXT_ID.with(|next| next.replace(next.get() + 1))
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

    fn of(error: &io::Error, host: SocketAddr) -> Self {
        let text = error.to_string();
        let words = text.split(" (os error").next().unwrap_or(&text).replace(' ', "_");
        match error.raw_os_error() {
            // connect(2) itself says these; the others come with a packet, or with its absence.
            Some(libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::EACCES | libc::EPERM | libc::EINVAL) => {
                Self::Immediate { words, host }
            }
            _ => Self::Delayed { words },
        }
    }
}

/// Opens a connection to a host of a cluster.
pub async fn connect(cluster: &Cluster, host: SocketAddr) -> Result<TcpStream, ConnectError> {
    let opened = within(
        cluster.config.connect_timeout,
        "the host to accept",
        open(cluster, host),
    )
    .await;
    match opened {
        Ok(Ok(stream)) => {
            cluster.stats.cx_total.inc();
            Ok(stream)
        }
        Ok(Err(error)) => {
            cluster.stats.cx_connect_fail.inc();
            Err(ConnectError::of(&error, host))
        }
        Err(_) => {
            cluster.stats.cx_connect_fail.inc();
            cluster.stats.cx_connect_timeout.inc();
            Err(ConnectError::TimedOut)
        }
    }
}

async fn open(cluster: &Cluster, host: SocketAddr) -> io::Result<TcpStream> {
    let socket = if host.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(ip) = cluster.config.bind.filter(|ip| ip.is_ipv4() == host.is_ipv4()) {
        // The port is chosen with the destination known, so that as many connections fit as without bind (ip(7)).
        crate::sys::bind_without_port(&socket)?;
        socket.bind(SocketAddr::new(ip, 0))?;
    }
    let stream = socket.connect(host).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens a connection to a host and makes it speak the cluster's HTTP.
pub async fn connect_http(cluster: &Rc<Cluster>, host: SocketAddr) -> Result<Pooled, ConnectError> {
    let stream = connect(cluster, host).await?;
    let refused = |error: &io::Error| ConnectError::of(error, host);
    let local = stream.local_addr().map_err(|error| refused(&error))?;
    let io = TokioIo::new(stream);
    let active = cluster.stats.cx_active.clone();
    active.inc();
    let failed = |error: hyper::Error| ConnectError::Delayed {
        words: error.to_string().replace(' ', "_"),
    };
    let sender = if cluster.config.http2 {
        let builder = hyper::client::conn::http2::Builder::new(crate::http::LocalExecutor);
        let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
        tokio::task::spawn_local(async move {
            // How it ended shows in the requests that rode it.
            drop(connection.await);
            active.dec();
        });
        Sender::Http2(sender)
    } else {
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
        tokio::task::spawn_local(async move {
            drop(connection.with_upgrades().await);
            active.dec();
        });
        Sender::Http1(sender)
    };
    Ok(Pooled::new(sender, next_id(), local, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_worded_as_envoy_words_them() {
        let host: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let refused = ConnectError::of(&io::Error::from_raw_os_error(libc::ECONNREFUSED), host);
        assert_eq!(
            refused.details(),
            "remote_connection_failure|delayed_connect_error:_Connection_refused"
        );
        let unreachable = ConnectError::of(&io::Error::from_raw_os_error(libc::ENETUNREACH), host);
        assert_eq!(
            unreachable.details(),
            "remote_connection_failure|immediate_connect_error:_Network_is_unreachable|remote_address:10.0.0.1:80"
        );
        assert_eq!(ConnectError::TimedOut.details(), "connection_timeout");
    }
}
