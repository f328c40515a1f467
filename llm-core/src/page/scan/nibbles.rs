//! [`REPLACE`](super::super::table::REPLACE) and [`EXTEND`] for instructions that look up sixteen entries:
//! a byte's choice is the greater of those of its halves.

use super::super::table::{COVER, Choice, EXTEND, WORD_CODES, WordCode, choice};

/// Tables by low and by high half.
pub(super) struct Nibbles {
    pub(super) low: [Choice; 16],
    pub(super) high: [Choice; 16],
}

/// By the bytes that are not zero now: the best choice that zero-extends.
pub(super) static SIGNIFICANT: Nibbles = {
    let mut table = Nibbles { low: [0; 16], high: [0; 16] };
    let mut half: u32 = 0;
    while half < 16 {
        let significant = 32 - half.leading_zeros() as usize;
        table.low[half as usize] = EXTEND[significant];
        table.high[half as usize] = if half == 0 { 0 } else { EXTEND[4 + significant] };
        half += 1;
    }
    table
};

/// By the bytes that changed: the best code for these that covers bytes from the lowest on. (The code for the second
/// byte alone is here as well: what is above decides just so.)
pub(super) static BELOW: Nibbles = {
    let mut table = Nibbles { low: [Choice::MAX; 16], high: [Choice::MAX; 16] };
    let mut half: u8 = 0;
    while half < 16 {
        table.low[half as usize] = cheapest(half, 0x0f, true);
        table.high[half as usize] = if half == 0 { 0 } else { cheapest(half << 4 | 0x0f, 0xff, true) };
        half += 1;
    }
    table
};

/// By the bytes that changed: the best code for these that covers bytes up to the highest.
pub(super) static ABOVE: Nibbles = {
    let mut table = Nibbles { low: [Choice::MAX; 16], high: [Choice::MAX; 16] };
    let mut half: u8 = 0;
    while half < 16 {
        table.low[half as usize] = if half == 0 { 0 } else { cheapest(half | 0xf0, 0xff, false) };
        table.high[half as usize] = cheapest(half << 4, 0xf0, false);
        half += 1;
    }
    table
};

/// The best code whose cover is within `room`, contains `mask`, and does or does not start at the low end.
const fn cheapest(mask: u8, room: u8, low: bool) -> Choice {
    let mut best = Choice::MAX;
    let mut code: u8 = 0;
    while code < 16 {
        let cover = COVER[code as usize];
        let replaces = matches!(WORD_CODES[code as usize], WordCode::Replace(_)) || cover == 0xff;
        let from_top = cover & 0x80 != 0 && cover != 0xff;
        let candidate = choice(cover.count_ones(), code);
        if replaces && from_top != low && mask & !cover == 0 && cover & !room == 0 && candidate < best {
            best = candidate;
        }
        code += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::table::{REPLACE, widen};

    fn by(table: &Nibbles, mask: u8) -> Choice {
        table.low[usize::from(mask & 15)].max(table.high[usize::from(mask >> 4)])
    }

    #[test]
    fn the_halves_give_the_same_choices_as_the_whole() {
        for mask in 1..=255_u8 {
            let word = widen(mask);
            let index = (word.trailing_zeros() & 0x38) | (word.leading_zeros() >> 3);
            assert_eq!(by(&BELOW, mask).min(by(&ABOVE, mask)), REPLACE[index as usize], "{mask:08b}");
            assert_eq!(by(&SIGNIFICANT, mask), EXTEND[8 - word.leading_zeros() as usize / 8], "{mask:08b}");
        }
        assert_eq!(by(&SIGNIFICANT, 0), EXTEND[0]);
    }
}
