//! Bodies: where one ends, and what of the bytes is it (RFC 9112 6 and 7).

use bytes::{Buf as _, Bytes, BytesMut};

/// The longest chunk-size line, with its extensions.
const LONGEST_LINE: usize = 16 * 1024;
/// The longest trailer section.
const LONGEST_TRAILERS: usize = 60 * 1024;

/// How a body's end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// It has so many bytes.
    Length(u64),
    /// It comes in chunks.
    Chunked,
    /// It goes on to the end of the connection.
    UntilClose,
}

/// Takes a body out of a connection's bytes.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// What a decoder makes of the bytes it has.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the body.
    Data(Bytes),
    /// The body is over; what is left in the buffer is not its own.
    End,
    /// More bytes must come.
    More,
}

/// The bytes are no body of that framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a malformed body")]
pub struct Malformed;

impl Decoder {
    /// For a body that ends so.
    pub const fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// True if nothing more belongs to the body.
    pub fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// True if much is still to come, so that a large buffer pays.
    pub fn expects_much(&self) -> bool {
        match self.0 {
            State::Length(left) | State::Chunk(left) => left > 16 * 1024,
            State::UntilClose => true,
            State::Size | State::ChunkEnd | State::Trailers | State::Done => false,
        }
    }

    /// How many bytes are left of a body whose length is known.
    pub fn left(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Size
            | State::Chunk(_)
            | State::ChunkEnd
            | State::Trailers
            | State::UntilClose
            | State::Done => None,
        }
    }

    /// So many of those bytes went another way.
    pub fn pass_over(&mut self, length: u64) {
        if let State::Length(left) = self.0 {
            self.0 = if length < left {
                State::Length(left - length)
            } else {
                State::Done
            };
        }
    }

    /// The connection is over; true if the body ends by that.
    pub fn ends_here(&mut self) -> bool {
        if self.0 == State::UntilClose {
            self.0 = State::Done;
        }
        self.is_done()
    }

    /// The next piece that the buffer holds.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match self.0 {
                State::Done => return Ok(Piece::End),
                State::UntilClose if buffer.is_empty() => return Ok(Piece::More),
                State::UntilClose => return Ok(Piece::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let Some((data, left)) = take(buffer, left) else {
                        return Ok(Piece::More);
                    };
                    self.0 = if left == 0 {
                        State::Done
                    } else {
                        State::Length(left)
                    };
                    return Ok(Piece::Data(data));
                }
                State::Chunk(left) => {
                    let Some((data, left)) = take(buffer, left) else {
                        return Ok(Piece::More);
                    };
                    self.0 = if left == 0 {
                        State::ChunkEnd
                    } else {
                        State::Chunk(left)
                    };
                    return Ok(Piece::Data(data));
                }
                // What stands between a chunk and the end of its line is passed over, as Envoy does.
                State::ChunkEnd => match memchr::memchr(b'\n', buffer) {
                    None if buffer.len() > LONGEST_LINE => return Err(Malformed),
                    None => return Ok(Piece::More),
                    Some(end) => {
                        buffer.advance(end + 1);
                        self.0 = State::Size;
                    }
                },
                State::Size => match line(buffer, LONGEST_LINE)? {
                    None => return Ok(Piece::More),
                    Some(line) => {
                        self.0 = match size(&line)? {
                            0 => State::Trailers,
                            size => State::Chunk(size),
                        }
                    }
                },
                // Trailers of HTTP/1.1 are read and dropped (`Http1ProtocolOptions.enable_trailers` is off).
                State::Trailers => match line(buffer, LONGEST_TRAILERS)? {
                    None => return Ok(Piece::More),
                    Some(line) if line.is_empty() => self.0 = State::Done,
                    Some(line) if line.contains(&b':') => {}
                    Some(_) => return Err(Malformed),
                },
            }
        }
    }
}

/// As much of `left` bytes as there is, and what is then left.
fn take(buffer: &mut BytesMut, left: u64) -> Option<(Bytes, u64)> {
    if buffer.is_empty() {
        return None;
    }
    let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    let data = buffer.split_to(length).freeze();
    Some((data, left - u64::try_from(length).unwrap_or(left)))
}

/// A whole line without its end, taken out; none if it has not come whole.
fn line(buffer: &mut BytesMut, longest: usize) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() > longest {
            Err(Malformed)
        } else {
            Ok(None)
        };
    };
    let mut line = buffer.split_to(end).freeze();
    buffer.advance(1);
    if line.last() != Some(&b'\r') {
        return Err(Malformed);
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

/// The size in a chunk's first line, extensions aside.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    if digits == 0 || digits > 16 || !(rest.is_empty() || rest[0] == b';') {
        return Err(Malformed);
    }
    let digits = std::str::from_utf8(&line[..digits]).map_err(|_error| Malformed)?;
    u64::from_str_radix(digits, 16).map_err(|_error| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, what is left behind it, and whether it is over.
    fn decode(framing: Framing, bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>, bool), Malformed> {
        let (mut decoder, mut buffer) = (Decoder::new(framing), BytesMut::from(bytes));
        let mut body = Vec::new();
        loop {
            match decoder.next(&mut buffer)? {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End => return Ok((body, buffer.to_vec(), true)),
                Piece::More => return Ok((body, buffer.to_vec(), false)),
            }
        }
    }

    #[test]
    fn a_length_ends_a_body() {
        let decoded = decode(Framing::Length(3), b"abcdef");
        assert_eq!(decoded, Ok((b"abc".to_vec(), b"def".to_vec(), true)));
        let decoded = decode(Framing::Length(9), b"abc");
        assert_eq!(decoded, Ok((b"abc".to_vec(), Vec::new(), false)));
    }

    #[test]
    fn a_part_may_go_another_way() {
        let mut decoder = Decoder::new(Framing::Length(9));
        decoder.pass_over(4);
        assert_eq!(decoder.left(), Some(5));
        assert_eq!(
            decoder.next(&mut BytesMut::from(&b"abcdefg"[..])),
            Ok(Piece::Data(Bytes::from_static(b"abcde")))
        );
        assert!(decoder.is_done());
        let mut decoder = Decoder::new(Framing::Length(2));
        decoder.pass_over(2);
        assert_eq!((decoder.left(), decoder.is_done()), (None, true));
        let mut chunks = Decoder::new(Framing::Chunked);
        chunks.pass_over(2);
        assert_eq!((chunks.left(), chunks.is_done()), (None, false));
    }

    #[test]
    fn chunks_are_put_together() {
        let decoded = decode(
            Framing::Chunked,
            b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nt: 1\r\n\r\nnext",
        );
        assert_eq!(decoded, Ok((b"abc0123456789".to_vec(), b"next".to_vec(), true)));
        assert_eq!(
            decode(Framing::Chunked, b"3\r\nab"),
            Ok((b"ab".to_vec(), Vec::new(), false))
        );
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for bytes in [
            &b"x\r\n"[..],
            b"-1\r\n",
            b"3\r\nabc0\r\n\r\n",
            b"3\nabc\r\n",
            b"11111111111111111\r\n",
            b"3 x\r\n",
            b"0x3\r\n",
            b"0\r\nnot a trailer\r\n",
        ] {
            assert_eq!(
                decode(Framing::Chunked, bytes),
                Err(Malformed),
                "{}",
                bytes.escape_ascii()
            );
        }
    }
}
