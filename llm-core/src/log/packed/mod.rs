//! Log records as differences within a flow, for the way to the backup.
//!
//! The packets of a flow differ from each other in few bytes, and small ones are mostly headers: packed, they take less than half of
//! their own bytes, where a record takes 40 more. [`Packer`] and [`Unpacker`] each remember a packet in each of [`SLOTS`] slots,
//! 34 KiB in all. The bytes are specified in `docs/wire-format.md`.
//!
//! Both remember the same as long as every packed record is unpacked once and in order. So a session of its own begins with new ones at both
//! ends, and a broken connection goes on where the receiver is, by the numbers of frames, as all data of a session does.
//!
//! ```
//! use llm_core::log::{Entry, Flags, MAX_SMALL, Packer, Record, RecordKind, Unpacker};
//! use llm_core::time::Instant;
//!
//! let (mut packer, mut unpacker) = (Box::new(Packer::new()), Box::new(Unpacker::new()));
//! let mut packet = [7; 64];
//! for lsn in 1..=3 {
//!     packet[60] += 1;
//!     let (kind, flags, time) = (RecordKind::Input, Flags::NONE, Instant::from_nanos(lsn));
//!     let record = Record { lsn, entry: Entry { kind, epoch: 4, time, vif: 0, flags, packet: &packet } };
//!     let mut out = [0; MAX_SMALL];
//!     let len = packer.pack(&record, &mut out)?;
//!     assert_eq!(len, if lsn == 1 { 106 } else { 14 });
//!     assert_eq!(unpacker.take(&mut &out[..len])?, Some(record));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod pack;
mod unpack;

#[cfg(test)]
mod tests;

pub use pack::Packer;
pub use unpack::Unpacker;

use super::{Entry, Flags, HEADER, RecordKind};
use crate::checksum::digest;

/// Packets that each end remembers.
pub const SLOTS: usize = 256;

/// Room that the record of a packet of at most 128 bytes needs, whichever way it goes. Bytes behind the packed record may be overwritten,
/// within this room.
pub const MAX_SMALL: usize = WHOLE_HEAD + HEADER + MAX;

// The last word's bytes are written with up to seven others behind them.
const _: () = assert!(DIFFERENCE_HEAD + WORDS + MAX + WORD <= MAX_SMALL);

/// First byte of a record that goes whole.
const WHOLE: u8 = 0;
/// Bytes ahead of a whole record: that one, and a slot.
const WHOLE_HEAD: usize = 2;
/// Bytes ahead of a difference's codes: length, slot, time, check, and a bit for each word.
const DIFFERENCE_HEAD: usize = 12;

/// Bytes of a word, and words of a slot.
const WORD: usize = 8;
const WORDS: usize = MAX / WORD;
/// Least and most bytes of a packet that is remembered.
const MIN: usize = 64;
const MAX: usize = 128;

type Words = [u64; WORDS];

/// A packet that is remembered, with zeros behind it.
#[derive(Clone, Copy, Debug)]
struct Slot {
    bytes: [u8; MAX],
    vif: u16,
    flags: Flags,
}

impl Slot {
    const EMPTY: Self = Self { bytes: [0; MAX], vif: 0, flags: Flags::NONE };
}

/// What a difference leaves out, of the record before.
#[derive(Clone, Copy, Debug)]
struct Last {
    lsn: u64,
    epoch: u64,
    time: u64,
}

/// Whether a record is remembered.
fn is_small(entry: &Entry<'_>) -> bool {
    entry.kind == RecordKind::Input && (MIN..=MAX).contains(&entry.packet.len())
}

/// A small packet with zeros behind it; `None` if it is not small.
#[inline]
fn padded(packet: &[u8]) -> Option<[u8; MAX]> {
    let mut bytes = [0; MAX];
    // Two copies of a fixed length, which overlap: cheaper than one of any length.
    *bytes.first_chunk_mut::<MIN>()? = *packet.first_chunk()?;
    let tail = packet.last_chunk::<MIN>()?;
    bytes.get_mut(packet.len() - MIN..packet.len())?.copy_from_slice(tail);
    Some(bytes)
}

#[inline]
fn words(bytes: &[u8; MAX]) -> Words {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<WORD>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// The words of a remembered packet, with zeros from `len` on: so it is before a packet of that length is made of it.
#[inline]
fn base(slot: &Slot, len: usize) -> Words {
    let mut words = words(&slot.bytes);
    for (i, word) in words.iter_mut().enumerate().skip(MIN / WORD) {
        let kept = len.saturating_sub(WORD * i).min(WORD);
        *word &= u64::MAX.unbounded_shr(64 - 8 * low(kept));
    }
    words
}

/// Finds ends that no longer remember the same.
#[inline]
fn check(slot: &Slot, len: usize, lsn: u64, time: u64) -> u32 {
    let small = len as u64 | u64::from(slot.flags.bits()) << 8 | u64::from(slot.vif) << 16;
    let sum = digest(&slot.bytes).wrapping_add(lsn).wrapping_add(time).wrapping_add(small);
    let [a, b, c, d, ..] = sum.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Of what is below 256.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "it is below 256")]
const fn low(n: usize) -> u32 {
    n as u32
}
