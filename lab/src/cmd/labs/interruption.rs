//! A user who wants labs to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;

/// How hard the user wants it to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd) enum Stop {
    No,
    Gently,
    Hard,
}

impl Stop {
    pub(in crate::cmd) const fn harder(self) -> Self {
        match self {
            Self::No => Self::Gently,
            Self::Gently | Self::Hard => Self::Hard,
        }
    }
}

pub(in crate::cmd) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Drop for Signals {
    /// What is left is to print: a signal ends that as it ends any process.
    fn drop(&mut self) {
        crate::sys::default_signals();
    }
}

impl Signals {
    pub(in crate::cmd) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(in crate::cmd) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
}
