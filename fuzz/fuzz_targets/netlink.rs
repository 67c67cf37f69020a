//! What the observer reads from the kernel: trace events, conntrack, lists of chains, rules, sockets and set elements. Any
//! bytes are read to their end, and nothing is made of more bytes than there are.

#![no_main]

use lab::observe::received::received;
use libfuzzer_sys::fuzz_target;

/// A message's header.
const SMALLEST: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let all = received(bytes);
    assert!(all.messages * SMALLEST <= bytes.len());
    assert!(all.errors <= all.messages && all.sockets <= all.messages);
    assert!(all.packets + all.tracked <= all.messages);
});
