//! HTTP/2 frames that a client sends. However they come and wherever they are put, the same of them is passed on and the
//! same is said of them; and nothing is passed on that did not come.

#![no_main]

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use proxy::http::frames::passed;
use proxy::http::offence::Offence;
use tokio::io::{AsyncRead, ReadBuf};

/// What comes, in lots; then the connection ends.
struct Lots<'a, I: Iterator<Item = &'a [u8]>> {
    lots: I,
    lot: &'a [u8],
}

impl<'a, I: Iterator<Item = &'a [u8]> + Unpin> AsyncRead for Lots<'a, I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.lot.is_empty() {
            self.lot = self.lots.next().unwrap_or_default();
        }
        let (now, later) = self.lot.split_at(self.lot.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.lot = later;
        Poll::Ready(Ok(()))
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((room, rest)) = input.split_first() else {
        return;
    };
    let Some((seed, bytes)) = fuzz::cut(rest) else {
        return;
    };
    let frames = [proxy::detect::PREFACE, bytes].concat();
    let whole = pass(std::iter::once(&*frames), frames.len() + 64);
    let parts = pass(fuzz::pieces(seed, &frames), 1 + usize::from(*room));
    assert_eq!(whole, parts, "whole, and in lots");
    let mut came = frames.iter();
    assert!(
        whole.0.iter().all(|byte| came.any(|it| it == byte)),
        "something else is passed on"
    );
});

fn pass<'a>(lots: impl Iterator<Item = &'a [u8]> + Unpin, room: usize) -> (Vec<u8>, Option<Offence>) {
    let lots = Lots { lots, lot: &[] };
    let passed = pin!(passed(tokio::io::join(lots, tokio::io::sink()), room));
    // Nothing here is ever waited for.
    match passed.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(passed) => passed,
        Poll::Pending => panic!("it waits, for nothing"),
    }
}
