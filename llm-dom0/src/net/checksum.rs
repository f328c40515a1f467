//! The Internet checksum (RFC 1071).

use std::net::Ipv6Addr;

/// Ones' complement sum of `data` as big-endian words, added to `sum`; an odd
/// last byte counts as if a zero followed.
pub(super) fn add(mut sum: u32, data: &[u8]) -> u32 {
    let mut words = data.chunks_exact(2);
    for w in &mut words {
        sum += u32::from(w[0]) << 8 | u32::from(w[1]);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    if let [last] = words.remainder() {
        sum += u32::from(*last) << 8;
    }
    sum
}

/// Folds a sum and complements it.
pub(super) fn finish(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Checksum of an ICMPv6 message whose own checksum field is zero (RFC 4443, 2.3).
pub(super) fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    const NEXT_HEADER: u32 = 58;
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut sum = add(0, &source.octets());
    sum = add(sum, &destination.octets());
    sum = add(sum, &length.to_be_bytes());
    finish(add(sum + NEXT_HEADER, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1071() {
        let sum = add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum, 0xddf2);
        assert_eq!(finish(sum), 0x220d);
    }

    #[test]
    fn odd_length_is_padded_with_zero() {
        assert_eq!(finish(add(0, &[0x12, 0x34, 0x56])), finish(add(0, &[0x12, 0x34, 0x56, 0x00])));
    }

    #[test]
    fn a_whole_ipv4_header_sums_to_zero() {
        // From the Wikipedia article on the IPv4 header checksum: 0xb861.
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01,
            0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(finish(add(0, &header)), 0);
    }
}
