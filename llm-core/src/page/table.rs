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
    /// Becomes what the word 2 + n places before it is; n is a byte of data.
    Refer,
}

use WordCode::{Extend, Refer, Repeat, Replace};

/// Word codes of the kinds `diff` and `sparse`.
pub(super) const PLAIN_CODES: [WordCode; 16] = [
    Extend(0),
    Repeat,
    Extend(8),
    Extend(1),
    Extend(4),
    Extend(6),
    Replace(0x01),
    Replace(0x02),
    Replace(0x03),
    Replace(0x07),
    Replace(0x0f),
    Replace(0x1f),
    Replace(0x7f),
    Replace(0xe0),
    Replace(0xf0),
    Replace(0xfc),
];

/// Word codes of the kinds `dense` and `dense-sparse`: [`Refer`] is in place of the code that is missed least.
pub(super) const DENSE_CODES: [WordCode; 16] = {
    let mut codes = PLAIN_CODES;
    codes[7] = Refer;
    codes
};

pub(super) static PLAIN: WordCodes = WordCodes::new(&PLAIN_CODES);
pub(super) static DENSE: WordCodes = WordCodes::new(&DENSE_CODES);

/// The word codes of the kinds that are dense, or of the others.
#[inline(always)]
pub(super) const fn word_codes(dense: bool) -> &'static WordCodes {
    if dense { &DENSE } else { &PLAIN }
}

/// Sixteen word codes as numbers to look up.
pub(super) struct WordCodes {
    /// By code: what a decoder does.
    pub(super) apply: [Apply; 16],
    /// By code: the same, for decoders that do not read the page.
    pub(super) runs: [Run; 16],
    /// For a byte of two codes: bytes of data.
    pub(super) pair_len: [u8; 256],
    /// By the lowest changed byte and the number of bytes above the highest, as `8 * low + above`: the best choice
    /// that keeps the other bytes. Codes cover runs, so nothing else matters. 72 is a word that did not change.
    pub(super) replace: [Choice; 128],
    /// By the number of zero bytes above the highest that is not zero: the best choice that zero-extends.
    pub(super) extend: [Choice; 16],
    /// The choice of a word that equals the one before it.
    pub(super) repeat: Choice,
    /// The choice of a word that refers to another one, if there is a code for it.
    pub(super) refer: Choice,
}

/// A word code as arithmetic:
/// `word = (word & keep) | ((data << shift) & take) | (other & copy)`.
#[derive(Clone, Copy)]
pub(super) struct Apply {
    pub(super) keep: u64,
    pub(super) take: u64,
    pub(super) copy: u64,
    /// Whether the other word is the one that the data names, or else the one before.
    pub(super) refer: bool,
    /// Bits.
    pub(super) shift: u32,
    /// Bytes of data that the code uses up.
    pub(super) len: u8,
}

/// A word code as bytes that are stored.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// The bytes of data, lowest first.
    pub(super) low: u64,
    /// Bytes of data that the code uses up.
    pub(super) len: u8,
    /// The first byte of the word that is stored, and how many are: more than there is data if zeros follow it.
    pub(super) start: u8,
    pub(super) stored: u8,
    /// Whether another word is stored instead, and which.
    pub(super) copy: bool,
    pub(super) refer: bool,
}

/// How an encoder may carry a word: bytes of data in the highest four bits, its code in the four below, and in the
/// low byte how far the word is shifted down to give its data, in bits.
/// The lesser of two is the better: of equal cost, a code is quicker than the ones after it.
pub(super) type Choice = u16;

impl WordCodes {
    const fn new(codes: &[WordCode; 16]) -> Self {
        let apply = applies(codes);
        let mut runs = [Run { low: 0, len: 0, start: 0, stored: 8, copy: false, refer: false }; 16];
        let mut code = 0;
        while code < 16 {
            let Apply { keep, copy, refer, shift, len, .. } = apply[code];
            let low = if len == 0 { 0 } else { u64::MAX >> (64 - 8 * len as u32) };
            let stored = if keep == 0 { 8 } else { len };
            runs[code] = Run { low, len, start: low_byte(shift / 8), stored, copy: copy != 0, refer };
            code += 1;
        }
        let mut pair_len = [0; 256];
        let mut pair = 0;
        while pair < 256 {
            pair_len[pair] = apply[pair & 15].len + apply[pair >> 4].len;
            pair += 1;
        }
        Self {
            apply,
            runs,
            pair_len,
            replace: replace(codes),
            extend: extend(codes),
            repeat: first(codes, false),
            refer: first(codes, true),
        }
    }
}

const fn applies(codes: &[WordCode; 16]) -> [Apply; 16] {
    let mut table = [Apply { keep: 0, take: 0, copy: 0, refer: false, shift: 0, len: 0 }; 16];
    let mut code = 0;
    while code < 16 {
        let cover = covered(codes[code]);
        table[code].take = widen(cover);
        table[code].len = low_byte(cover.count_ones());
        match codes[code] {
            Extend(_) => {}
            Replace(mask) => {
                table[code].keep = !widen(mask);
                table[code].shift = 8 * mask.trailing_zeros();
            }
            Repeat => table[code].copy = !0,
            Refer => table[code] = Apply { take: 0, copy: !0, refer: true, ..table[code] },
        }
        code += 1;
    }
    table
}

const fn replace(codes: &[WordCode; 16]) -> [Choice; 128] {
    let mut table = [Choice::MAX; 128];
    table[8 * 8 + 8] = 0;
    let mut low = 0;
    while low < 8 {
        let mut above = 0;
        while above < 8 - low {
            let span = (0xff >> above) & (0xff << low);
            let mut code = 0;
            while code < 16 {
                let cover = covered(codes[code]);
                let keeps = matches!(codes[code], Replace(_)) || cover == 0xff;
                let candidate = choice(codes, code);
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
}

const fn extend(codes: &[WordCode; 16]) -> [Choice; 16] {
    let mut table = [Choice::MAX; 16];
    let mut code = 0;
    while code < 16 {
        if let Extend(len) = codes[code] {
            let mut zeros = 8 - len as usize;
            while zeros <= 8 {
                if choice(codes, code) < table[zeros] {
                    table[zeros] = choice(codes, code);
                }
                zeros += 1;
            }
        }
        code += 1;
    }
    table
}

/// The choice of the code that refers or, if not `refer`, repeats.
pub(super) const fn first(codes: &[WordCode; 16], refer: bool) -> Choice {
    let mut code = 0;
    while code < 16 {
        if matches!((codes[code], refer), (Refer, true) | (Repeat, false)) {
            return choice(codes, code);
        }
        code += 1;
    }
    Choice::MAX
}

/// The choice of this code.
pub(super) const fn choice(codes: &[WordCode; 16], code: usize) -> Choice {
    let cover = covered(codes[code]);
    let shift = if cover == 0 { 0 } else { 8 * cover.trailing_zeros() };
    u16::from_le_bytes([low_byte(shift), low_byte(cover.count_ones()) << 4 | code.to_le_bytes()[0]])
}

/// The bytes of a word that come from the data.
pub(super) const fn covered(code: WordCode) -> u8 {
    match code {
        Extend(len) => low_byte(0xff_u32 >> (8 - len)),
        Replace(mask) => mask,
        Repeat => 0,
        Refer => 1,
    }
}

const fn low_byte(number: u32) -> u8 {
    number.to_le_bytes()[0]
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
        table[mask as usize] = low_byte(mask.count_ones());
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

    /// What a choice does, and the bytes and the shift that it says.
    fn parts(choice: Choice) -> (Apply, u8, u32) {
        let [shift, high] = choice.to_le_bytes();
        (PLAIN.apply[usize::from(high & 15)], high >> 4, shift.into())
    }

    #[test]
    fn every_choice_covers_what_changed_at_the_stated_cost() {
        for low in 0..8 {
            for above in 0..8 - low {
                let (apply, len, shift) = parts(PLAIN.replace[8 * low + above]);
                let span = (u64::MAX >> (8 * above)) & (u64::MAX << (8 * low));
                assert_eq!(span & !apply.take, 0, "{low} {above}");
                assert_eq!((apply.len, apply.keep, apply.shift), (len, !apply.take, shift));
            }
        }
        for (zeros, choice) in PLAIN.extend.iter().enumerate().take(9) {
            let (apply, len, shift) = parts(*choice);
            assert!(usize::from(len) + zeros >= 8);
            assert_eq!((apply.len, apply.keep, apply.shift, shift), (len, 0, 0, 0));
        }
        assert_eq!(parts(PLAIN.repeat).0.copy, u64::MAX);
        assert!(PLAIN.extend[8] < PLAIN.repeat && PLAIN.repeat < PLAIN.extend[7]);
    }

    #[test]
    fn each_mask_has_one_line_code() {
        for code in 2..ESCAPE {
            assert_eq!(LINE_CODES[usize::from(WORD_MASKS[usize::from(code)])], code);
        }
        assert_eq!(LINE_CODES[0], ESCAPE);
    }
}
