//! Bytes passed between two sockets: in both directions until both have ended, or the rest of a long body in one.
//!
//! What comes fast is copied in large lots. Moved by splice(2) instead, a byte costs this process as much, as pipes take
//! pages one by one, and the one who reads it more: then it is not in a cache. Few large lots wake both ends less often.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::drain::Drain;
use crate::lots::Lot;
use crate::within::sleep_until;

/// What is moved at once as long as little comes.
const SMALL: usize = 16 * 1024;

/// How a direction or both ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Each side has said that it is done.
    Both,
    /// The client broke off.
    Client,
    /// The host broke off.
    Host,
    /// The client reset the connection.
    ClientReset,
    /// The host reset the connection.
    HostReset,
    /// The time of the filter chain was over.
    Cut,
    /// No byte passed for too long.
    Idle,
}

/// What passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Bytes from the client to the host.
    pub to_host: u64,
    /// Bytes from the host to the client.
    pub to_client: u64,
    /// How it ended.
    pub ended: Ended,
}

/// Passes bytes until both sides have ended, or none has passed for `idle`. What was read ahead of either side goes first.
pub(crate) async fn both_ways(
    mut client: TcpStream,
    client_ahead: BytesMut,
    mut host: TcpStream,
    host_ahead: BytesMut,
    drain: &Drain,
    idle: Option<Duration>,
) -> Passed {
    let mut passed = Passed {
        to_host: length(&client_ahead),
        to_client: length(&host_ahead),
        ended: Ended::Both,
    };
    if host.write_all(&client_ahead).await.is_err() {
        passed.ended = Ended::Host;
        return passed;
    }
    if client.write_all(&host_ahead).await.is_err() {
        passed.ended = Ended::Client;
        return passed;
    }
    drop((client_ahead, host_ahead));
    let (to_host, to_client) = (Cell::new(0), Cell::new(0));
    let last = Cell::new(Instant::now());
    let count = |passed: &Cell<u64>, more: u64| {
        passed.set(passed.get() + more);
        last.set(Instant::now());
    };
    let up = async { one_way(&client, &host, |more| count(&to_host, more)).await };
    let down = async { one_way(&host, &client, |more| count(&to_client, more)).await };
    let both = async {
        tokio::try_join!(
            async {
                up.await
                    .map_err(|broke| broke.side(Ended::Client, Ended::Host, Ended::ClientReset))
            },
            async {
                down.await
                    .map_err(|broke| broke.side(Ended::Host, Ended::Client, Ended::HostReset))
            },
        )
        .map_or_else(|side| side, |_both| Ended::Both)
    };
    passed.ended = tokio::select! {
        biased;
        ended = both => ended,
        () = drain.over() => Ended::Cut,
        () = silence(&last, idle) => Ended::Idle,
    };
    passed.to_host += to_host.get();
    passed.to_client += to_client.get();
    // A reset is passed on as one.
    match passed.ended {
        Ended::HostReset => reset(&client),
        Ended::ClientReset => reset(&host),
        Ended::Both | Ended::Client | Ended::Host | Ended::Cut | Ended::Idle => {}
    }
    passed
}

/// Ends when it is so long since the last byte.
async fn silence(last: &Cell<Instant>, idle: Option<Duration>) {
    let Some(idle) = idle else {
        return std::future::pending().await;
    };
    loop {
        let moment = last.get() + idle;
        if moment <= Instant::now() {
            return;
        }
        sleep_until(moment).await;
    }
}

/// Makes the close of this connection a reset (socket(7), `SO_LINGER`).
pub(crate) fn reset(stream: &TcpStream) {
    // A connection that is gone needs none.
    drop(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}

fn length(bytes: &BytesMut) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(0)
}

/// Which end of a direction broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broke {
    /// The end that is read.
    Reading,
    /// The end that is written.
    Writing,
    /// The end that is read sent a reset.
    Reset,
}

impl Broke {
    fn reading(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::ConnectionReset {
            Self::Reset
        } else {
            Self::Reading
        }
    }

    const fn side(self, reading: Ended, writing: Ended, reset: Ended) -> Ended {
        match self {
            Self::Reading => reading,
            Self::Writing => writing,
            Self::Reset => reset,
        }
    }
}

async fn one_way(from: &TcpStream, to: &TcpStream, moved: impl Fn(u64)) -> Result<(), Broke> {
    let mut left = u64::MAX;
    loop {
        // A connection that is silent has no buffer.
        from.readable().await.map_err(|_error| Broke::Reading)?;
        let mut small = vec![0; SMALL].into_boxed_slice();
        let mut pace = lot_by_lot(from, to, &mut small, true, &mut left, &moved).await?;
        drop(small);
        if pace == Pace::Fast {
            let mut large = Lot::take().map_err(|_error| Broke::Reading)?;
            pace = lot_by_lot(from, to, &mut large, false, &mut left, &moved).await?;
        }
        if pace == Pace::Over {
            break;
        }
    }
    // The other side learns that nothing more comes; what comes back still does.
    let to = socket2::SockRef::from(to);
    to.shutdown(std::net::Shutdown::Write)
        .map_err(|_error| Broke::Writing)
}

/// Passes `length` bytes, or fewer if the connection ends before; `moved` is told of what was written.
pub(crate) async fn onwards(
    from: &TcpStream,
    to: &TcpStream,
    length: u64,
    mut moved: impl FnMut(u64),
) -> Result<(), Broke> {
    let mut left = length;
    loop {
        let mut room = Lot::take().map_err(|_error| Broke::Reading)?;
        if lot_by_lot(from, to, &mut room, false, &mut left, &mut moved).await? == Pace::Over {
            return Ok(());
        }
        drop(room);
        from.readable().await.map_err(|_error| Broke::Reading)?;
    }
}

/// How it goes on with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// It has ended, or is as much as is to be passed.
    Over,
    /// Nothing is there.
    Silent,
    /// More comes at once than this buffer holds.
    Fast,
}

/// Passes what is there, lot by lot, until nothing is, nothing is `left` to be passed, or, if that is asked for, a lot has
/// filled the buffer.
async fn lot_by_lot(
    from: &TcpStream,
    to: &TcpStream,
    room: &mut [u8],
    ends_when_full: bool,
    left: &mut u64,
    mut moved: impl FnMut(u64),
) -> Result<Pace, Broke> {
    while *left > 0 {
        let most = usize::try_from(*left).map_or(room.len(), |left| left.min(room.len()));
        let taken = match from.try_read(&mut room[..most]) {
            Ok(0) => return Ok(Pace::Over),
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Pace::Silent),
            Err(error) => return Err(Broke::reading(&error)),
        };
        write_whole(to, &room[..taken], &mut moved).await?;
        *left -= u64::try_from(taken).unwrap_or(0);
        if taken == room.len() && ends_when_full {
            return Ok(Pace::Fast);
        }
        // Whatever comes and goes without a pause, the worker's other connections have their turn after each lot.
        tokio::task::yield_now().await;
    }
    Ok(Pace::Over)
}

async fn write_whole(to: &TcpStream, mut rest: &[u8], moved: &mut impl FnMut(u64)) -> Result<(), Broke> {
    while !rest.is_empty() {
        match to.try_write(rest) {
            Ok(written) => {
                rest = &rest[written..];
                moved(u64::try_from(written).unwrap_or(0));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                to.writable().await.map_err(|_error| Broke::Writing)?;
            }
            Err(_) => return Err(Broke::Writing),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (here, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn onwards_passes_as_much_as_it_is_told_and_leaves_the_rest() {
        let ((mut host, from), (to, mut client)) = (pair().await, pair().await);
        let length = 5_000_000;
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
        let sending = async {
            host.write_all(&sent).await.unwrap();
            host.write_all(b"more").await.unwrap();
        };
        let mut told = 0;
        let passing = async {
            let passed = onwards(&from, &to, length.try_into().unwrap(), |more| told += more);
            assert_eq!(passed.await, Ok(()));
        };
        let mut received = vec![0; length];
        let receiving = async { client.read_exact(&mut received).await.unwrap() };
        tokio::join!(sending, passing, receiving);
        assert!(received == sent, "the same bytes");
        assert_eq!(told, 5_000_000);
        let mut rest = [0; 8];
        from.readable().await.unwrap();
        assert_eq!(from.try_read(&mut rest).unwrap(), 4);
    }

    #[tokio::test]
    async fn a_connection_is_fast_silent_and_fast_again() {
        let ((mut host, from), (to, mut client)) = (pair().await, pair().await);
        let told = Cell::new(0);
        let passing = one_way(&from, &to, |more| told.set(told.get() + more));
        let talking = async {
            let (sent, mut received) = (vec![7; 3_000_000], vec![0; 3_000_000]);
            for lot in [3_000_000, 10, 2_000_000, SMALL] {
                let (_, read) = tokio::join!(host.write_all(&sent[..lot]), async {
                    client.read_exact(&mut received[..lot]).await
                });
                read.unwrap();
            }
            host.shutdown().await.unwrap();
            assert_eq!(client.read(&mut received).await.unwrap(), 0);
        };
        assert_eq!(tokio::join!(passing, talking).0, Ok(()));
        assert_eq!(told.get(), 5_000_010 + u64::try_from(SMALL).unwrap());
    }
}
