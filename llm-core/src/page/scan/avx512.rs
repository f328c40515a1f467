//! The diff with AVX-512: the codes of eight lines are chosen at once, and an instruction packs the data of a line.

#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::super::sections::{Filled, Sections};
use super::super::table::{ESCAPE, LINE_CODES, LINE_LITERAL, LINE_ZERO};
use super::super::{LINE, LINES, Next, PAGE, Page, WORDS};
use super::avx2::{LITERAL, prefetch};
use super::nibbles::{Choices, Nibbles, choices};
use super::seen::{REFERRED, Seen};
use super::{Features, Width};

/// That the processor has what this file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::page) struct Avx512(());

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
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
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
        let mut eight = Eight::default();
        let mut numbers = [0; 8];
        let count = left.count_ones().min(8) as usize;
        for (i, number) in numbers.iter_mut().enumerate().take(count) {
            let line = left.trailing_zeros() as usize % LINES;
            left &= left.wrapping_sub(1);
            let start = (LINE * line).wrapping_sub(8);
            let before = new.get(start..).and_then(<[u8]>::first_chunk).unwrap_or(&first);
            eight.look(i, &old_lines[line], &new_lines[line], before);
            *number = line;
        }
        let best = eight.best(choices(DENSE));
        if DENSE {
            let literal = eight.literal(best);
            names.find(best, literal, &numbers, new, &mut seen);
        }
        let chosen = eight.choose::<DENSE>(best, &names);
        if let Some(to) = sections.word_codes[filled.word_codes % WORDS..].first_chunk_mut() {
            store(to, chosen.codes);
        }
        filled.word_codes += chosen.live.count_ones() as usize;
        for (i, number) in numbers.iter().enumerate().take(count) {
            chosen.put::<DENSE>(i, &new_lines[*number % LINES], &names, sections, &mut filled);
        }
    }
    filled
}

/// What there is to know of eight lines: a byte for each word. Lines that are not there have not changed.
#[derive(Default)]
struct Eight {
    /// The bytes that changed.
    changed: [u64; 8],
    /// The bytes that are not zero now.
    set: [u64; 8],
    /// For each line: the words that equal the one before.
    repeats: [u8; 8],
}

impl Eight {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn look(&mut self, i: usize, old: &[u8; LINE], new: &[u8; LINE], before: &[u8; LINE]) {
        let now = load(new);
        self.changed[i] = _mm512_cmpneq_epi8_mask(load(old), now);
        self.set[i] = _mm512_test_epi8_mask(now, now);
        self.repeats[i] = _mm512_cmpeq_epi64_mask(load(before), now);
    }

    /// The words that changed.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn masks(&self) -> u64 {
        let changed = words(&self.changed);
        _mm512_test_epi8_mask(changed, changed)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn best(&self, table: &Choices) -> __m512i {
        let low = _mm512_set1_epi8(15);
        let by = |table: &Nibbles, x: __m512i| {
            let in_low = _mm512_shuffle_epi8(all(&table.low), _mm512_and_si512(x, low));
            let in_high = _mm512_shuffle_epi8(all(&table.high), high_halves(x));
            _mm512_max_epu8(in_low, in_high)
        };
        let (changed, set) = (words(&self.changed), words(&self.set));
        let replace = _mm512_min_epu8(by(&table.below, changed), by(&table.above, changed));
        let keep = _mm512_min_epu8(replace, by(&table.significant, set));
        // 1 is the choice of a repeated word.
        let repeats = u64::from_le_bytes(self.repeats);
        let any = _mm512_mask_min_epu8(keep, repeats, keep, _mm512_set1_epi8(1));
        _mm512_maskz_mov_epi8(self.masks(), any)
    }

    /// A bit for each line that is no longer than its words.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn literal(&self, choice: __m512i) -> u8 {
        let zero = _mm512_setzero_si512();
        let sum = _mm512_sad_epu8(high_halves(choice), zero);
        let ones = _mm512_maskz_mov_epi8(self.masks(), _mm512_set1_epi8(1));
        let halves = _mm512_add_epi64(_mm512_add_epi64(sum, sum), _mm512_sad_epu8(ones, zero));
        _mm512_cmpge_epi64_mask(halves, _mm512_set1_epi64(LITERAL))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn choose<const DENSE: bool>(&self, best: __m512i, names: &Names) -> Chosen {
        let refer = _mm512_set1_epi8(choices(DENSE).refer.cast_signed());
        let choice = if DENSE { _mm512_mask_mov_epi8(best, names.found, refer) } else { best };
        let set = words(&self.set);
        let (masks, literal) = (self.masks(), self.literal(choice));
        let zero = _mm512_testn_epi64_mask(set, set);
        // A byte of ones for each line that is coded by words.
        let coded = _mm512_movepi8_mask(_mm512_maskz_set1_epi64(!(literal | zero), -1));
        let live = masks & coded;
        let code = _mm512_and_si512(choice, _mm512_set1_epi8(15));
        let mut covers = [0; LINE];
        store(&mut covers, _mm512_maskz_shuffle_epi8(live, all(&choices(DENSE).covers), code));
        // What is behind the codes does not count. Zeroed, Bochs gets it wrong if all 64 words have one.
        let codes = _mm512_mask_compress_epi8(code, live, code);
        Chosen { masks: masks.to_le_bytes(), codes, live, covers, literal, zero }
    }
}

/// Words of eight lines that refer to others.
struct Names {
    /// A bit for each word.
    found: u64,
    /// What the code takes: a byte for each word.
    names: [u8; LINE],
}

impl Default for Names {
    fn default() -> Self {
        Self { found: 0, names: [0; LINE] }
    }
}

impl Names {
    /// Looks for the words whose best choice so far is a long one, but for `literal` lines. Lines that are not there have none.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn find(&mut self, best: __m512i, literal: u8, lines: &[usize; 8], new: &Page, seen: &mut Seen) {
        let least = _mm512_set1_epi8(REFERRED.to_le_bytes()[1].cast_signed());
        let coded = _mm512_movepi8_mask(_mm512_maskz_set1_epi64(!literal, -1));
        let mut left = _mm512_cmpge_epu8_mask(best, least) & coded;
        self.found = 0;
        while left != 0 {
            let i = left.trailing_zeros() as usize % LINE;
            let at = (8 * lines[i / 8] + i % 8) % WORDS;
            let word = u64::from_le_bytes(new.as_chunks::<8>().0[at]);
            let (found, name) = seen.note(new, at, word);
            self.names[i] = name;
            self.found |= u64::from(found) << i;
            left &= left - 1;
        }
    }
}

/// What becomes of eight lines.
struct Chosen {
    /// For each line: the words that changed.
    masks: [u8; 8],
    /// Of the words that have one, one behind the other.
    codes: __m512i,
    /// A bit for each word that has a code.
    live: u64,
    /// A byte for each word: those that go as data.
    covers: [u8; LINE],
    /// A bit for each line.
    literal: u8,
    /// A bit for each line.
    zero: u8,
}

impl Chosen {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn put<const DENSE: bool>(
        &self,
        i: usize,
        new: &[u8; LINE],
        names: &Names,
        sections: &mut Sections,
        filled: &mut Filled,
    ) {
        let new = load(new);
        let (literal, zero) = (self.literal >> i & 1, self.zero >> i & 1);
        let code = LINE_CODES[usize::from(self.masks[i])];
        let code = if zero != 0 { LINE_ZERO } else { code };
        let code = if literal != 0 { LINE_LITERAL } else { code };
        sections.word_masks[filled.word_masks % LINES] = self.masks[i];
        filled.word_masks += usize::from(code == ESCAPE);
        sections.line_codes[filled.line_codes % LINES] = code;
        filled.line_codes += 1;
        if let Some(to) = sections.literals[filled.literals % (PAGE + 1)..].first_chunk_mut() {
            store(to, new);
        }
        filled.literals += usize::from(literal) * LINE;
        let words = if DENSE {
            let [referring, ..] = (names.found >> (8 * i)).to_le_bytes();
            let named = i64::from_le_bytes(names.names.as_chunks().0[i]);
            _mm512_mask_mov_epi64(new, referring, _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(named)))
        } else {
            new
        };
        let cover = u64::from_le_bytes(self.covers.as_chunks().0[i]);
        if let Some(to) = sections.data[filled.data % PAGE..].first_chunk_mut() {
            store(to, _mm512_maskz_compress_epi8(cover, words));
        }
        filled.data += cover.count_ones() as usize;
    }
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
pub(in crate::page) fn load(line: &[u8; LINE]) -> __m512i {
    // SAFETY: the 64 bytes that `line` refers to; no alignment is asked for.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::page) fn store(line: &mut [u8; LINE], x: __m512i) {
    // SAFETY: the 64 bytes that `line` refers to; no alignment is asked for.
    unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), x) }
}

/// The high half of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn high_halves(x: __m512i) -> __m512i {
    _mm512_and_si512(_mm512_srli_epi16::<4>(x), _mm512_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn words(words: &[u64; 8]) -> __m512i {
    // SAFETY: the 64 bytes that `words` refers to; no alignment is asked for.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// A table of sixteen bytes, for all quarters of a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::page) fn all(table: &[u8; 16]) -> __m512i {
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
