//! Reads page records. Nothing in a record is trusted.

use super::table::{APPLY, ESCAPE, LINE_LITERAL, LINE_ZERO, Moves, PAIR_LEN, WORD_MASKS};
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
    groups: u8,
    lines: &'a [u8],
    line_codes: [u8; LINES],
    word_masks: &'a [u8],
    word_codes: [u8; WORDS],
    byte_masks: &'a [u8],
    data: &'a [u8],
}

/// Cuts a body into its sections; `end` is where it ends in the record.
fn parse(body: &[u8], end: usize) -> Result<Diff<'_>, PageError> {
    let mut rest = Rest { bytes: body, end };
    let groups = match rest.take(1)? {
        &[groups] if groups != 0 => groups,
        _ => return Err(PageError::new(end - body.len(), PageReason::EmptyMask)),
    };
    let lines = rest.take_masks(groups.count_ones() as usize)?;
    let count = ones(lines);
    let line_codes = unpack_codes(rest.take_codes(count)?);
    let (mut literals, mut escapes, mut words) = (0, 0, 0);
    for &code in line_codes.iter().take(count) {
        literals += usize::from(code == LINE_LITERAL);
        escapes += usize::from(code == ESCAPE);
        words += WORD_MASKS[usize::from(code & 15)].count_ones() as usize;
    }
    let word_masks = rest.take_masks(escapes)?;
    let packed = rest.take_codes(words + ones(word_masks))?;
    let word_codes = unpack_codes(packed);
    let (mut escapes, mut data) = (0, literals * LINE);
    for &pair in packed {
        let [bytes, escaped] = PAIR_LEN[usize::from(pair)].to_le_bytes();
        data += usize::from(bytes);
        escapes += usize::from(escaped);
    }
    let byte_masks = rest.take_masks(escapes)?;
    let data = rest.take(data + ones(byte_masks))?;
    if !rest.bytes.is_empty() {
        return Err(PageError::new(rest.offset(), PageReason::Trailing { left: rest.bytes.len() }));
    }
    Ok(Diff { groups, lines, line_codes, word_masks, word_codes, byte_masks, data })
}

impl Diff<'_> {
    /// Makes the changes. `parse` has made sure that no section runs out here;
    /// if one did, the words concerned would be wrong, but nothing would panic.
    fn apply(&self, page: &mut Page) {
        let mut line_masks = self.lines.iter();
        let mut line_codes = self.line_codes.iter();
        let mut word_masks = self.word_masks.iter();
        let mut used = Used::default();
        for (bit, group) in page.as_chunks_mut::<{ 8 * LINE }>().0.iter_mut().enumerate() {
            if self.groups & (1 << bit) == 0 {
                continue;
            }
            let lines = group.as_chunks_mut::<LINE>().0;
            let mut left = line_masks.next().copied().unwrap_or(0);
            while left != 0 {
                let Some(line) = lines.get_mut(left.trailing_zeros() as usize) else { break };
                left &= left - 1;
                let code = line_codes.next().copied().unwrap_or(LINE_ZERO);
                let mut words = match code {
                    LINE_LITERAL => {
                        if let Some(bytes) = self.data.get(used.data..).and_then(<[u8]>::first_chunk) {
                            *line = *bytes;
                        }
                        used.data += LINE;
                        continue;
                    }
                    LINE_ZERO => {
                        line.fill(0);
                        continue;
                    }
                    ESCAPE => word_masks.next().copied().unwrap_or(0),
                    _ => WORD_MASKS[usize::from(code & 15)],
                };
                let line = line.as_chunks_mut::<8>().0;
                while words != 0 {
                    let Some(word) = line.get_mut(words.trailing_zeros() as usize) else { break };
                    words &= words - 1;
                    used = self.word(used, word);
                }
            }
        }
    }

    #[inline]
    fn word(&self, mut used: Used, word: &mut [u8; 8]) -> Used {
        // Masked, since the compiler does not know that there are no more words than codes.
        let code = self.word_codes[used.word_codes % WORDS];
        used.word_codes += 1;
        let old = u64::from_le_bytes(*word);
        let data = self.data.get(used.data..).unwrap_or_default();
        let data = data.first_chunk().map_or_else(|| short(data), |bytes| u64::from_le_bytes(*bytes));
        let apply = &APPLY[usize::from(code & 15)];
        let mut new = (old & apply.keep) | ((data << apply.shift) & apply.take) | (used.last & apply.repeat);
        used.data += usize::from(apply.len);
        if code == ESCAPE {
            let mask = self.byte_masks.get(used.byte_masks).copied().unwrap_or(0);
            used.byte_masks += 1;
            used.data += mask.count_ones() as usize;
            new = Moves::of(mask).unpack(data, old);
        }
        used.last = new;
        *word = new.to_le_bytes();
        used
    }
}

/// How much of each section was used up. Passed by value, to stay in registers.
#[derive(Clone, Copy, Default)]
struct Used {
    word_codes: usize,
    byte_masks: usize,
    data: usize,
    /// The word that the last word code produced.
    last: u64,
}

/// The last bytes of data, fewer than eight, with zeros behind.
#[cold]
fn short(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

/// Codes of four bits, two a byte, the first in the low half.
fn unpack_codes<const N: usize>(packed: &[u8]) -> [u8; N] {
    let mut codes = [0; N];
    for (codes, pair) in codes.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
        *codes = [pair & 15, pair >> 4];
    }
    codes
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
