//! Which lanes of a slot a packet changes.

#![allow(unsafe_code)]

use super::{LANE, MAX, MIN};

/// A bit for each lane of `old` that a small packet changes.
#[inline(always)]
pub(super) fn changed(old: &[u8; MAX], packet: &[u8]) -> u64 {
    let even = packet.len() & !1;
    let start = even.saturating_sub(MIN);
    // The first 64 bytes and the last ones, which overlap: lanes in both have the same bit.
    let old_end = old.get(start..).and_then(<[u8]>::first_chunk);
    let new_end = packet.get(start..).and_then(<[u8]>::first_chunk);
    let (Some(old_start), Some(new_start), Some(old_end), Some(new_end)) =
        (old.first_chunk(), packet.first_chunk(), old_end, new_end)
    else {
        return 0;
    };
    let mut changed =
        u64::from(half(old_start, new_start)) | u64::from(half(old_end, new_end)) << (start / LANE);
    if let Some(last) = packet.get(even)
        && old.get(even) != Some(last)
    {
        changed |= 1 << (even / LANE);
    }
    changed
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
use portable as half;

/// A bit for each lane that differs.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
fn half(old: &[u8; MIN], new: &[u8; MIN]) -> u32 {
    // SAFETY: this function is there only if the target has SSE2.
    unsafe { vectors(old, new) }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline]
#[target_feature(enable = "sse2")]
fn vectors(old: &[u8; MIN], new: &[u8; MIN]) -> u32 {
    use core::arch::x86_64::{_mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi64x};

    let load = |block: &[u8; 16]| {
        let (low, high) = block.split_at(8);
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes));
        _mm_set_epi64x(word(high), word(low))
    };
    let (old, new) = (old.as_chunks().0, new.as_chunks().0);
    let equal = |b: usize| _mm_cmpeq_epi16(load(&old[b]), load(&new[b]));
    // A byte for each lane of two blocks, and of each a bit.
    let two = |b| _mm_movemask_epi8(_mm_packs_epi16(equal(b), equal(b + 1))).cast_unsigned();
    !(two(0) | two(2) << 16)
}

/// As [`vectors`], by words.
#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
fn portable(old: &[u8; MIN], new: &[u8; MIN]) -> u32 {
    const LOW: u64 = 0x7fff_7fff_7fff_7fff;

    let mut changed = 0;
    let words = old.as_chunks().0.iter().zip(new.as_chunks().0).enumerate();
    for (at, (old, new)) in words {
        let differ = u64::from_le_bytes(*old) ^ u64::from_le_bytes(*new);
        // The highest bit of each lane: of the sum if a lower one is set, or its own.
        let high = (((differ & LOW) + LOW) | differ) & !LOW;
        // Four bits, 16 apart, next to each other. No two terms meet.
        let four = (high >> 15).wrapping_mul(0x0001_0002_0004_0008) >> 48;
        let [low, ..] = four.to_le_bytes();
        changed |= u32::from(low) << (4 * at % (MIN / LANE));
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bit_for_each_byte() {
        for at in 0..MIN {
            for bit in 0..8 {
                let (old, mut new) = ([0x5a; MIN], [0x5a; MIN]);
                new[at] ^= 1 << bit;
                assert_eq!(half(&old, &new), 1 << (at / LANE), "byte {at}, bit {bit}");
                assert_eq!(portable(&old, &new), 1 << (at / LANE), "byte {at}, bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_lane_that_differs_and_no_other(
            old in any::<[u8; MAX]>(),
            bytes in prop::collection::vec((0..MAX, any::<u8>()), 0..40),
            len in MIN..=MAX,
        ) {
            let mut new = old;
            for (at, byte) in bytes {
                new[at] = byte;
            }
            new[len..].copy_from_slice(&old[len..]);
            let lanes = old.as_chunks::<LANE>().0.iter().zip(new.as_chunks::<LANE>().0).enumerate();
            let want = lanes.fold(0, |bits, (l, (old, new))| bits | u64::from(old != new) << l);
            prop_assert_eq!(changed(&old, &new[..len]), want);
            let (old, new) = (old.first_chunk().expect("long"), new.first_chunk().expect("long"));
            prop_assert_eq!(half(old, new), portable(old, new));
        }
    }
}
