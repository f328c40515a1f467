//! The tables of the word codes for instructions that look up sixteen entries:
//! a byte's choice is the greater of those of its halves.

use super::super::table::{self, DENSE_CODES, PLAIN_CODES, WordCode, covered};

/// As a [`table::Choice`], without how far to shift: bytes of data in the high half, the code in the low half.
type Choice = u8;

/// Tables by low and by high half.
pub(super) struct Nibbles {
    pub(super) low: [Choice; 16],
    pub(super) high: [Choice; 16],
}

/// Of sixteen word codes.
pub(super) struct Choices {
    /// By the bytes that are not zero now: the best choice that zero-extends.
    pub(super) significant: Nibbles,
    /// By the bytes that changed: the best code for these that covers bytes from the lowest on. (The code for the
    /// second byte alone is here as well: what is above decides just so.)
    pub(super) below: Nibbles,
    /// By the bytes that changed: the best code for these that covers bytes up to the highest.
    pub(super) above: Nibbles,
    /// The choice of a word that refers to another one; 255 if there is no code for it.
    pub(super) refer: Choice,
    /// By code: the bytes of the word that go as data.
    pub(super) covers: [u8; 16],
    /// By the codes of two words, the first in the low half: from where in the words each byte of data comes.
    pub(super) moves: [[u8; 16]; 256],
}

/// Of the kinds that are dense, or of the others.
#[inline(always)]
pub(super) const fn choices(dense: bool) -> &'static Choices {
    if dense { &DENSE } else { &PLAIN }
}

static PLAIN: Choices = Choices::new(&PLAIN_CODES);
static DENSE: Choices = Choices::new(&DENSE_CODES);

impl Choices {
    const fn new(codes: &[WordCode; 16]) -> Self {
        let mut all = Self {
            significant: Nibbles { low: [0; 16], high: [0; 16] },
            below: Nibbles { low: [0; 16], high: [0; 16] },
            above: Nibbles { low: [0; 16], high: [0; 16] },
            refer: table::first(codes, true).to_le_bytes()[1],
            covers: covers(codes),
            moves: moves(codes),
        };
        let mut half: u8 = 0;
        while half < 16 {
            let (i, zero) = (half as usize, half == 0);
            let significant = 8 - half.leading_zeros() as usize;
            all.significant.low[i] = extend(codes, significant);
            all.significant.high[i] = if zero { 0 } else { extend(codes, 4 + significant) };
            all.below.low[i] = cheapest(codes, half, 0x0f, true);
            all.below.high[i] = if zero { 0 } else { cheapest(codes, half << 4 | 0x0f, 0xff, true) };
            all.above.low[i] = if zero { 0 } else { cheapest(codes, half | 0xf0, 0xff, false) };
            all.above.high[i] = cheapest(codes, half << 4, 0xf0, false);
            half += 1;
        }
        all
    }
}

const fn choice(codes: &[WordCode; 16], code: u8) -> Choice {
    table::choice(codes, code as usize).to_le_bytes()[1]
}

/// The best choice that zero-extends so many bytes.
const fn extend(codes: &[WordCode; 16], significant: usize) -> Choice {
    let mut best = Choice::MAX;
    let mut code: u8 = 0;
    while code < 16 {
        let candidate = choice(codes, code);
        if let WordCode::Extend(len) = codes[code as usize]
            && len as usize >= significant
            && candidate < best
        {
            best = candidate;
        }
        code += 1;
    }
    best
}

/// The best code whose cover is within `room`, contains `mask`, and does or does not start at the low end.
const fn cheapest(codes: &[WordCode; 16], mask: u8, room: u8, low: bool) -> Choice {
    let mut best = Choice::MAX;
    let mut code: u8 = 0;
    while code < 16 {
        let cover = covered(codes[code as usize]);
        let replaces = matches!(codes[code as usize], WordCode::Replace(_)) || cover == 0xff;
        let from_top = cover & 0x80 != 0 && cover != 0xff;
        let candidate = choice(codes, code);
        if replaces && from_top != low && mask & !cover == 0 && cover & !room == 0 && candidate < best {
            best = candidate;
        }
        code += 1;
    }
    best
}

const fn covers(codes: &[WordCode; 16]) -> [u8; 16] {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = covered(codes[code]);
        code += 1;
    }
    table
}

const fn moves(codes: &[WordCode; 16]) -> [[u8; 16]; 256] {
    let mut table = [[0; 16]; 256];
    let mut pair = 0;
    while pair < 256 {
        let (mut to, mut word) = (0, 0_u8);
        while word < 2 {
            let cover = covered(codes[pair >> (4 * word) & 15]);
            let mut byte = 0;
            while byte < 8 {
                if cover >> byte & 1 != 0 {
                    table[pair][to] = 8 * word + byte;
                    to += 1;
                }
                byte += 1;
            }
            word += 1;
        }
        pair += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::table::{WordCodes, widen};

    fn by(table: &Nibbles, mask: u8) -> Choice {
        table.low[usize::from(mask & 15)].max(table.high[usize::from(mask >> 4)])
    }

    fn agree(halves: &Choices, whole: &WordCodes) {
        for mask in 0..=255_u8 {
            let word = widen(mask);
            let (low, above) = (word.trailing_zeros() as usize / 8, word.leading_zeros() as usize / 8);
            let extend = whole.extend[above].to_le_bytes()[1];
            assert_eq!(by(&halves.significant, mask), extend, "{mask:08b}");
            if mask != 0 {
                let replace = whole.replace[8 * low + above].to_le_bytes()[1];
                assert_eq!(by(&halves.below, mask).min(by(&halves.above, mask)), replace, "{mask:08b}");
            }
        }
    }

    #[test]
    fn the_halves_give_the_same_choices_as_the_whole() {
        agree(&PLAIN, &table::PLAIN);
        agree(&DENSE, &table::DENSE);
    }
}
