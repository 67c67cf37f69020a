//! What several targets share: bytes that come in pieces.

/// Takes the first byte of an input: it chooses how the rest is cut.
pub fn cut(input: &[u8]) -> Option<(u8, &[u8])> {
    input.split_first().map(|(seed, rest)| (*seed, rest))
}

/// The pieces of `bytes`, in order, none of them empty. 0 cuts at every byte; every other seed makes pieces of changing
/// length, the longest 64 bytes.
pub fn pieces(seed: u8, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut state) = (bytes, u32::from(seed));
    std::iter::from_fn(move || {
        // A linear congruential generator; only its spread matters.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wanted = if seed == 0 { 1 } else { 1 + (state >> 26) as usize };
        let (piece, left) = rest.split_at(wanted.min(rest.len()));
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}
