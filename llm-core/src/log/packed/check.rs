//! The check of what both ends remember.
//!
//! It is to find a fault of one end, not of the way between them, for which each frame has its digest; so it is cheap. One changed half
//! of a word of a slot always changes it.

use super::{About, BLOCK, Last, MAX, SLOTS, Slot};

/// A key for each word of a slot. They are numbers of splitmix64 from state 0, the first three of which are [`FACTORS`].
const KEYS: [u64; MAX / size_of::<u64>()] = splitmix64(FACTORS.len());

/// Odd numbers.
const FACTORS: [u64; 3] = {
    let [f0, f1, f2] = splitmix64(0);
    [f0 | 1, f1 | 1, f2 | 1]
};

/// Numbers of the generator `splitmix64`, behind the first `skipped` of them.
///
/// Source: <https://prng.di.unimi.it/splitmix64.c>.
const fn splitmix64<const N: usize>(skipped: usize) -> [u64; N] {
    let mut numbers = [0; N];
    let (mut i, mut state) = (0, 0_u64);
    while i < skipped + N {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        if i >= skipped {
            numbers[i - skipped] = x ^ (x >> 31);
        }
        i += 1;
    }
    numbers
}

/// Of all small records so far.
///
/// A record is added when the next one comes: a processor that reads eight bytes where it has written two of them just now waits
/// until these have left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check {
    sum: u64,
    newest: Option<Newest>,
}

/// A record that is still to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Newest {
    slot: u8,
    len: u8,
    time: u64,
}

impl Check {
    pub(super) const fn new() -> Self {
        Self { sum: 0, newest: None }
    }

    /// With all records, of which `last` is the last one.
    pub(super) fn value(self, slots: &[Slot; SLOTS], last: Option<&Last>) -> u64 {
        let sum = self.newest.map_or(self.sum, |newest| newest.added_to(self.sum, slots));
        // No record skips a number, and none goes back to an earlier epoch: if the last ones are right, so are all.
        let [_, f1, f2] = FACTORS;
        last.map_or(sum, |last| sum ^ last.lsn.wrapping_mul(f1) ^ last.epoch.wrapping_mul(f2))
    }

    /// Adds the newest record. To be called before a slot changes again.
    #[inline(always)]
    pub(super) fn settle(&mut self, slots: &[Slot; SLOTS]) {
        if let Some(newest) = self.newest.take() {
            self.sum = newest.added_to(self.sum, slots);
        }
    }

    /// Adds a record of that time, with a packet of `len` bytes that is in its slot now.
    #[inline(always)]
    pub(super) fn add(&mut self, slot: u8, len: u8, time: u64) {
        self.newest = Some(Newest { slot, len, time });
    }
}

impl Newest {
    #[inline(always)]
    fn added_to(self, sum: u64, slots: &[Slot; SLOTS]) -> u64 {
        let slot = &slots[usize::from(self.slot)];
        let About { kind, vif, flags } = slot.about;
        let about = u64::from(flags.bits()) << 8 | u64::from(kind.code()) << 24 | u64::from(vif) << 32;
        let small = u64::from(self.len) | about;
        let [f0, f1, _] = FACTORS;
        let [even, odd] = sums(slot);
        let words = even.wrapping_add(small).wrapping_mul(f0) ^ odd.wrapping_add(self.time).wrapping_mul(f1);
        (sum.rotate_left(29) ^ words).wrapping_mul(f0)
    }
}

/// Sums over the even and over the odd words: two lanes for the compiler.
///
/// Of each word, its two halves are multiplied with each other, as in NH (Black et al., "UMAC", CRYPTO 1999), which spreads a change of
/// the highest bits too. With the word itself added, a change of one half is never lost: the sum is
/// (low half + 2^32) * (high half + 1) - 2^32.
#[inline(always)]
fn sums(slot: &Slot) -> [u64; 2] {
    let mut sums = [0_u64; 2];
    let keys: &[[u64; 2]] = KEYS.as_chunks().0;
    for (block, keys) in slot.bytes.as_chunks::<BLOCK>().0.iter().zip(keys) {
        for ((sum, word), key) in sums.iter_mut().zip(block.as_chunks().0).zip(keys) {
            let word = u64::from_le_bytes(*word) ^ key;
            let product = (word & u64::from(u32::MAX)).wrapping_mul(word >> 32);
            *sum = sum.wrapping_add(word).wrapping_add(product);
        }
    }
    sums
}
