//! Writes page records.

use super::scan::{Changes, is_zero, scan};
use super::table::{self, APPLY, ESCAPE, EXTEND, LINE_CODES, REPLACE, narrow};
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
    lines: usize,
    word_masks: [u8; LINES],
    escaped_lines: usize,
    word_codes: [u8; WORDS],
    words: usize,
    byte_masks: [u8; WORDS],
    escaped_words: usize,
    out: &'a mut [u8; MAX_RECORD],
    /// Bytes of data, from [`DATA`] on.
    data: usize,
    /// The word that the last word code produced.
    last: u64,
}

/// Writes a diff record; `None` if the page as it is would be as short.
fn diff(kind: Kind, changes: &Changes, old: &Page, new: &Page, out: &mut [u8; MAX_RECORD]) -> Option<usize> {
    let mut sections = Sections {
        line_codes: [0; LINES],
        lines: 0,
        word_masks: [0; LINES],
        escaped_lines: 0,
        word_codes: [0; WORDS],
        words: 0,
        byte_masks: [0; WORDS],
        escaped_words: 0,
        out,
        data: 0,
        last: 0,
    };
    let (old, new) = (old.as_chunks::<LINE>().0, new.as_chunks::<LINE>().0);
    let mut lines = u64::from_le_bytes(changes.lines);
    while lines != 0 {
        let line = lines.trailing_zeros() as usize;
        lines &= lines - 1;
        sections.line(changes.words[line], &old[line], &new[line])?;
    }
    sections.finish(kind, &changes.lines)
}

impl Sections<'_> {
    fn line(&mut self, mask: u8, old: &[u8; LINE], new: &[u8; LINE]) -> Option<()> {
        let before = (self.words, self.escaped_words, self.data, self.last);
        let (old, words) = (old.as_chunks::<8>().0, new.as_chunks::<8>().0);
        if words.iter().fold(0, |any, word| any | u64::from_ne_bytes(*word)) == 0 {
            self.line_code(table::LINE_ZERO);
            return Some(());
        }
        let mut left = mask;
        while left != 0 {
            let word = left.trailing_zeros() as usize;
            left &= left - 1;
            self.word(u64::from_le_bytes(old[word]), u64::from_le_bytes(words[word]))?;
        }
        let code = LINE_CODES[usize::from(mask)];
        let bytes = self.escaped_words - before.1 + self.data - before.2 + usize::from(code == ESCAPE);
        // In half bytes, as word codes are.
        if 2 * bytes + (self.words - before.0) < 2 * LINE {
            self.line_code(code);
            if code == ESCAPE {
                self.word_masks[self.escaped_lines] = mask;
                self.escaped_lines += 1;
            }
        } else {
            (self.words, self.escaped_words, self.data, self.last) = before;
            self.line_code(table::LINE_LITERAL);
            *self.out.get_mut(DATA + self.data..)?.first_chunk_mut()? = *new;
            self.data += LINE;
        }
        Some(())
    }

    fn word(&mut self, old: u64, new: u64) -> Option<()> {
        let mask = narrow(old ^ new);
        let extend = EXTEND[8 - new.leading_zeros() as usize / 8];
        let replace = REPLACE[usize::from(mask)];
        let mut choice = if extend.cost <= replace.cost { extend } else { replace };
        if new == self.last && new != 0 {
            choice.code = table::WORD_REPEAT;
        }
        self.word_codes[self.words] = choice.code;
        self.words += 1;
        self.last = new;
        let (data, len) = if choice.code == ESCAPE {
            self.byte_masks[self.escaped_words] = mask;
            self.escaped_words += 1;
            (pack(new, mask), mask.count_ones() as usize)
        } else {
            let apply = &APPLY[usize::from(choice.code)];
            (new >> apply.shift, usize::from(apply.len))
        };
        // All eight bytes: what is too much is overwritten by the next word.
        *self.out.get_mut(DATA + self.data..)?.first_chunk_mut()? = data.to_le_bytes();
        self.data += len;
        Some(())
    }

    fn line_code(&mut self, code: u8) {
        self.line_codes[self.lines] = code;
        self.lines += 1;
    }

    /// Puts the sections in order; `None` if the record is no shorter than a raw one.
    fn finish(self, kind: Kind, lines: &[u8; LINES / 8]) -> Option<usize> {
        let groups = lines.iter().filter(|&&group| group != 0).count();
        let masks = 1
            + groups
            + self.lines.div_ceil(2)
            + self.escaped_lines
            + self.words.div_ceil(2)
            + self.escaped_words;
        let body = masks + self.data;
        let mut length = [0; MAX_VARINT];
        let length_len = varint::write(body as u64, &mut length);
        let head = 1 + length_len;
        if head + body > PAGE {
            return None;
        }
        self.out.copy_within(DATA..DATA + self.data, head + masks);
        let mut out = Out { bytes: self.out, at: 0 };
        out.put(&[kind as u8]);
        out.put(&length[..length_len]);
        let mut group_mask = 0;
        for (bit, &group) in lines.iter().enumerate() {
            group_mask |= u8::from(group != 0) << bit;
        }
        out.put(&[group_mask]);
        for &group in lines.iter().filter(|&&group| group != 0) {
            out.put(&[group]);
        }
        out.put_codes(&self.line_codes[..self.lines]);
        out.put(&self.word_masks[..self.escaped_lines]);
        out.put_codes(&self.word_codes[..self.words]);
        out.put(&self.byte_masks[..self.escaped_words]);
        Some(head + body)
    }
}

/// The bytes of `word` that `mask` marks, moved together.
fn pack(word: u64, mut mask: u8) -> u64 {
    let (mut packed, mut shift) = (0, 0);
    while mask != 0 {
        packed |= (word >> (8 * mask.trailing_zeros()) & 0xff) << shift;
        shift += 8;
        mask &= mask - 1;
    }
    packed
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
