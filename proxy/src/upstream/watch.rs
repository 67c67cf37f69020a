//! Watching what is idle: one task of a worker is woken when a connection is closed by its host, or has idled for too long,
//! as a buffer may have.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::task::{Poll, Waker};

use tokio::time::Instant;

use crate::within::sleep_until;

/// Whom idle connections wake.
#[derive(Debug)]
pub struct IdleWatch {
    task: RefCell<Waker>,
    /// When the task looks next if nothing happens before.
    next: Cell<Option<Instant>>,
}

impl Default for IdleWatch {
    fn default() -> Self {
        Self {
            task: RefCell::new(Waker::noop().clone()),
            next: Cell::new(None),
        }
    }
}

impl IdleWatch {
    /// The task that is woken.
    pub fn waker(&self) -> Waker {
        self.task.borrow().clone()
    }

    /// At that moment a connection will have idled for too long, if nothing happens to it.
    pub fn look_at(&self, moment: Instant) {
        if self.next.get().is_none_or(|next| moment < next) {
            self.next.set(Some(moment));
            self.task.borrow().wake_by_ref();
        }
    }

    /// Calls `sweep` whenever something happened on an idle connection, and at the moment that it gives; never ends.
    pub async fn run(&self, sweep: impl Fn() -> Option<Instant>) {
        let mut timer = pin!(sleep_until(Instant::now()));
        std::future::poll_fn(|context| {
            self.task.borrow_mut().clone_from(context.waker());
            loop {
                let next = sweep();
                self.next.set(next);
                let Some(moment) = next else {
                    return Poll::<()>::Pending;
                };
                timer.as_mut().reset(moment);
                if timer.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::within::until;

    #[tokio::test(start_paused = true)]
    async fn it_looks_when_the_first_time_is_over_and_then_at_the_next() {
        let begun = Instant::now();
        let watch = IdleWatch::default();
        let (ends, looks) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let sweep = || {
            looks.borrow_mut().push(begun.elapsed().as_secs());
            ends.borrow_mut().retain(|end| *end > Instant::now());
            ends.borrow().iter().min().copied()
        };
        let rests = |seconds| {
            let end = begun + Duration::from_secs(seconds);
            ends.borrow_mut().push(end);
            watch.look_at(end);
        };
        let rest = async {
            tokio::task::yield_now().await;
            rests(5);
            rests(3);
            // Nobody needs to be woken for what comes later.
            rests(9);
            std::future::pending::<()>().await;
        };
        let both = async { tokio::join!(watch.run(sweep), rest) };
        assert!(until(begun + Duration::from_secs(20), both).await.is_none());
        // The two futures are polled together, at the end as well.
        looks.borrow_mut().dedup();
        assert_eq!(*looks.borrow(), [0, 3, 5, 9, 20]);
    }
}
