//! The Internet checksum (RFC 1071), and its update when a few bytes change (RFC 1624).

use super::key::{Direction, FlowKey};
use super::packet::{Packet, be16, put};
use core::net::IpAddr;

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;

/// Sum of 16-bit words, not folded to the end, over bytes that start at an even place.
fn sum(mut total: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    for word in words {
        total += u64::from(u16::from_be_bytes(*word));
    }
    if let [last] = rest {
        total += u64::from(*last) << 8;
    }
    total
}

#[allow(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The checksum of an IPv4 header whose checksum field is 0.
#[must_use]
pub fn ipv4_header(header: &[u8]) -> u16 {
    !fold(sum(0, header))
}

/// The checksum of a TCP segment, UDP datagram or ICMPv6 message whose checksum field is 0.
#[must_use]
pub fn transport(key: &FlowKey, bytes: &[u8]) -> u16 {
    let mut total = sum(0, bytes) + u64::from(key.protocol()) + bytes.len() as u64;
    for address in [key.guest(), key.peer()] {
        total = match address {
            IpAddr::V4(v4) => sum(total, &v4.octets()),
            IpAddr::V6(v6) => sum(total, &v6.octets()),
        };
    }
    !fold(total)
}

/// Computes the checksum of a TCP segment anew: its payload has changed.
pub(crate) fn resum(frame: &mut [u8], packet: &Packet) {
    let Some(segment) = packet.segment() else { return };
    let place = packet.transport + TCP_CHECKSUM;
    if put(frame, place, &[0; 2]).is_none() {
        return;
    }
    let bytes = frame.get(packet.transport..segment.payload_range().end).unwrap_or_default();
    // The sum is the same in both directions.
    let sum = transport(&packet.key(Direction::FromGuest), bytes);
    let _ = put(frame, place, &sum.to_be_bytes());
}

/// Replaces bytes of a TCP segment and keeps its checksum right, unless that is `partial` (the pseudo-header's,
/// which does not change). `segment` is where the TCP header starts. Nothing is changed if it does not fit.
pub(super) fn replace(
    frame: &mut [u8],
    segment: usize,
    at: usize,
    new: [u8; 4],
    partial: bool,
) -> Option<()> {
    let old: [u8; 4] = *frame.get(at..)?.first_chunk()?;
    if old == new {
        return Some(());
    }
    let place = segment + TCP_CHECKSUM;
    let checksum = be16(frame, place)?;
    put(frame, at, &new)?;
    if partial {
        return Some(());
    }
    // An option may start at an odd place; its bytes then count in the other half of a word.
    let odd = (at.wrapping_sub(segment)) % 2;
    let weight = |i: usize, byte: u8| u64::from(byte) << if (i + odd).is_multiple_of(2) { 8 } else { 0 };
    let mut total = u64::from(!checksum);
    for (i, (old, new)) in old.into_iter().zip(new).enumerate() {
        total += 0xffff - weight(i, old) + weight(i, new);
    }
    put(frame, place, &(!fold(total)).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::key::{NO_VLAN, TCP};
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn example_of_the_standard() {
        // RFC 1071, section 3.
        assert_eq!(fold(sum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    proptest! {
        #[test]
        fn an_update_equals_a_new_sum(mut segment in proptest::collection::vec(any::<u8>(), 24..80), at in 18_usize..60, new: [u8; 4]) {
            let key = FlowKey::new(4, TCP, NO_VLAN, ([1; 16], 1), ([2; 16], 2));
            let complete = |segment: &mut Vec<u8>| {
                segment[16..18].fill(0);
                let sum = transport(&key, segment);
                segment[16..18].copy_from_slice(&sum.to_be_bytes());
            };
            complete(&mut segment);
            let before = segment.clone();
            let fits = at + 4 <= segment.len();
            prop_assert_eq!(replace(&mut segment, 0, at, new, false).is_some(), fits);
            if !fits {
                prop_assert_eq!(&segment, &before);
                return Ok(());
            }
            let got = be16(&segment, 16).unwrap();
            complete(&mut segment);
            let want = be16(&segment, 16).unwrap();
            // 0 and ffff are the same sum.
            prop_assert!(got == want || (got == 0 || got == 0xffff) && (want == 0 || want == 0xffff));
        }
    }
}
