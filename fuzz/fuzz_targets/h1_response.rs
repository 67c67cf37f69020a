//! Heads of responses. However the bytes are cut, the same comes out; and what is taken goes to the client as bytes that
//! are the same response to it.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proxy::http::h1::parse::{Garbage, Response, response};
use proxy::http::h1::{body::Framing, encode};

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = fuzz::cut(input) else {
        return;
    };
    let to_head = seed & 1 == 1;
    let mut buffer = BytesMut::from(bytes);
    let whole = response(&mut buffer, to_head);
    let (parts, left) = in_pieces(seed >> 1, bytes, to_head);
    assert_eq!(text(&whole), text(&parts), "whole, and in pieces");
    if whole.is_ok() {
        assert_eq!(buffer, left, "what is left behind the head");
    }
    if let Ok(Some(response)) = whole {
        survives(response, to_head);
    }
});

/// What comes out, and what is then left of all bytes.
fn in_pieces(seed: u8, bytes: &[u8], to_head: bool) -> (Result<Option<Response>, Garbage>, BytesMut) {
    let mut buffer = BytesMut::new();
    let mut parsed = response(&mut buffer, to_head);
    let mut pieces = fuzz::pieces(seed, bytes);
    while matches!(parsed, Ok(None)) {
        let Some(piece) = pieces.next() else { break };
        buffer.extend_from_slice(piece);
        parsed = response(&mut buffer, to_head);
    }
    pieces.for_each(|piece| buffer.extend_from_slice(piece));
    (parsed, buffer)
}

fn text(parsed: &Result<Option<Response>, Garbage>) -> String {
    format!("{parsed:?}")
}

fn survives(response: Response, to_head: bool) {
    let head = &response.head;
    // The framing may add a header, and there is a limit.
    if head.headers.len() > 98 {
        return;
    }
    // A body that ends with the upstream's connection goes on in chunks.
    let framing = match response.framing {
        Framing::UntilClose => Framing::Chunked,
        framing => framing,
    };
    let mut out = BytesMut::new();
    encode::response(&mut out, head, framing, to_head, false);
    let again = self::response(&mut out, to_head);
    let Ok(Some(again)) = again else {
        panic!("what goes to the client is no response: {again:?}");
    };
    assert!(
        out.is_empty(),
        "bytes behind the head that goes to the client: {out:?}"
    );
    assert_eq!(head.status, again.head.status);
    assert_eq!(framing, again.framing, "how the body ends");
    let own = |headers: &http::HeaderMap| {
        let mut headers = headers.clone();
        headers.remove(http::header::CONTENT_LENGTH);
        headers.remove(http::header::TRANSFER_ENCODING);
        headers
    };
    assert_eq!(own(&head.headers), own(&again.head.headers));
}
