//! What is written on a raw connection, piece by piece: `send` of a `tcp` request, `raw` of a `rawHttp` app's route.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a YAML value of any other kind is read as a text"
)]

use std::time::Duration;

use serde_yaml::Value;

use super::fields::{At, Fields, Reader};
use super::model::{Exchange, Piece, Raw, Read, Slowly, Then};

const KINDS: &[&str] = &["hex", "bytes", "await", "pause"];

/// `send`, `halfClose`, `read` and `slowly` of a request.
pub(super) fn exchange(reader: &Reader<'_>, fields: &Fields<'_>) -> Exchange {
    let reads = [
        ("first", Read::First),
        ("end", Read::End),
        ("nothing", Read::Nothing),
    ];
    let half_close = fields.get("halfClose").and_then(|at| reader.flag(at));
    let read = fields.get("read").and_then(|at| reader.word(at, &reads));
    Exchange {
        send: fields
            .get("send")
            .map(|at| pieces(reader, at))
            .unwrap_or_default(),
        half_close: half_close.unwrap_or(false),
        read: read.unwrap_or(Read::First),
        slowly: fields.get("slowly").and_then(|at| slowly(reader, at)),
    }
}

/// `raw`, `then` and `early` of a route.
pub(super) fn raw(reader: &Reader<'_>, fields: &Fields<'_>) -> Option<Raw> {
    let thens = [
        ("keep", Then::Keep),
        ("close", Then::Close),
        ("reset", Then::Reset),
    ];
    let then = fields.get("then").and_then(|at| reader.word(at, &thens));
    let early = fields.get("early").and_then(|at| reader.flag(at));
    let at = fields.get("raw")?;
    let pieces = pieces(reader, at.clone());
    let awaits = |piece: &Piece| matches!(piece, Piece::Await(_) | Piece::AwaitRaw(_));
    if pieces.iter().any(awaits) {
        reader.wrong(&at, "an answer that awaits something", "take `await` out");
    }
    Some(Raw {
        pieces,
        then: then.unwrap_or(Then::Keep),
        early: early.unwrap_or(false),
    })
}

/// A text, or a list of texts and of `{hex: …}` (also `{hex: …, times: N}`), `{bytes: N}`, `{await: TEXT}`, `{await: {hex: …}}`, `{pause: DURATION}`.
fn pieces(reader: &Reader<'_>, at: At<'_>) -> Vec<Piece> {
    match at.value {
        Value::Sequence(_) => reader
            .list(at)
            .into_iter()
            .filter_map(|item| piece(reader, item))
            .collect(),
        _ => piece(reader, at).into_iter().collect(),
    }
}

fn piece(reader: &Reader<'_>, at: At<'_>) -> Option<Piece> {
    if !matches!(at.value, Value::Mapping(_)) {
        return reader.string(at).map(Piece::Text);
    }
    let known: Vec<&str> = KINDS.iter().copied().chain(["times"]).collect();
    let fields = reader.map(at.clone(), &known)?;
    let given: Vec<(String, At<'_>)> = fields.all().filter(|(name, _)| name != "times").collect();
    let [(kind, value)] = given.as_slice() else {
        reader.wrong(
            &at,
            "a piece is one thing",
            &format!("write one of: {}", KINDS.join(", ")),
        );
        return None;
    };
    let value = value.clone();
    let times = fields.get("times");
    if let Some(times) = times.as_ref().filter(|_| kind != "hex") {
        reader.wrong(
            times,
            "`times` beside what is not written again",
            "write it beside `hex`",
        );
    }
    match kind.as_str() {
        "hex" => {
            let times = times.map_or(Some(1), |at| times_of(reader, at))?;
            hex(reader, value).map(|bytes| Piece::Raw(bytes.repeat(times)))
        }
        "bytes" => reader
            .parsed(value, "write a number of bytes")
            .map(Piece::Generated),
        "await" if matches!(value.value, Value::Mapping(_)) => {
            let fields = reader.map(value.clone(), &["hex"])?;
            let Some(bytes) = fields.get("hex") else {
                reader.wrong(&value, "nothing to await", "write `{await: {hex: \"0d 0a\"}}`");
                return None;
            };
            hex(reader, bytes).map(Piece::AwaitRaw)
        }
        "await" => reader.string(value).map(Piece::Await),
        _ => reader.duration(value).map(Piece::Pause),
    }
}

/// How often bytes are written: in one write, which has its limit.
fn times_of(reader: &Reader<'_>, at: At<'_>) -> Option<usize> {
    const HELP: &str = "write a number from 1 to 100000";
    let times: usize = reader.parsed(at.clone(), HELP)?;
    if !(1..=100_000).contains(&times) {
        reader.wrong(&at, &format!("{times} is no number of times"), HELP);
        return None;
    }
    Some(times)
}

fn hex(reader: &Reader<'_>, at: At<'_>) -> Option<Vec<u8>> {
    let text = reader.string(at.clone())?;
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let bytes = digits
        .filter(|digits| digits.len().is_multiple_of(2))
        .map(|digits| {
            digits
                .chunks_exact(2)
                .map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + digit))
                .collect()
        });
    if bytes.is_none() {
        reader.wrong(
            &at,
            &format!("`{text}` is no bytes in hexadecimal"),
            "write two digits for each byte: \"0d 0a\"",
        );
    }
    bytes
}

fn slowly(reader: &Reader<'_>, at: At<'_>) -> Option<Slowly> {
    let fields = reader.map(at.clone(), &["bytes", "every"])?;
    let bytes = fields
        .get("bytes")
        .and_then(|at| reader.parsed::<u32>(at, "write a number of bytes from 1"))
        .filter(|bytes| *bytes > 0);
    let every = fields.get("every").and_then(|at| reader.duration(at));
    if bytes.is_none() || every.is_none() {
        reader.wrong(
            &at,
            "a pace needs `bytes` (from 1) and `every`",
            "write `slowly: {bytes: 65536, every: 10ms}`",
        );
    }
    Some(Slowly {
        bytes: bytes?,
        every: every.unwrap_or(Duration::ZERO),
    })
}
