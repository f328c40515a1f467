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
mod ends;
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

/// Packets that are remembered, each with what was there before behind it, and what a difference to it leaves out of these.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Slots {
    bytes: [[u8; MAX]; SLOTS],
    about: [About; SLOTS],
}

impl Slots {
    const EMPTY: Self = Self { bytes: [[0; MAX]; SLOTS], about: [About(0); SLOTS] };
}

/// Of a small record: its flags from bit 8 on, its kind's code from bit 24 on, its interface from bit 32 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct About(u64);

impl About {
    #[inline]
    fn of(entry: &Entry<'_>) -> Self {
        let Entry { kind, vif, flags, .. } = entry;
        Self(u64::from(flags.bits()) << 8 | u64::from(kind.code()) << 24 | u64::from(*vif) << 32)
    }

    /// With a packet's length, and its last byte from bit 48 on.
    #[inline]
    fn with(self, len: u8, tail: u8) -> u64 {
        self.0 | u64::from(len) | u64::from(tail) << 48
    }

    /// Kind, interface and flags, of what [`of`](Self::of) made.
    #[inline]
    fn parts(self) -> (RecordKind, u16, Flags) {
        let [_, f0, f1, kind, v0, v1, ..] = self.0.to_le_bytes();
        let kind = RecordKind::from_code(kind).unwrap_or_default();
        let flags = Flags::from_bits(u16::from_le_bytes([f0, f1])).unwrap_or_default();
        (kind, u16::from_le_bytes([v0, v1]), flags)
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
