//! The check of what both ends remember.
//!
//! It is to find a fault of one end, not of the way between them, for which each frame has its digest; so it is cheap. One changed word
//! of a slot always changes it.

use super::{BLOCK, Last, SLOTS, Slot};

/// Odd numbers: splitmix64 of 1 to 4, with the lowest bit set.
const FACTORS: [u64; 4] = {
    let mut factors = [0; 4];
    let (mut i, mut state) = (0, 0_u64);
    while i < factors.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        factors[i] = (x ^ (x >> 31)) | 1;
        i += 1;
    }
    factors
};

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
        let [_, f1, f2, _] = FACTORS;
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
        let small = u64::from(self.len) | u64::from(slot.flags.bits()) << 8 | u64::from(slot.vif) << 32;
        let [f0, f1, f2, f3] = FACTORS;
        let ([even, odd], [evens, odds]) = sums(slot);
        let words = [
            even.wrapping_add(small).wrapping_mul(f0),
            odd.wrapping_add(self.time).wrapping_mul(f1),
            evens.wrapping_mul(f2),
            odds.wrapping_mul(f3),
        ];
        words.iter().fold(sum.rotate_left(29), |sum, word| sum ^ word).wrapping_mul(f0)
    }
}

/// Sums of the even and of the odd words, and the sums of these sums as they grow: two lanes for the compiler, and no multiplication.
#[inline(always)]
fn sums(slot: &Slot) -> ([u64; 2], [u64; 2]) {
    let (mut sum, mut sums) = ([0_u64; 2], [0_u64; 2]);
    for block in slot.bytes.as_chunks::<BLOCK>().0 {
        for (i, word) in block.as_chunks().0.iter().enumerate() {
            sum[i] = sum[i].wrapping_add(u64::from_le_bytes(*word));
            sums[i] = sums[i].wrapping_add(sum[i]);
        }
    }
    (sum, sums)
}
