//! Log records as differences within a flow, for the way to the backup.
//!
//! The packets of a flow differ from each other in few bytes, and small ones are mostly headers; so do the notes on what the domain
//! sends. Packed, they take less than half of their own bytes, where a record takes 40 more. [`Packer`] and [`Unpacker`] each remember a packet in each of [`SLOTS`] slots,
//! 34 KiB in all. The bytes are specified in `docs/wire-format.md`.
//!
//! Both remember the same as long as every packed record is unpacked once and in order. So a session of its own begins with new ones at both
//! ends, and a broken connection goes on where the receiver is, by the numbers of frames, as all data of a session does.
//!
//! Small records have no check of their own: a *seal* behind a number of them has one of what both ends remember, and nothing before it counts until the seal is taken.
//!
//! ```
//! use llm_core::log::{Entry, Flags, MAX_SMALL, Packer, Record, RecordKind, SEAL, Unpacked, Unpacker};
//! use llm_core::time::Instant;
//!
//! let (mut packer, mut unpacker) = (Box::new(Packer::new()), Box::new(Unpacker::new()));
//! let mut packet = [7; 64];
//! for lsn in 1..=3 {
//!     packet[60] += 1;
//!     let (kind, flags, time) = (RecordKind::Input, Flags::NONE, Instant::from_nanos(lsn));
//!     let record = Record { lsn, entry: Entry { kind, epoch: 4, time, vif: 0, flags, packet: &packet } };
//!     let mut out = [0; MAX_SMALL + SEAL];
//!     let len = packer.pack(&record, &mut out)?;
//!     assert_eq!(len, if lsn == 1 { 106 } else { 12 });
//!     let len = len + packer.seal(&mut out[len..])?;
//!     let mut bytes = &out[..len];
//!     assert_eq!(unpacker.take(&mut bytes)?, Some(Unpacked::Record(record)));
//!     assert_eq!(unpacker.take(&mut bytes)?, Some(Unpacked::Seal));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod lanes;
mod pack;
mod unpack;

#[cfg(test)]
mod tests;

pub use pack::Packer;
pub use unpack::{Unpacked, Unpacker};

use super::{Entry, Flags, HEADER, RecordKind};

/// Packets, and notes, that each end remembers.
pub const SLOTS: usize = 256;

/// Room that the record of a packet of at most 128 bytes needs, whichever way it goes. Bytes behind the packed record may be overwritten,
/// within this room.
pub const MAX_SMALL: usize = WHOLE_HEAD + HEADER + MAX;

/// Bytes of a seal.
pub const SEAL: usize = 9;

// The longest difference, and lanes that are written for nothing.
const _: () = assert!(DIFFERENCE_HEAD + size_of::<u64>() + MAX + LANE * UNROLLED <= MAX_SMALL);

/// First byte of a record that goes whole.
const WHOLE: u8 = 0;
/// First byte of a seal.
const SEALED: u8 = 1;
/// Bytes ahead of a whole record: that one, and a slot.
const WHOLE_HEAD: usize = 2;
/// Bytes ahead of a difference's bits: length, slot and time.
const DIFFERENCE_HEAD: usize = 6;

/// Bytes that change together. The fields of headers have two, or four of which often the lower ones change.
const LANE: usize = 2;
/// Lanes of a slot.
const LANES: usize = MAX / LANE;
/// Lanes that are written without a branch between them.
const UNROLLED: usize = 4;
/// Bytes that a byte of the bits is for.
const BLOCK: usize = 16;
/// Least and most bytes of a packet that is remembered.
const MIN: usize = 64;
const MAX: usize = 128;

/// A packet that is remembered, and behind it what was there before.
#[derive(Clone, Copy, Debug)]
struct Slot {
    bytes: [u8; MAX],
    about: About,
}

/// What a difference has of its slot, but for the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct About {
    kind: RecordKind,
    vif: u16,
    flags: Flags,
}

impl About {
    #[inline]
    const fn of(entry: &Entry<'_>) -> Self {
        Self { kind: entry.kind, vif: entry.vif, flags: entry.flags }
    }
}

impl Slot {
    const EMPTY: Self =
        Self { bytes: [0; MAX], about: About { kind: RecordKind::Input, vif: 0, flags: Flags::NONE } };

    /// Remembers a small packet.
    #[inline(always)]
    fn put(&mut self, packet: &[u8]) {
        // Two copies of a fixed length, which overlap: cheaper than one of any length.
        if let (Some(first), Some(last)) = (packet.first_chunk::<MIN>(), packet.last_chunk::<MIN>())
            && let Some(to) = self.bytes.get_mut(packet.len() - MIN..packet.len())
        {
            to.copy_from_slice(last);
            if let Some(to) = self.bytes.first_chunk_mut() {
                *to = *first;
            }
        }
    }
}

/// What a difference leaves out, of the record before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    lsn: u64,
    epoch: u64,
    time: u64,
}

/// Whether a record is remembered.
#[inline]
fn is_small(entry: &Entry<'_>) -> bool {
    matches!(entry.kind, RecordKind::Input | RecordKind::Note) && (MIN..=MAX).contains(&entry.packet.len())
}

/// Bytes of the bits that tell which lanes of a packet of `len` bytes are changed.
#[inline]
const fn mask_bytes(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

/// Of what is below 256.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "it is below 256")]
const fn low(n: usize) -> u32 {
    n as u32
}

/// The length of a small packet as its byte.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "it is at most 128")]
const fn number_of(len: usize) -> u8 {
    len as u8
}
