//! The end of a filter chain that is gone from the configuration, as Envoy's `--drain-strategy immediate` has it: clients
//! of HTTP are asked to leave with their next answer, and what is still open when the time is over is cut.

use std::cell::Cell;

use tokio::sync::Notify;

/// Whether connections are to end, and whether they have to.
#[derive(Debug, Default)]
pub struct Drain {
    stage: Cell<Stage>,
    told: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Stage {
    /// Connections stay.
    #[default]
    Not,
    /// Connections are to end.
    Begun,
    /// The time is over.
    Over(Gone),
}

/// What is gone from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gone {
    /// The listener, or its former self.
    Listener,
    /// The filter chain alone: the listener changed in place.
    FilterChain,
}

impl Drain {
    /// Connections are to end.
    pub fn begin(&self) {
        self.stage.set(self.stage.get().max(Stage::Begun));
    }

    /// The time is over.
    pub fn cut(&self, gone: Gone) {
        self.stage.set(Stage::Over(gone));
        self.told.notify_waiters();
    }

    /// True if connections are to end.
    pub fn has_begun(&self) -> bool {
        self.stage.get() >= Stage::Begun
    }

    /// True if the time is over.
    pub fn is_over(&self) -> bool {
        self.gone().is_some()
    }

    /// Why the time is over, if it is.
    pub fn gone(&self) -> Option<Gone> {
        match self.stage.get() {
            Stage::Over(gone) => Some(gone),
            Stage::Not | Stage::Begun => None,
        }
    }

    /// Ends when the time is over.
    pub async fn over(&self) {
        loop {
            let told = self.told.notified();
            if self.is_over() {
                return;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn whoever_waits_hears_of_the_end_and_nobody_before() {
        let drain = Rc::new(Drain::default());
        assert!(!drain.has_begun());
        drain.begin();
        assert!(drain.has_begun() && !drain.is_over());
        let waiting = Rc::clone(&drain);
        let cut = tokio::join!(waiting.over(), async {
            assert!(!drain.is_over());
            drain.cut(Gone::FilterChain);
            // A drain that begins again changes nothing.
            drain.begin();
            drain.gone()
        });
        assert_eq!(cut, ((), Some(Gone::FilterChain)));
        drain.over().await;
    }
}
