//! Inputs as the guest sees them: plain frames with whole checksums.

use std::borrow::Cow;

use llm_core::flow::{Packet, VNET_HEADER, ipv4_header_checksum, is_checksum_partial};
use llm_core::log::{Entry, Flags};

/// Where the virtio-net header says where the checksum's bytes start, and where from there the checksum is.
const CSUM_START: usize = 6;
const CSUM_OFFSET: usize = 8;
/// Where the checksum is in a UDP header.
const UDP_CHECKSUM: usize = 6;

/// The Ethernet frame of an input: without a virtio-net header, and with the checksum that this says is still to be
/// computed. A segment that waits to be cut up stays whole.
#[must_use]
pub fn plain<'a>(entry: &Entry<'a>) -> Cow<'a, [u8]> {
    let (vnet, frame) = parts(entry);
    if !is_checksum_partial(vnet) {
        return Cow::Borrowed(frame);
    }
    let mut whole = frame.to_vec();
    // What does not fit stays as it is.
    let _ = complete(vnet, &mut whole);
    Cow::Owned(whole)
}

/// The virtio-net header of an input, empty if it has none, and its frame.
#[must_use]
pub fn parts<'a>(entry: &Entry<'a>) -> (&'a [u8], &'a [u8]) {
    let vnet = if entry.flags.contains(Flags::VNET_HEADER) { VNET_HEADER } else { 0 };
    entry.packet.split_at_checked(vnet).unwrap_or((entry.packet, &[]))
}

/// The field holds the sum of the pseudo-header, so that the sum over all gives the checksum, whatever the protocol
/// (virtio 1.2, 5.1.6.2).
fn complete(vnet: &[u8], frame: &mut [u8]) -> Option<()> {
    let number = |at| Some(usize::from(u16::from_le_bytes(*vnet.get(at..)?.first_chunk()?)));
    let (start, offset) = (number(CSUM_START)?, number(CSUM_OFFSET)?);
    let end = Packet::parse(frame)?.end;
    let covered = frame.get(start..end)?;
    // The same sum as that of an IPv4 header.
    let checksum = match ipv4_header_checksum(covered) {
        // 0 means in UDP that there is none.
        0 if offset == UDP_CHECKSUM => 0xffff,
        checksum => checksum,
    };
    frame.get_mut(start..end)?.get_mut(offset..offset + 2)?.copy_from_slice(&checksum.to_be_bytes());
    Some(())
}
