//! Where words of a page were seen, for codes that refer to them.

use super::super::table::Choice;
use super::super::{Page, WORDS};

/// The least choice in whose place a word refers to another one: it takes two bytes.
pub(super) const REFERRED: Choice = 2 << 12;

/// Bits of a hash.
const BITS: u32 = 10;

/// By hash of a word, the low eight bits of the newest place where such a word was noted: a code reaches no further.
pub(super) struct Seen {
    at: [u8; 1 << BITS],
}

impl Seen {
    pub(super) const fn new() -> Self {
        Self { at: [0; 1 << BITS] }
    }

    /// Notes word `at` of the new page, and tells whether an equal one may be referred to, and the byte that code
    /// *refer* takes for it (see [`Refer`](super::super::table::WordCode::Refer)).
    ///
    /// No branch depends on the word.
    #[inline(always)]
    pub(super) fn note(&mut self, new: &Page, at: usize, word: u64) -> (bool, u8) {
        let hash = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BITS);
        let slot = &mut self.at[hash as usize % (1 << BITS)];
        let [low, ..] = at.to_le_bytes();
        let name = low.wrapping_sub(2).wrapping_sub(*slot);
        *slot = low;
        let place = at.wrapping_sub(2 + usize::from(name));
        let equal = u64::from_le_bytes(new.as_chunks::<8>().0[place % WORDS]) == word;
        (equal & (place < at), name)
    }
}
