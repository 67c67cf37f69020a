//! HTTP/1 by hand: a request is told as it came, byte for byte, and an answer is written as the scenario has it.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::App;
use super::wire::{Raw, Then};
use crate::client::content::Content;
use crate::client::raw::write;

/// The longest head that is read.
const LONGEST: usize = 1 << 20;

/// A connection, and what was read of it beyond what was asked for.
struct Connection {
    stream: TcpStream,
    ahead: BytesMut,
}

/// A request as it came.
#[derive(Debug, Default)]
struct Told {
    head: Vec<u8>,
    /// How its body was delimited.
    framing: &'static str,
    body: Content,
    /// Whatever followed the last chunk.
    trailers: Vec<u8>,
}

/// Serves.
pub(super) async fn serve(app: Rc<App>, socket: TcpListener) -> Result<(), String> {
    let mut open = JoinSet::new();
    loop {
        let (stream, _) = socket
            .accept()
            .await
            .map_err(|error| format!("accepting: {error}"))?;
        while open.try_join_next().is_some() {}
        let app = Rc::clone(&app);
        open.spawn_local(async move {
            // What goes wrong with one connection ends that connection.
            drop(requests(&app, stream).await);
        });
    }
}

async fn requests(app: &App, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection {
        stream,
        ahead: BytesMut::new(),
    };
    while let Some(head) = connection.head().await? {
        let path = path(&head);
        let raw = app.spec.routes.get(&path).and_then(|route| route.raw.as_ref());
        let early = raw.filter(|raw| raw.early);
        if let Some(raw) = early {
            answer(&mut connection.stream, raw).await?;
            if raw.then != Then::Keep {
                return end(connection, raw.then).await;
            }
        }
        let told = connection.body(head).await?;
        match (early, raw) {
            (Some(_), _) => {}
            (None, Some(raw)) => {
                answer(&mut connection.stream, raw).await?;
                if raw.then != Then::Keep {
                    return end(connection, raw.then).await;
                }
            }
            (None, None) => connection.stream.write_all(&told.echo()).await?,
        }
    }
    Ok(())
}

async fn answer(stream: &mut TcpStream, raw: &Raw) -> io::Result<()> {
    for piece in &raw.pieces {
        write(stream, piece).await?;
    }
    Ok(())
}

/// RST, or FIN with whatever the peer still says read, lest the kernel makes a RST of it.
async fn end(mut connection: Connection, then: Then) -> io::Result<()> {
    if then == Then::Reset {
        return socket2::SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
    }
    connection.stream.shutdown().await?;
    let mut rest = [0; 1024];
    while connection.stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// The path of a request line, before `?`.
fn path(head: &[u8]) -> String {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let target = String::from_utf8_lossy(target);
    target.split('?').next().unwrap_or_default().to_owned()
}

/// The last value of a header, in lower case.
fn header(head: &[u8], name: &str) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    let found = head.lines().skip(1).filter_map(|line| {
        let (own, value) = line.split_once(':')?;
        own.eq_ignore_ascii_case(name)
            .then(|| value.trim().to_ascii_lowercase())
    });
    found.last()
}

impl Told {
    fn echo(&self) -> Vec<u8> {
        let mut text = self.head.clone();
        text.extend_from_slice(
            format!(
                "[{}: {} bytes, sha256 {}]\n",
                self.framing,
                self.body.length(),
                self.body.sha256()
            )
            .as_bytes(),
        );
        text.extend_from_slice(&self.trailers);
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        [head.into_bytes(), text].concat()
    }
}

impl Connection {
    /// More bytes; none at the end.
    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.ahead).await? > 0)
    }

    /// Everything up to and with this, or nothing if the connection ends before.
    async fn through(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            let found = self.ahead.windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                return Ok(Some(self.ahead.split_to(at + end.len()).to_vec()));
            }
            if self.ahead.len() > LONGEST || !self.more().await? {
                return Ok(None);
            }
        }
    }

    async fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.through(b"\r\n\r\n").await
    }

    async fn body(&mut self, head: Vec<u8>) -> io::Result<Told> {
        let mut told = Told {
            framing: "no body",
            ..Told::default()
        };
        let length = header(&head, "content-length").and_then(|value| value.parse().ok());
        if header(&head, "transfer-encoding").is_some_and(|value| value.ends_with("chunked")) {
            told.framing = "chunked";
            self.chunks(&mut told).await?;
        } else if let Some(length) = length {
            told.framing = "content-length";
            self.take(length, &mut told.body).await?;
        }
        told.head = head;
        Ok(told)
    }

    async fn take(&mut self, length: u64, content: &mut Content) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.ahead.is_empty() && !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let size = self.ahead.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            content.push(&self.ahead[..size]);
            self.ahead.advance(size);
            left -= size as u64;
        }
        Ok(())
    }

    async fn chunks(&mut self, told: &mut Told) -> io::Result<()> {
        let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
        loop {
            let line = self.through(b"\r\n").await?.ok_or_else(cut)?;
            let digits = String::from_utf8_lossy(&line);
            let digits = digits.trim_end().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
            if size == 0 {
                break;
            }
            self.take(size, &mut told.body).await?;
            self.through(b"\r\n").await?.ok_or_else(cut)?;
        }
        loop {
            let line = self.through(b"\r\n").await?.ok_or_else(cut)?;
            if line == b"\r\n" {
                return Ok(());
            }
            told.trailers.extend_from_slice(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::super::wire::{AppSpec, Route, Serve};
    use super::*;
    use crate::client::wire::Piece;

    /// What a client gets that sends this, and then only reads.
    fn answer(sent: &[u8]) -> String {
        let raw = |text: &str, then: Then| Route {
            status: None,
            body: None,
            calls: Vec::new(),
            raw: Some(Raw {
                pieces: vec![Piece::Bytes(text.as_bytes().to_vec())],
                then,
                early: false,
            }),
        };
        let routes = BTreeMap::from([
            ("/as-given".to_owned(), raw("not HTTP\n", Then::Keep)),
            ("/once".to_owned(), raw("bye\n", Then::Close)),
        ]);
        let app = Rc::new(App {
            spec: AppSpec {
                at_start: Vec::new(),
                at_stop: Vec::new(),
                exits: false,
                pod: "p".to_owned(),
                container: "c".to_owned(),
                serve: Serve::Nothing,
                bind: None,
                calls: Vec::new(),
                routes,
            },
            events: None,
            counts: RefCell::default(),
        });
        let talk = async {
            let socket = TcpListener::bind("127.0.0.1:0").await?;
            let address = socket.local_addr()?;
            let mut got = Vec::new();
            tokio::select! {
                served = serve(app, socket) => panic!("{served:?}"),
                talked = async {
                    let mut stream = TcpStream::connect(address).await?;
                    stream.write_all(sent).await?;
                    stream.shutdown().await?;
                    stream.read_to_end(&mut got).await
                } => talked?,
            };
            Ok::<_, io::Error>(String::from_utf8_lossy(&got).into_owned())
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, talk).unwrap()
    }

    #[test]
    fn a_request_is_told_as_it_came() {
        let sent = "POST /x?y HTTP/1.1\r\nHOST: a\r\nx-Odd:  v\r\ncontent-length: 3\r\n\r\nabc";
        let got = answer(sent.as_bytes());
        assert!(
            got.contains("POST /x?y HTTP/1.1\r\nHOST: a\r\nx-Odd:  v\r\n"),
            "{got}"
        );
        assert!(got.contains("[content-length: 3 bytes, sha256 ba7816bf"), "{got}");
    }

    #[test]
    fn chunks_and_trailers_are_told() {
        let sent = "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;e=1\r\nab\r\n1\r\nc\r\n0\r\nX-T: u\r\n\r\n";
        let got = answer(sent.as_bytes());
        assert!(got.contains("[chunked: 3 bytes, sha256 ba7816bf"), "{got}");
        assert!(got.ends_with("X-T: u\r\n"), "{got}");
    }

    #[test]
    fn answers_are_written_as_given_one_after_another() {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        let sent = [
            get("/as-given"),
            get("/as-given?q"),
            get("/once"),
            get("/as-given"),
        ]
        .concat();
        assert_eq!(answer(sent.as_bytes()), "not HTTP\nnot HTTP\nbye\n");
    }
}
