//! The diff with AVX-512: the codes of a group of eight lines are chosen at once, and an instruction packs the data of a line.
//!
//! All lines are looked at in one go, which costs little more than to compare them: what the choices need is done by the
//! time the next line has come from memory. Sections go straight into the record, since their lengths are known ahead of their bytes.

#![allow(unsafe_code)]

use core::arch::asm;
use core::arch::x86_64::*;
use core::ops::Range;

use super::super::sections::{Filled, Sections};
use super::super::table::{ESCAPE, LINE_CODES, LINE_LITERAL, LINE_ZERO};
use super::super::{Kind, LINE, LINES, MAX_RECORD, Next, Page, WORDS};
use super::avx2::LITERAL;
use super::nibbles::{Choices, Nibbles, choices};
use super::seen::{REFERRED, Seen};
use super::{Features, Width};

/// That the processor has what this file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::page) struct Avx512(());

impl Features {
    /// AVX-512 with F, BW, VBMI and VBMI2; AVX2, BMI1, BMI2, LZCNT and POPCNT.
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

    /// As [`Sections::finish`], of what [`Self::collect`] left.
    pub(in crate::page) fn finish(
        self,
        filled: &Filled,
        kind: Kind,
        new: &Page,
        next: Option<Next<'_>>,
        sections: &mut Sections,
        out: &mut [u8; MAX_RECORD],
    ) -> Option<usize> {
        // SAFETY: whoever made `self` has promised that the processor has the features of `finish`.
        unsafe { finish(filled, kind, new, next, sections, out) }
    }
}

/// What there is to know of all lines, from [`collect`] to [`finish`].
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(in crate::page) struct Wide {
    /// The bytes that changed: a bit for each.
    changed: [u64; LINES],
    /// The bytes that are not zero now.
    set: [u64; LINES],
    /// The words that equal the one before.
    repeats: [u8; LINES],
    /// A byte for each word: those bytes that go as data.
    covers: [[u8; LINE]; LINES / 8],
    /// The words that refer to another one.
    found: [u64; LINES / 8],
    /// A byte for each word: by which name, if it does.
    names: [[u8; LINE]; LINES / 8],
    /// A bit for each line that goes as it is.
    literal: u64,
}

impl Wide {
    pub(in crate::page) const NEW: Self = Self {
        changed: [0; LINES],
        set: [0; LINES],
        repeats: [0; LINES],
        covers: [[0; LINE]; LINES / 8],
        found: [0; LINES / 8],
        names: [[0; LINE]; LINES / 8],
        literal: 0,
    };

    /// Looks at all lines, and returns those that changed. Meanwhile asks for half of what is `ahead`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn look(&mut self, old: &Page, new: &Page, ahead: Option<Ahead<'_>>) -> u64 {
        let (old, lines) = (old.as_chunks::<LINE>().0, new.as_chunks::<LINE>().0);
        // Before the first line there is zero.
        let (mut line, mut previous) = (0, zero());
        while line < LINES {
            let now = load(&lines[line]);
            self.changed[line] = _mm512_cmpneq_epi8_mask(load(&old[line]), now);
            self.set[line] = _mm512_test_epi8_mask(now, now);
            self.repeats[line] = _mm512_cmpeq_epi64_mask(_mm512_alignr_epi64::<7>(now, previous), now);
            previous = now;
            if line % 2 == 0 {
                ask_for(ahead, line / 2..line / 2 + 1);
            }
            line += 1;
            // Unrolled, this is slower: a processor foresees which memory an instruction asks for next.
            // SAFETY: no instruction, and `line` stays as it is.
            unsafe { asm!("/* {0} */", inout(reg) line, options(pure, nomem, nostack, preserves_flags)) };
        }
        let mut found = 0;
        for group in 0..LINES / 8 {
            let changed = words(&self.changed, 8 * group);
            found |= u64::from(_mm512_test_epi64_mask(changed, changed)) << (8 * group);
        }
        found
    }
}

/// The two pages of the next pair, unless it lies behind this one: those a processor foresees by itself.
#[derive(Clone, Copy)]
struct Ahead<'a>([&'a Page; 2]);

impl<'a> Ahead<'a> {
    #[inline]
    fn of(new: &Page, next: Option<Next<'a>>) -> Option<Self> {
        let next = next?;
        let follows = core::ptr::eq(next.new, new.as_ptr().wrapping_add(new.len()).cast());
        (!follows).then_some(Self([next.old.unwrap_or(next.new), next.new]))
    }
}

/// Asks for these lines of both pages.
///
/// Half of them while this pair is looked at and a quarter at two places behind that: more at once, and a processor has
/// no room to wait for them. Into the second cache: in the first they would take the place of what is worked on.
#[inline(always)]
fn ask_for(ahead: Option<Ahead<'_>>, lines: Range<usize>) {
    let Some(Ahead(pages)) = ahead else { return };
    let [old, new] = pages.map(|page| page.as_chunks::<LINE>().0);
    for (old, new) in old[lines.clone()].iter().zip(&new[lines]) {
        for line in [old, new] {
            // SAFETY: the target has SSE2, and so this instruction. It changes nothing and may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn collect<const DENSE: bool>(
    old: &Page,
    new: &Page,
    next: Option<Next<'_>>,
    sections: &mut Sections,
) -> Filled {
    let Sections { wide, line_codes, word_masks, word_codes, .. } = sections;
    let ahead = Ahead::of(new, next);
    let lines = wide.look(old, new, ahead);
    ask_for(ahead, LINES / 2..LINES * 3 / 4);
    let mut filled = Filled { lines, line_codes: lines.count_ones() as usize, ..Filled::default() };
    let mut seen = Seen::new();
    let (mut literals, mut zeros, mut bytes) = (0, 0, zero());
    let mut groups = groups(lines);
    while groups != 0 {
        let group = groups.trailing_zeros() as usize % (LINES / 8);
        groups &= groups - 1;
        let [there, ..] = (lines >> (8 * group)).to_le_bytes();
        let (changed, set) = (words(&wide.changed, 8 * group), words(&wide.set, 8 * group));
        let repeats = wide.repeats.as_chunks().0.get(group).map_or(0, |r| u64::from_le_bytes(*r));
        let masks = _mm512_test_epi8_mask(changed, changed);
        let mut choice = best(choices(DENSE), changed, set, repeats, masks);
        if DENSE {
            let literal = literal(choice, masks);
            wide.found[group] = refer(choice, literal, group, new, &mut seen, &mut wide.names[group]);
            let by_name = _mm512_set1_epi8(choices(DENSE).refer.cast_signed());
            choice = _mm512_mask_mov_epi8(choice, wide.found[group], by_name);
        }
        let literal = literal(choice, masks);
        let zeroed = _mm512_testn_epi64_mask(set, set) & there;
        // A byte of ones for each line that is coded by words.
        let coded = _mm512_movepi8_mask(_mm512_maskz_set1_epi64(!(literal | zeroed), -1));
        let live = masks & coded;
        let code = _mm512_and_si512(choice, _mm512_set1_epi8(15));
        store(&mut wide.covers[group], _mm512_maskz_shuffle_epi8(live, all(&choices(DENSE).covers), code));
        // What is behind the codes does not count.
        store_at(word_codes, filled.word_codes, compress(live, code));
        filled.word_codes += live.count_ones() as usize;
        bytes = _mm512_add_epi64(bytes, data_of(!literal, choice));
        literals |= u64::from(literal) << (8 * group);
        zeros |= u64::from(zeroed) << (8 * group);
        if let Some(to) = word_masks[8 * group..].first_chunk_mut() {
            *to = masks.to_le_bytes();
        }
    }
    let masks = _mm512_maskz_mov_epi8(lines, load_at(word_masks, 0));
    let codes = lookup(&LINE_CODES, masks);
    let codes = _mm512_mask_mov_epi8(codes, zeros, _mm512_set1_epi8(LINE_ZERO.cast_signed()));
    let codes = _mm512_mask_mov_epi8(codes, literals, _mm512_set1_epi8(LINE_LITERAL.cast_signed()));
    let escapes = _mm512_mask_cmpeq_epi8_mask(lines, codes, _mm512_set1_epi8(ESCAPE.cast_signed()));
    let there = _bzhi_u64(u64::MAX, lines.count_ones());
    store_at(line_codes, 0, _mm512_maskz_mov_epi8(there, compress(lines, codes)));
    store_at(word_masks, 0, compress(escapes, masks));
    wide.literal = literals;
    filled.word_masks = escapes.count_ones() as usize;
    filled.literals = LINE * literals.count_ones() as usize;
    let [low, high, ..] = _mm512_reduce_add_epi64(bytes).to_le_bytes();
    filled.data = u16::from_le_bytes([low, high]).into();
    filled
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn finish(
    filled: &Filled,
    kind: Kind,
    new: &Page,
    next: Option<Next<'_>>,
    sections: &mut Sections,
    out: &mut [u8; MAX_RECORD],
) -> Option<usize> {
    let Sections { wide, line_codes, word_masks, word_codes, literals: spare, .. } = sections;
    ask_for(Ahead::of(new, next), LINES * 3 / 4..LINES);
    let lines = _mm512_zextsi128_si512(_mm_cvtsi64_si128(filled.lines.cast_signed()));
    let groups = groups(filled.lines);
    let line_masks = _mm512_maskz_compress_epi8(groups, lines);
    let (head, len) = filled.start(kind, groups.count_ones() as usize, out)?;
    // Whole registers are stored, so there must be room behind the end.
    let small = len + LINE <= MAX_RECORD;
    let to: &mut [u8] = if small { out } else { &mut *spare };
    let mut at = head;
    if let Some(group_mask) = to.get_mut(at) {
        *group_mask = groups.to_le_bytes()[0];
    }
    at += 1;
    store_at(to, at, line_masks);
    at += groups.count_ones() as usize;
    store_at(to, at, pack_codes(load_at(line_codes, 0)));
    at += filled.line_codes.div_ceil(2);
    store_at(to, at, load_at(word_masks, 0));
    at += filled.word_masks;
    let mut done = 0;
    while done < filled.word_codes {
        let behind = LINE.saturating_sub(filled.word_codes - done);
        let codes = _mm512_maskz_mov_epi8(u64::MAX >> (behind % LINE), load_at(word_codes, done));
        store_at(to, at + done / 2, pack_codes(codes));
        done += LINE;
    }
    at += filled.word_codes.div_ceil(2);
    let new_lines = new.as_chunks::<LINE>().0;
    let mut left = wide.literal;
    while left != 0 {
        store_at(to, at, load(&new_lines[left.trailing_zeros() as usize % LINES]));
        left &= left - 1;
        at += LINE;
    }
    let dense = matches!(kind, Kind::Dense | Kind::DenseSparse);
    let mut left = filled.lines;
    let covers = wide.covers.as_flattened().as_chunks::<8>().0;
    while left != 0 {
        let line = left.trailing_zeros() as usize % LINES;
        left &= left - 1;
        let mut words = load(&new_lines[line]);
        if dense {
            let [referring, ..] = (wide.found[line / 8] >> (8 * (line % 8))).to_le_bytes();
            let named = i64::from_le_bytes(wide.names.as_flattened().as_chunks().0[line]);
            words = _mm512_mask_mov_epi64(words, referring, _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(named)));
        }
        let cover = u64::from_le_bytes(covers[line]);
        store_at(to, at, _mm512_maskz_compress_epi8(cover, words));
        at += cover.count_ones() as usize;
    }
    debug_assert_eq!(at, len);
    if !small {
        out[head..].copy_from_slice(&spare[head..MAX_RECORD]);
    }
    Some(len)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn best(table: &Choices, changed: __m512i, set: __m512i, repeats: u64, masks: u64) -> __m512i {
    let low = _mm512_set1_epi8(15);
    let by = |table: &Nibbles, x: __m512i| {
        let in_low = _mm512_shuffle_epi8(all(&table.low), _mm512_and_si512(x, low));
        let in_high = _mm512_shuffle_epi8(all(&table.high), high_halves(x));
        _mm512_max_epu8(in_low, in_high)
    };
    let replace = _mm512_min_epu8(by(&table.below, changed), by(&table.above, changed));
    let keep = _mm512_min_epu8(replace, by(&table.significant, set));
    // 1 is the choice of a repeated word.
    let any = _mm512_mask_min_epu8(keep, repeats, keep, _mm512_set1_epi8(1));
    _mm512_maskz_mov_epi8(masks, any)
}

/// A bit for each line that is no longer than its words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn literal(choice: __m512i, masks: u64) -> u8 {
    let sum = _mm512_sad_epu8(high_halves(choice), zero());
    let ones = _mm512_maskz_mov_epi8(masks, _mm512_set1_epi8(1));
    let halves = _mm512_add_epi64(_mm512_add_epi64(sum, sum), _mm512_sad_epu8(ones, zero()));
    _mm512_cmpge_epi64_mask(halves, _mm512_set1_epi64(LITERAL))
}

/// Bytes of data of each line of `lines`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn data_of(lines: u8, choice: __m512i) -> __m512i {
    _mm512_maskz_mov_epi64(lines, _mm512_sad_epu8(high_halves(choice), zero()))
}

/// Looks for words to refer to, for those whose best choice so far is a long one, but for `literal` lines: which have one,
/// and their `names`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn refer(
    best: __m512i,
    literal: u8,
    group: usize,
    new: &Page,
    seen: &mut Seen,
    names: &mut [u8; LINE],
) -> u64 {
    let least = _mm512_set1_epi8(REFERRED.to_le_bytes()[1].cast_signed());
    let coded = _mm512_movepi8_mask(_mm512_maskz_set1_epi64(!literal, -1));
    let mut left = _mm512_cmpge_epu8_mask(best, least) & coded;
    let mut all = 0;
    while left != 0 {
        let i = left.trailing_zeros() as usize % LINE;
        let at = (LINE * group + i) % WORDS;
        let word = u64::from_le_bytes(new.as_chunks::<8>().0[at]);
        let (found, name) = seen.note(new, at, word);
        names[i] = name;
        all |= u64::from(found) << i;
        left &= left - 1;
    }
    all
}

/// Two codes a byte, the first in the low half, and zeros behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn pack_codes(codes: __m512i) -> __m512i {
    let pairs = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x1001));
    _mm512_zextsi256_si512(_mm512_cvtepi16_epi8(pairs))
}

/// The bytes of `mask` one behind the other, and anything behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn compress(mask: u64, x: __m512i) -> __m512i {
    // Not zeroed: Bochs gets that wrong if the mask has all 64 bits.
    _mm512_mask_compress_epi8(x, mask, x)
}

/// Looks up every byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn lookup(table: &[u8; 256], x: __m512i) -> __m512i {
    let low = _mm512_permutex2var_epi8(load_at(table, 0), x, load_at(table, 64));
    let high = _mm512_permutex2var_epi8(load_at(table, 128), x, load_at(table, 192));
    _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(x), high)
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
fn zero() -> __m512i {
    _mm512_setzero_si512()
}

/// 64 bytes from `at` on; zeros if they are not all there.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_at(bytes: &[u8], at: usize) -> __m512i {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(line) => load(line),
        None => zero(),
    }
}

/// Stores 64 bytes at `at`, if there is room.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_at(bytes: &mut [u8], at: usize, x: __m512i) {
    if let Some(line) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        store(line, x);
    }
}

/// Eight words from `at` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn words(words: &[u64; LINES], at: usize) -> __m512i {
    let words: &[u64; 8] = words.get(at..).and_then(<[u64]>::first_chunk).unwrap_or(&[0; 8]);
    // SAFETY: the 64 bytes that `words` refers to; no alignment is asked for.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// The groups of eight lines that have a line of these.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn groups(lines: u64) -> u64 {
    let lines = _mm512_zextsi128_si512(_mm_cvtsi64_si128(lines.cast_signed()));
    _mm512_test_epi8_mask(lines, lines)
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
        && has!("avx512vbmi")
        && has!("avx512vbmi2")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("lzcnt")
        && has!("popcnt");
    // SAFETY: all that is asked for was detected, the operating system's part included.
    all.then(|| unsafe { Features::avx512() })
}
