//! Packs records.

use super::super::writer::{AppendError, LogWriter};
use super::super::{Flags, Record};
use super::{
    DIFFERENCE_HEAD, Last, MAX, MAX_SMALL, SLOTS, Slot, WHOLE, WHOLE_HEAD, WORD, WORDS, base, check,
    is_small, padded, words,
};

/// Packs records, one after the other.
#[derive(Clone, Debug)]
pub struct Packer {
    slots: [Slot; SLOTS],
    last: Option<Last>,
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
        Self { slots: [Slot::EMPTY; SLOTS], last: None }
    }

    /// Writes a record to the front of `out`, packed, and returns its bytes. It asks for a
    /// room of [`MAX_SMALL`] bytes for packets of up to 128 bytes, else 2 bytes more than the record has, and touches none behind.
    ///
    /// # Errors
    ///
    /// There is no room, or the packet is too long. Nothing is remembered of it.
    pub fn pack(&mut self, record: &Record<'_>, out: &mut [u8]) -> Result<usize, AppendError> {
        let Record { lsn, entry } = record;
        let last = Last { lsn: *lsn, epoch: entry.epoch, time: entry.time.as_nanos() };
        let small = if is_small(entry) { padded(entry.packet) } else { None };
        let Some(bytes) = small else {
            let len = whole(record, 0, out)?;
            self.last = Some(last);
            return Ok(len);
        };
        let number = slot_of(&bytes, entry.flags);
        let Some(slot) = self.slots.get_mut(usize::from(number)) else { return Err(AppendError::Full) };
        let room = out.first_chunk_mut().ok_or(AppendError::Full)?;
        let new = Slot { bytes, vif: entry.vif, flags: entry.flags };
        let passed = self.last.and_then(|before| follows(&before, &last));
        let len = match passed {
            Some(passed) if slot.vif == entry.vif && slot.flags == entry.flags => {
                let len = entry.packet.len();
                let check = check(&new, len, *lsn, last.time);
                difference(slot, &new.bytes, len, [number_of(len), number], passed, check, room)
            }
            _ => whole(record, number, out)?,
        };
        *slot = new;
        self.last = Some(last);
        Ok(len)
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

/// The length of a small packet, as its first byte.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "it is at most 128")]
const fn number_of(len: usize) -> u8 {
    len as u8
}

/// Writes what is changed in the remembered packet.
#[inline]
fn difference(
    slot: &Slot,
    bytes: &[u8; MAX],
    len: usize,
    head: [u8; 2],
    passed: u32,
    check: u32,
    out: &mut [u8; MAX_SMALL],
) -> usize {
    let (old, new) = (base(slot, len), words(bytes));
    let (mut differ, mut changed) = ([0; WORDS], 0_u16);
    for (i, differ) in differ.iter_mut().enumerate() {
        *differ = old[i] ^ new[i];
        changed |= u16::from(*differ != 0) << i;
    }
    out[..2].copy_from_slice(&head);
    out[2..6].copy_from_slice(&passed.to_le_bytes());
    out[6..10].copy_from_slice(&check.to_le_bytes());
    out[10..DIFFERENCE_HEAD].copy_from_slice(&changed.to_le_bytes());
    let mut code = DIFFERENCE_HEAD;
    let mut data = code + changed.count_ones() as usize;
    let mut left = changed;
    while left != 0 {
        let i = left.trailing_zeros() as usize % WORDS;
        left &= left.wrapping_sub(1);
        let start = differ[i].trailing_zeros() / 8;
        let bytes = 8 - differ[i].leading_zeros() / 8 - start;
        let [low, ..] = (start | bytes.wrapping_sub(1) << 3).to_le_bytes();
        // Both are there: a code and at most eight bytes for each of 16 words.
        if let Some(place) = out.get_mut(code) {
            *place = low;
        }
        if let Some(place) = out.get_mut(data..data + WORD) {
            place.copy_from_slice(&(new[i] >> (8 * start)).to_le_bytes());
        }
        code += 1;
        data += bytes as usize;
    }
    data
}

/// Where packets of this flow are remembered. Any place would do, a place of its own packs best.
#[inline]
fn slot_of(bytes: &[u8; MAX], flags: Flags) -> u8 {
    let at = if flags.contains(Flags::VNET_HEADER) { 10 } else { 0 };
    let word =
        |at: usize| bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
    // Of IPv4 both addresses and both ports, of IPv6 a part of them and the ports.
    let is_v6 = bytes.get(at + 12) == Some(&0x86);
    let (addresses, ports) = if is_v6 {
        (word(at + 30).rotate_left(32) ^ word(at + 46), word(at + 54))
    } else {
        (word(at + 26), word(at + 34))
    };
    let ports = ports & u64::from(u32::MAX);
    let hash = (addresses ^ ports.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [.., top] = hash.to_le_bytes();
    top
}
