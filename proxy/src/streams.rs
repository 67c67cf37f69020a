//! How many streams of an HTTP/2 connection are under way, and how long none has been.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::within::sleep_until;

/// The streams of a connection.
#[derive(Debug)]
pub struct Streams {
    open: Cell<usize>,
    /// When the last one ended, or the connection began.
    since: Cell<Instant>,
    none: Notify,
}

/// A stream that is under way as long as this lives.
#[derive(Debug)]
pub struct Open(Rc<Streams>);

impl Default for Streams {
    fn default() -> Self {
        Self {
            open: Cell::new(0),
            since: Cell::new(Instant::now()),
            none: Notify::new(),
        }
    }
}

impl Streams {
    /// One more.
    pub fn begin(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(Rc::clone(self))
    }

    /// Since when there is none; nothing if there is one.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.open.get() == 0).then(|| self.since.get())
    }

    /// Ends when none is under way.
    pub async fn none(&self) {
        while self.open.get() > 0 {
            self.none.notified().await;
        }
    }

    /// Ends when none has been under way for so long; never without a limit.
    pub async fn idle(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        loop {
            self.none().await;
            let moment = self.since.get() + limit;
            sleep_until(moment).await;
            if self.idle_since().is_some_and(|since| since + limit <= moment) {
                return;
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let streams = &self.0;
        streams.open.set(streams.open.get().saturating_sub(1));
        if streams.open.get() == 0 {
            streams.since.set(Instant::now());
            streams.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::within::until;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn idle_is_counted_from_the_end_of_the_last_stream() {
        let streams = Rc::new(Streams::default());
        let begun = Instant::now();
        let stream = streams.begin();
        let idle = streams.idle(Some(LIMIT));
        tokio::pin!(idle);
        assert_eq!(until(begun + 3 * LIMIT, &mut idle).await, None);
        drop(stream);
        idle.await;
        assert_eq!(begun.elapsed(), 4 * LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_comes_and_goes_begins_the_time_anew() {
        let streams = Rc::new(Streams::default());
        let begun = Instant::now();
        let idle = streams.idle(Some(LIMIT));
        tokio::pin!(idle);
        assert_eq!(until(begun + LIMIT / 2, &mut idle).await, None);
        drop(streams.begin());
        idle.await;
        assert_eq!(begun.elapsed(), LIMIT + LIMIT / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_idle_for_too_long() {
        let streams = Rc::new(Streams::default());
        let moment = Instant::now() + 100 * LIMIT;
        assert_eq!(until(moment, streams.idle(None)).await, None);
    }
}
