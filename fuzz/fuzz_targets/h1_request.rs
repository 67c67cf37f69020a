//! Heads of requests. However the bytes are cut, the same comes out; and what is taken goes upstream as bytes that are
//! the same request to the next reader, so that nothing of a head can become a header or a request of its own.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proxy::http::h1::parse::{Malformed, Request, request};
use proxy::http::h1::{body::Framing, encode};

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = fuzz::cut(input) else {
        return;
    };
    let mut buffer = BytesMut::from(bytes);
    let whole = request(&mut buffer);
    let (parts, left) = in_pieces(seed, bytes);
    assert_eq!(text(&whole), text(&parts), "whole, and in pieces");
    if whole.is_ok() {
        assert_eq!(buffer, left, "what is left behind the head");
    }
    if let Ok(Some(request)) = whole {
        survives(request);
    }
});

/// What comes out, and what is then left of all bytes.
fn in_pieces(seed: u8, bytes: &[u8]) -> (Result<Option<Request>, Malformed>, BytesMut) {
    let mut buffer = BytesMut::new();
    let mut parsed = request(&mut buffer);
    let mut pieces = fuzz::pieces(seed, bytes);
    while matches!(parsed, Ok(None)) {
        let Some(piece) = pieces.next() else { break };
        buffer.extend_from_slice(piece);
        parsed = request(&mut buffer);
    }
    pieces.for_each(|piece| buffer.extend_from_slice(piece));
    (parsed, buffer)
}

fn text(parsed: &Result<Option<Request>, Malformed>) -> String {
    format!("{parsed:?}")
}

fn survives(request: Request) {
    let head = &request.head;
    // The host and the framing may add two headers, and there is a limit.
    if head.method == http::Method::CONNECT || head.headers.len() > 97 {
        return;
    }
    let mut out = BytesMut::new();
    encode::request(&mut out, head, request.framing);
    let again = self::request(&mut out);
    let Ok(Some(again)) = again else {
        panic!("what goes upstream is no request: {again:?}");
    };
    assert!(
        out.is_empty(),
        "bytes behind the head that goes upstream: {out:?}"
    );
    assert_eq!(head.method, again.head.method);
    assert_eq!(head.path, again.head.path);
    assert_eq!(head.authority, again.head.authority);
    let own = |headers: &http::HeaderMap| {
        let mut headers = headers.clone();
        headers.remove(http::header::CONTENT_LENGTH);
        headers.remove(http::header::TRANSFER_ENCODING);
        headers
    };
    assert_eq!(own(&head.headers), own(&again.head.headers));
    match (request.framing, again.framing) {
        (Framing::None, Framing::None | Framing::Length(0)) => {}
        (framing, again) => assert_eq!(framing, again, "how the body ends"),
    }
}
