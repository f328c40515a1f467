//! Writes page records.

use super::scan::{Changes, is_zero, scan};
use super::table::{self, APPLY, ESCAPE, EXTEND, LINE_CODES, Moves, REPLACE, narrow};
use super::varint::{self, MAX_VARINT};
use super::{Encoded, Kind, LINE, LINES, MAX_RECORD, PAGE, Page, WORDS, ZEROS};

/// Encodes `new` into the front of `out`, against `old` if there is an old copy.
///
/// The receiver must hold the same old copy. The record is never longer than
/// the page and its kind byte; bytes of `out` behind it are left unspecified.
pub fn encode(old: Option<&Page>, new: &Page, out: &mut [u8; MAX_RECORD]) -> Encoded {
    let (base, kind) = match old {
        Some(old) => (old, Kind::Diff),
        None => (&ZEROS, Kind::Sparse),
    };
    let changes = scan(base, new);
    let kind = if changes.is_empty() {
        if old.is_some() { Kind::Unchanged } else { Kind::Zero }
    } else if old.is_some() && is_zero(new) {
        Kind::Zero
    } else {
        if let Some(len) = diff(kind, &changes, base, new, out) {
            return Encoded { kind, len };
        }
        out[1..].copy_from_slice(new);
        Kind::Raw
    };
    out[0] = kind as u8;
    Encoded { kind, len: if kind == Kind::Raw { MAX_RECORD } else { 1 } }
}

/// Where the data is collected, until the length of what comes before it is known.
const DATA: usize = 3;

/// The sections of a diff while it grows. Codes are packed in pairs at the end.
struct Sections<'a> {
    line_codes: [u8; LINES],
    word_masks: [u8; LINES],
    word_codes: [u8; WORDS],
    byte_masks: [u8; WORDS],
    out: &'a mut [u8; MAX_RECORD],
}

/// How far each section is filled. Passed by value, to stay in registers.
#[derive(Clone, Copy, Default)]
struct Filled {
    line_codes: usize,
    word_masks: usize,
    word_codes: usize,
    byte_masks: usize,
    /// Bytes of data, from [`DATA`] on.
    data: usize,
    /// The word that the last word code produced.
    last: u64,
}

/// Writes a diff record; `None` if the page as it is would be as short.
fn diff(kind: Kind, changes: &Changes, old: &Page, new: &Page, out: &mut [u8; MAX_RECORD]) -> Option<usize> {
    let mut sections = Sections {
        line_codes: [0; LINES],
        word_masks: [0; LINES],
        word_codes: [0; WORDS],
        byte_masks: [0; WORDS],
        out,
    };
    let mut filled = Filled::default();
    let (old, new) = (old.as_chunks::<LINE>().0, new.as_chunks::<LINE>().0);
    let mut lines = u64::from_le_bytes(changes.lines);
    while lines != 0 {
        let line = lines.trailing_zeros() as usize;
        lines &= lines - 1;
        filled = sections.line(filled, changes.words[line], &old[line], &new[line])?;
    }
    sections.finish(&filled, kind, &changes.lines)
}

impl Sections<'_> {
    #[inline]
    fn line(&mut self, before: Filled, mask: u8, old: &[u8; LINE], new: &[u8; LINE]) -> Option<Filled> {
        let (old, words) = (old.as_chunks::<8>().0, new.as_chunks::<8>().0);
        if words.iter().fold(0, |any, word| any | u64::from_ne_bytes(*word)) == 0 {
            return Some(self.line_code(before, table::LINE_ZERO));
        }
        let mut filled = before;
        let mut left = mask;
        while left != 0 {
            let word = left.trailing_zeros() as usize;
            left &= left - 1;
            filled = self.word(filled, u64::from_le_bytes(old[word]), u64::from_le_bytes(words[word]))?;
        }
        let code = LINE_CODES[usize::from(mask)];
        let masks = filled.byte_masks - before.byte_masks + usize::from(code == ESCAPE);
        let bytes = masks + filled.data - before.data;
        // In half bytes, as word codes are.
        if 2 * bytes + (filled.word_codes - before.word_codes) >= 2 * LINE {
            *self.out.get_mut(DATA + before.data..)?.first_chunk_mut()? = *new;
            return Some(self.line_code(Filled { data: before.data + LINE, ..before }, table::LINE_LITERAL));
        }
        if code == ESCAPE {
            self.word_masks[filled.word_masks] = mask;
            filled.word_masks += 1;
        }
        Some(self.line_code(filled, code))
    }

    #[inline]
    fn word(&mut self, mut filled: Filled, old: u64, new: u64) -> Option<Filled> {
        let mask = narrow(old ^ new);
        let significant = 8 - new.leading_zeros() as usize / 8;
        let mut choice = EXTEND[significant].min(REPLACE[usize::from(mask)]);
        if new == filled.last {
            choice = choice.min(table::REPEAT);
        }
        let code = choice & 15;
        self.word_codes[filled.word_codes] = code;
        filled.word_codes += 1;
        filled.last = new;
        let (data, len) = if code == ESCAPE {
            self.byte_masks[filled.byte_masks] = mask;
            filled.byte_masks += 1;
            (Moves::of(mask).pack(new), mask.count_ones() as usize)
        } else {
            let apply = &APPLY[usize::from(code)];
            (new >> apply.shift, usize::from(apply.len))
        };
        // All eight bytes: what is too much is overwritten by the next word.
        *self.out.get_mut(DATA + filled.data..)?.first_chunk_mut()? = data.to_le_bytes();
        filled.data += len;
        Some(filled)
    }

    #[inline]
    fn line_code(&mut self, mut filled: Filled, code: u8) -> Filled {
        self.line_codes[filled.line_codes] = code;
        filled.line_codes += 1;
        filled
    }

    /// Puts the sections in order; `None` if the record is no shorter than a raw one.
    fn finish(self, filled: &Filled, kind: Kind, lines: &[u8; LINES / 8]) -> Option<usize> {
        let mut line_masks = [0; LINES / 8];
        let (mut group_mask, mut groups) = (0, 0);
        for (bit, &mask) in lines.iter().enumerate() {
            // Without a branch: a mask of 0 is overwritten by the next one.
            line_masks[groups] = mask;
            groups += usize::from(mask != 0);
            group_mask |= u8::from(mask != 0) << bit;
        }
        let codes = filled.line_codes.div_ceil(2) + filled.word_codes.div_ceil(2);
        let masks = 1 + groups + filled.word_masks + filled.byte_masks;
        let body = codes + masks + filled.data;
        let mut length = [0; MAX_VARINT];
        let length_len = varint::write(body as u64, &mut length);
        let head = 1 + length_len;
        if head + body > PAGE {
            return None;
        }
        self.out.copy_within(DATA..DATA + filled.data, head + codes + masks);
        let mut out = Out { bytes: self.out, at: 0 };
        out.put(&[kind as u8]);
        out.put(&length[..length_len]);
        out.put(&[group_mask]);
        out.put(&line_masks[..groups]);
        out.put_codes(&self.line_codes[..filled.line_codes]);
        out.put(&self.word_masks[..filled.word_masks]);
        out.put_codes(&self.word_codes[..filled.word_codes]);
        out.put(&self.byte_masks[..filled.byte_masks]);
        Some(head + body)
    }
}

struct Out<'a> {
    bytes: &'a mut [u8; MAX_RECORD],
    at: usize,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// Two codes a byte, the first in the low half.
    fn put_codes(&mut self, codes: &[u8]) {
        let (pairs, last) = codes.as_chunks::<2>();
        let packed = &mut self.bytes[self.at..self.at + codes.len().div_ceil(2)];
        for (byte, [low, high]) in packed.iter_mut().zip(pairs) {
            *byte = low | high << 4;
        }
        if let ([.., byte], [low]) = (&mut *packed, last) {
            *byte = *low;
        }
        self.at += packed.len();
    }
}
