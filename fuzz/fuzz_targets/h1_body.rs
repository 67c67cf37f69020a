//! Bodies. However the bytes are cut, body, end, error and what is left behind are the same; and none is longer than its
//! bytes.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proxy::http::h1::body::{Decoder, Framing, Malformed, Piece};

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    body: Vec<u8>,
    end: Result<bool, Malformed>,
    /// What follows the body, if it is over.
    left: Option<Vec<u8>>,
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    let Some((seed, bytes)) = fuzz::cut(rest) else {
        return;
    };
    let framing = match kind {
        0 => Framing::None,
        1 => Framing::UntilClose,
        2 => Framing::Length(u64::MAX),
        length @ 3..64 => Framing::Length(u64::from(*length) - 3),
        64.. => Framing::Chunked,
    };
    let whole = decode(framing, std::iter::once(bytes));
    let parts = decode(framing, fuzz::pieces(seed, bytes));
    assert_eq!(whole, parts, "whole, and in pieces");
    assert!(whole.body.len() <= bytes.len());
    if let Framing::Length(length) = framing {
        let there = (bytes.len() as u64).min(length);
        assert_eq!(whole.body, bytes[..there as usize]);
        assert_eq!(whole.end, Ok(there == length));
    }
});

fn decode<'a>(framing: Framing, mut pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let (mut decoder, mut buffer, mut body) = (Decoder::new(framing), BytesMut::new(), Vec::new());
    let end = loop {
        match decoder.next(&mut buffer) {
            Err(malformed) => break Err(malformed),
            Ok(Piece::End) => break Ok(true),
            Ok(Piece::Data(data)) => {
                assert!(!data.is_empty(), "a piece without bytes");
                body.extend_from_slice(&data);
            }
            Ok(Piece::More) => {
                let Some(piece) = pieces.next() else {
                    break Ok(decoder.ends_here());
                };
                buffer.extend_from_slice(piece);
            }
        }
    };
    let is_over = end == Ok(true);
    assert_eq!(is_over, decoder.is_done());
    pieces.for_each(|piece| buffer.extend_from_slice(piece));
    Decoded {
        body,
        end,
        left: is_over.then(|| buffer.to_vec()),
    }
}
