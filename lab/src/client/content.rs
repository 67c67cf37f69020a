//! Bodies that are longer than what is kept of them: a pattern to send, and what came, counted and hashed.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// The longest body that is kept.
const LONGEST: usize = 1 << 20;

/// How much of the pattern is sent at a time.
const BLOCK: usize = 64 << 10;

/// The pattern, again and again: no control character, so that it can be part of anything.
const LINE: &[u8] = b"the-quick-brown-fox-jumps-over-the-lazy-dog-1234567890-and-back.";

/// The lab's own pattern, so many bytes of it, block by block.
pub fn pattern(length: u64) -> impl Iterator<Item = Bytes> {
    let lines: Vec<u8> = LINE.iter().copied().cycle().take(BLOCK).collect();
    let block = Bytes::from(lines);
    let mut left = length;
    std::iter::from_fn(move || {
        let size = left.min(block.len() as u64);
        left -= size;
        (size > 0).then(|| block.slice(..usize::try_from(size).unwrap_or(BLOCK)))
    })
}

/// What came: its beginning, its length, its hash.
#[derive(Debug, Clone, Default)]
pub struct Content {
    kept: Vec<u8>,
    length: u64,
    hash: Sha256,
}

impl Content {
    /// More of it.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = LONGEST - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.length += bytes.len() as u64;
        self.hash.update(bytes);
    }

    /// Its beginning, at most 1 MiB.
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Its beginning in hexadecimal, if it is no UTF-8.
    pub fn hex(&self) -> Option<String> {
        let is_text = std::str::from_utf8(&self.kept).is_ok();
        (!is_text).then(|| hex(&self.kept))
    }

    /// The length of all of it.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// SHA-256 of all of it, in hexadecimal.
    pub fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_has_the_length_that_was_asked_for() {
        for length in [0, 1, 65_535, 65_536, 200_000] {
            let blocks: Vec<Bytes> = pattern(length).collect();
            assert_eq!(blocks.iter().map(|block| block.len() as u64).sum::<u64>(), length);
        }
    }

    #[test]
    fn what_is_no_text_is_there_in_hexadecimal() {
        let mut content = Content::default();
        content.push(b"text");
        assert_eq!(content.hex(), None);
        content.push(&[0xff, 0x0a]);
        assert_eq!(content.hex().as_deref(), Some("74657874ff0a"));
    }

    #[test]
    fn only_the_beginning_is_kept_and_all_is_hashed() {
        let mut content = Content::default();
        assert_eq!(
            content.sha256(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        for block in pattern(3 << 20) {
            content.push(&block);
        }
        assert_eq!((content.kept().len(), content.length()), (1 << 20, 3 << 20));
        let mut cut = Content::default();
        cut.push(content.kept());
        assert_ne!(cut.sha256(), content.sha256());
    }
}
