//! The check of what both ends made of the small records.
//!
//! It is to find a fault of one end, not of the way between them, for which each frame has its digest; so it is cheap.

use super::{Last, MIN};

/// A key for each word of a packet's two ends. They are numbers of splitmix64 from state 0, the first three of which are [`FACTORS`].
pub(super) const KEYS: [u64; 2 * MIN / size_of::<u64>()] = splitmix64(FACTORS.len());

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check(u64);

impl Check {
    pub(super) const fn new() -> Self {
        Self(0)
    }

    /// With all records, of which `last` is the last one.
    pub(super) fn value(self, last: Option<&Last>) -> u64 {
        // No record skips a number, and none goes back to an earlier epoch: if the last ones are right, so are all.
        let [_, f1, f2] = FACTORS;
        last.map_or(self.0, |last| self.0 ^ last.lsn.wrapping_mul(f1) ^ last.epoch.wrapping_mul(f2))
    }

    /// Adds a record of that time, whose packet has these sums.
    #[inline(always)]
    pub(super) fn add(&mut self, [even, odd]: [u64; 2], about: u64, time: u64) {
        let [f0, ..] = FACTORS;
        for word in [even.wrapping_add(about), odd.wrapping_add(time)] {
            self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(f0);
        }
    }
}
