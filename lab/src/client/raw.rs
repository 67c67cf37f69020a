//! A raw exchange: pieces are written, what comes is read beside it, and how the peer ended is told.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::connect::{self, Attempts};
use super::content::pattern;
use super::wire::{Answer, Exchange, Failure, Outcome, Piece, Read};
use crate::within::within;

/// What was read so far.
struct Reading<'a> {
    answer: RefCell<&'a mut Answer>,
    /// What was kept and not yet awaited begins here.
    awaited: RefCell<usize>,
    ended: RefCell<Option<Result<(), Failure>>>,
    news: Notify,
}

/// Connects, sends, and reads as long as was asked.
pub(super) async fn run(
    address: &str,
    exchange: &Exchange,
    attempts: &mut Attempts<'_>,
    answer: &mut Answer,
) -> Result<(), Failure> {
    let (host, port) = connect::host_and_port(address, None)?;
    attempts.receive_buffer = exchange.slowly.map(|(bytes, _)| bytes);
    let mut stream = connect::open(&host, port, attempts).await?;
    let failure = converse(&mut stream, exchange, answer).await.err();
    let got_nothing = answer.body.length() == 0 && exchange.read != Read::Nothing;
    match failure {
        Some(failure) => Err(failure),
        None if got_nothing => Err(Failure {
            outcome: Outcome::ConnectionClosed,
            words: "end of file".to_owned(),
        }),
        None => Ok(()),
    }
}

async fn converse(stream: &mut TcpStream, exchange: &Exchange, answer: &mut Answer) -> Result<(), Failure> {
    let (mut from, mut to) = stream.split();
    let reading = Reading {
        answer: RefCell::new(answer),
        awaited: RefCell::new(0),
        ended: RefCell::new(None),
        news: Notify::new(),
    };
    let sending = async {
        let sent = send(&mut to, exchange, &reading).await;
        // What the peer said before it stopped listening is still read.
        if sent.is_err() || exchange.read == Read::End {
            reading.until(Reading::has_ended).await;
        } else if exchange.read == Read::First {
            reading
                .until(|reading| reading.has_ended() || reading.length() > 0)
                .await;
        }
        sent
    };
    tokio::select! {
        never = receive(&mut from, exchange, &reading) => match never {},
        sent = sending => match (reading.ended.take(), sent) {
            (Some(Err(failure)), _) => Err(failure),
            (_, sent) => sent,
        },
    }
}

async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    exchange: &Exchange,
    reading: &Reading<'_>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::of(&error, "sending");
    for piece in &exchange.send {
        match piece {
            Piece::Await(text) => reading.find(text).await?,
            Piece::Bytes(_) | Piece::Generated(_) | Piece::Pause(_) => {
                write(to, piece).await.map_err(failed)?;
            }
        }
    }
    if exchange.half_close {
        to.shutdown().await.map_err(failed)?;
    }
    Ok(())
}

/// Writes a piece, or lets its time pass. What is awaited is no matter of the writer's.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), piece: &Piece) -> io::Result<()> {
    match piece {
        Piece::Bytes(bytes) => to.write_all(bytes).await,
        Piece::Generated(length) => {
            for block in pattern(*length) {
                to.write_all(&block).await?;
            }
            Ok(())
        }
        Piece::Pause(millis) => {
            pause(*millis).await;
            Ok(())
        }
        Piece::Await(_) => Ok(()),
    }
}

/// Lets a time pass that the scenario asks for.
pub async fn pause(millis: u64) {
    let nothing = std::future::pending::<()>();
    // That it took this long is what was wanted.
    drop(within(Duration::from_millis(millis), "a pause", nothing).await);
}

/// Reads to the end, and leaves in `ended` what that was.
async fn receive(
    from: &mut (impl AsyncRead + Unpin),
    exchange: &Exchange,
    reading: &Reading<'_>,
) -> Infallible {
    let size = exchange.slowly.map_or(64 << 10, |(bytes, _)| bytes);
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(64 << 10)];
    loop {
        let (end, ended) = match from.read(&mut buffer).await {
            Ok(0) => ("fin", Ok(())),
            Ok(length) => {
                reading.answer.borrow_mut().body.push(&buffer[..length]);
                reading.news.notify_waiters();
                if let Some((_, millis)) = exchange.slowly {
                    pause(millis).await;
                }
                continue;
            }
            Err(error) => ("rst", Err(Failure::of(&error, "reading"))),
        };
        reading.answer.borrow_mut().end = Some(end.to_owned());
        *reading.ended.borrow_mut() = Some(ended);
        reading.news.notify_waiters();
        return std::future::pending().await;
    }
}

impl Reading<'_> {
    fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    fn length(&self) -> u64 {
        self.answer.borrow().body.length()
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let news = self.news.notified();
            if holds(self) {
                return;
            }
            news.await;
        }
    }

    /// Waits until this text has come after what was awaited before.
    async fn find(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.until(|reading| reading.found(bytes) || reading.has_ended())
            .await;
        // It may have come with the end.
        if self.found(bytes) {
            let position = self.position(bytes).unwrap_or_default();
            *self.awaited.borrow_mut() += position + bytes.len();
            return Ok(());
        }
        let words = match std::str::from_utf8(bytes) {
            Ok(text) => text.escape_debug().to_string(),
            Err(_) => bytes.escape_ascii().to_string(),
        };
        Err(Failure {
            outcome: Outcome::ConnectionClosed,
            words: format!("the peer ended it before `{words}` came"),
        })
    }

    fn found(&self, bytes: &[u8]) -> bool {
        self.position(bytes).is_some()
    }

    fn position(&self, bytes: &[u8]) -> Option<usize> {
        let answer = self.answer.borrow();
        let rest = answer.body.kept().get(*self.awaited.borrow()..)?;
        rest.windows(bytes.len().max(1))
            .position(|window| window == bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener};
    use std::thread;

    use super::super::perform;
    use super::super::wire::{Kind, Result, Spec};
    use super::*;

    /// What the client makes of a peer that does this to its first connection.
    fn with_peer(exchange: Exchange, act: impl FnOnce(std::net::TcpStream) + Send + 'static) -> Result {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peer = thread::spawn(move || act(listener.accept().unwrap().0));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let kind = Kind::Tcp { address, exchange };
        let spec = Spec {
            kind,
            timeout_ms: 5000,
            ip_family: None,
        };
        let result = tokio::task::LocalSet::new().block_on(&runtime, perform(&spec));
        peer.join().unwrap();
        result
    }

    fn exchange(send: Vec<Piece>, read: Read) -> Exchange {
        Exchange {
            send,
            half_close: false,
            read,
            slowly: None,
        }
    }

    #[test]
    fn a_second_piece_waits_for_an_answer_to_the_first() {
        let send = vec![
            Piece::Bytes(b"one".to_vec()),
            Piece::Await(b"1".to_vec()),
            Piece::Bytes(b"two".to_vec()),
            Piece::Await(b"2".to_vec()),
        ];
        let result = with_peer(exchange(send, Read::End), |mut stream| {
            let mut buffer = [0; 3];
            stream.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"one");
            stream.write_all(b"1").unwrap();
            stream.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"two");
            stream.write_all(b"2").unwrap();
        });
        assert_eq!((result.body.as_str(), result.end.as_deref()), ("12", Some("fin")));
        assert_eq!(result.outcome, "ok");
    }

    #[test]
    fn a_half_closed_connection_is_read_to_its_end() {
        let sending = Exchange {
            half_close: true,
            ..exchange(vec![Piece::Generated(100_000)], Read::End)
        };
        let result = with_peer(sending, |mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(all.len().to_string().as_bytes()).unwrap();
            stream.shutdown(Shutdown::Both).unwrap();
        });
        assert_eq!((result.body.as_str(), result.body_length), ("100000", 6));
    }

    #[test]
    fn what_came_before_a_reset_is_kept() {
        let send = vec![Piece::Bytes(b"x".to_vec()), Piece::Await(b"half".to_vec())];
        let result = with_peer(exchange(send, Read::End), |mut stream| {
            stream.write_all(b"half").unwrap();
            // The client's own byte stays unread, so that closing resets.
            let mut peeked = [0; 1];
            stream.peek(&mut peeked).unwrap();
        });
        assert_eq!(result.body, "half");
        assert_eq!(
            (result.outcome.as_str(), result.end.as_deref()),
            ("connection-reset", Some("rst"))
        );
    }

    #[test]
    fn what_never_comes_is_told() {
        let send = vec![Piece::Await(b"more".to_vec())];
        let result = with_peer(exchange(send, Read::End), |mut stream| {
            stream.write_all(b"less").unwrap();
        });
        assert_eq!(result.outcome, "connection-closed");
        assert!(result.error.unwrap().contains("before `more` came"));
    }

    #[test]
    fn a_slow_reader_reads_all() {
        let slow = Exchange {
            slowly: Some((4096, 1)),
            ..exchange(Vec::new(), Read::End)
        };
        let result = with_peer(slow, |mut stream| {
            for block in pattern(300_000) {
                stream.write_all(&block).unwrap();
            }
        });
        assert_eq!(
            (result.body_length, result.end.as_deref()),
            (300_000, Some("fin"))
        );
    }
}
