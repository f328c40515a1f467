//! The diff with AVX2 and BMI2: the codes of four lines are chosen at once, and no branch depends on a word.

#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::super::sections::{Filled, Sections};
use super::super::table::{ESCAPE, LINE_CODES, LINE_LITERAL, LINE_ZERO};
use super::super::{Kind, LINE, LINES, MAX_RECORD, Next, PAGE, Page, WORDS};
use super::nibbles::{Choices, Nibbles, choices};
use super::seen::{REFERRED, Seen};
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
    pub(super) fn collect<const DENSE: bool>(
        self,
        old: &Page,
        new: &Page,
        next: Option<Next<'_>>,
        sections: &mut Sections,
    ) -> Filled {
        // SAFETY: whoever made `self` has promised that the processor has the features of `collect`.
        unsafe { collect::<DENSE>(old, new, next, sections) }
    }

    /// As [`Sections::finish`].
    pub(super) fn finish(
        self,
        filled: &Filled,
        kind: Kind,
        sections: &Sections,
        out: &mut [u8; MAX_RECORD],
    ) -> Option<usize> {
        // SAFETY: whoever made `self` has promised that the processor has the features of `finish`.
        unsafe { finish(filled, kind, sections, out) }
    }
}

/// Half bytes that words of a line may take before the line goes as a literal.
pub(super) const LITERAL: i64 = 128;

/// A byte of 1 for each word of a line.
const ONES: u64 = 0x0101_0101_0101_0101;

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn collect<const DENSE: bool>(
    old: &Page,
    new: &Page,
    next: Option<Next<'_>>,
    sections: &mut Sections,
) -> Filled {
    let lines = changed_lines(old, new);
    prefetch(next);
    let mut filled = Filled { lines, ..Filled::default() };
    let (old_lines, new_lines) = (old.as_chunks::<LINE>().0, new.as_chunks::<LINE>().0);
    // What comes before the first line: its words, one place up, behind a zero.
    let mut first = [0; LINE];
    first[8..].copy_from_slice(&new[..LINE - 8]);
    let (mut seen, mut names) = (Seen::new(), Names::default());
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
        let best = four.best(choices(DENSE));
        if DENSE {
            names.find(best, four.literal(best), &numbers, count, new, &mut seen);
        }
        let chosen = four.choose::<DENSE>(best, &names);
        for i in 0..count {
            chosen.put::<DENSE>(i, &new_lines[numbers[i]], &names, sections, &mut filled);
        }
    }
    filled
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn finish(filled: &Filled, kind: Kind, sections: &Sections, out: &mut [u8; MAX_RECORD]) -> Option<usize> {
    sections.finish_with(filled, kind, out, |from, to| {
        let (lines, rest) = to.as_chunks_mut::<32>();
        let (pairs, last) = from.as_chunks::<LINE>();
        for (to, from) in lines.iter_mut().zip(pairs) {
            *to = pack_codes(from);
        }
        let mut codes = [0; LINE];
        codes.iter_mut().zip(last).for_each(|(to, from)| *to = *from);
        rest.iter_mut().zip(pack_codes(&codes)).for_each(|(to, from)| *to = from);
    })
}

/// Two codes a byte, the first in the low half.
#[inline]
#[target_feature(enable = "avx2")]
fn pack_codes(codes: &[u8; LINE]) -> [u8; LINE / 2] {
    let pairs = load(codes).map(|codes| _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x1001)));
    let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(pairs[0], pairs[1]));
    let mut packed = [0; LINE / 2];
    // SAFETY: the 32 bytes of `packed`; no alignment is asked for.
    unsafe { _mm256_storeu_si256(packed.as_mut_ptr().cast(), bytes) };
    packed
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
    fn best(&self, table: &Choices) -> __m256i {
        let (zero, low) = (_mm256_setzero_si256(), _mm256_set1_epi8(15));
        let by = |table: &Nibbles, x: __m256i| {
            let in_low = _mm256_shuffle_epi8(both(&table.low), _mm256_and_si256(x, low));
            let in_high = _mm256_shuffle_epi8(both(&table.high), high_halves(x));
            _mm256_max_epu8(in_low, in_high)
        };
        let [changed, set, repeats] = [&self.changed, &self.set, &self.repeats].map(|words| four(words));
        let replace = _mm256_min_epu8(by(&table.below, changed), by(&table.above, changed));
        let keep = _mm256_min_epu8(replace, by(&table.significant, set));
        let one = _mm256_set1_epi8(1);
        // 1, the choice of a repeated word, or 255.
        let repeat = _mm256_or_si256(_mm256_sub_epi8(repeats, one), one);
        let same = _mm256_cmpeq_epi8(changed, zero);
        _mm256_andnot_si256(same, _mm256_min_epu8(keep, repeat))
    }

    /// All ones for each line that is no longer than its words.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn literal(&self, choice: __m256i) -> __m256i {
        let (zero, one) = (_mm256_setzero_si256(), _mm256_set1_epi8(1));
        let same = _mm256_cmpeq_epi8(four(&self.changed), zero);
        let sum = _mm256_sad_epu8(high_halves(choice), zero);
        let count = _mm256_sad_epu8(_mm256_andnot_si256(same, one), zero);
        let halves = _mm256_add_epi64(_mm256_add_epi64(sum, sum), count);
        _mm256_cmpgt_epi64(halves, _mm256_set1_epi64x(LITERAL - 1))
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn choose<const DENSE: bool>(&self, best: __m256i, names: &Names) -> Chosen {
        let (zero, low, one) = (_mm256_setzero_si256(), _mm256_set1_epi8(15), _mm256_set1_epi8(1));
        let [changed, set] = [&self.changed, &self.set].map(|words| four(words));
        let same = _mm256_cmpeq_epi8(changed, zero);
        let refer = _mm256_set1_epi8(choices(DENSE).refer.cast_signed());
        let found = names.bytes();
        let choice = if DENSE { _mm256_blendv_epi8(best, refer, found) } else { best };
        let cost = high_halves(choice);
        let literal = self.literal(choice);
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
            referring: words_of(found),
            live: words_of(_mm256_andnot_si256(dead, ones)),
            literal: signs(literal),
            zero: signs(zero_line),
        }
    }
}

/// Words of four lines that refer to others.
#[derive(Default)]
struct Names {
    /// A bit for each word.
    found: u32,
    /// What the code takes: a byte for each word.
    names: [u8; 32],
}

impl Names {
    /// Looks for the words of `count` lines whose best choice so far is a long one, but for `literal` lines.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn find(
        &mut self,
        best: __m256i,
        literal: __m256i,
        lines: &[usize; 4],
        count: usize,
        new: &Page,
        seen: &mut Seen,
    ) {
        let least = _mm256_set1_epi8(REFERRED.to_le_bytes()[1].cast_signed());
        let long = _mm256_andnot_si256(literal, _mm256_cmpeq_epi8(_mm256_max_epu8(best, least), best));
        let long = _mm256_movemask_epi8(long).cast_unsigned();
        let mut left = if count < 4 { long & ((1 << (8 * count)) - 1) } else { long };
        self.found = 0;
        while left != 0 {
            let i = left.trailing_zeros() as usize % 32;
            let at = (8 * lines[i / 8] + i % 8) % WORDS;
            let word = u64::from_le_bytes(new.as_chunks::<8>().0[at]);
            let (found, name) = seen.note(new, at, word);
            self.names[i] = name;
            self.found |= u32::from(found) << i;
            left &= left - 1;
        }
    }

    /// 255 for each word that refers.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn bytes(&self) -> __m256i {
        let line = |n: i64| n * 0x0101_0101_0101_0101;
        let spread = _mm256_setr_epi64x(line(0), line(1), line(2), line(3));
        let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let found = _mm256_shuffle_epi8(_mm256_set1_epi32(self.found.cast_signed()), spread);
        _mm256_cmpeq_epi8(_mm256_and_si256(found, bits), bits)
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
    /// 255 if it refers to another word.
    referring: [u64; 4],
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
    fn put<const DENSE: bool>(
        &self,
        i: usize,
        new: &[u8; LINE],
        names: &Names,
        sections: &mut Sections,
        filled: &mut Filled,
    ) {
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
        let words = if DENSE { self.named(i, new, names) } else { quarters(load(new)) };
        for (pair, words) in words.into_iter().enumerate() {
            let codes = usize::from((pairs >> (16 * pair)).to_le_bytes()[0]);
            let start = usize::from((starts >> (16 * pair)).to_le_bytes()[0]) % LINE;
            // All sixteen bytes: what is too much is overwritten by the next words.
            if let Some(to) = to[start..].first_chunk_mut() {
                store(to, _mm_shuffle_epi8(words, sixteen(&choices(DENSE).moves[codes])));
            }
        }
        filled.data += usize::from(lens.wrapping_mul(ONES).to_be_bytes()[0]);
    }
    /// The line, with what names the other word in place of each word that refers.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn named(&self, i: usize, new: &[u8; LINE], names: &Names) -> [__m128i; 4] {
        let four = |bytes: &[u8]| {
            _mm_cvtsi32_si128(i32::from_le_bytes(bytes.first_chunk().copied().unwrap_or_default()))
        };
        let masks = self.referring[i].to_le_bytes();
        let names = names.names.as_chunks::<8>().0[i];
        let put = |words, at: usize| {
            let names = _mm256_cvtepu8_epi64(four(&names[at..]));
            _mm256_blendv_epi8(words, names, _mm256_cvtepi8_epi64(four(&masks[at..])))
        };
        let [low, high] = load(new);
        quarters([put(low, 0), put(high, 4)])
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn quarters([low, high]: [__m256i; 2]) -> [__m128i; 4] {
    let upper = |x| _mm256_extracti128_si256::<1>(x);
    [_mm256_castsi256_si128(low), upper(low), _mm256_castsi256_si128(high), upper(high)]
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

/// The high half of each byte.
#[inline]
#[target_feature(enable = "avx2")]
fn high_halves(x: __m256i) -> __m256i {
    _mm256_and_si256(_mm256_srli_epi16::<4>(x), _mm256_set1_epi8(15))
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

/// Asks for these lines of a page: bit n is line n. Needs no more than this file's target has.
#[inline(always)]
pub(super) fn ask_for(page: &Page, mut lines: u64) {
    while lines != 0 {
        let line = &page.as_chunks::<LINE>().0[lines.trailing_zeros() as usize % LINES];
        lines &= lines - 1;
        // SAFETY: the target has SSE2, and so this instruction. It changes nothing and may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[cfg(test)]
pub(super) fn detected() -> Option<Features> {
    use std::is_x86_feature_detected as has;
    let all = has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt");
    // SAFETY: all that is asked for was detected, the operating system's part included.
    all.then(|| unsafe { Features::avx2() })
}
