//! The code tables of a diff, and what an encoder and a decoder derive from them.
//!
//! Which masks got a code was chosen by counting them in the dirty pages of
//! Redis, PostgreSQL, nginx and a compiler; the choice made on one half of
//! those pages is within 0.1 % of the best one on the other half.

/// Line code: the 64 bytes follow as they are.
pub(super) const LINE_LITERAL: u8 = 0;
/// Line code: the line became zero.
pub(super) const LINE_ZERO: u8 = 1;
/// Line code: the mask is in the section of escaped masks.
pub(super) const ESCAPE: u8 = 15;

/// The word mask that a line code stands for (bit n: word n changed); 0 where it stands for none.
pub(super) const WORD_MASKS: [u8; 16] =
    [0, 0, 0xff, 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x7f, 0xfe, 0x0c, 0x38, 0];

/// What a word code does to a word.
#[derive(Clone, Copy)]
pub(super) enum WordCode {
    /// Becomes this many new bytes, zero-extended.
    Extend(u32),
    /// The bytes of this mask (one run) are replaced, the others stay.
    Replace(u8),
    /// Becomes what the word before it in the page is.
    Repeat,
}

pub(super) const WORD_CODES: [WordCode; 16] = [
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
    WordCode::Replace(0xfc),
];

/// A word code as arithmetic:
/// `word = (word & keep) | ((data << shift) & take) | (before & repeat)`.
#[derive(Clone, Copy)]
pub(super) struct Apply {
    pub(super) keep: u64,
    pub(super) take: u64,
    pub(super) repeat: u64,
    /// Bits.
    pub(super) shift: u32,
    /// Bytes of data that the code uses up.
    pub(super) len: u8,
}

/// By word code.
pub(super) static APPLY: [Apply; 16] = {
    let mut table = [Apply { keep: 0, take: 0, repeat: 0, shift: 0, len: 0 }; 16];
    let mut code = 0;
    while code < 16 {
        let take = widen(covered(WORD_CODES[code]));
        let len = covered(WORD_CODES[code]).count_ones().to_le_bytes()[0];
        match WORD_CODES[code] {
            WordCode::Extend(_) => table[code] = Apply { take, len, ..table[code] },
            WordCode::Replace(mask) => {
                let shift = 8 * mask.trailing_zeros();
                table[code] = Apply { keep: !take, take, repeat: 0, shift, len };
            }
            WordCode::Repeat => table[code].repeat = !0,
        }
        code += 1;
    }
    table
};

/// The bytes of a word that come from the data.
const fn covered(code: WordCode) -> u8 {
    match code {
        WordCode::Extend(len) => (0xff_u32 >> (8 - len)).to_le_bytes()[0],
        WordCode::Replace(mask) => mask,
        WordCode::Repeat => 0,
    }
}

/// By word code: the bytes of a word that come from the data, as a mask.
pub(super) static COVER: [u8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = covered(WORD_CODES[code]);
        code += 1;
    }
    table
};

/// By word code: how far the word is shifted down to give its data, in bits.
pub(super) static SHIFT: [u8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = APPLY[code].shift.to_le_bytes()[0];
        code += 1;
    }
    table
};

/// For a byte of two word codes: bytes of data.
pub(super) static PAIR_LEN: [u8; 256] = {
    let mut table = [0; 256];
    let mut pair: usize = 0;
    while pair < 256 {
        table[pair] = APPLY[pair & 15].len + APPLY[pair >> 4].len;
        pair += 1;
    }
    table
};

/// How an encoder may carry a word: bytes of data in the high half, its code in the low half.
/// The lesser of two is the better: of equal cost, a code is quicker than the ones after it.
pub(super) type Choice = u8;

/// The choice of a word that equals the one before it.
pub(super) const REPEAT: Choice = choice(0, 1);

/// By the lowest changed byte and the number of bytes above the highest, as `8 * low + above`:
/// the best choice that keeps the other bytes. Codes cover runs, so nothing else matters.
pub(super) static REPLACE: [Choice; 64] = {
    let mut table = [Choice::MAX; 64];
    let mut low = 0;
    while low < 8 {
        let mut above = 0;
        while above < 8 - low {
            let span = (0xff >> above) & (0xff << low);
            let mut code: u8 = 0;
            while code < 16 {
                let cover = covered(WORD_CODES[code as usize]);
                let keeps = matches!(WORD_CODES[code as usize], WordCode::Replace(_)) || cover == 0xff;
                let candidate = choice(cover.count_ones(), code);
                if keeps && span & !(cover as usize) == 0 && candidate < table[8 * low + above] {
                    table[8 * low + above] = candidate;
                }
                code += 1;
            }
            above += 1;
        }
        low += 1;
    }
    table
};

/// By number of significant bytes in the new word: the best choice that zero-extends.
pub(super) static EXTEND: [Choice; 9] = {
    let mut table = [Choice::MAX; 9];
    let mut code: u8 = 0;
    while code < 16 {
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

pub(super) const fn choice(cost: u32, code: u8) -> Choice {
    cost.to_le_bytes()[0] << 4 | code
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

/// By mask: its bits' places, lowest first.
pub(super) static PLACES: [[u16; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut place, mut count) = (0_u16, 0);
        while place < 8 {
            if mask >> place & 1 != 0 {
                table[mask][count] = place;
                count += 1;
            }
            place += 1;
        }
        mask += 1;
    }
    table
};

/// By mask: its number of bits, which not every processor can count.
pub(super) static ONES: [u8; 256] = {
    let mut table = [0; 256];
    let mut mask: u8 = 255;
    while mask > 0 {
        table[mask as usize] = mask.count_ones().to_le_bytes()[0];
        mask -= 1;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widen_agrees_with_the_definition() {
        for mask in 0..=255_u8 {
            let mut bytes = [0; 8];
            for (bit, byte) in bytes.iter_mut().enumerate() {
                *byte = if mask & (1 << bit) != 0 { 0xff } else { 0 };
            }
            assert_eq!(widen(mask), u64::from_le_bytes(bytes), "{mask:08b}");
        }
    }

    #[test]
    fn every_choice_covers_what_changed_at_the_stated_cost() {
        for low in 0..8 {
            for above in 0..8 - low {
                let choice = REPLACE[8 * low + above];
                let apply = APPLY[usize::from(choice & 15)];
                let span = (u64::MAX >> (8 * above)) & (u64::MAX << (8 * low));
                assert_eq!(span & !apply.take, 0, "{low} {above}");
                assert_eq!((apply.len, apply.keep), (choice >> 4, !apply.take));
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
    fn each_mask_has_one_line_code() {
        for code in 2..ESCAPE {
            assert_eq!(LINE_CODES[usize::from(WORD_MASKS[usize::from(code)])], code);
        }
        assert_eq!(LINE_CODES[0], ESCAPE);
    }
}
