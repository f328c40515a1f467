//! The diff with AVX-512: the codes of eight lines are chosen at once, and an instruction packs the data of a line.

#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::super::sections::{Filled, Sections};
use super::super::table::{COVER, ESCAPE, LINE_CODES, LINE_LITERAL, LINE_ZERO};
use super::super::{LINE, LINES, Next, PAGE, Page, WORDS};
use super::avx2::LITERAL;
use super::nibbles::{ABOVE, BELOW, Nibbles, SIGNIFICANT};
use super::{Features, Width};

/// That the processor has what this file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx512(());

impl Features {
    /// AVX-512 with F, BW and VBMI2; AVX2, BMI1, BMI2, LZCNT and POPCNT.
    ///
    /// # Safety
    ///
    /// The processor has all of these, and the operating system keeps the registers of AVX-512.
    #[must_use]
    pub const unsafe fn avx512() -> Self {
        Self(Width::Avx512(Avx512(())))
    }
}

impl Avx512 {
    pub(super) fn collect(
        self,
        old: &Page,
        new: &Page,
        next: Option<Next<'_>>,
        sections: &mut Sections,
    ) -> Filled {
        // SAFETY: whoever made `self` has promised that the processor has the features of `collect`.
        unsafe { collect(old, new, next, sections) }
    }
}

/// A byte of 1 for each line.
const ONES: u64 = 0x0101_0101_0101_0101;

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn collect(old: &Page, new: &Page, next: Option<Next<'_>>, sections: &mut Sections) -> Filled {
    let lines = changed_lines(old, new);
    super::avx2::prefetch(next);
    let mut filled = Filled { lines, ..Filled::default() };
    let (old_lines, new_lines) = (old.as_chunks::<LINE>().0, new.as_chunks::<LINE>().0);
    // What comes before the first line: its words, one place up, behind a zero.
    let mut first = [0; LINE];
    first[8..].copy_from_slice(&new[..LINE - 8]);
    let mut left = lines;
    while left != 0 {
        let count = left.count_ones().min(8) as usize;
        // A byte for each word: which of its bytes changed, and which are not zero now.
        let (mut changed, mut set) = ([0_u64; 8], [1_u64; 8]);
        // For each line: the words that equal the one before.
        let mut repeats = [0; 8];
        let mut numbers = [0; 8];
        for i in 0..count {
            let line = left.trailing_zeros() as usize % LINES;
            left &= left.wrapping_sub(1);
            let start = (LINE * line).wrapping_sub(8);
            let before = new.get(start..).and_then(<[u8]>::first_chunk).unwrap_or(&first);
            let now = load(&new_lines[line]);
            changed[i] = _mm512_cmpneq_epi8_mask(load(&old_lines[line]), now);
            set[i] = _mm512_test_epi8_mask(now, now);
            repeats[i] = _mm512_cmpeq_epi64_mask(load(before), now);
            numbers[i] = line;
        }
        let (changed, set) = (eight(&changed), eight(&set));
        let low = _mm512_set1_epi8(15);
        let high = |x| _mm512_and_si512(_mm512_srli_epi16::<4>(x), low);
        let by = |table: &Nibbles, x: __m512i| {
            let in_low = _mm512_shuffle_epi8(all(&table.low), _mm512_and_si512(x, low));
            let in_high = _mm512_shuffle_epi8(all(&table.high), high(x));
            _mm512_max_epu8(in_low, in_high)
        };
        let replace = _mm512_min_epu8(by(&BELOW, changed), by(&ABOVE, changed));
        let keep = _mm512_min_epu8(replace, by(&SIGNIFICANT, set));
        let one = _mm512_set1_epi8(1);
        // A byte for each line from here on: a bit for each word. 1 is the choice of a repeated word.
        let any = _mm512_mask_min_epu8(keep, u64::from_le_bytes(repeats), keep, one);
        let masks = _mm512_test_epi8_mask(changed, changed);
        let choice = _mm512_maskz_mov_epi8(masks, any);
        let zero = _mm512_setzero_si512();
        let sum = _mm512_sad_epu8(high(choice), zero);
        let words = _mm512_sad_epu8(_mm512_maskz_mov_epi8(masks, one), zero);
        let halves = _mm512_add_epi64(_mm512_add_epi64(sum, sum), words);
        let literal = _mm512_cmpge_epi64_mask(halves, _mm512_set1_epi64(LITERAL));
        let zero_line = _mm512_testn_epi64_mask(set, set);
        let live = masks & !(_pdep_u64(u64::from(literal | zero_line), ONES) * 0xff);
        let code = _mm512_and_si512(choice, low);
        if let Some(to) = sections.word_codes[filled.word_codes % WORDS..].first_chunk_mut() {
            store(to, _mm512_maskz_compress_epi8(live, code));
        }
        filled.word_codes += live.count_ones() as usize;
        let mut covers = [0; LINE];
        store(&mut covers, _mm512_maskz_shuffle_epi8(live, all(&COVER), code));
        let covers = covers.as_chunks::<8>().0;
        let masks = masks.to_le_bytes();
        for i in 0..count {
            let new = load(&new_lines[numbers[i]]);
            let code = LINE_CODES[usize::from(masks[i])];
            let code = if zero_line >> i & 1 != 0 { LINE_ZERO } else { code };
            let code = if literal >> i & 1 != 0 { LINE_LITERAL } else { code };
            sections.word_masks[filled.word_masks % LINES] = masks[i];
            filled.word_masks += usize::from(code == ESCAPE);
            sections.line_codes[filled.line_codes % LINES] = code;
            filled.line_codes += 1;
            if let Some(to) = sections.literals[filled.literals % (PAGE + 1)..].first_chunk_mut() {
                store(to, new);
            }
            filled.literals += usize::from(code == LINE_LITERAL) * LINE;
            let cover = u64::from_le_bytes(covers[i]);
            if let Some(to) = sections.data[filled.data % PAGE..].first_chunk_mut() {
                store(to, _mm512_maskz_compress_epi8(cover, new));
            }
            filled.data += cover.count_ones() as usize;
        }
    }
    filled
}

/// A bit for each line that changed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn changed_lines(old: &Page, new: &Page) -> u64 {
    let mut lines = 0;
    let pairs = old.as_chunks::<LINE>().0.iter().zip(new.as_chunks::<LINE>().0);
    for (number, (old, new)) in pairs.enumerate() {
        lines |= u64::from(_mm512_cmpneq_epi64_mask(load(old), load(new)) != 0) << number;
    }
    lines
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &[u8; LINE]) -> __m512i {
    // SAFETY: the 64 bytes that `line` refers to; no alignment is asked for.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(line: &mut [u8; LINE], x: __m512i) {
    // SAFETY: the 64 bytes that `line` refers to; no alignment is asked for.
    unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), x) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn eight(words: &[u64; 8]) -> __m512i {
    // SAFETY: the 64 bytes that `words` refers to; no alignment is asked for.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// A table of sixteen bytes, for all quarters of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn all(table: &[u8; 16]) -> __m512i {
    // SAFETY: the 16 bytes that `table` refers to; no alignment is asked for.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

#[cfg(test)]
pub(super) fn detected() -> Option<Features> {
    use std::is_x86_feature_detected as has;
    let all = has!("avx512f")
        && has!("avx512bw")
        && has!("avx512vbmi2")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("lzcnt")
        && has!("popcnt");
    // SAFETY: all that is asked for was detected, the operating system's part included.
    all.then(|| unsafe { Features::avx512() })
}
