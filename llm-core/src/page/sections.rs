//! The parts of a diff while they grow, and the record that they become.

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
use super::scan::Wide;
use super::table::{self, ESCAPE, LINE_LITERAL};
use super::varint::{self, MAX_VARINT};
use super::{Kind, LINE, LINES, MAX_RECORD, PAGE, Page, WORDS};

/// Bytes behind the end of a part, so that whole registers can be stored and what is too much overwritten.
pub(super) const SLACK: usize = 2 * LINE;

/// The parts of a diff. They are never cleared: [`Filled`] says what of them counts.
#[derive(Clone, Debug)]
pub(super) struct Sections {
    /// A code for each changed line.
    pub(super) line_codes: [u8; LINES + SLACK],
    /// Masks of the lines whose code is an escape.
    pub(super) word_masks: [u8; LINES + SLACK],
    /// A code for each changed word of the other lines.
    pub(super) word_codes: [u8; WORDS + SLACK],
    /// Lines that go as they are.
    pub(super) literals: [u8; PAGE + SLACK],
    /// What the word codes ask for.
    pub(super) data: [u8; PAGE + SLACK],
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    pub(super) wide: Wide,
}

/// How far each part is filled. Passed by value, to stay in registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filled {
    /// The changed lines: bit n of byte g is line 8g + n. 0 if the pages are equal.
    pub(super) lines: u64,
    pub(super) line_codes: usize,
    pub(super) word_masks: usize,
    pub(super) word_codes: usize,
    /// Bytes, a multiple of 64.
    pub(super) literals: usize,
    /// Bytes. A line takes less than 64, or it would have been a literal.
    pub(super) data: usize,
}

impl Filled {
    /// Writes what is ahead of the body; its length, and the record's. `None` if that is no shorter than a raw one.
    #[inline(always)]
    pub(super) fn start(
        &self,
        kind: Kind,
        groups: usize,
        out: &mut [u8; MAX_RECORD],
    ) -> Option<(usize, usize)> {
        let codes = self.line_codes.div_ceil(2) + self.word_codes.div_ceil(2);
        let body = 1 + groups + self.word_masks + codes + self.literals + self.data;
        let mut length = [0; MAX_VARINT];
        let length_len = varint::write(body as u64, &mut length);
        let head = 1 + length_len;
        if head + body > PAGE {
            return None;
        }
        out[0] = kind as u8;
        out[1] = length[0];
        out[2] = length[1];
        Some((head, head + body))
    }
}

impl Sections {
    pub(super) const NEW: Self = Self {
        line_codes: [0; LINES + SLACK],
        word_masks: [0; LINES + SLACK],
        word_codes: [0; WORDS + SLACK],
        literals: [0; PAGE + SLACK],
        data: [0; PAGE + SLACK],
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
        wide: Wide::NEW,
    };

    /// Adds a line whose words of `mask` changed and have their codes and data: the number of the code is
    /// kept as it is, so that this needs no branch.
    #[inline(always)]
    pub(super) fn line(&mut self, filled: &mut Filled, mask: u8) {
        let code = table::LINE_CODES[usize::from(mask)];
        self.word_masks[filled.word_masks % LINES] = mask;
        filled.word_masks += usize::from(code == ESCAPE);
        self.line_code(filled, code);
    }

    #[inline(always)]
    pub(super) fn line_code(&mut self, filled: &mut Filled, code: u8) {
        self.line_codes[filled.line_codes % LINES] = code;
        filled.line_codes += 1;
    }

    #[inline(always)]
    pub(super) fn literal(&mut self, filled: &mut Filled, line: &[u8; LINE]) {
        if let Some(to) = self.literals.get_mut(filled.literals..).and_then(<[u8]>::first_chunk_mut) {
            *to = *line;
        }
        filled.literals += LINE;
        self.line_code(filled, LINE_LITERAL);
    }

    /// Puts the parts in order; `None` if the record is no shorter than a raw one.
    pub(super) fn finish(&self, filled: &Filled, kind: Kind, out: &mut [u8; MAX_RECORD]) -> Option<usize> {
        self.finish_with(filled, kind, out, |from, to| {
            let (fours, rest) = to.as_chunks_mut::<4>();
            let (eights, last) = from.as_chunks::<8>();
            fours.iter_mut().zip(eights).for_each(|(four, eight)| *four = pack(eight));
            rest.iter_mut()
                .zip(last.as_chunks::<2>().0)
                .for_each(|(byte, pair)| *byte = pair[0] | pair[1] << 4);
        })
    }

    /// The same; `pack` puts two codes each into bytes, the first in the low half.
    #[inline(always)]
    pub(super) fn finish_with(
        &self,
        filled: &Filled,
        kind: Kind,
        out: &mut [u8; MAX_RECORD],
        pack: impl Fn(&[u8], &mut [u8]),
    ) -> Option<usize> {
        let mut line_masks = [0; LINES / 8];
        let (mut group_mask, mut groups) = (0, 0);
        for (bit, &mask) in filled.lines.to_le_bytes().iter().enumerate() {
            // Without a branch: a mask of 0 is overwritten by the next one.
            line_masks[groups] = mask;
            groups += usize::from(mask != 0);
            group_mask |= u8::from(mask != 0) << bit;
        }
        let (head, len) = filled.start(kind, groups, out)?;
        out[head] = group_mask;
        let mut out = Out { bytes: out, at: head + 1 };
        out.put_few(&line_masks, groups);
        out.put_codes(&self.line_codes, filled.line_codes, &pack);
        out.put(&self.word_masks[..filled.word_masks]);
        out.put_codes(&self.word_codes, filled.word_codes, &pack);
        out.put(&self.literals[..filled.literals]);
        out.put(&self.data[..filled.data]);
        debug_assert_eq!(out.at, len);
        Some(len)
    }
}

/// Brings an old copy up to date by the lines that changed.
#[inline(always)]
pub(super) fn update(lines: u64, old: &mut Page, new: &Page) {
    let (old, new) = (old.as_chunks_mut::<LINE>().0, new.as_chunks::<LINE>().0);
    let mut left = lines;
    while left != 0 {
        let line = left.trailing_zeros() as usize;
        left &= left - 1;
        old[line % LINES] = new[line % LINES];
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

    /// The first `len` of eight bytes.
    fn put_few(&mut self, bytes: &[u8; 8], len: usize) {
        match self.bytes[self.at..].first_chunk_mut() {
            Some(to) => {
                *to = *bytes;
                self.at += len;
            }
            None => self.put(&bytes[..len]),
        }
    }

    /// The first `count` codes, two a byte.
    #[inline(always)]
    fn put_codes(&mut self, codes: &[u8], count: usize, pack: impl Fn(&[u8], &mut [u8])) {
        let len = count.div_ceil(2);
        let packed = &mut self.bytes[self.at..self.at + len];
        pack(&codes[..2 * len], packed);
        if count % 2 == 1
            && let Some(byte) = packed.last_mut()
        {
            *byte &= 15;
        }
        self.at += len;
    }
}

/// Eight codes in four bytes.
#[inline(always)]
fn pack(codes: &[u8; 8]) -> [u8; 4] {
    let codes = u64::from_le_bytes(*codes);
    let pairs = (codes | codes >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    let [a, b, c, d, ..] = (fours | fours >> 16).to_le_bytes();
    [a, b, c, d]
}
