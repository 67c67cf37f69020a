//! The first bytes of a connection. Once something is seen, more bytes change nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::detect::{Seen, look};

fuzz_target!(|input: &[u8]| {
    let Some((flags, bytes)) = fuzz::cut(input) else {
        return;
    };
    let (for_tls, for_http) = (flags & 1 == 1, flags & 2 == 2);
    let whole = look(bytes, for_tls, for_http);
    let mut end = 0;
    for piece in fuzz::pieces(flags >> 2, bytes) {
        end += piece.len();
        let seen = look(&bytes[..end], for_tls, for_http);
        assert!(
            seen == whole || seen == Seen::More,
            "{seen:?} after {end} bytes, {whole:?} at the end"
        );
    }
    match whole {
        Seen::Tls => assert!(for_tls && bytes.starts_with(&[0x16, 3])),
        Seen::Http(_) => assert!(for_http),
        Seen::More | Seen::Other => {}
    }
});
