//! Buffers for what comes fast. One that is free serves the next connection of the same thread, as the pages of a new one
//! would have to be made by the kernel first; after a second it is given back.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use memmap2::MmapMut;
use tokio::time::Instant;

use crate::upstream::watch::IdleWatch;

/// How long a buffer is free before it is given back.
const KEPT: Duration = Duration::from_secs(1);

/// As much as Envoy holds of a connection (`per_connection_buffer_limit_bytes`).
const SIZE: usize = 1024 * 1024;

#[derive(Default)]
struct Free {
    /// With the moment since which it is free, the latest last.
    lots: Vec<(Instant, MmapMut)>,
    /// Who sees to it that they are given back; without anybody none is kept.
    watch: Option<Rc<IdleWatch>>,
}

thread_local! {
    static FREE: RefCell<Free> = RefCell::default();
}

/// Has the free buffers of this thread kept for a while: `watch` calls [`sweep`].
pub(crate) fn keep(watch: &Rc<IdleWatch>) {
    FREE.with_borrow_mut(|free| free.watch = Some(Rc::clone(watch)));
}

/// Gives back what is free for too long; the moment at which the next one will be.
pub(crate) fn sweep() -> Option<Instant> {
    FREE.with_borrow_mut(|free| {
        let now = Instant::now();
        free.lots.retain(|(since, _)| now < *since + KEPT);
        free.lots.first().map(|(since, _)| *since + KEPT)
    })
}

/// A buffer. It is memory of its own, of which only what was written to is resident.
#[derive(Debug)]
pub(crate) struct Lot(Option<MmapMut>);

impl Lot {
    pub(crate) fn take() -> io::Result<Self> {
        let free = FREE.with_borrow_mut(|free| free.lots.pop());
        let map = match free {
            Some((_, map)) => map,
            None => MmapMut::map_anon(SIZE)?,
        };
        Ok(Self(Some(map)))
    }
}

impl Deref for Lot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Lot {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Lot {
    fn drop(&mut self) {
        let Some(map) = self.0.take() else { return };
        // A thread that ends keeps none.
        let watch = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            let watch = free.watch.clone()?;
            free.lots.push((Instant::now(), map));
            Some(watch)
        });
        if let Ok(Some(watch)) = watch {
            watch.look_at(Instant::now() + KEPT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_buffer_serves_again_and_is_given_back_when_it_was_free_for_too_long() {
        drop(Lot::take().unwrap());
        assert_eq!(sweep(), None, "nobody watches: none is kept");
        keep(&Rc::default());
        let mut lot = Lot::take().unwrap();
        lot[0] = 7;
        drop(lot);
        assert_eq!(sweep(), Some(Instant::now() + KEPT));
        let (again, new) = (Lot::take().unwrap(), Lot::take().unwrap());
        assert_eq!((again[0], new[0], new.len()), (7, 0, SIZE));
        drop(new);
        tokio::time::advance(KEPT / 2).await;
        drop(again);
        tokio::time::advance(KEPT / 2).await;
        assert_eq!(
            sweep(),
            Some(Instant::now() + KEPT / 2),
            "the one of them is over"
        );
        tokio::time::advance(KEPT / 2).await;
        assert_eq!(sweep(), None);
        assert_eq!(Lot::take().unwrap()[0], 0, "it is a new one");
    }
}
