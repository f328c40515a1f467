//! The diff in 64-bit words, for every processor.
//!
//! Branches that depend on a page's content cost more than what they would skip: the words of all changed lines are
//! listed first, and then handled in loops that only end once.

use super::super::sections::{Filled, Sections};
use super::super::table::{self, Choice, EXTEND, LINE_ZERO, ONES, PLACES, REPEAT, REPLACE, SHIFT};
use super::super::{LINE, LINES, Page, WORDS};

/// In place of the choice of a word whose line goes as a whole. No word has it: its code takes bytes.
const SKIP: Choice = table::choice(0, 15);

/// The changed words of a page. Kept from page to page, since clearing it would take its time.
#[derive(Clone, Debug)]
pub(in crate::page) struct Words {
    /// Numbers of the words.
    at: [u16; WORDS + 8],
    choices: [Choice; WORDS + 8],
    /// Bytes of data of the words before this one.
    cost: [u16; WORDS + 8],
}

impl Words {
    pub(in crate::page) const NEW: Self =
        Self { at: [0; WORDS + 8], choices: [0; WORDS + 8], cost: [0; WORDS + 8] };
}

pub(super) fn collect(old: &Page, new: &Page, words: &mut Words, sections: &mut Sections) -> Filled {
    let lines = changed_lines(old, new);
    let mut filled = Filled { lines, ..Filled::default() };
    if lines == 0 {
        return filled;
    }
    let mut masks = [0; LINES];
    let count = list(lines, old, new, &mut words.at, &mut masks);
    choose(old, new, words, count);
    let new_lines = new.as_chunks::<LINE>().0;
    let (mut left, mut start) = (lines, 0);
    for &mask in masks.iter().take(lines.count_ones() as usize) {
        let line = left.trailing_zeros() as usize;
        left &= left - 1;
        let end = start + usize::from(ONES[usize::from(mask)]);
        if mask == 0 {
            sections.line_code(&mut filled, LINE_ZERO);
        } else if is_literal(words.cost[end] - words.cost[start], end - start) {
            // All eight words changed, or they would have cost less.
            if let Some(choices) = words.choices.get_mut(start..start + 8) {
                choices.fill(SKIP);
            }
            sections.literal(&mut filled, &new_lines[line % LINES]);
        } else {
            sections.line(&mut filled, mask);
        }
        start = end;
    }
    put(new, words, count, sections, &mut filled);
    filled
}

/// Whether the line itself is no longer than its words: in half bytes, as word codes are.
#[inline(always)]
fn is_literal(cost: u16, words: usize) -> bool {
    2 * usize::from(cost) + words >= 2 * LINE
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

/// Lists the changed words of the changed lines that did not become zero, with a mask for each changed line
/// (0 if it became zero), and returns how many words.
fn list(lines: u64, old: &Page, new: &Page, at: &mut [u16; WORDS + 8], masks: &mut [u8; LINES]) -> usize {
    let (old, new) = (old.as_chunks::<LINE>().0, new.as_chunks::<LINE>().0);
    let (mut left, mut count) = (lines, 0);
    for mask in masks.iter_mut().take(lines.count_ones() as usize) {
        let line = left.trailing_zeros() as usize % LINES;
        left &= left - 1;
        let words = new[line].as_chunks::<8>().0;
        let pairs = old[line].as_chunks::<8>().0.iter().zip(words);
        let changed = pairs.enumerate().fold(0, |mask, (bit, (o, n))| mask | (u8::from(o != n) << bit));
        let any = words.iter().fold(0, |any, word| any | u64::from_ne_bytes(*word)) != 0;
        *mask = if any { changed } else { 0 };
        if let Some(to) = at.get_mut(count..).and_then(<[u16]>::first_chunk_mut::<8>) {
            let base = u16::try_from(8 * line).unwrap_or(0);
            *to = PLACES[usize::from(*mask)].map(|place| place + base);
        }
        count += usize::from(ONES[usize::from(*mask)]);
    }
    count
}

/// Chooses a code for each listed word, and sums up what they cost.
fn choose(old: &Page, new: &Page, words: &mut Words, count: usize) {
    let (old, new) = (old.as_chunks::<8>().0, new.as_chunks::<8>().0);
    let mut cost = 0;
    let listed = words.at.iter().zip(&mut words.choices).zip(&mut words.cost).take(count);
    for ((&at, choice), sum) in listed {
        let at = usize::from(at) % WORDS;
        let (o, n) = (u64::from_le_bytes(old[at]), u64::from_le_bytes(new[at]));
        let before = u64::from_le_bytes(new[at.wrapping_sub(1) % WORDS]);
        let best = best(o, n, before);
        *choice = best;
        *sum = cost;
        cost += u16::from(best >> 4);
    }
    words.cost[count] = cost;
    // Nothing comes before the first word of a page.
    if words.at[0] == 0 && count > 0 {
        let choice = best(u64::from_le_bytes(old[0]), u64::from_le_bytes(new[0]), 0);
        let more = u16::from(choice >> 4) - u16::from(words.choices[0] >> 4);
        words.choices[0] = choice;
        words.cost[1..].iter_mut().take(count).for_each(|sum| *sum += more);
    }
}

/// The best choice for a word that changed from `old` to `new`.
#[inline(always)]
pub(super) fn best(old: u64, new: u64, before: u64) -> Choice {
    // In turned words, leading zeros become trailing ones, which old processors count quicker. The highest bit
    // does not matter; that it is set spares a branch.
    let zero_bytes = |word: u64| (word | 1 << 63).trailing_zeros() >> 3;
    let changed = old ^ new;
    let replace = REPLACE[(8 * zero_bytes(changed) + zero_bytes(changed.swap_bytes())) as usize % 64];
    let significant = 8 - zero_bytes(new.swap_bytes()) - u32::from(new == 0);
    // REPEAT, or 255 if it is none.
    let repeat = u8::from(new == before).wrapping_sub(1) | REPEAT;
    replace.min(EXTEND[significant as usize % 9]).min(repeat)
}

/// Writes codes and data of the listed words, but for those of literal lines.
fn put(new: &Page, words: &Words, count: usize, sections: &mut Sections, filled: &mut Filled) {
    let new = new.as_chunks::<8>().0;
    let (mut codes, mut data) = (filled.word_codes, filled.data);
    for (&at, &choice) in words.at.iter().zip(&words.choices).take(count) {
        let code = choice & 15;
        let word = u64::from_le_bytes(new[usize::from(at) % WORDS]) >> (SHIFT[usize::from(code)] & 63);
        sections.word_codes[codes % WORDS] = code;
        codes += usize::from(choice != SKIP);
        // All eight bytes: what is too much is overwritten by the next word.
        if let Some(to) = sections.data.get_mut(data..).and_then(<[u8]>::first_chunk_mut) {
            *to = word.to_le_bytes();
        }
        data += usize::from(choice >> 4);
    }
    (filled.word_codes, filled.data) = (codes, data);
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

    #[test]
    fn each_single_byte_is_found_in_its_place() {
        let old = [0x55; PAGE];
        let (mut sections, mut words) = (Sections::NEW, Words::NEW);
        for at in 0..PAGE {
            let mut new = old;
            new[at] ^= 0x80;
            let filled = collect(&old, &new, &mut words, &mut sections);
            assert_eq!(filled.lines, 1 << (at / LINE), "byte {at}");
            assert_eq!(sections.line_codes[0], table::LINE_CODES[1 << (at % LINE / 8)], "byte {at}");
        }
        assert_eq!(collect(&old, &old, &mut words, &mut sections), Filled::default());
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
