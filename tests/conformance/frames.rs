//! What came on a connection of HTTP/2, frame by frame, reduced to what both data planes can be held to (RFC 9113):
//!
//! - The values in SETTINGS are an implementation's own choice, and so is when it gives credit: `WINDOW_UPDATE` is left out.
//! - Where a body is cut into DATA frames is chance: those of a stream that follow each other are one, and its `END_STREAM`
//!   may come with the last bytes or behind them.
//! - A server that closes a connection may ask for a PING to know when its client has heard of it (6.8).
//! - The words in GOAWAY are for people (6.8), in each implementation's own.
//! - A head is compared by its status: its headers are those of a request by HTTP/1.1, and how HPACK writes them is free.

/// What every client says first.
const PREFACE: &str = "PRI * HTTP/2.0";

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The frames of this answer, one a line, if the request spoke HTTP/2 by hand and the answer is made of frames.
pub(crate) fn frames(request: &serde_json::Value, body: &[u8]) -> Option<String> {
    let says_preface = request["send"]
        .as_array()
        .and_then(|pieces| pieces.first()?.as_str())
        .is_some_and(|first| first.starts_with(PREFACE));
    says_preface.then(|| told(body)).flatten()
}

/// A frame, as much of it as is compared.
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

fn told(mut rest: &[u8]) -> Option<String> {
    let mut lines: Vec<String> = Vec::new();
    // The stream whose DATA is gathered, its bytes, and whether it has ended.
    let mut data: Option<(u32, Vec<u8>, bool)> = None;
    while !rest.is_empty() {
        let (frame, after) = next(rest)?;
        rest = after;
        if frame.kind == 0 {
            let ends = frame.flags & END_STREAM != 0;
            match &mut data {
                Some((stream, bytes, has_ended)) if *stream == frame.stream => {
                    bytes.extend_from_slice(frame.payload);
                    *has_ended |= ends;
                }
                _ => {
                    lines.extend(
                        data.replace((frame.stream, frame.payload.to_vec(), ends))
                            .map(shown),
                    );
                }
            }
            continue;
        }
        let Some(line) = line(&frame) else { continue };
        lines.extend(data.take().map(shown));
        lines.push(line);
    }
    lines.extend(data.map(shown));
    Some(lines.join("\n"))
}

/// A frame and what follows it; none if the last one was cut off.
fn next(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(9)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let (payload, rest) = rest.split_at_checked(length)?;
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    let frame = Frame {
        kind: head[3],
        flags: head[4],
        stream,
        payload,
    };
    Some((frame, rest))
}

fn shown((stream, bytes, ends): (u32, Vec<u8>, bool)) -> String {
    let end = if ends { " end" } else { "" };
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) if text.len() <= 200 => text.escape_debug().to_string(),
        _ => format!("{} bytes", bytes.len()),
    };
    format!("DATA {stream}{end} {text}")
}

/// What a frame says; none if that is not compared.
fn line(frame: &Frame<'_>) -> Option<String> {
    let Frame {
        kind,
        flags,
        stream,
        payload,
    } = frame;
    let word = |at: usize| Some(u32::from_be_bytes(payload.get(at..at + 4)?.try_into().ok()?));
    let number = |at: usize| word(at).map_or_else(|| "?".to_owned(), |word| word.to_string());
    let acknowledges = flags & ACK != 0;
    Some(match kind {
        1 => {
            let end = if flags & END_STREAM != 0 { " end" } else { "" };
            format!("HEADERS {stream}{end} {}", status(*flags, payload))
        }
        3 => format!("RST_STREAM {stream} {}", code(word(0))),
        4 if acknowledges => "SETTINGS ack".to_owned(),
        4 => "SETTINGS".to_owned(),
        6 if acknowledges => {
            let bytes = payload.iter().map(|byte| format!("{byte:02x}"));
            format!("PING ack {}", bytes.collect::<String>())
        }
        7 => format!("GOAWAY last {} {}", number(0), code(word(4))),
        6 | 8 => return None,
        kind => format!("frame of type {kind} on {stream}"),
    })
}

/// The status, which a head begins with: a place in the static table (RFC 7541, appendix A), or digits.
fn status(flags: u8, payload: &[u8]) -> String {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let mut block = payload;
    if flags & PADDED != 0 {
        block = block.get(1..).unwrap_or_default();
    }
    if flags & PRIORITY != 0 {
        block = block.get(5..).unwrap_or_default();
    }
    match block {
        [first @ 0x88..=0x8e, ..] => STATIC[usize::from(first - 0x88)].to_string(),
        // A literal with the name of place 8, to be kept or not.
        [0x08 | 0x18 | 0x48, length, digits @ ..] => {
            let value = digits.get(..usize::from(length & 0x7f)).unwrap_or_default();
            if length & 0x80 == 0 {
                String::from_utf8_lossy(value).into_owned()
            } else {
                huffman_digits(value)
            }
        }
        _ => "no status".to_owned(),
    }
}

/// Digits alone (RFC 7541, appendix B): 0, 1 and 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> String {
    let mut bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u32::from(byte >> bit & 1)));
    let mut digits = String::new();
    while let Some(five) = (0..5).try_fold(0, |code, _| Some(code << 1 | bits.next()?)) {
        let digit = match five {
            0..=2 => five,
            12..=15 => match bits.next() {
                Some(bit) => (five << 1 | bit) - 22,
                None => break,
            },
            _ => break,
        };
        digits.push_str(&digit.to_string());
    }
    digits
}

/// An error's name (RFC 9113, 7).
fn code(code: Option<u32>) -> String {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    let name = code.and_then(|code| NAMES.get(usize::try_from(code).ok()?));
    (*name.unwrap_or(&"an unknown error")).to_owned()
}

#[test]
fn frames_are_told_one_by_one() {
    let asked = serde_json::json!({ "send": ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", { "hex": "00" }] });
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let bytes = [
        frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]),
        frame(4, 1, 0, &[]),
        frame(1, 4, 1, &[0x88, 0x40]),
        frame(0, 0, 1, b"do"),
        frame(8, 0, 0, &[0, 0, 0, 9]),
        frame(0, 0, 1, b"ne"),
        frame(0, 1, 1, b""),
        // 503, literally and in Huffman's codes: 011011 00000 011001.
        frame(1, 5, 3, &[0x48, 0x03, b'5', b'0', b'3']),
        frame(1, 5, 5, &[0x48, 0x83, 0b0110_1100, 0b0000_1100, 0b1111_1111]),
        frame(3, 0, 5, &[0, 0, 0, 1]),
        frame(6, 1, 0, b"pingpong"),
        frame(6, 0, 0, b"pingpong"),
        frame(7, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 11, b'w']),
    ]
    .concat();
    assert_eq!(
        frames(&asked, &bytes).unwrap(),
        "SETTINGS\nSETTINGS ack\nHEADERS 1 200\nDATA 1 end done\nHEADERS 3 end 503\nHEADERS 5 end 503\n\
        RST_STREAM 5 PROTOCOL_ERROR\nPING ack 70696e67706f6e67\nGOAWAY last 5 ENHANCE_YOUR_CALM"
    );
    assert!(
        frames(&asked, b"HTTP/1.1 400 Bad Request\r\n").is_none(),
        "no frames"
    );
    assert!(
        frames(&serde_json::json!({ "send": "GET /" }), &bytes).is_none(),
        "nobody asked by HTTP/2"
    );
}
