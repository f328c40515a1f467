//! The diff in 64-bit words, for every processor.
//!
//! Branches that depend on a page's content cost more than what they would skip: all eight words of a changed line are
//! coded, and what does not count is overwritten by what comes next.

use super::super::sections::{Filled, Sections};
use super::super::table::{Choice, LINE_ZERO, ONES, WordCodes, word_codes};
use super::super::{LINE, LINES, Page};
use super::seen::{REFERRED, Seen};

pub(super) fn collect<const DENSE: bool>(old: &Page, new: &Page, sections: &mut Sections) -> Filled {
    let lines = changed_lines(old, new);
    let mut filled = Filled { lines, ..Filled::default() };
    let (old_lines, new_lines) = (old.as_chunks::<LINE>().0, new.as_chunks::<LINE>().0);
    let mut seen = Seen::new();
    let mut left = lines;
    while left != 0 {
        let line = left.trailing_zeros() as usize % LINES;
        left &= left - 1;
        put::<DENSE>(line, &old_lines[line], &new_lines[line], new, &mut seen, sections, &mut filled);
    }
    filled
}

/// A bit for each line that changed.
fn changed_lines(old: &Page, new: &Page) -> u64 {
    let pairs = old.as_chunks::<LINE>().0.iter().zip(new.as_chunks::<LINE>().0);
    // From the front, as the processor expects it. The first line's bit goes all the way down.
    pairs.fold(0, |lines, (old, new)| lines >> 1 | u64::from(differ(old, new)) << 63)
}

/// In the widest integers there are. By itself a compiler makes vectors of them; among others of its kind it tries
/// to do several at once, and takes to single words.
#[inline(never)]
fn differ(old: &[u8; LINE], new: &[u8; LINE]) -> bool {
    let quarters = old.as_chunks::<16>().0.iter().zip(new.as_chunks::<16>().0);
    quarters.fold(0, |any, (o, n)| any | (u128::from_ne_bytes(*o) ^ u128::from_ne_bytes(*n))) != 0
}

/// Adds a line that changed.
#[inline(always)]
fn put<const DENSE: bool>(
    number: usize,
    old: &[u8; LINE],
    line: &[u8; LINE],
    page: &Page,
    seen: &mut Seen,
    sections: &mut Sections,
    filled: &mut Filled,
) {
    let table = word_codes(DENSE);
    let first = 8 * number;
    let before = page.as_chunks::<8>().0.get(first.wrapping_sub(1));
    let mut before = before.map_or(0, |word| u64::from_le_bytes(*word));
    let Some(mut to) = Writer::new(sections, filled) else { return };
    let mut words = [(0, 0, false); 8];
    let (mut len, mut mask, mut any, mut long) = (0, 0, 0, 0_u8);
    let pairs = old.as_chunks::<8>().0.iter().zip(line.as_chunks::<8>().0);
    for (bit, (old, new)) in pairs.enumerate() {
        let (old, new) = (u64::from_le_bytes(*old), u64::from_le_bytes(*new));
        let choice = best(old, new, before, table);
        if DENSE {
            words[bit] = (new, choice, old != new);
            long |= u8::from(choice >= REFERRED) << bit;
        } else {
            to.put(new, choice, old != new);
        }
        len += usize::from(choice >> 12);
        mask |= u8::from(old != new) << bit;
        any |= new;
        before = new;
    }
    // The line itself is no longer than its words: in half bytes, as word codes are.
    let is_literal = 2 * len + usize::from(ONES[usize::from(mask)]) >= 2 * LINE;
    if DENSE && !is_literal {
        while long != 0 {
            let bit = long.trailing_zeros() as usize % 8;
            long &= long - 1;
            let (word, choice, _) = &mut words[bit];
            let (found, name) = seen.note(page, first + bit, *word);
            *choice = if found { table.refer } else { *choice };
            *word = if found { name.into() } else { *word };
        }
        words.into_iter().for_each(|(word, choice, changed)| to.put(word, choice, changed));
    }
    let (codes, data) = (to.count, to.len);
    if any == 0 {
        sections.line_code(filled, LINE_ZERO);
    } else if is_literal {
        sections.literal(filled, line);
    } else {
        filled.word_codes += codes;
        filled.data += data;
        sections.line(filled, mask);
    }
}

/// Writes codes and data of the words of a line, as if it were no literal.
struct Writer<'a> {
    codes: &'a mut [u8; 8],
    data: &'a mut [u8; 2 * LINE],
    count: usize,
    len: usize,
}

impl<'a> Writer<'a> {
    /// There is always room, or `None`.
    #[inline(always)]
    fn new(sections: &'a mut Sections, filled: &Filled) -> Option<Self> {
        let codes = sections.word_codes.get_mut(filled.word_codes..)?.first_chunk_mut()?;
        let data = sections.data.get_mut(filled.data..)?.first_chunk_mut()?;
        Some(Self { codes, data, count: 0, len: 0 })
    }

    #[inline(always)]
    fn put(&mut self, word: u64, choice: Choice, changed: bool) {
        self.codes[self.count % 8] = choice.to_le_bytes()[1] & 15;
        self.count += usize::from(changed);
        // All eight bytes: what is too much is overwritten by the next word.
        let start = self.len % LINE;
        self.data[start..start + 8].copy_from_slice(&(word >> (choice & 63)).to_le_bytes());
        self.len += usize::from(choice >> 12);
    }
}

/// The best choice for a word that changes from `old` to `new`.
#[inline(always)]
fn best(old: u64, new: u64, before: u64, table: &WordCodes) -> Choice {
    // In turned words, leading zeros become trailing ones, which old processors count quicker.
    let zero_bytes = |word: u64| word.trailing_zeros() as usize >> 3;
    let changed = old ^ new;
    let replace = table.replace[(8 * zero_bytes(changed) + zero_bytes(changed.swap_bytes())) % 128];
    let extend = table.extend[zero_bytes(new.swap_bytes()) % 16];
    // All ones if it does not repeat: in this form, a compiler makes no branch of it.
    let repeat = Choice::from(new == before).wrapping_sub(1) | table.repeat;
    replace.min(extend).min(repeat)
}

pub(super) fn is_zero(page: &Page) -> bool {
    page.as_chunks::<LINE>()
        .0
        .iter()
        .all(|line| line.as_chunks::<8>().0.iter().fold(0, |any, word| any | u64::from_ne_bytes(*word)) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PAGE;
    use crate::page::table::LINE_CODES;

    #[test]
    fn each_single_byte_is_found_in_its_place() {
        let old = [0x55; PAGE];
        let mut sections = Sections::NEW;
        for at in 0..PAGE {
            let mut new = old;
            new[at] ^= 0x80;
            let filled = collect::<false>(&old, &new, &mut sections);
            assert_eq!(filled.lines, 1 << (at / LINE), "byte {at}");
            assert_eq!(sections.line_codes[0], LINE_CODES[1 << (at % LINE / 8)], "byte {at}");
        }
        assert_eq!(collect::<false>(&old, &old, &mut sections), Filled::default());
    }

    #[test]
    fn one_byte_makes_a_page_non_zero() {
        let mut page = [0; PAGE];
        assert!(is_zero(&page));
        for at in 0..PAGE {
            page[at] = 1;
            assert!(!is_zero(&page), "byte {at}");
            page[at] = 0;
        }
    }
}
