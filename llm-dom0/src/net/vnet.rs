//! The virtio-net header that carries offloads between the two sides.
//!
//! `PACKET_VNET_HDR` on the vif and `IFF_VNET_HDR` on the TAP both use the ten
//! bytes of `struct virtio_net_hdr` (virtio 1.2, 5.1.6, without `num_buffers`)
//! in the host's byte order, so that a header is passed on as it is except for
//! what is corrected here.

/// Bytes of the header.
pub(super) const HEADER: usize = 10;
/// Bytes of an 802.1Q tag.
pub(super) const TAG: usize = 4;
/// Room for the largest frame that a GSO device hands out (64 KiB of IP packet, Ethernet
/// header, two tags), its header, and a tag to put back in front of it.
pub(super) const SLOT: usize = 66 * 1024;

const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const MACS: usize = 12;

const HDR_LEN: usize = 2;
const CSUM_START: usize = 6;

/// An 802.1Q or 802.1ad tag that the kernel took out of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// Ethertype: 0x8100 or 0x88a8.
    pub(super) tpid: u16,
    /// Priority, drop eligibility and VLAN identifier.
    pub(super) tci: u16,
}

/// Puts a tag back. `buf` is `TAG` free bytes, header, frame; afterwards header and frame
/// start at its first byte. Returns false, with nothing changed, if the frame has no two addresses.
///
/// The kernel counts `csum_start` and `hdr_len` from a frame without the tag.
pub(super) fn insert_tag(buf: &mut [u8], tag: Tag) -> bool {
    const MOVED: usize = HEADER + MACS;
    if buf.len() < TAG + MOVED {
        return false;
    }
    buf.copy_within(TAG..TAG + MOVED, 0);
    let mut bytes = [0; TAG];
    bytes[..2].copy_from_slice(&tag.tpid.to_be_bytes());
    bytes[2..].copy_from_slice(&tag.tci.to_be_bytes());
    buf[MOVED..MOVED + TAG].copy_from_slice(&bytes);
    if buf[0] & FLAG_NEEDS_CSUM != 0 {
        put(buf, CSUM_START, get(buf, CSUM_START).saturating_add(4));
    }
    if get(buf, HDR_LEN) != 0 {
        put(buf, HDR_LEN, get(buf, HDR_LEN).saturating_add(4));
    }
    true
}

/// Lowers `hdr_len` of a GSO packet to what headers can take.
///
/// The kernel fills in the whole linear part of its buffer, up to 64 KiB, and the receiving side would then
/// allocate that much contiguous memory, which fails on a fragmented host.
pub(super) fn trim_header_hint(packet: &mut [u8]) {
    const TRANSPORT_MAX: u16 = 60;
    if packet.len() < HEADER || packet[1] == GSO_NONE || packet[0] & FLAG_NEEDS_CSUM == 0 {
        return;
    }
    let most = get(packet, CSUM_START).saturating_add(TRANSPORT_MAX);
    if get(packet, HDR_LEN) > most {
        put(packet, HDR_LEN, most);
    }
}

fn get(buf: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([buf[at], buf[at + 1]])
}

fn put(buf: &mut [u8], at: usize, value: u16) {
    buf[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, gso: u8, hdr_len: u16, csum_start: u16) -> [u8; HEADER] {
        let mut h = [0; HEADER];
        h[0] = flags;
        h[1] = gso;
        put(&mut h, HDR_LEN, hdr_len);
        put(&mut h, CSUM_START, csum_start);
        h
    }

    #[test]
    fn a_tag_goes_behind_the_addresses_and_moves_the_checksum() {
        let mut buf = vec![0xee; TAG];
        buf.extend(header(FLAG_NEEDS_CSUM, 1, 54, 34));
        buf.extend([1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x08, 0x00, 0x45]);
        assert!(insert_tag(&mut buf, Tag { tpid: 0x8100, tci: 0x2005 }));
        assert_eq!(buf[..HEADER], header(FLAG_NEEDS_CSUM, 1, 58, 38));
        assert_eq!(
            buf[HEADER..],
            [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x81, 0x00, 0x20, 0x05, 0x08, 0x00, 0x45]
        );
    }

    #[test]
    fn without_offload_only_the_frame_changes() {
        let mut buf = vec![0; TAG + HEADER];
        buf.extend([9; 14]);
        assert!(insert_tag(&mut buf, Tag { tpid: 0x88a8, tci: 7 }));
        assert_eq!(buf[..HEADER], [0; HEADER]);
    }

    #[test]
    fn a_frame_too_short_for_a_tag_stays_as_it_is() {
        let mut buf = vec![5; TAG + HEADER + 11];
        assert!(!insert_tag(&mut buf, Tag { tpid: 0x8100, tci: 1 }));
        assert_eq!(buf, vec![5; TAG + HEADER + 11]);
    }

    #[test]
    fn the_header_hint_is_bounded_for_gso_only() {
        let mut gso = header(FLAG_NEEDS_CSUM, 4, 40_000, 54);
        trim_header_hint(&mut gso);
        assert_eq!(get(&gso, HDR_LEN), 114);
        let mut small = header(FLAG_NEEDS_CSUM, 4, 86, 54);
        trim_header_hint(&mut small);
        assert_eq!(get(&small, HDR_LEN), 86);
        let mut plain = header(FLAG_NEEDS_CSUM, 0, 40_000, 54);
        trim_header_hint(&mut plain);
        assert_eq!(get(&plain, HDR_LEN), 40_000);
    }
}
