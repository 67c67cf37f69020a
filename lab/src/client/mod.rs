//! The built-in client (`lab request`): one request, and how it ended, told exactly.
//!
//! Every connection is bound to a port before it is opened, so that its port is known even if it is refused.

pub mod connect;
pub mod content;
pub mod families;
pub mod http;
pub mod raw;
pub mod resolve;
pub mod wire;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::within::within;
use connect::Attempts;
use wire::{Failure, Kind, Outcome, Spec};

/// `lab request`: the specification on standard input, the result on standard output.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Reads one request, sends it, tells how it ended.
pub fn run(Args {}: Args) -> ExitCode {
    // A name in `ps` is a convenience.
    nix::sys::prctl::set_name(c"lab-request").unwrap_or_default();
    match one() {
        Ok(text) => match std::io::stdout().write_all(&text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            crate::report::terminal::complain(&format!("error: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

fn one() -> Result<Vec<u8>, String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| format!("reading the request: {error}"))?;
    let spec: Spec = serde_json::from_str(&text).map_err(|error| format!("the request: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("starting the runtime: {error}"))?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, perform(&spec));
    serde_json::to_vec(&result).map_err(|error| error.to_string())
}

/// Sends a request. Whatever happens is a result.
pub async fn perform(spec: &Spec) -> wire::Result {
    perform_with(spec, &mut Attempts::default()).await
}

/// The same, with each connection told to whoever made `attempts`.
pub async fn perform_with(spec: &Spec, attempts: &mut Attempts<'_>) -> wire::Result {
    let started = Instant::now();
    let limit = Duration::from_millis(spec.timeout_ms);
    let mut answer = wire::Answer::default();
    attempts.ip_family = spec.ip_family;
    let sent = within(limit, "an answer", send(&spec.kind, attempts, &mut answer)).await;
    let failure = match sent {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(too_long) => Some(Failure {
            outcome: Outcome::Timeout,
            words: too_long.to_string(),
        }),
    };
    wire::Result::of(failure, answer, attempts, started.elapsed())
}

async fn send(kind: &Kind, attempts: &mut Attempts<'_>, answer: &mut wire::Answer) -> Result<(), Failure> {
    match kind {
        Kind::Http {
            method,
            url,
            headers,
            body,
            http2,
        } => http::send(method, url, headers, body, *http2, attempts, answer).await,
        Kind::Tcp { address, exchange } => raw::run(address, exchange, attempts, answer).await,
        Kind::Connect { address } => {
            let (host, port) = connect::host_and_port(address, None)?;
            connect::open(&host, port, attempts).await.map(drop)
        }
        Kind::Dns { name, server, tcp } => {
            let found = resolve::query(name, server.as_deref(), *tcp, attempts).await?;
            let lines: String = found.iter().map(|ip| format!("{ip}\n")).collect();
            answer.body.push(lines.as_bytes());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A peer that does this to its first connection.
    fn peer(act: impl FnOnce(std::net::TcpStream) + Send + 'static) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || act(listener.accept().unwrap().0));
        port
    }

    fn ask(kind: Kind, timeout_ms: u64) -> wire::Result {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(
            &runtime,
            perform(&Spec {
                kind,
                timeout_ms,
                ip_family: None,
            }),
        )
    }

    fn get(port: u16) -> Kind {
        Kind::Http {
            method: "GET".into(),
            url: format!("http://127.0.0.1:{port}/x"),
            headers: Vec::new(),
            body: wire::Body::default(),
            http2: false,
        }
    }

    fn read_some(stream: &mut std::net::TcpStream) {
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).unwrap() > 0);
    }

    #[test]
    fn a_refused_connection_knows_its_port() {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let result = ask(get(port), 1000);
        assert_eq!(result.outcome, "connection-refused");
        assert_eq!(result.connections.len(), 1);
        assert_ne!(result.connections[0].local.port(), 0);
        assert_eq!(result.connections[0].remote.port(), port);
        assert!(!result.connections[0].connected);
    }

    #[test]
    fn ends_are_told_apart() {
        let closed = peer(|mut stream| read_some(&mut stream));
        assert_eq!(ask(get(closed), 1000).outcome, "connection-closed");
        let reset = peer(|mut stream| {
            read_some(&mut stream);
            socket2::SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        });
        assert_eq!(ask(get(reset), 1000).outcome, "connection-reset");
        let garbage = peer(|mut stream| {
            read_some(&mut stream);
            stream.write_all(b"this is not HTTP\r\n\r\n").unwrap();
        });
        assert_eq!(ask(get(garbage), 1000).outcome, "protocol-error");
        let (keep, kept) = std::sync::mpsc::channel::<()>();
        let silent = peer(move |stream| {
            assert!(kept.recv().is_err(), "the other end is only ever dropped");
            drop(stream);
        });
        assert_eq!(ask(get(silent), 50).outcome, "timeout");
        drop(keep);
    }

    #[test]
    fn an_answer_is_told_whole() {
        let port = peer(|mut stream| {
            read_some(&mut stream);
            stream
                .write_all(b"HTTP/1.1 201 Created\r\nx-a: b\r\ncontent-length: 5\r\n\r\nhello")
                .unwrap();
        });
        let result = ask(get(port), 1000);
        assert_eq!(
            (result.outcome.as_str(), result.status, result.body.as_str()),
            ("ok", Some(201), "hello")
        );
        assert!(result.headers.contains(&("x-a".to_owned(), "b".to_owned())));
        assert!(result.connections[0].connected);
    }

    #[test]
    fn a_generated_body_goes_in_chunks_with_trailers_and_the_answer_s_trailers_are_told() {
        let port = peer(|mut stream| {
            let mut all = Vec::new();
            let mut buffer = vec![0; 64 * 1024];
            while !all.ends_with(b"0\r\nx-sum: 7\r\n\r\n") {
                let length = stream.read(&mut buffer).unwrap();
                assert!(length > 0, "{}", String::from_utf8_lossy(&all));
                all.extend_from_slice(&buffer[..length]);
            }
            let head = String::from_utf8_lossy(&all[..500]).to_ascii_lowercase();
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            assert!(all.len() > 100_000);
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n1\r\na\r\n0\r\nx-t: u\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let kind = Kind::Http {
            method: "POST".into(),
            url: format!("http://127.0.0.1:{port}/x"),
            headers: Vec::new(),
            body: wire::Body {
                text: None,
                generated: Some(100_000),
                chunked: true,
                trailers: vec![("x-sum".to_owned(), "7".to_owned())],
            },
            http2: false,
        };
        let result = ask(kind, 5000);
        assert_eq!((result.body.as_str(), result.body_length), ("a", 1));
        assert_eq!(result.trailers, [("x-t".to_owned(), "u".to_owned())]);
    }

    #[test]
    fn tcp_reads_what_comes_first() {
        let port = peer(|mut stream| {
            stream.write_all(b"220 hello\n").unwrap();
        });
        let kind = Kind::Tcp {
            address: format!("127.0.0.1:{port}"),
            exchange: wire::Exchange {
                send: Vec::new(),
                half_close: false,
                read: wire::Read::First,
                slowly: None,
            },
        };
        assert_eq!(ask(kind, 1000).body, "220 hello\n");
    }
}
