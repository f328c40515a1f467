//! The scan in 64-bit words, for every processor.

use super::Changes;
use crate::page::{LINE, LINES, Page};

pub(super) fn scan(old: &Page, new: &Page) -> Changes {
    let mut changes = Changes { lines: [0; LINES / 8], words: [0; LINES] };
    let groups = old.as_chunks::<{ 8 * LINE }>().0.iter().zip(new.as_chunks::<{ 8 * LINE }>().0);
    let marks = changes.lines.iter_mut().zip(changes.words.as_chunks_mut::<8>().0);
    for ((old, new), (lines, words)) in groups.zip(marks) {
        let pairs = old.as_chunks::<LINE>().0.iter().zip(new.as_chunks::<LINE>().0);
        for (bit, ((old, new), words)) in pairs.zip(words).enumerate() {
            if differ(old, new) {
                *lines |= 1 << bit;
                *words = word_mask(old, new);
            }
        }
    }
    changes
}

/// In the widest integers there are, from which compilers make vector instructions.
fn differ(old: &[u8; LINE], new: &[u8; LINE]) -> bool {
    let quarters = old.as_chunks::<16>().0.iter().zip(new.as_chunks::<16>().0);
    quarters.fold(0, |any, (o, n)| any | (u128::from_ne_bytes(*o) ^ u128::from_ne_bytes(*n))) != 0
}

fn word_mask(old: &[u8; LINE], new: &[u8; LINE]) -> u8 {
    let words = old.as_chunks::<8>().0.iter().zip(new.as_chunks::<8>().0);
    words.enumerate().fold(0, |mask, (bit, (o, n))| mask | (u8::from(o != n) << bit))
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
        for at in 0..PAGE {
            let mut new = old;
            new[at] ^= 0x80;
            let changes = scan(&old, &new);
            let (line, word) = (at / LINE, at % LINE / 8);
            let mut lines = [0; LINES / 8];
            lines[line / 8] = 1 << (line % 8);
            assert_eq!(changes.lines, lines, "byte {at}");
            assert_eq!(changes.words[line], 1 << word, "byte {at}");
        }
        assert!(scan(&old, &old).is_empty());
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
