//! Bytes passed between two sockets: in both directions until both have ended, or the rest of a long body in one. What
//! comes fast passes inside the kernel, by a pipe for each direction (splice(2)), and is never copied to this process.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::BytesMut;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::drain::Drain;
use crate::within::sleep_until;

/// The most that is moved at once; also the size that the pipe is asked to have.
const ROOM: usize = 256 * 1024;

/// What is copied at once as long as little comes.
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
    if copied(from, to, &moved).await? == Pace::Fast {
        spliced(from, to, u64::MAX, &moved).await?;
    }
    // The other side learns that nothing more comes; what comes back still does.
    let to = socket2::SockRef::from(to);
    to.shutdown(std::net::Shutdown::Write)
        .map_err(|_error| Broke::Writing)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// It has ended.
    Over,
    /// More comes at once than a small buffer holds: a pipe pays.
    Fast,
}

async fn copied(from: &TcpStream, to: &TcpStream, moved: impl Fn(u64)) -> Result<Pace, Broke> {
    let mut buffer: Option<Box<[u8]>> = None;
    loop {
        // A connection that is silent has no buffer.
        from.readable().await.map_err(|_error| Broke::Reading)?;
        let room = buffer.get_or_insert_with(|| vec![0; SMALL].into_boxed_slice());
        let taken = match from.try_read(room) {
            Ok(0) => return Ok(Pace::Over),
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                buffer = None;
                continue;
            }
            Err(error) => return Err(Broke::reading(&error)),
        };
        let mut rest = &room[..taken];
        while !rest.is_empty() {
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    to.writable().await.map_err(|_error| Broke::Writing)?;
                }
                Err(_) => return Err(Broke::Writing),
            }
        }
        moved(u64::try_from(taken).unwrap_or(0));
        if taken == SMALL {
            return Ok(Pace::Fast);
        }
    }
}

/// Passes `length` bytes, or fewer if the connection ends before; `moved` is told of each lot once it was written.
pub(crate) async fn spliced(
    from: &TcpStream,
    to: &TcpStream,
    length: u64,
    mut moved: impl FnMut(u64),
) -> Result<(), Broke> {
    let (pipe_out, pipe_in) = pipe().map_err(|_error| Broke::Reading)?;
    let mut rest = length;
    while rest > 0 {
        let most = usize::try_from(rest).map_or(ROOM, |rest| rest.min(ROOM));
        let taken = from
            .async_io(Interest::READABLE, || transfer(from, &pipe_in, most))
            .await
            .map_err(|error| Broke::reading(&error))?;
        if taken == 0 {
            return Ok(());
        }
        let mut left = taken;
        while left > 0 {
            left -= to
                .async_io(Interest::WRITABLE, || transfer(&pipe_out, to, left))
                .await
                .map_err(|_error| Broke::Writing)?;
        }
        let taken = u64::try_from(taken).unwrap_or(0);
        moved(taken);
        rest = rest.saturating_sub(taken);
    }
    Ok(())
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (out, inlet) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    // A user's pipes may together hold only so much (pipe(7), pipe-user-pages-soft): smaller ones work too.
    nix::fcntl::fcntl(&inlet, nix::fcntl::FcntlArg::F_SETPIPE_SZ(256 * 1024)).unwrap_or_default();
    Ok((out, inlet))
}

fn transfer(from: &impl AsFd, to: &impl AsFd, length: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    splice(from, None, to, None, length, flags).map_err(io::Error::from)
}
