//! A digest of a byte range that can be joined with that of the range behind it.
//!
//! Bytes of a TCP stream come in other pieces when they are made again: what was one
//! 64 KiB segment may come as three. So the digest is that of Karp and Rabin ("Efficient randomized
//! pattern-matching algorithms", 1987): the range as one number, its first byte the lowest, modulo a prime,
//! `H(ab) = H(a) + 256^len(a) * H(b)`. Then eight bytes are one factor, in any piece and place. It finds
//! accidents, not attackers: what became of a range by accident has its digest with a chance of `2^-60`.

/// Makes the prime: `2^60` is `C` in the field.
const C: u64 = 35_237;
/// The prime. Half of it, rounded down, is one too, so that the powers of 2 repeat after `P - 1` at the earliest.
const P: u64 = (1 << 60) - C;
/// Words of a block: the most whose sum is below `2^128`.
const WORDS: usize = 16;
/// `2^64` to the powers 0 to 16.
const POWERS: [u64; WORDS + 1] = {
    let mut powers = [1; WORDS + 1];
    let mut i = 1;
    while i <= WORDS {
        powers[i] = reduce((powers[i - 1] as u128) << 64);
        i += 1;
    }
    powers
};

/// The digest of a range of bytes, and its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct RangeDigest {
    value: u64,
    len: u64,
}

impl RangeDigest {
    /// That of no bytes.
    pub const EMPTY: Self = Self { value: 0, len: 0 };

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut digest = Self::EMPTY;
        digest.update(bytes);
        digest
    }

    /// A digest as it was sent; a value that no bytes have is taken as it is, and equals no other.
    #[must_use]
    pub const fn from_parts(value: u64, len: u64) -> Self {
        Self { value, len }
    }

    /// Takes in the bytes behind those taken so far.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut weight = power(self.len);
        let (blocks, rest) = bytes.as_chunks::<{ 8 * WORDS }>();
        for block in blocks {
            self.add(block, weight);
            weight = mul(weight, POWERS[WORDS]);
        }
        if !rest.is_empty() {
            self.add(rest, weight);
        }
        self.len += bytes.len() as u64;
    }

    /// Adds at most [`WORDS`] words, whose place has that weight.
    fn add(&mut self, bytes: &[u8], weight: u64) {
        let (words, tail) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        let term = |word: &[u8; 8], power: &u64| u128::from(u64::from_le_bytes(*word)) * u128::from(*power);
        let mut sum = 0;
        for (word, power) in words.iter().zip(&POWERS) {
            sum += term(word, power);
        }
        if !tail.is_empty() {
            sum += POWERS.get(words.len()).map_or(0, |power| term(&last, power));
        }
        self.value = reduce(u128::from(self.value % P) + u128::from(reduce(sum)) * u128::from(weight));
    }

    /// The digest of this range and the one behind it.
    #[must_use]
    pub fn then(self, behind: Self) -> Self {
        let shifted = u128::from(behind.value % P) * u128::from(power(self.len));
        Self { value: reduce(shifted + u128::from(self.value % P)), len: self.len.saturating_add(behind.len) }
    }

    /// The digest without the length.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.value
    }

    /// Bytes in the range.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether the range has no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// `256` to that power.
const fn power(mut exponent: u64) -> u64 {
    let (mut base, mut result) = (256, 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = mul(result, base);
        }
        base = mul(base, base);
        exponent >>= 1;
    }
    result
}

const fn mul(a: u64, b: u64) -> u64 {
    reduce(a as u128 * b as u128)
}

/// The remainder.
#[allow(clippy::cast_possible_truncation, reason = "below 2^61 after two folds")]
const fn reduce(x: u128) -> u64 {
    // Below 2^128, then 2^85, then 2^60 + 2^41.
    let x = fold(fold(x)) as u64;
    if x >= P { x - P } else { x }
}

const fn fold(x: u128) -> u128 {
    (x & ((1 << 60) - 1)) + (x >> 60) * C as u128
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// As the definition says.
    fn plain(bytes: &[u8]) -> u64 {
        bytes.iter().rev().fold(0, |h, b| ((u128::from(h) * 256 + u128::from(*b)) % u128::from(P)) as u64)
    }

    #[test]
    fn zeros_and_order_count() {
        assert_ne!(RangeDigest::of(&[0]), RangeDigest::of(&[0, 0]));
        assert_ne!(RangeDigest::of(b"ab"), RangeDigest::of(b"ba"));
        assert_eq!(RangeDigest::of(b"ab").value(), 0x6261);
        let block = [7; 128];
        assert_ne!(
            RangeDigest::of(&[&block[..], b"a"].concat()),
            RangeDigest::of(&[b"a", &block[..]].concat())
        );
        assert_eq!(RangeDigest::of(b""), RangeDigest::EMPTY);
    }

    #[test]
    fn the_largest_values_are_reduced() {
        for len in [8, 127, 128, 129, 1000] {
            let bytes = std::vec![0xff; len];
            assert_eq!(RangeDigest::of(&bytes).value(), plain(&bytes));
        }
        assert_eq!(reduce(u128::from(P) * u128::from(P)), 0);
        assert_eq!(reduce(u128::from(P)), 0);
        assert_eq!(reduce(u128::MAX), (u128::MAX % u128::from(P)) as u64);
    }

    #[test]
    fn a_value_that_no_bytes_have_is_taken_as_it_is() {
        let odd = RangeDigest::from_parts(u64::MAX, 3);
        assert_ne!(odd, RangeDigest::from_parts(u64::MAX % P, 3));
        let behind = RangeDigest::of(b"behind");
        let mut updated = odd;
        updated.update(b"behind");
        assert_eq!(odd.then(behind), updated);
        assert!(behind.then(odd).value() < P);
    }

    /// Miller and Rabin's test with bases that decide it below 2^64.
    fn is_prime(n: u64) -> bool {
        let times = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(n)) as u64;
        let (shift, odd) = ((n - 1).trailing_zeros(), (n - 1) >> (n - 1).trailing_zeros());
        [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37].into_iter().all(|base| {
            let (mut x, mut square, mut exponent) = (1, base, odd);
            while exponent > 0 {
                x = if exponent & 1 == 1 { times(x, square) } else { x };
                (square, exponent) = (times(square, square), exponent >> 1);
            }
            x == 1 || (0..shift).any(|i| (0..i).fold(x, |x, _| times(x, x)) == n - 1)
        })
    }

    #[test]
    fn the_prime_is_one_and_so_is_half_of_it() {
        assert!(is_prime(P) && is_prime(P / 2) && !is_prime(P + 2));
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
            cuts: Vec<u8>,
        ) {
            let (mut rest, mut pieces, mut joined) = (&bytes[..], RangeDigest::EMPTY, RangeDigest::EMPTY);
            for cut in cuts {
                let (piece, behind) = rest.split_at(usize::from(cut).min(rest.len()));
                pieces.update(piece);
                joined = joined.then(RangeDigest::of(piece));
                rest = behind;
            }
            pieces.update(rest);
            joined = joined.then(RangeDigest::of(rest));
            let whole = RangeDigest::of(&bytes);
            prop_assert_eq!(whole.value(), plain(&bytes));
            prop_assert_eq!(pieces, whole);
            prop_assert_eq!(joined, whole);
        }
    }
}
