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
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if let Some(avx512) = features.has_avx512()
        && avx512::change::<DENSE>(avx512, record, head, end, page, clear)
    {
        return Ok(());
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    let _ = features;
    let mut rest = Rest { bytes: record.get(head..end).unwrap_or_default(), end };
    let (lines, count) = rest.take_lines()?;
    ask_for(page, lines);
    // Data is read by eight bytes.
    let mut padded = [0; 8];
    let record = if record.len() < padded.len() {
        padded.iter_mut().zip(record).for_each(|(to, from)| *to = *from);
        &padded
    } else {
        record
    };
    if count <= FEW {
        return change_few::<DENSE>(record, rest, lines, count, page, clear);
    }
    change_many::<DENSE>(record, rest, lines, count, page, clear)
}

/// Lines up to which a diff is applied by [`change_few`]: a byte of a word for each.
const FEW: usize = 8;

/// For pages that change in few places: stores nothing but what changed, and does not read the page. Its memory is
/// hardly ever in a cache; so nothing waits for it, and several pages can be under way at once. What is listed is in registers.
#[inline(always)]
fn change_few<const DENSE: bool>(
    record: &[u8],
    mut rest: Rest<'_>,
    lines: u64,
    count: usize,
    page: &mut Page,
    clear: bool,
) -> Result<(), PageError> {
    // A byte for each line, the first one lowest: its code, the mask of its words, its number.
    let there = ONE_EACH >> ((64 - 8 * count) & 63);
    let codes = bytes_of(eight(record, rest.offset()));
    rest.take_codes(count)?;
    let (both, any) = (codes & codes >> 1, codes | codes >> 1);
    let escapes = in_bytes(both & both >> 2 & there);
    let literals = !(any | any >> 2) & there;
    let zeros = codes & !(codes >> 1 | any >> 2) & there;
    let mut escaped = eight(record, rest.offset());
    rest.take_masks(escapes)?;
    let (mut masks, mut numbers, mut words) = (0_u64, 0_u64, 0);
    let (mut left, mut each) = (lines, codes);
    for _ in 0..count {
        let code = each.to_le_bytes()[0] & 15;
        each >>= 8;
        let mask = if code == ESCAPE { escaped.to_le_bytes()[0] } else { WORD_MASKS[usize::from(code)] };
        escaped >>= if code == ESCAPE { 8 } else { 0 };
        words += usize::from(ONES[usize::from(mask)]);
        masks = masks << 8 | u64::from(mask);
        numbers = numbers << 8 | u64::from(left.trailing_zeros());
        left &= left.wrapping_sub(1);
    }
    masks = masks.swap_bytes() >> ((64 - 8 * count) & 63);
    numbers = numbers.swap_bytes() >> ((64 - 8 * count) & 63);
    let first = rest.offset();
    let packed = rest.take_codes(words)?;
    let mut len = LINE * in_bytes(literals);
    len +=
        packed.iter().map(|&pair| usize::from(word_codes(DENSE).pair_len[usize::from(pair)])).sum::<usize>();
    let data = rest.offset();
    rest.finish(len)?;

    if clear {
        page.fill(0);
    }
    let mut data = Data::new(record, data);
    let mut left = literals | zeros;
    while left != 0 {
        let place = left.trailing_zeros();
        left &= left - 1;
        let line = if literals >> place & 1 != 0 { data.line() } else { [0; LINE] };
        page.as_chunks_mut::<LINE>().0[usize::from((numbers >> place).to_le_bytes()[0]) % LINES] = line;
    }
    // All words of all lines in one loop, whose end alone has to be guessed.
    for word in 0..words {
        if word % 16 == 0 {
            each = eight(record, first + word / 2);
        }
        let code = each.to_le_bytes()[0] & 15;
        each >>= 4;
        let place = masks.trailing_zeros() as usize;
        masks &= masks.wrapping_sub(1);
        let line = usize::from((numbers >> (place & 56)).to_le_bytes()[0]) % LINES;
        let at = 8 * line + place % 8;
        store::<DENSE>(page, at, code, &mut data);
    }
    Ok(())
}

const ONE_EACH: u64 = u64::from_le_bytes([1; 8]);

/// A byte for each of the first eight half bytes.
#[inline(always)]
fn bytes_of(halves: u64) -> u64 {
    let fours = (halves & 0xffff) | (halves & 0xffff_0000) << 16;
    let pairs = (fours | fours << 8) & 0x00ff_00ff_00ff_00ff;
    (pairs | pairs << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// How many bytes are 1; the others are 0.
#[inline(always)]
fn in_bytes(ones: u64) -> usize {
    ones.wrapping_mul(ONE_EACH).to_le_bytes()[7].into()
}

/// The eight bytes from `at` on, and anything for those that are not there.
#[inline(always)]
fn eight(record: &[u8], at: usize) -> u64 {
    Data::new(record, at).word(0)
}

/// For pages that change in many places.
#[inline(never)]
fn change_many<const DENSE: bool>(
    record: &[u8],
    mut rest: Rest<'_>,
    lines: u64,
    count: usize,
    page: &mut Page,
    clear: bool,
) -> Result<(), PageError> {
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

/// Changes a word without reading it.
#[inline(always)]
fn store<const DENSE: bool>(page: &mut Page, at: usize, code: u8, data: &mut Data<'_>) {
    let run = &word_codes(DENSE).runs[usize::from(code & 15)];
    let data = data.word(run.len) & run.low;
    if run.copy {
        let words = page.as_chunks_mut::<8>().0;
        let from = if DENSE && run.refer { referred(at, data.to_le_bytes()[0]) } else { at.wrapping_sub(1) };
        words[at % WORDS] = words.get(from).copied().unwrap_or_default();
        return;
    }
    let (start, stored) = (8 * at + usize::from(run.start), usize::from(run.stored));
    let Some(to) = page.get_mut(start..start + stored) else { return };
    // As pieces that overlap: one branch for all lengths.
    if let Some(above) = stored.checked_sub(4) {
        put::<4>(to, 0, data);
        put::<4>(to, above, data);
    } else {
        put::<1>(to, 0, data);
        put::<1>(to, stored / 2, data);
        put::<1>(to, stored.saturating_sub(1), data);
    }
}

/// The word that code *refer* names; beyond all words if there is none.
#[inline(always)]
fn referred(at: usize, data: u8) -> usize {
    at.wrapping_sub(2 + usize::from(data))
}

/// Sets `L` bytes from `at` on to those at the same place of `data`.
#[inline(always)]
fn put<const L: usize>(to: &mut [u8], at: usize, data: u64) {
    let data = (data >> ((8 * at) & 63)).to_le_bytes();
    if let (Some(to), Some(from)) =
        (to.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<L>), data.first_chunk())
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

    /// The mask of all 64 lines, from that of the groups and those of the lines of each, and how many lines it names.
    #[inline(always)]
    fn take_lines(&mut self) -> Result<(u64, usize), PageError> {
        let start = self.offset();
        let groups = match self.take(1)? {
            &[groups] if groups != 0 => groups,
            _ => return Err(PageError::new(start, PageReason::EmptyMask)),
        };
        let masks = self.take_masks(usize::from(ONES[usize::from(groups)]))?;
        let (mut lines, mut count, mut groups) = (0, 0, groups);
        for &mask in masks {
            count += usize::from(ONES[usize::from(mask)]);
            lines |= u64::from(mask) << ((8 * groups.trailing_zeros()) & 63);
            groups &= groups.wrapping_sub(1);
        }
        Ok((lines, count))
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
