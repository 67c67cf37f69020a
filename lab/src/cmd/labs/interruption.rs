//! A user who wants labs to end.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::cmd::fail;
use crate::exit::Exit;

/// How hard the user wants it to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd) enum Stop {
    No,
    Gently,
    Hard,
}

impl Stop {
    const fn harder(self) -> Self {
        match self {
            Self::No => Self::Gently,
            Self::Gently | Self::Hard => Self::Hard,
        }
    }
}

/// The signals by which a user ends it, and who is told of them.
pub(in crate::cmd) struct Interruption {
    interrupt: Signal,
    terminate: Signal,
    stop: watch::Sender<Stop>,
}

impl Drop for Interruption {
    /// What is left is to print: a signal ends that as it ends any process.
    fn drop(&mut self) {
        crate::sys::default_signals();
    }
}

impl Interruption {
    /// Catches the signals from now on.
    pub(in crate::cmd) fn new() -> Result<Self, Exit> {
        let caught =
            |kind| signal(kind).map_err(|error| fail(Exit::Lab, &format!("catching signals: {error}")));
        Ok(Self {
            interrupt: caught(SignalKind::interrupt())?,
            terminate: caught(SignalKind::terminate())?,
            stop: watch::Sender::new(Stop::No),
        })
    }

    /// Tells whoever waits for it.
    pub(in crate::cmd) fn stopped(&self) -> watch::Receiver<Stop> {
        self.stop.subscribe()
    }

    pub(super) fn now(&self) -> Stop {
        *self.stop.borrow()
    }

    /// Waits for the next signal: the status that the command ends with, and how hard it is to end.
    pub(in crate::cmd) async fn next(&mut self) -> (Exit, Stop) {
        let exit = tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        };
        self.stop.send_modify(|stop| *stop = stop.harder());
        (exit, self.now())
    }
}
