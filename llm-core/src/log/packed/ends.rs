//! A small packet by its ends: into a slot, with what that changes, and summed.

#![allow(unsafe_code)]

use super::check::KEYS;
use super::{LANE, LANES, MAX, MIN};

/// The first bytes of a small packet, the last ones in whole lanes, which may be the same in part, and the very last one. To handle
/// all of them is cheaper than any length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    first: &'a [u8; MIN],
    last: &'a [u8; MIN],
    /// The very last one.
    pub(super) tail: u8,
    /// Bytes of the packet.
    len: usize,
}

impl<'a> Ends<'a> {
    /// `None` if the packet is too short.
    #[inline(always)]
    pub(super) fn of(packet: &'a [u8]) -> Option<Self> {
        let at = (packet.len() & !1).checked_sub(MIN)?;
        let (first, last) = (packet.first_chunk()?, packet.get(at..)?.first_chunk()?);
        Some(Self { first, last, tail: *packet.last()?, len: packet.len() })
    }

    /// Puts the packet into a slot. A bit for each lane that changed.
    #[inline(always)]
    pub(super) fn put(&self, slot: &mut [u8; MAX]) -> u64 {
        let at = (self.len & !1).saturating_sub(MIN);
        let old_first = slot.first_chunk();
        let old_last = slot.get(at..).and_then(<[u8]>::first_chunk);
        let old_tail = slot.get(self.len.saturating_sub(1));
        let (Some(old_first), Some(old_last), Some(old_tail)) = (old_first, old_last, old_tail) else {
            return 0;
        };
        let [first, last] = compared([old_first, old_last], [self.first, self.last]);
        // What is in more than one of the three has the same bit each time.
        let tail = u64::from(*old_tail != self.tail) << (self.len.saturating_sub(1) / LANE);
        let changed = u64::from(first) | u64::from(last) << (at / LANE) | tail;

        if let Some(to) = slot.get_mut(self.len.saturating_sub(1)) {
            *to = self.tail;
        }
        if let Some(to) = slot.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *to = *self.last;
        }
        if let Some(to) = slot.first_chunk_mut() {
            *to = *self.first;
        }
        changed
    }

    /// Sums over the even and over the odd words of both ends.
    ///
    /// Of each word, xor its key, the two halves are multiplied with each other, as in NH (Black et al., "UMAC", CRYPTO 1999), which
    /// spreads a change of the highest bits too. With the word itself added, a change of one half is not lost: it is
    /// (low half + 2^32) * (high half + 1) - 2^32.
    #[inline(always)]
    pub(super) fn sums(&self) -> [u64; 2] {
        summed([self.first, self.last])
    }
}

/// The lowest of these lanes; the last one if there is none.
#[inline(always)]
pub(super) fn lowest(lanes: u64) -> usize {
    // With a bit that is always set a compiler knows that one is.
    (lanes | 1 << (LANES - 1)).trailing_zeros() as usize
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
use portable::{compared, summed};

/// A bit for each lane that differs, of either pair.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
fn compared(old: [&[u8; MIN]; 2], new: [&[u8; MIN]; 2]) -> [u32; 2] {
    // SAFETY: this function is there only if the target has SSE2.
    unsafe { vectors::compared(old, new) }
}

/// Sums over the even and over the odd words.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
fn summed(ends: [&[u8; MIN]; 2]) -> [u64; 2] {
    // SAFETY: as above.
    unsafe { vectors::summed(ends) }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod vectors {
    use core::arch::x86_64::{
        __m128i, _mm_add_epi64, _mm_cmpeq_epi16, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_movemask_epi8,
        _mm_mul_epu32, _mm_packs_epi16, _mm_set_epi64x, _mm_setzero_si128, _mm_srli_epi64,
        _mm_unpackhi_epi64, _mm_xor_si128,
    };

    use super::super::BLOCK;
    use super::{KEYS, MIN};

    type Half = [__m128i; MIN / BLOCK];

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(bytes: &[u8; MIN]) -> Half {
        let mut half = [_mm_setzero_si128(); MIN / BLOCK];
        for (to, block) in half.iter_mut().zip(bytes.as_chunks::<BLOCK>().0) {
            // SAFETY: these are 16 bytes, and any address will do.
            *to = unsafe { _mm_loadu_si128(block.as_ptr().cast()) };
        }
        half
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn differ(a: Half, b: Half) -> u32 {
        let [a0, a1, a2, a3] = a;
        let [b0, b1, b2, b3] = b;
        // A byte for each lane of two blocks, and of each a bit.
        let low = _mm_packs_epi16(_mm_cmpeq_epi16(a0, b0), _mm_cmpeq_epi16(a1, b1));
        let high = _mm_packs_epi16(_mm_cmpeq_epi16(a2, b2), _mm_cmpeq_epi16(a3, b3));
        !(_mm_movemask_epi8(low).cast_unsigned() | _mm_movemask_epi8(high).cast_unsigned() << 16)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn add(mut sums: __m128i, half: Half, keys: &[u64]) -> __m128i {
        for (block, [k0, k1]) in half.into_iter().zip(keys.as_chunks().0) {
            let word = _mm_xor_si128(block, _mm_set_epi64x(k1.cast_signed(), k0.cast_signed()));
            let product = _mm_mul_epu32(word, _mm_srli_epi64::<32>(word));
            sums = _mm_add_epi64(sums, _mm_add_epi64(word, product));
        }
        sums
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn compared(old: [&[u8; MIN]; 2], new: [&[u8; MIN]; 2]) -> [u32; 2] {
        let ([old_first, old_last], [new_first, new_last]) = (old, new);
        [differ(load(old_first), load(new_first)), differ(load(old_last), load(new_last))]
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn summed(ends: [&[u8; MIN]; 2]) -> [u64; 2] {
        let ([first, last], (first_keys, last_keys)) = (ends, KEYS.split_at(KEYS.len() / 2));
        let sums = add(add(_mm_setzero_si128(), load(first), first_keys), load(last), last_keys);
        let high = _mm_unpackhi_epi64(sums, sums);
        [_mm_cvtsi128_si64(sums).cast_unsigned(), _mm_cvtsi128_si64(high).cast_unsigned()]
    }
}

/// As the vectors do it, by words.
#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
mod portable {
    use super::{KEYS, LANE, MIN};

    fn words(bytes: &[u8; MIN]) -> impl Iterator<Item = u64> {
        bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word))
    }

    pub(super) fn compared(old: [&[u8; MIN]; 2], new: [&[u8; MIN]; 2]) -> [u32; 2] {
        let ([old_first, old_last], [new_first, new_last]) = (old, new);
        [differ(old_first, new_first), differ(old_last, new_last)]
    }

    fn differ(old: &[u8; MIN], new: &[u8; MIN]) -> u32 {
        const LOW: u64 = 0x7fff_7fff_7fff_7fff;

        let mut changed = 0;
        for (at, (old, new)) in words(old).zip(words(new)).enumerate() {
            let differ = old ^ new;
            // The highest bit of each lane: of the sum if a lower one is set, or its own.
            let high = (((differ & LOW) + LOW) | differ) & !LOW;
            // Four bits, 16 apart, next to each other. No two terms meet.
            let four = (high >> 15).wrapping_mul(0x0001_0002_0004_0008) >> 48;
            let [low, ..] = four.to_le_bytes();
            changed |= u32::from(low) << (size_of::<u64>() / LANE * at % (MIN / LANE));
        }
        changed
    }

    pub(super) fn summed([first, last]: [&[u8; MIN]; 2]) -> [u64; 2] {
        let mut sums = [0_u64; 2];
        for (at, (word, key)) in words(first).chain(words(last)).zip(KEYS).enumerate() {
            let word = word ^ key;
            let product = (word & u64::from(u32::MAX)).wrapping_mul(word >> 32);
            let sum = &mut sums[at % 2];
            *sum = sum.wrapping_add(word).wrapping_add(product);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bit_for_each_byte() {
        let keep = [7; MIN];
        for at in 0..MIN {
            for bit in 0..8 {
                let (old, mut new) = ([0x5a; MIN], [0x5a; MIN]);
                new[at] ^= 1 << bit;
                for compare in [compared, portable::compared] {
                    assert_eq!(compare([&old, &keep], [&new, &keep]), [1 << (at / LANE), 0]);
                    assert_eq!(compare([&keep, &old], [&keep, &new]), [0, 1 << (at / LANE)]);
                }
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
            let (ends, mut slot) = (Ends::of(&new[..len]).expect("long"), old);
            prop_assert_eq!(ends.put(&mut slot), want);
            prop_assert_eq!(slot, new);
            let (old, new) = (old.first_chunk().expect("long"), new.first_chunk().expect("long"));
            prop_assert_eq!(compared([old, new], [new, old]), portable::compared([old, new], [new, old]));
            prop_assert_eq!(summed([old, new]), portable::summed([old, new]));
        }
    }
}
