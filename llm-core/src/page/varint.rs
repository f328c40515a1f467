//! LEB128 numbers of at most 64 bits, in their shortest form only.

/// Bytes of the longest varint.
pub(super) const MAX_VARINT: usize = 10;

/// Why no number could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VarintError {
    /// The bytes end inside the number.
    Truncated,
    /// Longer than needed, or beyond 64 bits.
    Malformed,
}

/// Writes `value` into the front of `out` and returns its length.
pub(super) fn write(mut value: u64, out: &mut [u8; MAX_VARINT]) -> usize {
    let mut len = 0;
    for slot in out {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        len += 1;
        if value == 0 {
            *slot = low & 0x7f;
            break;
        }
        *slot = low | 0x80;
    }
    len
}

/// Reads a number from the front of `bytes`: the number and its length.
pub(super) fn read(bytes: &[u8]) -> Result<(u64, usize), VarintError> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(MAX_VARINT).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if i == MAX_VARINT - 1 && byte > 1 {
            return Err(VarintError::Malformed);
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            return if byte == 0 && i > 0 { Err(VarintError::Malformed) } else { Ok((value, i + 1)) };
        }
    }
    Err(VarintError::Truncated)
}

/// Maps a difference to an unsigned number that is small for small differences of either sign.
pub(super) const fn zigzag(difference: i64) -> u64 {
    ((difference << 1) ^ (difference >> 63)).cast_unsigned()
}

/// Inverse of [`zigzag`].
pub(super) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_round_trips_and_no_other_form_is_taken() {
        for shift in 0..64 {
            for value in [1 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = [0; MAX_VARINT];
                let len = write(value, &mut out);
                assert_eq!(read(&out), Ok((value, len)));
                assert_eq!(read(&out[..len - 1]), Err(VarintError::Truncated));
            }
        }
        assert_eq!(read(&[0x80, 0x00]), Err(VarintError::Malformed));
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            Err(VarintError::Malformed)
        );
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81]),
            Err(VarintError::Malformed)
        );
    }

    #[test]
    fn zigzag_round_trips() {
        for d in [0, 1, -1, 63, -64, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(d)), d);
        }
        assert_eq!((zigzag(-1), zigzag(1), zigzag(-2)), (1, 2, 3));
    }
}
