//! Labs of which some run at the same time, until all have ended or the user wants no more of them.

use std::num::NonZeroUsize;

use tokio::task::JoinSet;

use super::{Interruption, Stop};
use crate::exit::Exit;

/// Two labs for each processor: one of them waits for something most of the time.
pub(in crate::cmd) fn by_processors() -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    u16::try_from(2 * processors).unwrap_or(u16::MAX).min(256)
}

/// Labs that run, and those that wait for their turn.
pub(in crate::cmd) struct Jobs<W, T> {
    waiting: W,
    running: JoinSet<T>,
    most: usize,
    user: Interruption,
}

/// What happens among them.
pub(in crate::cmd) enum Next<T> {
    /// One has ended.
    Ended(T),
    /// One ended abnormally: why.
    Lost(String),
    /// A signal came: the status that the command ends with, and how hard the labs are to end.
    Interrupted(Exit, Stop),
}

impl<W, T> Jobs<W, T>
where
    W: Iterator<Item: Future<Output = T> + Send + 'static>,
    T: Send + 'static,
{
    /// A lab that waits is made when its turn comes, so that none is made after an interruption.
    pub(in crate::cmd) fn new(most: u16, waiting: W, user: Interruption) -> Self {
        Self {
            waiting,
            running: JoinSet::new(),
            most: usize::from(most),
            user,
        }
    }

    /// Waits for what happens next; nothing, if all have ended.
    pub(in crate::cmd) async fn next(&mut self) -> Option<Next<T>> {
        while self.running.len() < self.most
            && self.user.now() == Stop::No
            && let Some(job) = self.waiting.next()
        {
            self.running.spawn(job);
        }
        tokio::select! {
            ended = self.running.join_next() => Some(match ended? {
                Ok(ended) => Next::Ended(ended),
                Err(error) => Next::Lost(format!("a run ended abnormally: {error}")),
            }),
            (exit, stop) = self.user.next() => Some(Next::Interrupted(exit, stop)),
        }
    }
}
