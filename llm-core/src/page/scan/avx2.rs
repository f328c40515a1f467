//! The diff with AVX2 and BMI2: the codes of four lines are chosen at once, and no branch depends on a word.

#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::super::sections::{Filled, Sections};
use super::super::table::{ESCAPE, LINE_CODES, LINE_LITERAL, LINE_ZERO};
use super::super::{LINE, LINES, Next, PAGE, Page};
use super::nibbles::{Nibbles, PLAIN};
use super::{Features, Width};

/// That the processor has what this file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Features {
    /// AVX2, BMI1, BMI2, LZCNT and POPCNT.
    ///
    /// # Safety
    ///
    /// The processor has these five, and the operating system keeps the registers of AVX.
    #[must_use]
    pub const unsafe fn avx2() -> Self {
        Self(Width::Avx2(Avx2(())))
    }
}

impl Avx2 {
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

/// Half bytes that words of a line may take before the line goes as a literal.
pub(super) const LITERAL: i64 = 128;

/// A byte of 1 for each word of a line.
const ONES: u64 = 0x0101_0101_0101_0101;

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn collect(old: &Page, new: &Page, next: Option<Next<'_>>, sections: &mut Sections) -> Filled {
    let lines = changed_lines(old, new);
    prefetch(next);
    let mut filled = Filled { lines, ..Filled::default() };
    let (old_lines, new_lines) = (old.as_chunks::<LINE>().0, new.as_chunks::<LINE>().0);
    // What comes before the first line: its words, one place up, behind a zero.
    let mut first = [0; LINE];
    first[8..].copy_from_slice(&new[..LINE - 8]);
    let mut left = lines;
    while left != 0 {
        let mut four = Four::default();
        let mut numbers = [0; 4];
        let count = left.count_ones().min(4) as usize;
        for (i, number) in numbers.iter_mut().enumerate() {
            // Beyond the last one: line 64, of which the low bits are taken. It is not used.
            let line = left.trailing_zeros() as usize % LINES;
            left &= left.wrapping_sub(1);
            let start = (LINE * line).wrapping_sub(8);
            let before = new.get(start..).and_then(<[u8]>::first_chunk).unwrap_or(&first);
            four.look(i, &old_lines[line], &new_lines[line], before);
            *number = line;
        }
        let chosen = four.choose();
        for i in 0..count {
            chosen.put(i, &new_lines[numbers[i]], sections, &mut filled);
        }
    }
    filled
}

/// A bit for each line that changed.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn changed_lines(old: &Page, new: &Page) -> u64 {
    let mut lines = 0;
    let pairs = old.as_chunks::<LINE>().0.iter().zip(new.as_chunks::<LINE>().0);
    for (old, new) in pairs {
        let [a, b] = load(old);
        let [c, d] = load(new);
        let equal = _mm256_and_si256(_mm256_cmpeq_epi8(a, c), _mm256_cmpeq_epi8(b, d));
        // An addition with the carry of the comparison: the last line's bit ends up lowest.
        lines = lines + lines + u64::from(_mm256_movemask_epi8(equal).cast_unsigned() < u32::MAX);
    }
    lines.reverse_bits()
}

/// What there is to know of four lines: a byte for each word.
#[derive(Default)]
struct Four {
    /// The bytes that changed.
    changed: [u64; 4],
    /// The bytes that are not zero now.
    set: [u64; 4],
    /// 1 if the word equals the one before it.
    repeats: [u64; 4],
}

impl Four {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn look(&mut self, i: usize, old: &[u8; LINE], new: &[u8; LINE], before: &[u8; LINE]) {
        let (old, new, before) = (load(old), load(new), load(before));
        let zero = _mm256_setzero_si256();
        let bytes =
            |a: __m256i, b: __m256i| u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)).cast_unsigned());
        let words = |a: __m256i, b: __m256i| {
            let equal = _mm256_castsi256_pd(_mm256_cmpeq_epi64(a, b));
            u64::from(_mm256_movemask_pd(equal).cast_unsigned())
        };
        self.changed[i] = !(bytes(old[0], new[0]) | bytes(old[1], new[1]) << 32);
        self.set[i] = !(bytes(zero, new[0]) | bytes(zero, new[1]) << 32);
        self.repeats[i] = _pdep_u64(words(before[0], new[0]) | words(before[1], new[1]) << 4, ONES);
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn choose(&self) -> Chosen {
        let (zero, low) = (_mm256_setzero_si256(), _mm256_set1_epi8(15));
        let high = |x| _mm256_and_si256(_mm256_srli_epi16::<4>(x), low);
        let by = |table: &Nibbles, x: __m256i| {
            let in_low = _mm256_shuffle_epi8(both(&table.low), _mm256_and_si256(x, low));
            let in_high = _mm256_shuffle_epi8(both(&table.high), high(x));
            _mm256_max_epu8(in_low, in_high)
        };
        let [changed, set, repeats] = [&self.changed, &self.set, &self.repeats].map(|words| four(words));
        let replace = _mm256_min_epu8(by(&PLAIN.below, changed), by(&PLAIN.above, changed));
        let keep = _mm256_min_epu8(replace, by(&PLAIN.significant, set));
        let one = _mm256_set1_epi8(1);
        // 1, the choice of a repeated word, or 255.
        let repeat = _mm256_or_si256(_mm256_sub_epi8(repeats, one), one);
        let same = _mm256_cmpeq_epi8(changed, zero);
        let choice = _mm256_andnot_si256(same, _mm256_min_epu8(keep, repeat));
        let cost = high(choice);
        let sum = _mm256_sad_epu8(cost, zero);
        let count = _mm256_sad_epu8(_mm256_andnot_si256(same, one), zero);
        let halves = _mm256_add_epi64(_mm256_add_epi64(sum, sum), count);
        let literal = _mm256_cmpgt_epi64(halves, _mm256_set1_epi64x(LITERAL - 1));
        let zero_line = _mm256_cmpeq_epi64(set, zero);
        let dead = _mm256_or_si256(_mm256_or_si256(literal, zero_line), same);
        let code = _mm256_and_si256(choice, low);
        // A code that takes nothing, where there is none.
        let taken = _mm256_andnot_si256(dead, code);
        let ones = _mm256_set1_epi8(-1);
        let signs = |x| _mm256_movemask_pd(_mm256_castsi256_pd(x)).cast_unsigned() as usize;
        Chosen {
            masks: words_of(_mm256_andnot_si256(same, one)),
            codes: words_of(code),
            pairs: words_of(_mm256_or_si256(taken, _mm256_srli_epi64::<4>(taken))),
            lens: words_of(_mm256_andnot_si256(dead, cost)),
            live: words_of(_mm256_andnot_si256(dead, ones)),
            literal: signs(literal),
            zero: signs(zero_line),
        }
    }
}

/// What becomes of four lines: a byte for each word.
struct Chosen {
    /// 1 if it changed.
    masks: [u64; 4],
    codes: [u64; 4],
    /// In every other byte, the codes of two words.
    pairs: [u64; 4],
    lens: [u64; 4],
    /// 255 if it has a code.
    live: [u64; 4],
    /// A bit for each line.
    literal: usize,
    /// A bit for each line.
    zero: usize,
}

impl Chosen {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn put(&self, i: usize, new: &[u8; LINE], sections: &mut Sections, filled: &mut Filled) {
        let (literal, zero) = (self.literal >> i & 1, self.zero >> i & 1);
        let mask = _pext_u64(self.masks[i], ONES).to_le_bytes()[0];
        let code = LINE_CODES[usize::from(mask)];
        let code = if zero != 0 { LINE_ZERO } else { code };
        let code = if literal != 0 { LINE_LITERAL } else { code };
        sections.word_masks[filled.word_masks % LINES] = mask;
        filled.word_masks += usize::from(code == ESCAPE);
        sections.line_codes[filled.line_codes % LINES] = code;
        filled.line_codes += 1;
        if let Some(to) = sections.literals[filled.literals % (PAGE + 1)..].first_chunk_mut() {
            *to = *new;
        }
        filled.literals += literal * LINE;
        let live = self.live[i];
        if let Some(to) = sections.word_codes[filled.word_codes % 512..].first_chunk_mut() {
            *to = _pext_u64(self.codes[i], live).to_le_bytes();
        }
        filled.word_codes += live.count_ones() as usize / 8;
        let lens = self.lens[i];
        // A byte for each word: the bytes of those before it in the line.
        let starts = lens.wrapping_mul(ONES << 8);
        let pairs = self.pairs[i];
        let Some(to) = sections.data[filled.data % PAGE..].first_chunk_mut::<{ 2 * LINE }>() else { return };
        for (pair, words) in new.as_chunks::<16>().0.iter().enumerate() {
            let codes = usize::from((pairs >> (16 * pair)).to_le_bytes()[0]);
            let start = usize::from((starts >> (16 * pair)).to_le_bytes()[0]) % LINE;
            // All sixteen bytes: what is too much is overwritten by the next words.
            if let Some(to) = to[start..].first_chunk_mut() {
                store(to, _mm_shuffle_epi8(sixteen(words), sixteen(&PLAIN.moves[codes])));
            }
        }
        filled.data += usize::from(lens.wrapping_mul(ONES).to_be_bytes()[0]);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(line: &[u8; LINE]) -> [__m256i; 2] {
    let at = line.as_ptr().cast::<__m256i>();
    // SAFETY: the first 32 bytes of the 64 that `line` refers to; no alignment is asked for.
    let low = unsafe { _mm256_loadu_si256(at) };
    // SAFETY: 32 bytes from the start is inside of the 64.
    let middle = unsafe { at.add(1) };
    // SAFETY: the last 32 bytes of the 64 that `line` refers to; no alignment is asked for.
    let high = unsafe { _mm256_loadu_si256(middle) };
    [low, high]
}

#[inline]
#[target_feature(enable = "avx2")]
fn sixteen(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the 16 bytes that `bytes` refers to; no alignment is asked for.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(to: &mut [u8; 16], x: __m128i) {
    // SAFETY: the 16 bytes that `to` refers to; no alignment is asked for.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), x) };
}

#[inline]
#[target_feature(enable = "avx2")]
fn four(words: &[u64; 4]) -> __m256i {
    // SAFETY: the 32 bytes that `words` refers to; no alignment is asked for.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn words_of(x: __m256i) -> [u64; 4] {
    let mut words = [0; 4];
    // SAFETY: the 32 bytes of `words`; no alignment is asked for.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), x) };
    words
}

/// A table of sixteen bytes, for both halves of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn both(table: &[u8; 16]) -> __m256i {
    _mm256_broadcastsi128_si256(sixteen(table))
}

/// Lines of a page that are asked for ahead of time. The processor guesses the others.
const AHEAD: usize = 8;

/// Asks for the start of both pages.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn prefetch(next: Option<Next<'_>>) {
    let Some(next) = next else { return };
    for page in [next.old.unwrap_or(next.new), next.new] {
        for line in page.as_chunks::<LINE>().0.iter().take(AHEAD) {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
}

#[cfg(test)]
pub(super) fn detected() -> Option<Features> {
    use std::is_x86_feature_detected as has;
    let all = has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt");
    // SAFETY: all that is asked for was detected, the operating system's part included.
    all.then(|| unsafe { Features::avx2() })
}
