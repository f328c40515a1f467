//! Applies a body with AVX-512, line by line: what the codes of a line take from the data goes to its places by one instruction.

#![allow(unsafe_code)]

use core::arch::x86_64::*;

use super::super::scan::{Avx512, all as table, load, store};
use super::super::table::{ESCAPE, LINE_LITERAL, LINE_ZERO, PLAIN_CODES, WORD_MASKS, WordCode, covered};
use super::super::{LINE, LINES, Page, WORDS};
use super::{Data, Rest, ones};
use crate::page::PageError;

/// As [`super::change_many`], of the kinds that are not dense.
#[inline(never)]
pub(super) fn change_many(
    avx512: Avx512,
    record: &[u8],
    rest: Rest<'_>,
    lines: u64,
    page: &mut Page,
    clear: bool,
) -> Result<(), PageError> {
    let _ = avx512;
    // SAFETY: whoever made `avx512` has promised that the processor has the features of `change`.
    unsafe { change(record, rest, lines, page, clear) }
}

/// By code: the bytes of the word that come from the data.
const TAKE: [u8; 16] = {
    let (mut table, mut code) = ([0; 16], 0);
    while code < 16 {
        table[code] = covered(PLAIN_CODES[code]);
        code += 1;
    }
    table
};

/// By code: all bytes of the word, if those that do not come from the data become zero.
const CLEAR: [u8; 16] = {
    let (mut table, mut code) = ([0; 16], 0);
    while code < 16 {
        table[code] = if matches!(PLAIN_CODES[code], WordCode::Extend(_)) { 0xff } else { 0 };
        code += 1;
    }
    table
};

/// By code: bytes of data.
const LEN: [u8; 16] = {
    let (mut table, mut code) = ([0; 16], 0);
    while code < 16 {
        table[code] = TAKE[code].count_ones().to_le_bytes()[0];
        code += 1;
    }
    table
};

/// The code that repeats the word before.
const REPEAT: u8 = {
    let mut code: u8 = 0;
    while !matches!(PLAIN_CODES[code as usize], WordCode::Repeat) {
        code += 1;
    }
    code
};

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

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn change(
    record: &[u8],
    mut rest: Rest<'_>,
    lines: u64,
    page: &mut Page,
    clear: bool,
) -> Result<(), PageError> {
    let count = ones(lines);
    let line_codes = rest.take_codes(count)?;
    let word_masks = rest.bytes;
    // A byte or a bit for each of the changed lines, in order. Those that are not there have no words.
    let there = u64::MAX.unbounded_shr(64 - u32::from(count.to_le_bytes()[0]));
    let line_codes = halves(line_codes);
    let with = |code: u8| there & _mm512_cmpeq_epi8_mask(line_codes, _mm512_set1_epi8(code.cast_signed()));
    let escaped = with(ESCAPE);
    let (zeros, literals) = (_pdep_u64(with(LINE_ZERO), lines), _pdep_u64(with(LINE_LITERAL), lines));
    let masks = _mm512_maskz_shuffle_epi8(there, table(&WORD_MASKS), line_codes);
    let masks = _mm512_mask_expand_epi8(masks, escaped, load_some(word_masks));
    let (words, escapes) = (bits(masks), ones(escaped));
    rest.take_masks(escapes)?;
    let packed = rest.take_codes(words)?;
    let mut codes = [0_u8; WORDS + LINE];
    let len = LINE * ones(literals) + unpack(packed, &mut codes);
    let data = rest.offset();
    rest.finish(len)?;

    // Nothing can fail from here on. If a section ran out all the same, words would be wrong, but nothing would panic.
    if clear {
        page.fill(0);
    }
    let mut data = Data::new(record, data);
    super::whole_lines(page, zeros, literals, &mut data);
    let coded = _mm512_test_epi8_mask(masks, masks);
    let mut each = [0; LINE];
    store(&mut each, _mm512_mask_compress_epi8(masks, coded, masks));
    let (mut at, mut word, mut left) = (data.at, 0, _pdep_u64(coded, lines));
    for mask in each.into_iter().take(ones(coded)) {
        let line = left.trailing_zeros() as usize % LINES;
        left &= left.wrapping_sub(1);
        let codes = codes.get(word..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        at += change_line(page, line, mask, u64::from_le_bytes(codes), record.get(at..).unwrap_or_default());
        word += mask.count_ones() as usize;
    }
    Ok(())
}

/// Changes the words of `mask` of a line as their codes say, which are the lowest bytes of `codes`. Returns the bytes of data that
/// they took.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn change_line(page: &mut Page, line: usize, mask: u8, codes: u64, data: &[u8]) -> usize {
    let before = page.as_chunks::<8>().0.get((8 * line).wrapping_sub(1)).copied().unwrap_or_default();
    let Some(to) = page.as_chunks_mut::<LINE>().0.get_mut(line) else { return 0 };
    // A byte of ones for each word of the mask.
    let has_code = _pdep_u64(mask.into(), u64::from_le_bytes([1; 8])).wrapping_mul(0xff);
    // Of a word without a code a byte that every table has a zero for.
    let codes = _mm_cvtsi64_si128((_pdep_u64(codes, has_code) | !has_code).cast_signed());
    let by_code = |table: &[u8; 16]| {
        // SAFETY: the 16 bytes that `table` refers to; no alignment is asked for.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        _mm_cvtsi128_si64(_mm_shuffle_epi8(table, codes)).cast_unsigned()
    };
    let (take, clear) = (by_code(&TAKE), by_code(&CLEAR));
    let old = _mm512_maskz_mov_epi8(!clear, load(to));
    let mut new = _mm512_mask_expand_epi8(old, take, load_some(data));
    let repeats = _mm_movemask_epi8(_mm_cmpeq_epi8(codes, _mm_set1_epi8(REPEAT.cast_signed())));
    if repeats & 0xff != 0 {
        let sources = i64::from_le_bytes(SOURCES[usize::from(repeats.to_le_bytes()[0])]);
        let sources = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(sources));
        new = _mm512_permutex2var_epi64(new, sources, _mm512_set1_epi64(i64::from_le_bytes(before)));
    }
    store(to, new);
    take.count_ones() as usize
}

/// The first 64 bytes; zeros where there are none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_some(bytes: &[u8]) -> __m512i {
    if let Some(bytes) = bytes.first_chunk() {
        return load(bytes);
    }
    let there = (1 << bytes.len()) - 1;
    // SAFETY: no byte is read that `there` does not name, and it names those that `bytes` refers to.
    unsafe { _mm512_maskz_loadu_epi8(there, bytes.as_ptr().cast()) }
}

/// Makes a byte of each half byte, at the front of `codes`, and returns how many bytes of data they ask for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn unpack(packed: &[u8], codes: &mut [u8; WORDS + LINE]) -> usize {
    let mut sums = _mm512_setzero_si512();
    for (to, from) in codes.as_chunks_mut::<LINE>().0.iter_mut().zip(packed.chunks(LINE / 2)) {
        // What is not there is a code that asks for nothing.
        let codes = halves(from);
        store(to, codes);
        let lens = _mm512_shuffle_epi8(table(&LEN), codes);
        sums = _mm512_add_epi64(sums, _mm512_sad_epu8(lens, _mm512_setzero_si512()));
    }
    usize::try_from(_mm512_reduce_add_epi64(sums)).unwrap_or(0)
}

/// A byte for each half byte of the first 32 bytes; zeros where there are none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn halves(packed: &[u8]) -> __m512i {
    let pairs = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(load_some(packed)));
    let both = _mm512_or_si512(pairs, _mm512_slli_epi16::<4>(pairs));
    _mm512_and_si512(both, _mm512_set1_epi8(15))
}

/// How many bits are set in all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bits(x: __m512i) -> usize {
    const ONES: [u8; 16] = [0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4];

    let low = _mm512_and_si512(x, _mm512_set1_epi8(15));
    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(x), _mm512_set1_epi8(15));
    let of = |halves| _mm512_shuffle_epi8(table(&ONES), halves);
    let sums = _mm512_sad_epu8(_mm512_add_epi8(of(low), of(high)), _mm512_setzero_si512());
    usize::try_from(_mm512_reduce_add_epi64(sums)).unwrap_or(0)
}
