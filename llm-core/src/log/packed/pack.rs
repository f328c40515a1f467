//! Packs records.

use super::super::writer::{AppendError, LogWriter};
use super::super::{Entry, Flags, HEADER, Record, RecordKind};
use super::check::Check;
use super::ends::{Ends, lowest};
use super::{
    About, DIFFERENCE_HEAD, LANE, Last, MAX, MAX_SMALL, SEAL, SEALED, Slots, UNROLLED, WHOLE, WHOLE_HEAD,
    is_small, mask_bytes, number_of,
};

/// Packs records, one after the other.
#[derive(Clone, Debug)]
pub struct Packer {
    slots: Slots,
    last: Option<Last>,
    check: Check,
}

impl Default for Packer {
    fn default() -> Self {
        Self::new()
    }
}

impl Packer {
    /// Remembers nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: Slots::EMPTY, last: None, check: Check::new() }
    }

    /// Room that [`pack`](Self::pack) asks for, in bytes, for a record of a packet of `len` bytes.
    #[must_use]
    pub const fn room(len: usize) -> usize {
        if len > MAX { WHOLE_HEAD + HEADER + len } else { MAX_SMALL }
    }

    /// Writes a record to the front of `out`, packed, and returns its bytes. It asks for [`room`](Self::room), and touches
    /// no bytes behind.
    ///
    /// # Errors
    ///
    /// There is no room, or the packet is too long. Nothing is remembered of it.
    #[inline]
    pub fn pack(&mut self, record: &Record<'_>, out: &mut [u8]) -> Result<usize, AppendError> {
        let Record { lsn, entry } = record;
        let last = Last { lsn: *lsn, epoch: entry.epoch, time: entry.time.as_nanos() };
        if !is_small(entry) {
            let len = whole(record, 0, out)?;
            self.last = Some(last);
            return Ok(len);
        }
        let (Some(room), Some(ends)) = (out.first_chunk_mut::<MAX_SMALL>(), Ends::of(entry.packet)) else {
            return Err(AppendError::Full);
        };
        let len = number_of(entry.packet.len());
        let (number, about) = (slot_of(entry), About::of(entry));
        let slot = &mut self.slots.bytes[usize::from(number)];
        let before = &mut self.slots.about[usize::from(number)];
        let (sums, changed) = (ends.sums(), ends.put(slot));
        let packed = match self.last.and_then(|before| follows(&before, &last)) {
            Some(passed) if *before == about => {
                let [t0, t1, t2, t3] = passed.to_le_bytes();
                *room.first_chunk_mut().ok_or(AppendError::Full)? = [len, number, t0, t1, t2, t3];
                difference(slot, changed, entry.packet.len(), room)
            }
            _ => {
                let packed = whole(record, number, room)?;
                *before = about;
                packed
            }
        };
        self.check.add(sums, about.with(len, ends.tail), last.time);
        self.last = Some(last);
        Ok(packed)
    }

    /// Writes a seal of all records so far to the front of `out`, and returns its bytes, which are [`SEAL`].
    ///
    /// # Errors
    ///
    /// There is no room.
    pub fn seal(&self, out: &mut [u8]) -> Result<usize, AppendError> {
        let Some(([kind, check @ ..], _)) = out.split_first_chunk_mut::<SEAL>() else {
            return Err(AppendError::Full);
        };
        *kind = SEALED;
        *check = self.check.value(self.last.as_ref()).to_le_bytes();
        Ok(SEAL)
    }
}

/// Nanoseconds from one record to the next, if a difference can say that.
#[inline]
fn follows(before: &Last, next: &Last) -> Option<u32> {
    let passed = u32::try_from(next.time.checked_sub(before.time)?).ok()?;
    (before.lsn.checked_add(1) == Some(next.lsn) && before.epoch == next.epoch).then_some(passed)
}

fn whole(record: &Record<'_>, slot: u8, out: &mut [u8]) -> Result<usize, AppendError> {
    let Some((head, room)) = out.split_first_chunk_mut::<WHOLE_HEAD>() else { return Err(AppendError::Full) };
    let mut writer = LogWriter::new(room, record.lsn);
    writer.append(&record.entry)?;
    *head = [WHOLE, slot];
    Ok(WHOLE_HEAD + writer.finish())
}

/// Writes behind a difference's head which lanes are changed, and these, out of the slot.
/// Returns the bytes of the whole.
#[inline(always)]
fn difference(slot: &[u8; MAX], changed: u64, len: usize, out: &mut [u8; MAX_SMALL]) -> usize {
    if let Some(to) = out[DIFFERENCE_HEAD..].first_chunk_mut() {
        *to = changed.to_le_bytes();
    }
    let start = DIFFERENCE_HEAD + mask_bytes(len);
    let from: &[[u8; LANE]] = slot.as_chunks().0;
    let to = out.get_mut(start..).unwrap_or_default();
    let mut left = changed;
    // What is too much is overwritten by what comes behind.
    for few in to.as_chunks_mut::<{ LANE * UNROLLED }>().0 {
        for lane in few.as_chunks_mut().0 {
            *lane = from[lowest(left)];
            left &= left.wrapping_sub(1);
        }
        if left == 0 {
            break;
        }
    }
    start + LANE * changed.count_ones() as usize
}

/// Where packets of this flow are remembered. Any place would do, a place of its own packs best.
#[inline]
fn slot_of(entry: &Entry<'_>) -> u8 {
    let bytes = entry.packet;
    let at = if entry.flags.contains(Flags::VNET_HEADER) { 10 } else { 0 };
    let word =
        |at: usize| bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
    // Of IPv4 both addresses and both ports, of IPv6 a part of them and the ports. A note begins with them.
    let is_v6 = bytes.get(at + 12) == Some(&0x86);
    let (addresses, ports) = if entry.kind == RecordKind::Note {
        (word(8) ^ word(16).rotate_left(8) ^ word(24).rotate_left(16) ^ word(32).rotate_left(32), word(4))
    } else if is_v6 {
        (word(at + 30).rotate_left(32) ^ word(at + 46), word(at + 54))
    } else {
        (word(at + 26), word(at + 34))
    };
    let ports = ports & u64::from(u32::MAX);
    let hash = (addresses ^ ports.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [.., top] = hash.to_le_bytes();
    top
}
