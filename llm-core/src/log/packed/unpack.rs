//! Unpacks records. Nothing in them is trusted.

use super::super::cursor::Cursor;
use super::super::{Entry, HEADER, LogError, LogReason, Record, RecordKind};
use super::{
    DIFFERENCE_HEAD, Last, MAX, MIN, SLOTS, Slot, WHOLE, WHOLE_HEAD, WORD, WORDS, base, check, is_small,
    padded,
};
use crate::time::Instant;

/// Unpacks what a [`Packer`](super::Packer) has packed, all of it, once and in order.
#[derive(Clone, Debug)]
pub struct Unpacker {
    slots: [Slot; SLOTS],
    /// Of the records, not of their packed form.
    cursor: Cursor,
    last: Option<Last>,
    /// Packed bytes taken.
    offset: u64,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self::new()
    }
}

impl Unpacker {
    /// Remembers nothing yet; the first record may have any number.
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: [Slot::EMPTY; SLOTS], cursor: Cursor::new(None), last: None, offset: 0 }
    }

    /// Packed bytes taken so far.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the packed record at the front of `bytes`, and shortens `bytes` by it.
    /// `Ok(None)`, and nothing taken, if no whole one is there: call again with more bytes behind.
    ///
    /// # Errors
    ///
    /// The record is bad or does not continue the log; the offset is that in the packed bytes. Nothing is taken. The log ends here.
    pub fn take<'a, 'b: 'a>(&'a mut self, bytes: &mut &'b [u8]) -> Result<Option<Record<'a>>, LogError> {
        let Some((head, behind)) = bytes.split_first_chunk::<WHOLE_HEAD>() else { return Ok(None) };
        let [len, number] = *head;
        if len != WHOLE {
            let done = self.difference(len.into(), number, bytes)?;
            let Some((record, taken)) = done else { return Ok(None) };
            *bytes = bytes.get(taken..).unwrap_or_default();
            return Ok(Some(record));
        }
        let mut rest = behind;
        let taken = self.cursor.take(&mut rest).map_err(|error| LogError { offset: self.offset, ..error })?;
        let Some(record) = taken else { return Ok(None) };
        let entry = &record.entry;
        if is_small(entry)
            && let Some(bytes) = padded(entry.packet)
            && let Some(slot) = self.slots.get_mut(usize::from(number))
        {
            *slot = Slot { bytes, vif: entry.vif, flags: entry.flags };
        } else if number != 0 {
            return Err(LogError { offset: self.offset, reason: LogReason::Difference });
        }
        self.last = Some(Last { lsn: record.lsn, epoch: entry.epoch, time: entry.time.as_nanos() });
        self.offset = self.offset.saturating_add((WHOLE_HEAD + HEADER + entry.packet.len()) as u64);
        *bytes = rest;
        Ok(Some(record))
    }

    /// The record, and its packed bytes.
    fn difference(
        &mut self,
        len: usize,
        number: u8,
        bytes: &[u8],
    ) -> Result<Option<(Record<'_>, usize)>, LogError> {
        let error = |reason| LogError { offset: self.offset, reason };
        let (Some(last), MIN..=MAX) = (self.last, len) else { return Err(error(LogReason::Difference)) };
        let Some((head, behind)) = bytes.split_first_chunk::<DIFFERENCE_HEAD>() else { return Ok(None) };
        let [_, _, t0, t1, t2, t3, c0, c1, c2, c3, m0, m1] = *head;
        let changed = u16::from_le_bytes([m0, m1]);
        let Some((codes, data)) = behind.split_at_checked(changed.count_ones() as usize) else {
            return Ok(None);
        };
        let Some(slot) = self.slots.get_mut(usize::from(number)) else {
            return Err(error(LogReason::Difference));
        };
        let Some((made, used)) = apply(base(slot, len), len, changed, codes, data).map_err(error)? else {
            return Ok(None);
        };
        let passed = u32::from_le_bytes([t0, t1, t2, t3]);
        let time = last.time.checked_add(passed.into()).ok_or_else(|| error(LogReason::Difference))?;
        let lsn = last.lsn.checked_add(1).ok_or_else(|| error(LogReason::LsnExhausted))?;
        let made = Slot { bytes: made, ..*slot };
        if check(&made, len, lsn, time) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(error(LogReason::Checksum));
        }
        *slot = made;
        self.cursor.follow(lsn);
        self.last = Some(Last { lsn, time, ..last });
        let taken = DIFFERENCE_HEAD + codes.len() + used;
        self.offset = self.offset.saturating_add(taken as u64);
        let Slot { bytes, vif, flags } = slot;
        let packet = bytes.get(..len).unwrap_or_default();
        let (kind, time) = (RecordKind::Input, Instant::from_nanos(time));
        let entry = Entry { kind, epoch: last.epoch, time, vif: *vif, flags: *flags, packet };
        Ok(Some((Record { lsn, entry }, taken)))
    }
}

/// What the difference makes of `words`, and the bytes of data that it took; `None` if there are fewer.
#[inline]
fn apply(
    mut words: [u64; WORDS],
    len: usize,
    changed: u16,
    codes: &[u8],
    data: &[u8],
) -> Result<Option<([u8; MAX], usize)>, LogReason> {
    let (mut left, mut at) = (changed, 0);
    for code in codes {
        let i = left.trailing_zeros() as usize % WORDS;
        left &= left.wrapping_sub(1);
        let (start, count) = (usize::from(code & 7), usize::from(code >> 3) + 1);
        if start + count > WORD || WORD * i + start + count > len {
            return Err(LogReason::Difference);
        }
        let rest = data.get(at..).unwrap_or_default();
        let new = match rest.first_chunk::<WORD>() {
            Some(chunk) => u64::from_le_bytes(*chunk),
            // The last bytes there are.
            None => {
                let Some(found) = rest.get(..count) else { return Ok(None) };
                found.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
            }
        };
        let mask = (u64::MAX >> (64 - 8 * count)) << (8 * start);
        words[i] = words[i] & !mask | new << (8 * start) & mask;
        at += count;
    }
    let mut bytes = [0; MAX];
    for (to, word) in bytes.as_chunks_mut::<WORD>().0.iter_mut().zip(&words) {
        *to = word.to_le_bytes();
    }
    Ok(Some((bytes, at)))
}
