//! Reads page records. Nothing in a record is trusted.

use super::table::{APPLY, ESCAPE, LINE_LITERAL, LINE_ZERO, PAIR_LEN, WORD_MASKS, widen};
use super::varint::{self, VarintError};
use super::{Kind, LINE, MAX_RECORD, PAGE, Page, PageError, PageReason};

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
    line_codes: &'a [u8],
    word_masks: &'a [u8],
    word_codes: &'a [u8],
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
    let line_codes = rest.take_codes(count)?;
    let (mut literals, mut escapes, mut words) = (0, 0, 0);
    for code in Codes::new(line_codes).take(count) {
        literals += usize::from(code == LINE_LITERAL);
        escapes += usize::from(code == ESCAPE);
        words += WORD_MASKS[usize::from(code & 15)].count_ones() as usize;
    }
    let word_masks = rest.take_masks(escapes)?;
    let word_codes = rest.take_codes(words + ones(word_masks))?;
    let (mut escapes, mut data) = (0, literals * LINE);
    for &pair in word_codes {
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
        let mut line_codes = Codes::new(self.line_codes);
        let mut word_masks = self.word_masks.iter().copied();
        let mut words = Words {
            codes: Codes::new(self.word_codes),
            masks: self.byte_masks.iter(),
            data: self.data,
            last: 0,
        };
        for (bit, group) in page.as_chunks_mut::<{ 8 * LINE }>().0.iter_mut().enumerate() {
            if self.groups & (1 << bit) == 0 {
                continue;
            }
            let lines = group.as_chunks_mut::<LINE>().0;
            let mut left = line_masks.next().copied().unwrap_or(0);
            while left != 0 {
                let Some(line) = lines.get_mut(left.trailing_zeros() as usize) else { break };
                left &= left - 1;
                match line_codes.next() {
                    Some(LINE_LITERAL) => words.literal(line),
                    Some(LINE_ZERO) => line.fill(0),
                    Some(ESCAPE) => words.line(word_masks.next().unwrap_or(0), line),
                    Some(code) => words.line(WORD_MASKS[usize::from(code & 15)], line),
                    None => {}
                }
            }
        }
    }
}

/// The sections from which words are made, as far as they are left.
struct Words<'a> {
    codes: Codes<'a>,
    masks: core::slice::Iter<'a, u8>,
    data: &'a [u8],
    last: u64,
}

impl Words<'_> {
    fn literal(&mut self, line: &mut [u8; LINE]) {
        if let Some((bytes, rest)) = self.data.split_first_chunk() {
            *line = *bytes;
            self.data = rest;
        }
    }

    fn line(&mut self, mut mask: u8, line: &mut [u8; LINE]) {
        let words = line.as_chunks_mut::<8>().0;
        while mask != 0 {
            let Some(word) = words.get_mut(mask.trailing_zeros() as usize) else { break };
            mask &= mask - 1;
            let code = self.codes.next().unwrap_or(0);
            let data = peek(self.data);
            let old = u64::from_le_bytes(*word);
            let (new, len) = if code == ESCAPE {
                let mask = self.masks.next().copied().unwrap_or(0);
                ((old & !widen(mask)) | unpack(data, mask), mask.count_ones() as usize)
            } else {
                let apply = &APPLY[usize::from(code & 15)];
                let new =
                    (old & apply.keep) | ((data << apply.shift) & apply.take) | (self.last & apply.repeat);
                (new, usize::from(apply.len))
            };
            *word = new.to_le_bytes();
            self.last = new;
            self.data = self.data.get(len..).unwrap_or(&[]);
        }
    }
}

/// The next eight bytes of data; zeros where it ends before.
fn peek(data: &[u8]) -> u64 {
    if let Some(bytes) = data.first_chunk() {
        return u64::from_le_bytes(*bytes);
    }
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

/// The low bytes of `data`, moved to the places that `mask` marks.
fn unpack(mut data: u64, mut mask: u8) -> u64 {
    let mut word = 0;
    while mask != 0 {
        word |= (data & 0xff) << (8 * mask.trailing_zeros());
        data >>= 8;
        mask &= mask - 1;
    }
    word
}

fn ones(masks: &[u8]) -> usize {
    masks.iter().map(|mask| mask.count_ones() as usize).sum()
}

/// Codes of four bits, two a byte, the first in the low half.
struct Codes<'a> {
    bytes: core::slice::Iter<'a, u8>,
    high: Option<u8>,
}

impl<'a> Codes<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.iter(), high: None }
    }
}

impl Iterator for Codes<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        if let Some(high) = self.high.take() {
            return Some(high);
        }
        let byte = self.bytes.next()?;
        self.high = Some(byte >> 4);
        Some(byte & 15)
    }
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
