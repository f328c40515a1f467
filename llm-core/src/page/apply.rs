//! Applies the body of a diff to a page, after all of it was validated.
//!
//! Branches that depend on the content are few: words are listed first, and then changed in a loop that ends once.

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod avx512;

use super::scan::{Features, ask_for};
use super::table::{ESCAPE, LINE_LITERAL, LINE_ZERO, ONES, PLACES, WORD_MASKS, word_codes};
use super::{LINE, LINES, Page, PageError, PageReason, WORDS};

/// Makes the changes of the body that is `record[head..end]`, to a page of zeros if `clear`.
///
/// # Errors
///
/// The body is malformed. Then `page` is as it was.
#[inline(always)]
pub(super) fn change<const DENSE: bool>(
    features: Features,
    record: &[u8],
    head: usize,
    end: usize,
    page: &mut Page,
    clear: bool,
) -> Result<(), PageError> {
    let mut rest = Rest { bytes: record.get(head..end).unwrap_or_default(), end };
    let lines = rest.take_lines()?;
    ask_for(page, lines);
    // Data is read by eight bytes.
    let mut padded = [0; 8];
    let record = if record.len() < padded.len() {
        padded.iter_mut().zip(record).for_each(|(to, from)| *to = *from);
        &padded
    } else {
        record
    };
    if ones(lines) <= FEW {
        return change_few::<DENSE>(record, rest, lines, page, clear);
    }
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if let (Some(avx512), false) = (features.has_avx512(), DENSE) {
        return avx512::change_many(avx512, record, rest, lines, page, clear);
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    let _ = features;
    change_many::<DENSE>(record, rest, lines, page, clear)
}

/// Lines up to which a diff is applied by [`change_few`].
const FEW: usize = 12;

/// For pages that change in few places: stores nothing but what changed, and does not read the page. Its memory is
/// hardly ever in a cache; so nothing waits for it, and several pages can be under way at once.
#[inline(always)]
fn change_few<const DENSE: bool>(
    record: &[u8],
    mut rest: Rest<'_>,
    lines: u64,
    page: &mut Page,
    clear: bool,
) -> Result<(), PageError> {
    let count = ones(lines);
    let line_codes = rest.take_codes(count)?;
    let code_of = |codes: &[u8], i: usize| codes.get(i / 2).map_or(0, |pair| pair >> (4 * (i & 1)) & 15);
    let word_masks = rest.bytes;
    let mask_of = |code: u8, escapes: &mut usize| {
        if code == ESCAPE {
            *escapes += 1;
            word_masks.get(*escapes - 1).copied().unwrap_or(0)
        } else {
            WORD_MASKS[usize::from(code & 15)]
        }
    };
    let (mut words, mut escapes, mut len) = (0, 0, 0);
    for i in 0..count {
        let code = code_of(line_codes, i);
        len += if code == LINE_LITERAL { LINE } else { 0 };
        words += usize::from(ONES[usize::from(mask_of(code, &mut escapes))]);
    }
    rest.take_masks(escapes)?;
    let packed = rest.take_codes(words)?;
    let literals = rest.offset();
    let mut data = literals + len;
    len +=
        packed.iter().map(|&pair| usize::from(word_codes(DENSE).pair_len[usize::from(pair)])).sum::<usize>();
    rest.finish(len)?;

    if clear {
        page.fill(0);
    }
    let mut literals = Data::new(record, literals);
    let (mut left, mut escapes, mut word) = (lines, 0, 0);
    for i in 0..count {
        let line = left.trailing_zeros() as usize % LINES;
        left &= left.wrapping_sub(1);
        let code = code_of(line_codes, i);
        match code {
            LINE_LITERAL => page.as_chunks_mut::<LINE>().0[line] = literals.line(),
            LINE_ZERO => page.as_chunks_mut::<LINE>().0[line] = [0; LINE],
            _ => {
                let mut mask = u32::from(mask_of(code, &mut escapes));
                while mask != 0 {
                    let at = 8 * line + mask.trailing_zeros() as usize;
                    mask &= mask - 1;
                    data += store::<DENSE>(
                        page,
                        at,
                        code_of(packed, word),
                        record.get(data..).unwrap_or_default(),
                    );
                    word += 1;
                }
            }
        }
    }
    Ok(())
}

/// For pages that change in many places.
#[inline(never)]
fn change_many<const DENSE: bool>(
    record: &[u8],
    mut rest: Rest<'_>,
    lines: u64,
    page: &mut Page,
    clear: bool,
) -> Result<(), PageError> {
    let count = ones(lines);
    let line_codes = rest.take_codes(count)?;
    let word_masks = rest.bytes;
    // Numbers of the words that have a code. Eight are written at once.
    let mut at = [0_u16; WORDS + 8];
    let (mut words, mut escapes) = (0, 0);
    let (mut zeros, mut literals) = (0_u64, 0_u64);
    let mut left = lines;
    // Without branches: what does not count is overwritten by the next line's.
    for i in 0..count {
        let lowest = left & left.wrapping_neg();
        let line = left.trailing_zeros().to_le_bytes()[0] & 63;
        left ^= lowest;
        let code = line_codes.get(i / 2).map_or(0, |pair| pair >> (4 * (i & 1)) & 15);
        zeros |= if code == LINE_ZERO { lowest } else { 0 };
        literals |= if code == LINE_LITERAL { lowest } else { 0 };
        let escaped = word_masks.get(escapes).copied().unwrap_or(0);
        escapes += usize::from(code == ESCAPE);
        let mask = if code == ESCAPE { escaped } else { WORD_MASKS[usize::from(code & 15)] };
        if let Some(to) = at.get_mut(words..).and_then(<[u16]>::first_chunk_mut) {
            let first = 8 * u16::from(line);
            *to = PLACES[usize::from(mask)].map(|place| place + first);
        }
        words += usize::from(ONES[usize::from(mask)]);
    }
    rest.take_masks(escapes)?;
    let packed = rest.take_codes(words)?;
    let mut codes = [0_u8; WORDS + 8];
    let mut len = LINE * ones(literals);
    for (codes, &pair) in codes.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
        *codes = [pair & 15, pair >> 4];
        len += usize::from(word_codes(DENSE).pair_len[usize::from(pair)]);
    }
    let data = rest.offset();
    rest.finish(len)?;

    // Nothing can fail from here on. If a section ran out all the same, words would be wrong, but nothing would panic.
    if clear {
        page.fill(0);
    }
    let mut data = Data::new(record, data);
    whole_lines(page, zeros, literals, &mut data);
    let codes = at.iter().zip(&codes).take(words);
    let page = page.as_chunks_mut::<8>().0;
    let mut state = State { at: WORDS, word: 0 };
    codes.for_each(|(&at, &code)| state.step::<DENSE>(page, at, code, &mut data));
    Ok(())
}

/// Clears lines, and sets others to what comes first of the data.
#[inline(always)]
fn whole_lines(page: &mut Page, mut zeros: u64, mut literals: u64, data: &mut Data<'_>) {
    let places = page.as_chunks_mut::<LINE>().0;
    while zeros != 0 {
        places[zeros.trailing_zeros() as usize % LINES] = [0; LINE];
        zeros &= zeros - 1;
    }
    while literals != 0 {
        places[literals.trailing_zeros() as usize % LINES] = data.line();
        literals &= literals - 1;
    }
}

/// Changes a word without reading it, and returns how many bytes of data it took.
#[inline(always)]
fn store<const DENSE: bool>(page: &mut Page, at: usize, code: u8, data: &[u8]) -> usize {
    let run = &word_codes(DENSE).runs[usize::from(code & 15)];
    let (start, len) = (8 * at + usize::from(run.start), usize::from(run.len));
    if run.whole {
        let words = page.as_chunks_mut::<8>().0;
        let other = match (run.copy, DENSE && run.refer) {
            (false, _) => None,
            (true, false) => words.get(at.wrapping_sub(1)),
            (true, true) => words.get(referred(at, data.first().copied().unwrap_or_default())),
        };
        words[at % WORDS] = other.copied().unwrap_or_default();
        if DENSE && run.refer {
            return 1;
        }
    }
    let (Some(to), Some(from)) = (page.get_mut(start..start + len), data.get(..len)) else { return 0 };
    // As two pieces that overlap, which is quicker than a copy of any length.
    if len >= 4 {
        ends::<4>(to, from);
    } else if len >= 2 {
        ends::<2>(to, from);
    } else {
        ends::<1>(to, from);
    }
    len
}

/// The word that code *refer* names; beyond all words if there is none.
#[inline(always)]
fn referred(at: usize, data: u8) -> usize {
    at.wrapping_sub(2 + usize::from(data))
}

/// Copies the first `L` and the last `L` bytes, if there are any.
#[inline(always)]
fn ends<const L: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<L>(), from.first_chunk::<L>()) {
        *to = *from;
    }
    if L > 1
        && let (Some(to), Some(from)) = (to.last_chunk_mut::<L>(), from.last_chunk::<L>())
    {
        *to = *from;
    }
}

/// The words changed so far.
struct State {
    /// Number and new value of the last one.
    at: usize,
    word: u64,
}

impl State {
    #[inline(always)]
    fn step<const DENSE: bool>(&mut self, words: &mut [[u8; 8]], at: u16, code: u8, data: &mut Data<'_>) {
        let at = usize::from(at) % WORDS;
        let apply = &word_codes(DENSE).apply[usize::from(code & 15)];
        let data = data.word(apply.len);
        let other = at.wrapping_sub(1);
        let other = if DENSE && apply.refer { referred(at, data.to_le_bytes()[0]) } else { other };
        let stored = words.get(other).map_or(0, |word| u64::from_le_bytes(*word));
        // What was stored just now is quicker had from a register.
        let other = if other == self.at { self.word } else { stored };
        let Some(word) = words.get_mut(at) else { return };
        let old = u64::from_le_bytes(*word);
        let new = (old & apply.keep) | ((data << (apply.shift & 63)) & apply.take) | (other & apply.copy);
        *word = new.to_le_bytes();
        (self.at, self.word) = (at, new);
    }
}

/// What the codes take from.
struct Data<'a> {
    bytes: &'a [u8],
    /// How much of it is used up.
    at: usize,
    /// The last place where eight bytes can be read.
    last: usize,
}

impl<'a> Data<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, last: bytes.len().saturating_sub(8) }
    }

    /// The next `len` bytes, at most eight, and anything above them.
    #[inline(always)]
    fn word(&mut self, len: u8) -> u64 {
        // Near the end, the last eight bytes without those that are used up.
        let start = self.at.min(self.last);
        let bytes = self.bytes.get(start..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        let used = (8 * (self.at - start)) & 63;
        self.at += usize::from(len);
        u64::from_le_bytes(bytes) >> used
    }

    fn line(&mut self) -> [u8; LINE] {
        let line = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; LINE]);
        self.at += LINE;
        line
    }
}

fn ones(mask: u64) -> usize {
    mask.count_ones() as usize
}

/// What is left of a body.
struct Rest<'a> {
    bytes: &'a [u8],
    /// Where the body ends in the record.
    end: usize,
}

impl<'a> Rest<'a> {
    fn offset(&self) -> usize {
        self.end.saturating_sub(self.bytes.len())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PageError> {
        let Some((taken, rest)) = self.bytes.split_at_checked(len) else {
            let reason = PageReason::Truncated { need: len, have: self.bytes.len() };
            return Err(PageError::new(self.offset(), reason));
        };
        self.bytes = rest;
        Ok(taken)
    }

    /// Takes the last part of the body, of `len` bytes.
    #[inline(always)]
    fn finish(&mut self, len: usize) -> Result<(), PageError> {
        self.take(len)?;
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(PageError::new(self.offset(), PageReason::Trailing { left })),
        }
    }

    /// The mask of all 64 lines, from that of the groups and those of the lines of each.
    #[inline(always)]
    fn take_lines(&mut self) -> Result<u64, PageError> {
        let start = self.offset();
        let groups = match self.take(1)? {
            &[groups] if groups != 0 => groups,
            _ => return Err(PageError::new(start, PageReason::EmptyMask)),
        };
        let masks = self.take_masks(usize::from(ONES[usize::from(groups)]))?;
        let (mut lines, mut groups) = (0, groups);
        for &mask in masks {
            lines |= u64::from(mask) << ((8 * groups.trailing_zeros()) & 63);
            groups &= groups.wrapping_sub(1);
        }
        Ok(lines)
    }

    fn take_masks(&mut self, count: usize) -> Result<&'a [u8], PageError> {
        let offset = self.offset();
        let masks = self.take(count)?;
        match masks.iter().position(|&mask| mask == 0) {
            Some(at) => Err(PageError::new(offset + at, PageReason::EmptyMask)),
            None => Ok(masks),
        }
    }

    fn take_codes(&mut self, count: usize) -> Result<&'a [u8], PageError> {
        let codes = self.take(count.div_ceil(2))?;
        match codes.last() {
            Some(last) if count % 2 == 1 && last >> 4 != 0 => {
                Err(PageError::new(self.offset().saturating_sub(1), PageReason::Padding))
            }
            _ => Ok(codes),
        }
    }
}
