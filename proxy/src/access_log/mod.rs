//! Access logs: what is known of a stream when it ends, and the formats in which it is written.

pub mod flags;
pub mod format;
pub mod sink;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

pub use flags::Flags;
pub use format::Format;
use http::HeaderMap;
use sink::Sink;

/// What is known of a stream (an HTTP request, or a TCP connection) when it ends.
#[derive(Debug)]
pub struct Record<'a> {
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// HTTP method.
    pub method: Option<&'a str>,
    /// Path and query.
    pub path: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2`; none for TCP.
    pub protocol: Option<&'static str>,
    /// The `Host` header, or `:authority`.
    pub authority: Option<&'a str>,
    /// Request headers.
    pub request_headers: Option<&'a HeaderMap>,
    /// Response headers.
    pub response_headers: Option<&'a HeaderMap>,
    /// Status; 0 if there was no response, and for TCP.
    pub response_code: u16,
    /// Response flags.
    pub flags: &'a Flags,
    /// Why the response is what it is.
    pub details: Option<&'a str>,
    /// Why the connection was ended.
    pub connection_termination_details: Option<&'a str>,
    /// Why the connection upstream failed.
    pub upstream_transport_failure_reason: Option<&'a str>,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// The cluster.
    pub upstream_cluster: Option<&'a str>,
    /// The host that was chosen.
    pub upstream_host: Option<SocketAddr>,
    /// This end of the connection to it.
    pub upstream_local_address: Option<SocketAddr>,
    /// The number of that connection.
    pub upstream_connection_id: Option<u64>,
    /// How often it was tried.
    pub attempts: u32,
    /// The client's destination.
    pub downstream_local_address: SocketAddr,
    /// The client.
    pub downstream_remote_address: SocketAddr,
    /// The other end of the connection.
    pub downstream_direct_remote_address: SocketAddr,
    /// The number of the client's connection.
    pub connection_id: u64,
    /// The route.
    pub route_name: Option<&'a str>,
    /// The filter chain.
    pub filter_chain_name: Option<&'a str>,
}

/// A log: a format, and where its lines go.
#[derive(Debug, Clone)]
pub struct AccessLog {
    format: Rc<Format>,
    sink: Rc<Sink>,
}

impl AccessLog {
    /// A log to this path; `/dev/stdout` and `/dev/stderr` are this process's own.
    pub fn open(path: &str, format: Rc<Format>) -> io::Result<Self> {
        Ok(Self {
            format,
            sink: sink::open(path)?,
        })
    }

    /// Adds one line. It is written as soon as this thread has nothing else to do.
    pub fn log(&self, record: &Record<'_>) {
        self.sink.add(|lines| self.format.write(record, lines));
    }
}
