//! Reads page records. Nothing in a record is trusted.

use super::table::{APPLY, ESCAPE, LINE_LITERAL, LINE_ZERO, ONES, PAIR_LEN, PLACES, WORD_MASKS};
use super::varint::{self, VarintError};
use super::{Kind, LINE, LINES, MAX_RECORD, PAGE, Page, PageError, PageReason, WORDS};

/// Decodes the record at the front of `record` onto `page`, and returns the record's length in bytes.
///
/// `page` holds the old copy if `have_old`; without it, its content does not matter.
/// What follows the record in `record` is not looked at.
///
/// # Errors
///
/// The record is malformed, or needs an old copy and there is none. Then `page`
/// is as it was: a record is validated whole before any of it is applied.
pub fn decode(record: &[u8], page: &mut Page, have_old: bool) -> Result<usize, PageError> {
    let (kind, body, len) = split(record)?;
    if kind.needs_old() && !have_old {
        return Err(PageError::new(0, PageReason::NeedsOld(kind)));
    }
    match kind {
        Kind::Unchanged => {}
        Kind::Zero => page.fill(0),
        Kind::Raw => page.copy_from_slice(body),
        Kind::Diff => parse(body, len)?.apply(page),
        Kind::Sparse => {
            let diff = parse(body, len)?;
            page.fill(0);
            diff.apply(page);
        }
    }
    Ok(len)
}

/// Length in bytes of the record at the front of `record`, all of which is there.
/// The content of a diff is not checked.
///
/// # Errors
///
/// No record of a known kind starts here, or it is cut short.
pub fn record_len(record: &[u8]) -> Result<usize, PageError> {
    split(record).map(|(.., len)| len)
}

/// Kind, body and whole length of the record at the front of `record`.
fn split(record: &[u8]) -> Result<(Kind, &[u8], usize), PageError> {
    let Some((&byte, rest)) = record.split_first() else {
        return Err(PageError::new(0, PageReason::Truncated { need: 1, have: 0 }));
    };
    let kind = Kind::from_byte(byte).ok_or_else(|| PageError::new(0, PageReason::UnknownKind(byte)))?;
    let (body_len, head) = match kind {
        Kind::Unchanged | Kind::Zero => (0, 1),
        Kind::Raw => (PAGE, 1),
        Kind::Diff | Kind::Sparse => {
            let (len, bytes) = varint::read(rest).map_err(|error| {
                let reason = match error {
                    VarintError::Truncated => {
                        PageReason::Truncated { need: rest.len().saturating_add(1), have: rest.len() }
                    }
                    VarintError::Malformed => PageReason::BadLength,
                };
                PageError::new(1, reason)
            })?;
            match usize::try_from(len) {
                Ok(len) if len < MAX_RECORD => (len, 1 + bytes),
                _ => return Err(PageError::new(1, PageReason::BadLength)),
            }
        }
    };
    let have = record.len().saturating_sub(head);
    let body = record
        .get(head..)
        .and_then(|rest| rest.get(..body_len))
        .ok_or_else(|| PageError::new(head, PageReason::Truncated { need: body_len, have }))?;
    Ok((kind, body, head + body_len))
}

/// A diff whose sections fit together and hold exactly what [`Diff::apply`] will take from them.
struct Diff<'a> {
    /// Lines that became zero, and how many.
    zeros: ([u8; LINES], usize),
    /// Lines that go as they are, and how many.
    literals: ([u8; LINES], usize),
    /// Numbers of the words that have a code. (As many as there are lines may be written at once.)
    at: [u16; WORDS + 8],
    codes: [u8; WORDS + 8],
    words: usize,
    data: &'a [u8],
}

/// Cuts a body into its sections; `end` is where it ends in the record.
#[inline(always)]
fn parse(body: &[u8], end: usize) -> Result<Diff<'_>, PageError> {
    let mut rest = Rest { bytes: body, end };
    let groups = match rest.take(1)? {
        &[groups] if groups != 0 => groups,
        _ => return Err(PageError::new(end - body.len(), PageReason::EmptyMask)),
    };
    let lines = spread(groups, rest.take_masks(ones(&[groups]))?);
    let count = lines.count_ones() as usize;
    let line_codes = rest.take_codes(count)?;
    let code_of = |i: usize| line_codes.get(i / 2).map_or(0, |pair| pair >> (4 * (i & 1)) & 15);
    let escapes = (0..count).filter(|i| code_of(*i) == ESCAPE).count();
    let word_masks = rest.take_masks(escapes)?;

    let mut diff = Diff {
        zeros: ([0; LINES], 0),
        literals: ([0; LINES], 0),
        at: [0; WORDS + 8],
        codes: [0; WORDS + 8],
        words: 0,
        data: &[],
    };
    let mut left = lines;
    let mut escapes = 0;
    // Without branches: what does not count is overwritten by the next line's.
    for i in 0..count {
        let line = left.trailing_zeros().to_le_bytes()[0] & 63;
        left &= left.wrapping_sub(1);
        let code = code_of(i);
        diff.zeros.0[diff.zeros.1 % LINES] = line;
        diff.zeros.1 += usize::from(code == LINE_ZERO);
        diff.literals.0[diff.literals.1 % LINES] = line;
        diff.literals.1 += usize::from(code == LINE_LITERAL);
        let escaped = word_masks.get(escapes).copied().unwrap_or(0);
        escapes += usize::from(code == ESCAPE);
        let mask = if code == ESCAPE { escaped } else { WORD_MASKS[usize::from(code & 15)] };
        if let Some(to) = diff.at.get_mut(diff.words..).and_then(<[u16]>::first_chunk_mut) {
            let first = 8 * u16::from(line);
            *to = PLACES[usize::from(mask)].map(|place| place + first);
        }
        diff.words += usize::from(ONES[usize::from(mask)]);
    }
    let packed = rest.take_codes(diff.words)?;
    let mut len = diff.literals.1 * LINE;
    for (codes, &pair) in diff.codes.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
        *codes = [pair & 15, pair >> 4];
        len += usize::from(PAIR_LEN[usize::from(pair)]);
    }
    diff.data = rest.take(len)?;
    if !rest.bytes.is_empty() {
        return Err(PageError::new(rest.offset(), PageReason::Trailing { left: rest.bytes.len() }));
    }
    Ok(diff)
}

/// The mask of all 64 lines from that of the groups and those of the lines of each.
#[inline(always)]
fn spread(groups: u8, masks: &[u8]) -> u64 {
    let mut masks = masks.iter();
    let mut lines = [0; 8];
    for (bit, lines) in lines.iter_mut().enumerate() {
        if groups >> bit & 1 != 0 {
            *lines = masks.next().copied().unwrap_or(0);
        }
    }
    u64::from_le_bytes(lines)
}

impl Diff<'_> {
    /// Makes the changes. `parse` has made sure that no section runs out here;
    /// if one did, the words concerned would be wrong, but nothing would panic.
    #[inline(always)]
    fn apply(&self, page: &mut Page) {
        let lines = page.as_chunks_mut::<LINE>().0;
        for &line in self.zeros.0.iter().take(self.zeros.1) {
            lines[usize::from(line) % LINES] = [0; LINE];
        }
        let (literals, data) = self
            .data
            .as_chunks::<LINE>()
            .0
            .split_at_checked(self.literals.1)
            .map_or((&[][..], self.data), |(literals, _)| {
                (literals, self.data.get(LINE * literals.len()..).unwrap_or_default())
            });
        for (&line, literal) in self.literals.0.iter().zip(literals) {
            lines[usize::from(line) % LINES] = *literal;
        }
        let words = page.as_chunks_mut::<8>().0;
        let mut codes = self.at.iter().zip(&self.codes).take(self.words);
        let mut state = State { data: 0, at: WORDS, word: 0 };
        // As long as eight bytes can be read at once; then from a copy behind which there is more.
        while let Some(bytes) = data.get(state.data..).and_then(<[u8]>::first_chunk) {
            let Some((&at, &code)) = codes.next() else { return };
            state.step(words, at, code, u64::from_le_bytes(*bytes));
        }
        let mut tail = [0; 16];
        let rest = data.get(state.data..).unwrap_or_default();
        for (to, from) in tail.iter_mut().zip(rest) {
            *to = *from;
        }
        state.data = 0;
        for (&at, &code) in codes {
            let bytes = tail.get(state.data..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
            state.step(words, at, code, u64::from_le_bytes(bytes));
        }
    }
}

/// Between two words.
struct State {
    /// Bytes of data used up.
    data: usize,
    /// Number and new value of the word that was changed last.
    at: usize,
    word: u64,
}

impl State {
    #[inline(always)]
    fn step(&mut self, words: &mut [[u8; 8]], at: u16, code: u8, data: u64) {
        let at = usize::from(at) % WORDS;
        let apply = &APPLY[usize::from(code & 15)];
        // What was stored just now is quicker had from a register.
        let before = at.wrapping_sub(1);
        let stored = words.get(before).map_or(0, |word| u64::from_le_bytes(*word));
        let before = if before == self.at { self.word } else { stored };
        let Some(word) = words.get_mut(at) else { return };
        let old = u64::from_le_bytes(*word);
        let new = (old & apply.keep) | ((data << (apply.shift & 63)) & apply.take) | (before & apply.repeat);
        *word = new.to_le_bytes();
        self.data += usize::from(apply.len);
        (self.at, self.word) = (at, new);
    }
}

fn ones(masks: &[u8]) -> usize {
    masks.iter().map(|mask| mask.count_ones() as usize).sum()
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
