//! Applies a body with AVX-512, eight lines at a time: one instruction (`vpexpandb`) brings the word codes of eight lines to their
//! words, and another one what a line takes from the data to its bytes. They are stored by a mask, so the page is hardly ever read.
//!
//! What is valid is done here; all else is left to portable code, so errors are the same.

#![allow(unsafe_code)]

use core::arch::x86_64::*;
use core::hint::select_unpredictable;

use super::super::scan::{Avx512, all as table, load, store};
use super::super::table::{
    DENSE_CODES, ESCAPE, LINE_LITERAL, LINE_ZERO, PLAIN_CODES, WORD_MASKS, WordCode, covered,
};
use super::super::{LINE, LINES, Page};
use super::{ask_for, ones, referred};

/// Makes the changes of the body that is `record[head..end]`, to a page of zeros if `clear`. Returns whether it did; if not,
/// the page is as it was, and portable code has to look at the record: it is malformed, or unusually short.
#[inline]
pub(super) fn change<const DENSE: bool>(
    avx512: Avx512,
    record: &[u8],
    head: usize,
    end: usize,
    page: &mut Page,
    clear: bool,
) -> bool {
    let _ = avx512;
    let Some(record) = record.get(..end) else { return false };
    // SAFETY: whoever made `avx512` has promised that the processor has the features of `apply`.
    unsafe { apply::<DENSE>(record, head, page, clear) }.is_some()
}

/// What word codes do, by code.
struct Codes {
    /// The bytes of the word that come from the data.
    take: [u8; 16],
    /// The bytes of the word that are stored.
    store: [u8; 16],
    /// Bytes of data.
    len: [u8; 16],
}

const fn codes(codes: &[WordCode; 16]) -> Codes {
    let mut tables = Codes { take: [0; 16], store: [0; 16], len: [0; 16] };
    let mut code = 0;
    while code < 16 {
        let take = covered(codes[code]);
        tables.take[code] = take;
        tables.store[code] = if matches!(codes[code], WordCode::Replace(_)) { take } else { 0xff };
        tables.len[code] = take.count_ones().to_le_bytes()[0];
        code += 1;
    }
    tables
}

static PLAIN: Codes = codes(&PLAIN_CODES);
static DENSE: Codes = codes(&DENSE_CODES);

const fn code_of(wanted: WordCode) -> i8 {
    let mut code: u8 = 0;
    loop {
        match (wanted, DENSE_CODES[code as usize]) {
            (WordCode::Repeat, WordCode::Repeat) | (WordCode::Refer, WordCode::Refer) => {
                return code.cast_signed();
            }
            (WordCode::Extend(a), WordCode::Extend(b)) if a == b => return code.cast_signed(),
            _ => code += 1,
        }
    }
}

const REPEAT: i8 = code_of(WordCode::Repeat);
const REFER: i8 = code_of(WordCode::Refer);

/// By line code: the code of the words that have none of their own, or what stands for no code.
const FILL: [u8; 16] = {
    let mut table = [NONE; 16];
    table[LINE_LITERAL as usize] = code_of(WordCode::Extend(8)).cast_unsigned();
    table[LINE_ZERO as usize] = code_of(WordCode::Extend(0)).cast_unsigned();
    table
};

/// Every table has a zero for it.
const NONE: u8 = 0xff;

/// A line code that does nothing, if there is no mask for it.
const NO_LINE: u64 = u64::from_le_bytes([ESCAPE; 8]);

/// By a mask of words that repeat: where each word's value is. 8 is the word before the line.
static SOURCES: [[u8; 8]; 256] = {
    let (mut table, mut mask) = ([[0; 8]; 256], 0);
    while mask < 256 {
        let (mut source, mut word) = (8, 0);
        while word < 8 {
            if mask >> word & 1 == 0 {
                source = word;
            }
            table[mask][word as usize] = source;
            word += 1;
        }
        mask += 1;
    }
    table
};

const ONE_EACH: u64 = u64::from_le_bytes([1; 8]);
const LOW_HALVES: u64 = u64::from_le_bytes([15; 8]);

/// `None` if anything is wrong; then the page is as it was. What lies behind the record reads as anything: the sections' lengths
/// then add up to more than there is, which is noticed before anything is stored.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn apply<const DENSE_KIND: bool>(record: &[u8], head: usize, page: &mut Page, clear: bool) -> Option<()> {
    let last = record.len().checked_sub(8)?;
    let groups = *record.get(head)?;
    let grouped = spread(groups);
    let lines = _pdep_u64(word_at(record, last, head + 1), grouped);
    if groups == 0 || zeros(lines | !grouped) != 0 {
        return None;
    }
    let count = ones(lines);
    let at = head + 1 + ones(groups.into());
    if count <= 8 {
        ask_for(page, lines);
        few::<DENSE_KIND>(record, last, at, lines, page, clear)
    } else {
        many::<DENSE_KIND>(record, at, lines, page, clear)
    }
}

/// Of up to eight lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn few<const DENSE_KIND: bool>(
    record: &[u8],
    last: usize,
    mut at: usize,
    lines: u64,
    page: &mut Page,
    clear: bool,
) -> Option<()> {
    // A byte for each line, the first one lowest.
    let count = ones(lines);
    let there = _bzhi_u64(!0, low(8 * count));
    let halves = word_at(record, last, at);
    let bytes = count.div_ceil(2);
    let mut bad = _bzhi_u64(halves, low(8 * bytes)) >> ((4 * count) & 63);
    let codes = _pdep_u64(halves, LOW_HALVES & there) | NO_LINE & !there;
    at += bytes;
    let escaped = (codes & codes >> 1 & codes >> 2 & codes >> 3 & ONE_EACH & there).wrapping_mul(0xff);
    let codes_of_lines = _mm_cvtsi64_si128(codes.cast_signed());
    let masks = _mm_cvtsi128_si64(_mm_shuffle_epi8(quarter(&WORD_MASKS), codes_of_lines)).cast_unsigned();
    let masks = masks | _pdep_u64(word_at(record, last, at), escaped);
    bad |= zeros(masks | !escaped);
    at += ones(escaped) / 8;
    let words = ones(masks);
    let packed = _mm512_castsi512_si256(load_at(record, at));
    at += words.div_ceil(2);
    bad |= padding(record, at, words);
    let fill = _mm_shuffle_epi8(quarter(&FILL), codes_of_lines);
    let codes_of_words = place(unpack(packed), masks, fill);
    let literals = zeros(codes) >> 7;
    let len = lens::<DENSE_KIND>(codes_of_words);
    if bad != 0 || at + sum(_mm512_sad_epu8(len, _mm512_setzero_si512())) != record.len() {
        return None;
    }
    if clear {
        page.fill(0);
    }
    let from = From { literals: at, data: at + LINE * ones(literals) };
    change_lines::<DENSE_KIND>(page, record, lines, codes_of_words, literals, from);
    Some(())
}

/// Of more than eight lines.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn many<const DENSE_KIND: bool>(
    record: &[u8],
    mut at: usize,
    mut lines: u64,
    page: &mut Page,
    clear: bool,
) -> Option<()> {
    let count = ones(lines);
    // A byte or a bit for each line.
    let there = u64::MAX.unbounded_shr(64 - low(count));
    let no_line = _mm512_set1_epi8(ESCAPE.cast_signed());
    let codes = _mm512_mask_mov_epi8(no_line, there, unpack(_mm512_castsi512_si256(load_at(record, at))));
    at += count.div_ceil(2);
    let mut bad = padding(record, at, count);
    let with = |code: u8| there & _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(code.cast_signed()));
    let (escaped, mut literals) = (with(ESCAPE), with(LINE_LITERAL));
    let masks = _mm512_shuffle_epi8(table(&WORD_MASKS), codes);
    let masks = _mm512_mask_expand_epi8(masks, escaped, load_at(record, at));
    bad |= escaped & _mm512_testn_epi8_mask(masks, masks);
    at += ones(escaped);
    let words = bits(masks);
    let first = at;
    at += words.div_ceil(2);
    bad |= padding(record, at, words);
    let len = LINE * ones(literals) + len_of::<DENSE_KIND>(record.get(first..at)?);
    if bad != 0 || at + len != record.len() {
        return None;
    }
    if clear {
        page.fill(0);
    }
    let (mut mask_of, mut fill_of) = ([0; LINE], [0; LINE]);
    store(&mut mask_of, masks);
    store(&mut fill_of, _mm512_shuffle_epi8(table(&FILL), codes));
    let mut from = From { literals: at, data: at + LINE * ones(literals) };
    let mut word = 0;
    for (masks, fill) in mask_of.as_chunks::<8>().0.iter().zip(fill_of.as_chunks::<8>().0) {
        let masks = u64::from_le_bytes(*masks);
        let fill = _mm_cvtsi64_si128(i64::from_le_bytes(*fill));
        let codes = place(unpack_from(record, first, word), masks, fill);
        word += ones(masks);
        let eight = _pdep_u64(0xff, lines);
        from = change_lines::<DENSE_KIND>(page, record, eight, codes, _pdep_u64(literals, ONE_EACH), from);
        literals >>= 8;
        lines ^= eight;
        if lines == 0 {
            break;
        }
    }
    Some(())
}

/// The codes of all words of eight lines, from those of the words of `masks` (a bit for each word) and what stands for the others
/// (a byte for each line).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
fn place(codes: __m512i, masks: u64, fill: __m128i) -> __m512i {
    let fill = _mm512_shuffle_epi8(_mm512_broadcastq_epi64(fill), load(&EIGHT_TIMES));
    _mm512_mask_expand_epi8(fill, masks, codes)
}

static EIGHT_TIMES: [u8; LINE] = {
    let (mut table, mut i) = ([0; LINE], 0);
    while i < LINE {
        table[i] = (i / 8).to_le_bytes()[0];
        i += 1;
    }
    table
};

const fn tables(dense: bool) -> &'static Codes {
    if dense { &DENSE } else { &PLAIN }
}

/// Places in the record.
#[derive(Clone, Copy)]
struct From {
    literals: usize,
    data: usize,
}

impl From {
    /// What the next line takes, in its places; zeros in the others.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn next(&mut self, record: &[u8], take: u64, literal: bool) -> __m512i {
        let len = ones(take);
        let at = select_unpredictable(literal, self.literals, self.data);
        self.literals += select_unpredictable(literal, len, 0);
        self.data += select_unpredictable(literal, 0, len);
        expand(record, at, len, take)
    }
}

/// What eight lines become.
struct Eight {
    /// By line: the bytes that come from the data.
    take: [u64; 8],
    /// By line: the bytes that are stored.
    stored: [u64; 8],
    /// A byte for each line, 1 if it is a literal.
    literals: u64,
    /// A bit for each word that becomes equal to the one before it, or to the one that it names.
    repeats: u64,
    refers: u64,
}

/// Changes up to eight lines by the codes of all their words. `literals` has a byte for each line, 1 if it is one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn change_lines<const DENSE_KIND: bool>(
    page: &mut Page,
    record: &[u8],
    mut lines: u64,
    codes: __m512i,
    mut literals: u64,
    mut from: From,
) -> From {
    let tables = tables(DENSE_KIND);
    let mut eight = Eight { take: [0; 8], stored: [0; 8], literals, repeats: 0, refers: 0 };
    put(&mut eight.take, _mm512_shuffle_epi8(table(&tables.take), codes));
    put(&mut eight.stored, _mm512_shuffle_epi8(table(&tables.store), codes));
    let repeats = _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(REPEAT));
    let refers = if DENSE_KIND { _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(REFER)) } else { 0 };
    if repeats | refers != 0 {
        (eight.repeats, eight.refers) = (repeats, refers);
        return change_by_others(page, record, lines, &eight, from);
    }
    for (&take, &stored) in eight.take.iter().zip(&eight.stored) {
        let line = lines.trailing_zeros() as usize % LINES;
        lines &= lines.wrapping_sub(1);
        let new = from.next(record, take, literals & 1 != 0);
        literals >>= 8;
        store_some(&mut page.as_chunks_mut::<LINE>().0[line], stored, new);
        if lines == 0 {
            break;
        }
    }
    from
}

/// As [`change_lines`], where words become equal to others.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn change_by_others(page: &mut Page, record: &[u8], mut lines: u64, eight: &Eight, mut from: From) -> From {
    let Eight { take, stored, .. } = eight;
    let (mut literals, mut repeats, mut refers) = (eight.literals, eight.repeats, eight.refers);
    // The last line, and its number, if all of its last word is known.
    let mut before = None;
    for (&take, &stored) in take.iter().zip(stored) {
        let line = lines.trailing_zeros() as usize % LINES;
        lines &= lines.wrapping_sub(1);
        let mut new = from.next(record, take, literals & 1 != 0);
        let ([repeat, ..], [refer, ..]) = (repeats.to_le_bytes(), refers.to_le_bytes());
        (literals, repeats, refers) = (literals >> 8, repeats >> 8, refers >> 8);
        let place = &mut page.as_chunks_mut::<LINE>().0[line];
        if refer != 0 {
            store(place, _mm512_mask_mov_epi8(load(place), stored, new));
            copy_words(page, line, refer, repeat);
            before = None;
        } else {
            if repeat != 0 {
                // Words that one after them repeats, though not all of them is stored.
                if repeat & !(whole(stored) << 1 | 1) != 0 {
                    new = _mm512_mask_mov_epi8(load(place), stored, new);
                }
                let word = match before {
                    Some((last, words)) if last + 1 == line => {
                        _mm512_permutexvar_epi64(_mm512_set1_epi64(7), words)
                    }
                    _ => word_before(page, line),
                };
                let sources = i64::from_le_bytes(SOURCES[usize::from(repeat)]);
                let sources = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(sources));
                new = _mm512_permutex2var_epi64(new, sources, word);
            }
            store_some(&mut page.as_chunks_mut::<LINE>().0[line], stored, new);
            before = if stored >> 56 == 0xff { Some((line, new)) } else { None };
        }
        if lines == 0 {
            break;
        }
    }
    from
}

/// The word ahead of a line, eight times.
#[inline]
#[target_feature(enable = "avx512f")]
fn word_before(page: &Page, line: usize) -> __m512i {
    let word = page.as_chunks::<8>().0.get((8 * line).wrapping_sub(1)).copied().unwrap_or_default();
    _mm512_set1_epi64(i64::from_le_bytes(word))
}

/// Carries out codes that copy words of the page, in their order. The number that a code has is where its word will be.
#[inline]
fn copy_words(page: &mut Page, line: usize, refer: u8, repeat: u8) {
    let words = page.as_chunks_mut::<8>().0;
    let mut left = refer | repeat;
    while left != 0 {
        let i = left.trailing_zeros() as usize;
        left &= left - 1;
        let Some(&[number, ..]) = words.get(8 * line + i) else { return };
        let at = 8 * line + i;
        let from = if refer >> i & 1 != 0 { referred(at, number) } else { at.wrapping_sub(1) };
        let word = words.get(from).copied().unwrap_or_default();
        if let Some(to) = words.get_mut(at) {
            *to = word;
        }
    }
}

/// A byte of ones for each bit.
#[inline]
#[target_feature(enable = "bmi2")]
fn spread(bits: u8) -> u64 {
    _pdep_u64(bits.into(), ONE_EACH).wrapping_mul(0xff)
}

/// The highest bit of each byte that is zero, and no other bit.
#[inline]
fn zeros(bytes: u64) -> u64 {
    const HIGH: u64 = 0x80 * ONE_EACH;
    const LOW: u64 = 0x7f * ONE_EACH;

    !(((bytes & LOW) + LOW) | bytes) & HIGH
}

/// By byte of the line: whether all of it is stored.
#[inline]
#[target_feature(enable = "bmi2")]
fn whole(stored: u64) -> u8 {
    _pext_u64(zeros(!stored), 0x80 * ONE_EACH).to_le_bytes()[0]
}

/// The last of `count` half bytes that end at `end`, if it is padding; else 0.
#[inline]
fn padding(record: &[u8], end: usize, count: usize) -> u64 {
    let last = record.get(end.wrapping_sub(1)).copied().unwrap_or_default();
    u64::from(last >> 4) * (count as u64 & 1)
}

/// A number below 256.
#[inline]
fn low(number: usize) -> u32 {
    number.to_le_bytes()[0].into()
}

/// The eight bytes from `at` on; those behind the end are anything. `last` is the last place where eight bytes can be read.
#[inline]
fn word_at(bytes: &[u8], last: usize, at: usize) -> u64 {
    let start = at.min(last);
    let word = bytes.get(start..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    u64::from_le_bytes(word) >> ((8 * (at - start)) & 63)
}

/// The 64 bytes from `at` on; zeros where there are none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,bmi2")]
fn load_at(bytes: &[u8], at: usize) -> __m512i {
    let bytes = bytes.get(at..).unwrap_or_default();
    let there = _bzhi_u64(!0, low(bytes.len().min(LINE)));
    // SAFETY: no byte is read that `there` does not name, and it names those that `bytes` refers to.
    unsafe { _mm512_maskz_loadu_epi8(there, bytes.as_ptr().cast()) }
}

/// The `len` bytes from `at` on, as many as bits are set in `take`, in the places of these bits; zeros in the others. A `vpexpandb`
/// that reads memory would do, but Bochs 2.7 reads by `take` then, not as many bytes as it has bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi2")]
fn expand(bytes: &[u8], at: usize, len: usize, take: u64) -> __m512i {
    let Some(bytes) = bytes.get(at..at + len) else { return _mm512_setzero_si512() };
    let there = _bzhi_u64(!0, low(len));
    // SAFETY: no byte is read that `there` does not name, and it names those that `bytes` refers to.
    let packed = unsafe { _mm512_maskz_loadu_epi8(there, bytes.as_ptr().cast()) };
    _mm512_maskz_expand_epi8(take, packed)
}

/// Stores the bytes of this mask alone.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store_some(line: &mut [u8; LINE], mask: u64, x: __m512i) {
    // SAFETY: the 64 bytes that `line` refers to, or some of them; no alignment is asked for.
    unsafe { _mm512_mask_storeu_epi8(line.as_mut_ptr().cast(), mask, x) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn put(words: &mut [u64; 8], x: __m512i) {
    // SAFETY: the 64 bytes that `words` refers to; no alignment is asked for.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), x) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn quarter(table: &[u8; 16]) -> __m128i {
    // SAFETY: the 16 bytes that `table` refers to; no alignment is asked for.
    unsafe { _mm_loadu_si128(table.as_ptr().cast()) }
}

/// A byte for each half byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack(packed: __m256i) -> __m512i {
    let pairs = _mm512_cvtepu8_epi16(packed);
    let both = _mm512_or_si512(pairs, _mm512_slli_epi16::<4>(pairs));
    _mm512_and_si512(both, _mm512_set1_epi8(15))
}

/// A byte for each of 64 half bytes, from number `half` behind `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,bmi2")]
fn unpack_from(record: &[u8], at: usize, half: usize) -> __m512i {
    let bytes_at = |at| _mm512_cvtepu8_epi16(_mm512_castsi512_si256(load_at(record, at)));
    let (low, high) = (bytes_at(at + half / 2), bytes_at(at + half / 2 + 1));
    let both = _mm512_or_si512(low, _mm512_slli_epi16::<8>(high));
    let from = _mm_cvtsi32_si128(4 * i32::from(half & 1 != 0));
    let both = _mm512_srl_epi16(both, from);
    let low = _mm512_and_si512(both, _mm512_set1_epi16(15));
    let high = _mm512_and_si512(_mm512_slli_epi16::<4>(both), _mm512_set1_epi16(0x0f00));
    _mm512_or_si512(low, high)
}

/// How many bytes of data each code asks for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn lens<const DENSE_KIND: bool>(codes: __m512i) -> __m512i {
    _mm512_shuffle_epi8(table(&tables(DENSE_KIND).len), codes)
}

/// How many bytes of data these codes ask for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,bmi2")]
fn len_of<const DENSE_KIND: bool>(packed: &[u8]) -> usize {
    let low = _mm512_set1_epi8(15);
    let mut sums = _mm512_setzero_si512();
    let mut at = 0;
    while at < packed.len() {
        // What is not there is a code that asks for nothing.
        let pairs = load_at(packed, at);
        let of = |codes| lens::<DENSE_KIND>(_mm512_and_si512(codes, low));
        let both = _mm512_add_epi8(of(pairs), of(_mm512_srli_epi16::<4>(pairs)));
        sums = _mm512_add_epi64(sums, _mm512_sad_epu8(both, _mm512_setzero_si512()));
        at += LINE;
    }
    sum(sums)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sum(sums: __m512i) -> usize {
    // No more than a page holds.
    let sums = _mm512_reduce_add_epi64(sums).to_le_bytes();
    usize::from(u16::from_le_bytes([sums[0], sums[1]]))
}

/// How many bits are set in all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bits(x: __m512i) -> usize {
    const ONES: [u8; 16] = [0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4];

    let low = _mm512_and_si512(x, _mm512_set1_epi8(15));
    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(x), _mm512_set1_epi8(15));
    let of = |halves| _mm512_shuffle_epi8(table(&ONES), halves);
    sum(_mm512_sad_epu8(_mm512_add_epi8(of(low), of(high)), _mm512_setzero_si512()))
}
