//! A digest of a byte range that can be joined with that of the range behind it.
//!
//! Bytes of a TCP stream come in other pieces when they are made again: what was one
//! 64 KiB segment may come as three. So the digest is a polynomial in a fixed base
//! over the field of 2^61 - 1 elements (Karp and Rabin, "Efficient randomized
//! pattern-matching algorithms", 1987): `H(ab) = H(a) * B^len(b) + H(b)`. It finds
//! accidents, not attackers; two different ranges agree with a chance of about `len / 2^61`.

/// The prime 2^61 - 1.
const P: u64 = (1 << 61) - 1;
/// The base, any element that is no small number: the fractional part of pi.
const B: u64 = 0x0243_f6a8_885a_308d;
/// `B` to the powers 0 to 8.
const POWERS: [u64; 9] = {
    let mut powers = [1; 9];
    let mut i = 1;
    while i < 9 {
        powers[i] = mul(powers[i - 1], B);
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
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let mut sum = u128::from(self.value) * u128::from(POWERS[8]);
            for (byte, power) in word.iter().zip(POWERS[..8].iter().rev()) {
                sum += u128::from(coefficient(*byte)) * u128::from(*power);
            }
            self.value = reduce(sum);
        }
        for byte in rest {
            self.value = reduce(u128::from(self.value) * u128::from(B) + u128::from(coefficient(*byte)));
        }
        self.len += bytes.len() as u64;
    }

    /// The digest of this range and the one behind it.
    #[must_use]
    pub fn then(self, behind: Self) -> Self {
        let shifted = u128::from(self.value) * u128::from(power(behind.len));
        Self {
            value: reduce(shifted + u128::from(behind.value % P)),
            len: self.len.saturating_add(behind.len),
        }
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

/// Never 0, so that zeros in front count.
const fn coefficient(byte: u8) -> u64 {
    byte as u64 + 1
}

const fn power(mut exponent: u64) -> u64 {
    let (mut base, mut result) = (B, 1);
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

#[allow(clippy::cast_possible_truncation, reason = "masked to 61 bits, and to less than 2^8 above them")]
const fn reduce(x: u128) -> u64 {
    // 2^61 is 1 in the field: the upper part is added to the lower.
    let x = (x & P as u128) + (x >> 61);
    let x = (x as u64 & P) + (x >> 61) as u64;
    if x >= P { x - P } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// As the definition says.
    fn plain(bytes: &[u8]) -> u64 {
        bytes
            .iter()
            .fold(0, |h, b| ((u128::from(h) * u128::from(B) + u128::from(*b) + 1) % u128::from(P)) as u64)
    }

    #[test]
    fn zeros_and_order_count() {
        assert_ne!(RangeDigest::of(&[0]), RangeDigest::of(&[0, 0]));
        assert_ne!(RangeDigest::of(b"ab"), RangeDigest::of(b"ba"));
        assert_eq!(RangeDigest::of(b""), RangeDigest::EMPTY);
    }

    #[test]
    fn the_largest_values_are_reduced() {
        let bytes = [0xff; 1000];
        assert_eq!(RangeDigest::of(&bytes).value(), plain(&bytes));
        assert_eq!(reduce(u128::from(P) * u128::from(P)), 0);
        assert_eq!(reduce(u128::MAX >> 6), ((u128::MAX >> 6) % u128::from(P)) as u64);
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same(bytes: Vec<u8>, cuts: Vec<u8>) {
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
