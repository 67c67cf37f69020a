//! Watching idle connections: one task of a worker is woken when any of them is closed by its host.

use std::cell::RefCell;
use std::task::{Poll, Waker};

/// Whom idle connections wake.
#[derive(Debug)]
pub struct IdleWatch(RefCell<Waker>);

impl Default for IdleWatch {
    fn default() -> Self {
        Self(RefCell::new(Waker::noop().clone()))
    }
}

impl IdleWatch {
    /// The task that is woken.
    pub fn waker(&self) -> Waker {
        self.0.borrow().clone()
    }

    /// Calls `sweep` whenever something happened on an idle connection; never ends.
    pub async fn run(&self, sweep: impl Fn()) {
        std::future::poll_fn(|context| {
            self.0.borrow_mut().clone_from(context.waker());
            sweep();
            Poll::<()>::Pending
        })
        .await;
    }
}
