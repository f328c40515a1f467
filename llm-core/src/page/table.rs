//! The code tables of a diff, and what an encoder and a decoder derive from them.
//!
//! Which masks got a code was chosen by counting them in the dirty pages of
//! Redis, PostgreSQL, nginx and a compiler; the choice made on one half of
//! those pages is within 0.1 % of the best one on the other half.

/// Line code: the 64 bytes follow as they are.
pub(super) const LINE_LITERAL: u8 = 0;
/// Line code: the line became zero.
pub(super) const LINE_ZERO: u8 = 1;
/// Line or word code: the mask is in the section of escaped masks.
pub(super) const ESCAPE: u8 = 15;

/// The word mask that a line code stands for (bit n: word n changed); 0 where it stands for none.
pub(super) const WORD_MASKS: [u8; 16] =
    [0, 0, 0xff, 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x7f, 0xfe, 0x0c, 0x38, 0];

/// What a word code does to a word.
#[derive(Clone, Copy)]
enum WordCode {
    /// Becomes this many new bytes, zero-extended.
    Extend(u32),
    /// The bytes of this mask (one run) are replaced, the others stay.
    Replace(u8),
    /// Becomes what the word code before this one produced.
    Repeat,
    /// As `Replace`, with any mask, from the section of escaped masks.
    Escaped,
}

const WORD_CODES: [WordCode; 16] = [
    WordCode::Extend(0),
    WordCode::Repeat,
    WordCode::Extend(8),
    WordCode::Extend(1),
    WordCode::Extend(4),
    WordCode::Extend(6),
    WordCode::Replace(0x01),
    WordCode::Replace(0x02),
    WordCode::Replace(0x03),
    WordCode::Replace(0x07),
    WordCode::Replace(0x0f),
    WordCode::Replace(0x1f),
    WordCode::Replace(0x7f),
    WordCode::Replace(0xe0),
    WordCode::Replace(0xf0),
    WordCode::Escaped,
];

/// A word code as arithmetic:
/// `word = (word & keep) | ((data << shift) & take) | (last & repeat)`.
#[derive(Clone, Copy)]
pub(super) struct Apply {
    pub(super) keep: u64,
    pub(super) take: u64,
    pub(super) repeat: u64,
    /// Bits.
    pub(super) shift: u32,
    /// Bytes of data that the code uses up; an escape's are counted by its mask.
    pub(super) len: u8,
}

/// By word code. An escape's entry leaves the word as it is.
pub(super) static APPLY: [Apply; 16] = {
    let mut table = [Apply { keep: !0, take: 0, repeat: 0, shift: 0, len: 0 }; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = match WORD_CODES[code] {
            WordCode::Extend(len) => {
                let take = if len == 0 { 0 } else { !0 >> (64 - 8 * len) };
                Apply { keep: 0, take, repeat: 0, shift: 0, len: len.to_le_bytes()[0] }
            }
            WordCode::Replace(mask) => {
                let take = widen(mask);
                let len = mask.count_ones().to_le_bytes()[0];
                Apply { keep: !take, take, repeat: 0, shift: 8 * mask.trailing_zeros(), len }
            }
            WordCode::Repeat => Apply { keep: 0, take: 0, repeat: !0, shift: 0, len: 0 },
            WordCode::Escaped => table[code],
        };
        code += 1;
    }
    table
};

/// For a byte of two word codes: bytes of data (low byte) and escapes (high byte).
pub(super) static PAIR_LEN: [u16; 256] = {
    let mut table = [0; 256];
    let mut pair: usize = 0;
    while pair < 256 {
        let (low, high) = (pair & 15, pair >> 4);
        let escapes = (low == ESCAPE as usize) as u16 + (high == ESCAPE as usize) as u16;
        table[pair] = APPLY[low].len as u16 + APPLY[high].len as u16 + (escapes << 8);
        pair += 1;
    }
    table
};

/// How an encoder may carry a word: what it costs in the high half, its code in the low half.
/// The lesser of two is the better: of equal cost, a code is quicker than the ones after it.
pub(super) type Choice = u8;

/// The choice of a word that equals the one coded before it.
pub(super) const REPEAT: Choice = choice(0, 1);

/// By mask of changed bytes: the best choice that keeps the other bytes.
pub(super) static REPLACE: [Choice; 256] = {
    let mut table = [Choice::MAX; 256];
    let mut mask: usize = 0;
    while mask < 256 {
        table[mask] = choice(1 + mask.count_ones(), ESCAPE);
        let mut code: u8 = 0;
        while code < ESCAPE {
            let covered = match WORD_CODES[code as usize] {
                WordCode::Replace(covered) => covered,
                WordCode::Extend(8) => 0xff,
                _ => 0,
            };
            let candidate = choice(covered.count_ones(), code);
            if covered != 0 && mask & !(covered as usize) == 0 && candidate < table[mask] {
                table[mask] = candidate;
            }
            code += 1;
        }
        mask += 1;
    }
    table
};

/// By number of significant bytes in the new word: the best choice that zero-extends.
pub(super) static EXTEND: [Choice; 9] = {
    let mut table = [Choice::MAX; 9];
    let mut code: u8 = 0;
    while code < ESCAPE {
        if let WordCode::Extend(len) = WORD_CODES[code as usize] {
            let mut significant = 0;
            while significant <= len as usize {
                if choice(len, code) < table[significant] {
                    table[significant] = choice(len, code);
                }
                significant += 1;
            }
        }
        code += 1;
    }
    table
};

const fn choice(cost: u32, code: u8) -> Choice {
    cost.to_le_bytes()[0] << 4 | code
}

/// For an escaped mask: the bytes that move in each of three steps, by 1, 2 and 4
/// places, and the mask itself, all as masks of whole bytes. (Compress and expand
/// in parallel: Warren, Hacker's Delight, 7-4 and 7-5, with bytes for bits.)
#[derive(Clone, Copy)]
pub(super) struct Moves {
    steps: [u64; 3],
    mask: u64,
}

/// By mask.
static MOVES: [Moves; 256] = {
    let mut table = [Moves { steps: [0; 3], mask: 0 }; 256];
    let mut mask: u8 = 0;
    loop {
        let mut left = mask;
        let mut gaps = !mask << 1;
        let mut step = 0;
        while step < 3 {
            // Bit n: whether the gaps below byte n are odd in number.
            let mut odd = gaps ^ gaps << 1;
            odd ^= odd << 2;
            odd ^= odd << 4;
            let moving = odd & left;
            left = (left ^ moving) | moving >> (1 << step);
            gaps &= !odd;
            table[mask as usize].steps[step] = widen(moving);
            step += 1;
        }
        table[mask as usize].mask = widen(mask);
        if mask == 255 {
            break;
        }
        mask += 1;
    }
    table
};

impl Moves {
    pub(super) fn of(mask: u8) -> &'static Self {
        &MOVES[usize::from(mask)]
    }

    /// The bytes of `word` that the mask marks, moved together to the low end.
    pub(super) fn pack(&self, word: u64) -> u64 {
        let mut word = word & self.mask;
        for (step, moving) in self.steps.iter().enumerate() {
            let moved = word & moving;
            word = (word ^ moved) | moved >> (8 << step);
        }
        word
    }

    /// `word`, in which the bytes of `data` replace those that the mask marks.
    pub(super) fn unpack(&self, data: u64, word: u64) -> u64 {
        let mut data = data;
        for (step, moving) in self.steps.iter().enumerate().rev() {
            data = (data & !moving) | (data << (8 << step) & moving);
        }
        (word & !self.mask) | (data & self.mask)
    }
}

/// By word mask: the line code that stands for it.
pub(super) static LINE_CODES: [u8; 256] = {
    let mut table = [ESCAPE; 256];
    let mut code: u8 = 2;
    while code < ESCAPE {
        table[WORD_MASKS[code as usize] as usize] = code;
        code += 1;
    }
    table
};

/// 0xff in each byte of which the mask has the bit.
pub(super) const fn widen(mask: u8) -> u64 {
    // Copy the mask to all bytes, keep bit n in byte n, then fill the bytes that kept it.
    let spread = (mask as u64).wrapping_mul(0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
    let ones = ((spread.wrapping_add(0x007f_7f7f_7f7f_7f7f) | spread) & 0x8080_8080_8080_8080) >> 7;
    ones.wrapping_mul(0xff)
}

/// Bit n is set if byte n of `word` is not zero.
pub(super) const fn narrow(word: u64) -> u8 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let top = (((word & LOW) + LOW) | word) & !LOW;
    // Bits 7, 15, .. 63 move to bits 56, 57, .. 63.
    ((top >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56).to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widen_and_narrow_agree_with_the_definition() {
        for mask in 0..=255_u8 {
            let mut bytes = [0; 8];
            for (bit, byte) in bytes.iter_mut().enumerate() {
                *byte = if mask & (1 << bit) != 0 { 0xff } else { 0 };
            }
            assert_eq!(widen(mask), u64::from_le_bytes(bytes), "{mask:08b}");
            assert_eq!(narrow(widen(mask)), mask);
            assert_eq!(narrow(widen(mask) & 0x0101_0101_0101_0101), mask);
            assert_eq!(narrow(widen(mask) & 0x8080_8080_8080_8080), mask);
        }
    }

    #[test]
    fn every_choice_covers_what_changed_at_the_stated_cost() {
        for mask in 1..=255_u8 {
            let (cost, code) = (REPLACE[usize::from(mask)] >> 4, REPLACE[usize::from(mask)] & 15);
            if code == ESCAPE {
                assert_eq!(u32::from(cost), 1 + mask.count_ones());
            } else {
                let apply = APPLY[usize::from(code)];
                assert_eq!(widen(mask) & !apply.take, 0, "{mask:08b}");
                assert_eq!(apply.len, cost);
                assert!(u32::from(cost) <= 1 + mask.count_ones());
            }
        }
        for (significant, choice) in EXTEND.iter().enumerate() {
            assert!(usize::from(choice >> 4) >= significant);
            let apply = APPLY[usize::from(choice & 15)];
            assert_eq!((apply.len, apply.keep), (choice >> 4, 0));
        }
        assert_eq!(APPLY[usize::from(REPEAT)].repeat, u64::MAX);
        assert!(EXTEND[0] < REPEAT && REPEAT < EXTEND[1]);
    }

    #[test]
    fn packing_moves_bytes_as_one_by_one() {
        let word = 0x8877_6655_4433_2211_u64;
        for mask in 0..=255_u8 {
            let marked = (0..8).filter(|bit| mask & 1 << bit != 0);
            let mut packed = [0; 8];
            for (to, bit) in packed.iter_mut().zip(marked.clone()) {
                *to = word.to_le_bytes()[bit];
            }
            let packed = u64::from_le_bytes(packed);
            let moves = Moves::of(mask);
            assert_eq!(moves.pack(word), packed, "{mask:08b}");
            let old = !word;
            let rest = u64::MAX.checked_shl(8 * mask.count_ones()).unwrap_or(0);
            assert_eq!(moves.unpack(packed | rest, old), (old & !widen(mask)) | (word & widen(mask)));
        }
    }

    #[test]
    fn each_mask_has_one_line_code() {
        for code in 2..ESCAPE {
            assert_eq!(LINE_CODES[usize::from(WORD_MASKS[usize::from(code)])], code);
        }
        assert_eq!(LINE_CODES[0], ESCAPE);
    }
}
