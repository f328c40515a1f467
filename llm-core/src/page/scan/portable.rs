//! The diff in 64-bit words, for every processor.
//!
//! Branches that depend on a page's content cost more than what they would skip: all eight words of a changed line are
//! coded, and what does not count is overwritten by what comes next.

use super::super::sections::{Filled, Sections};
use super::super::table::{LINE_ZERO, PLAIN};
use super::super::{LINE, LINES, Page};

pub(super) fn collect(old: &Page, new: &Page, sections: &mut Sections) -> Filled {
    let lines = changed_lines(old, new);
    let mut filled = Filled { lines, ..Filled::default() };
    let words = new.as_chunks::<8>().0;
    let (old, new) = (old.as_chunks::<LINE>().0, new.as_chunks::<LINE>().0);
    let mut left = lines;
    while left != 0 {
        let line = left.trailing_zeros() as usize % LINES;
        left &= left - 1;
        let before = words.get((8 * line).wrapping_sub(1)).map_or(0, |word| u64::from_le_bytes(*word));
        put(&old[line], &new[line], before, sections, &mut filled);
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

/// Adds a line that changed. `before` is the word before it.
#[inline(always)]
fn put(old: &[u8; LINE], new: &[u8; LINE], before: u64, sections: &mut Sections, filled: &mut Filled) {
    let codes = sections.word_codes.get_mut(filled.word_codes..).and_then(<[u8]>::first_chunk_mut::<8>);
    let data = sections.data.get_mut(filled.data..).and_then(<[u8]>::first_chunk_mut::<{ 2 * LINE }>);
    // There is always room.
    let (Some(codes), Some(data)) = (codes, data) else { return };
    let (mut count, mut len, mut mask, mut any, mut before) = (0, 0, 0, 0, before);
    let pairs = old.as_chunks::<8>().0.iter().zip(new.as_chunks::<8>().0);
    for (bit, (old, new)) in pairs.enumerate() {
        let (old, new) = (u64::from_le_bytes(*old), u64::from_le_bytes(*new));
        // In turned words, leading zeros become trailing ones, which old processors count quicker.
        let zero_bytes = |word: u64| word.trailing_zeros() as usize >> 3;
        let changed = old ^ new;
        let replace = PLAIN.replace[(8 * zero_bytes(changed) + zero_bytes(changed.swap_bytes())) % 128];
        let extend = PLAIN.extend[zero_bytes(new.swap_bytes()) % 16];
        let repeat = if new == before { PLAIN.repeat } else { u16::MAX };
        let choice = replace.min(extend).min(repeat);
        codes[count % 8] = choice.to_le_bytes()[1] & 15;
        // All eight bytes: what is too much is overwritten by the next word.
        let start = len % LINE;
        data[start..start + 8].copy_from_slice(&(new >> (choice & 63)).to_le_bytes());
        count += usize::from(changed != 0);
        len += usize::from(choice >> 12);
        mask |= u8::from(changed != 0) << bit;
        any |= new;
        before = new;
    }
    if any == 0 {
        sections.line_code(filled, LINE_ZERO);
    } else if 2 * len + count >= 2 * LINE {
        // The line itself is no longer than its words: in half bytes, as word codes are.
        sections.literal(filled, new);
    } else {
        filled.word_codes += count;
        filled.data += len;
        sections.line(filled, mask);
    }
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
            let filled = collect(&old, &new, &mut sections);
            assert_eq!(filled.lines, 1 << (at / LINE), "byte {at}");
            assert_eq!(sections.line_codes[0], LINE_CODES[1 << (at % LINE / 8)], "byte {at}");
        }
        assert_eq!(collect(&old, &old, &mut sections), Filled::default());
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
