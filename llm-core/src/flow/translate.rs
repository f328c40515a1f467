//! Numbers of a connection that the guest counts otherwise than its peer.
//!
//! After a take-over the guest is back at its last checkpoint. A connection opened since then gets another initial
//! sequence number when it is opened again (RFC 6528 mixes a clock in), and the guest's timestamp clock (RFC 7323) went
//! back for every connection. Both are constant differences for the life of the connection.

use super::checksum::replace;
use super::packet::{Packet, Segment, be32, flags};

/// Offset of the sequence number in a TCP header.
const SEQ: usize = 4;
/// The TCP option that means nothing.
const NOP: u8 = 1;
/// Offset of the acknowledgement number in a TCP header.
const ACK: usize = 8;

/// The differences of a connection. What the peer sees is what the guest counts, plus these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Translation {
    /// Added to sequence numbers that the guest sends.
    pub seq: u32,
    /// Added to the timestamps that the guest sends.
    pub timestamp: u32,
}

impl Translation {
    /// Whether both sides count alike.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.seq == 0 && self.timestamp == 0
    }

    /// Both, one after the other: what `self` makes of the guest's numbers is changed by `next` (that of an earlier take-over).
    #[must_use]
    pub const fn then(self, next: Self) -> Self {
        Self { seq: self.seq.wrapping_add(next.seq), timestamp: self.timestamp.wrapping_add(next.timestamp) }
    }

    /// What a clock that stands at `now` lacks to go on behind `seen`; nothing if it is further.
    #[must_use]
    pub const fn clock(seen: u32, now: u32) -> u32 {
        let behind = seen.wrapping_sub(now);
        if behind.cast_signed() >= 0 { behind.wrapping_add(1) } else { 0 }
    }

    /// Makes a frame of the guest's fit for its peer. `packet` is what the frame holds; `partial` says that its checksum
    /// is still that of the pseudo-header ([`super::is_checksum_partial`]).
    pub fn outgoing(&self, frame: &mut [u8], packet: &Packet, partial: bool) {
        let Some(segment) = packet.segment() else { return };
        let mut edit = Edit { frame, start: packet.transport, partial };
        edit.set(packet.transport + SEQ, segment.seq.wrapping_add(self.seq));
        if let Some(timestamp) = segment.timestamp {
            edit.set(timestamp.offset, timestamp.value.wrapping_add(self.timestamp));
        }
    }

    /// Makes a frame of the peer's fit for the guest.
    pub fn incoming(&self, frame: &mut [u8], packet: &Packet, partial: bool) {
        let Some(segment) = packet.segment() else { return };
        if !segment.has(flags::ACK) {
            return;
        }
        let mut edit = Edit { frame, start: packet.transport, partial };
        edit.set(packet.transport + ACK, segment.ack.wrapping_sub(self.seq));
        edit.sack(segment, self.seq);
        if let Some(timestamp) = segment.timestamp {
            edit.set(timestamp.offset + 4, timestamp.echo.wrapping_sub(self.timestamp));
        }
    }
}

/// Sets the acknowledgement, and the timestamps if the segment has some, of a segment of the peer's.
/// A SACK option is blanked out: it told of what is no longer so.
pub fn readdress(frame: &mut [u8], packet: &Packet, ack: u32, timestamps: Option<(u32, u32)>, partial: bool) {
    let Some(segment) = packet.segment() else { return };
    let mut edit = Edit { frame, start: packet.transport, partial };
    if segment.has(flags::ACK) {
        edit.set(packet.transport + ACK, ack);
        // With kind and length, two bytes that are not four: the edges, then the last four again from the front.
        let (from, to) = segment.sack;
        if to > from {
            for at in (from.saturating_sub(2)..to.saturating_sub(3)).step_by(4).chain([to.saturating_sub(4)])
            {
                edit.set(at, u32::from_be_bytes([NOP; 4]));
            }
        }
    }
    if let (Some(timestamp), Some((value, echo))) = (segment.timestamp, timestamps) {
        edit.set(timestamp.offset, value);
        edit.set(timestamp.offset + 4, echo);
    }
}

struct Edit<'a> {
    frame: &'a mut [u8],
    start: usize,
    partial: bool,
}

impl Edit<'_> {
    /// The place comes from a parsed packet, so that it fits; if it should not, nothing is changed.
    fn set(&mut self, at: usize, value: u32) {
        let _ = replace(self.frame, self.start, at, value.to_be_bytes(), self.partial);
    }

    fn sack(&mut self, segment: &Segment, by: u32) {
        for at in (segment.sack.0..segment.sack.1).step_by(4) {
            if let Some(edge) = be32(self.frame, at) {
                self.set(at, edge.wrapping_sub(by));
            }
        }
    }
}
