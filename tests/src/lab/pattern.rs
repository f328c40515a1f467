//! The bytes the guest serves on its bulk port: pseudo-random, the same everywhere, addressed by offset.
//!
//! Eight bytes at offset `8 * i` are `SplitMix64(i + SEED)`, little-endian. A client compares what it got with [`fill`],
//! which is stronger than a digest: it also names the first offset that differs.

/// Start of the sequence.
pub const SEED: u64 = 0x4C4C_4D5F_7061_7474;

/// Length of the guest's download in bytes (64 MiB) when the request names none.
pub const DOWNLOAD_BYTES: u64 = 64 << 20;

/// Port of the HTTP server that sends the pattern (`GET /BYTES`, or `GET /download`); nginx passes `/download` on to it.
pub const HTTP_PORT: u16 = 8081;
/// Port of the TCP and UDP echo.
pub const ECHO_PORT: u16 = 7;

const fn word(index: u64) -> u64 {
    let mut z = index.wrapping_add(SEED).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Fills `out` with the pattern from `offset` bytes on.
pub fn fill(offset: u64, out: &mut [u8]) {
    let mut at = offset;
    let mut rest = out;
    while !rest.is_empty() {
        let bytes = word(at / 8).to_le_bytes();
        let skip = usize::try_from(at % 8).unwrap_or(0);
        let count = (8 - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&bytes[skip..skip + count]);
        at += count as u64;
        rest = later;
    }
}

/// Offset in the stream of the first byte of `data` (which begins at `offset`) that is not the pattern's.
#[must_use]
pub fn first_difference(offset: u64, data: &[u8]) -> Option<u64> {
    let mut expected = vec![0; data.len()];
    fill(offset, &mut expected);
    let index = data.iter().zip(&expected).position(|(a, b)| a != b)?;
    Some(offset + index as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let mut whole = [0; 100];
        fill(0, &mut whole);
        for from in 0..whole.len() {
            let mut part = vec![0; (whole.len() - from).min(23)];
            fill(from as u64, &mut part);
            assert_eq!(part, &whole[from..from + part.len()], "from {from}");
        }
    }

    #[test]
    fn a_changed_byte_is_named() {
        let mut data = vec![0; 1000];
        fill(5, &mut data);
        assert_eq!(first_difference(5, &data), None);
        data[700] ^= 1;
        assert_eq!(first_difference(5, &data), Some(705));
        assert_eq!(first_difference(6, &data), Some(6));
    }
}
