//! Unpacks records. Nothing in them is trusted.

use super::super::cursor::Cursor;
use super::super::{Entry, HEADER, LogError, LogReason, Record};
use super::check::Check;
use super::ends::{Ends, lowest};
use super::{
    About, DIFFERENCE_HEAD, LANE, Last, MAX, MIN, SEAL, SEALED, Slots, WHOLE, WHOLE_HEAD, is_small, low,
    mask_bytes, number_of,
};
use crate::time::Instant;

/// What is taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpacked<'a> {
    /// A record, which does not count until the next seal: it may have become another one on the way.
    Record(Record<'a>),
    /// All records so far are as they were packed.
    Seal,
}

/// A record that is added to the check when the next one comes: a processor that reads sixteen bytes where it has written two of
/// them just now waits until these have left it.
#[derive(Clone, Copy, Debug)]
struct Newest {
    slot: u8,
    len: u8,
    time: u64,
}

/// Unpacks what a [`Packer`](super::Packer) has packed, all of it, once and in order.
#[derive(Clone, Debug)]
pub struct Unpacker {
    slots: Slots,
    /// Of the records, not of their packed form.
    cursor: Cursor,
    last: Option<Last>,
    /// Without the newest small record.
    check: Check,
    newest: Option<Newest>,
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
        Self {
            slots: Slots::EMPTY,
            cursor: Cursor::new(None),
            last: None,
            check: Check::new(),
            newest: None,
            offset: 0,
        }
    }

    /// Remembers nothing yet; the first record must be the one behind those that `cursor` has taken.
    #[must_use]
    pub const fn behind(cursor: Cursor) -> Self {
        Self { cursor, ..Self::new() }
    }

    /// The bytes of a record as it is in a log, if `taken`, which is what [`take`](Self::take) took for it, has them.
    #[must_use]
    pub const fn whole_in(taken: &[u8]) -> Option<&[u8]> {
        match taken {
            [WHOLE, _, record @ ..] => Some(record),
            _ => None,
        }
    }

    /// Packed bytes taken so far, seals included.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes what is at the front of `bytes`, and shortens `bytes` by it.
    /// `Ok(None)`, and nothing taken, if it is not whole: call again with more bytes behind.
    ///
    /// # Errors
    ///
    /// The record is bad or does not continue the log, or a seal does not fit; the offset is that in the packed bytes.
    /// The log ends here, at the last seal.
    #[inline]
    pub fn take<'a, 'b: 'a>(&'a mut self, bytes: &mut &'b [u8]) -> Result<Option<Unpacked<'a>>, LogError> {
        match bytes.first() {
            None => Ok(None),
            Some(&SEALED) => self.seal(bytes),
            Some(&WHOLE) => Ok(self.whole(bytes)?.map(Unpacked::Record)),
            Some(_) => Ok(self.difference(bytes)?.map(Unpacked::Record)),
        }
    }

    /// Adds the newest record to the check. To be called before a slot changes.
    #[inline(always)]
    fn settle(&mut self) {
        if let Some(Newest { slot, len, time }) = self.newest.take() {
            let (bytes, about) = (&self.slots.bytes[usize::from(slot)], self.slots.about[usize::from(slot)]);
            if let Some(ends) = bytes.get(..usize::from(len)).and_then(Ends::of) {
                self.check.add(ends.sums(), about.with(len, ends.tail), time);
            }
        }
    }

    fn seal(&mut self, bytes: &mut &[u8]) -> Result<Option<Unpacked<'static>>, LogError> {
        let Some(([_, check @ ..], rest)) = bytes.split_first_chunk::<SEAL>() else { return Ok(None) };
        self.settle();
        if u64::from_le_bytes(*check) != self.check.value(self.last.as_ref()) {
            return Err(LogError { offset: self.offset, reason: LogReason::Checksum });
        }
        self.offset = self.offset.saturating_add(SEAL as u64);
        *bytes = rest;
        Ok(Some(Unpacked::Seal))
    }

    fn whole<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Record<'a>>, LogError> {
        let Some(([_, number], behind)) = bytes.split_first_chunk::<WHOLE_HEAD>() else { return Ok(None) };
        let mut rest = behind;
        let taken = self.cursor.take(&mut rest).map_err(|error| LogError { offset: self.offset, ..error })?;
        let Some(record) = taken else { return Ok(None) };
        let entry = &record.entry;
        let last = Last { lsn: record.lsn, epoch: entry.epoch, time: entry.time.as_nanos() };
        if let (true, Some(ends)) = (is_small(entry), Ends::of(entry.packet)) {
            self.settle();
            self.slots.about[usize::from(*number)] = About::of(entry);
            ends.put(&mut self.slots.bytes[usize::from(*number)]);
            let len = number_of(entry.packet.len());
            self.newest = Some(Newest { slot: *number, len, time: last.time });
        } else if *number != 0 {
            return Err(LogError { offset: self.offset, reason: LogReason::Difference });
        }
        self.last = Some(last);
        self.offset = self.offset.saturating_add((WHOLE_HEAD + HEADER + entry.packet.len()) as u64);
        *bytes = rest;
        Ok(Some(record))
    }

    #[inline]
    fn difference(&mut self, bytes: &mut &[u8]) -> Result<Option<Record<'_>>, LogError> {
        let error = |reason| LogError { offset: self.offset, reason };
        let Some((&[len, number, t0, t1, t2, t3], behind)) = bytes.split_first_chunk::<DIFFERENCE_HEAD>()
        else {
            return Ok(None);
        };
        let bytes_len = usize::from(len);
        let (Some(last), MIN..=MAX) = (self.last, bytes_len) else {
            return Err(error(LogReason::Difference));
        };
        let Some((changed, lanes)) = changed(behind, mask_bytes(bytes_len)) else { return Ok(None) };
        if changed.unbounded_shr(low(bytes_len.div_ceil(LANE))) != 0 {
            return Err(error(LogReason::Difference));
        }
        let count = changed.count_ones() as usize;
        let Some((lanes, rest)) = lanes.split_at_checked(LANE * count) else { return Ok(None) };
        let passed = u32::from_le_bytes([t0, t1, t2, t3]);
        let time = last.time.checked_add(passed.into()).ok_or_else(|| error(LogReason::Difference))?;
        let lsn = last.lsn.checked_add(1).ok_or_else(|| error(LogReason::LsnExhausted))?;

        let last = Last { lsn, time, ..last };
        self.settle();
        let slot = &mut self.slots.bytes[usize::from(number)];
        apply(slot, changed, lanes);
        self.newest = Some(Newest { slot: number, len, time: last.time });
        self.cursor.follow(lsn);
        self.last = Some(last);
        self.offset = self.offset.saturating_add((bytes.len() - rest.len()) as u64);
        *bytes = rest;
        let (kind, vif, flags) = self.slots.about[usize::from(number)].parts();
        let packet = slot.get(..bytes_len).unwrap_or_default();
        let time = Instant::from_nanos(time);
        let entry = Entry { kind, epoch: last.epoch, time, vif, flags, packet };
        Ok(Some(Record { lsn, entry }))
    }
}

/// The bits of the first `len` bytes, at most eight, and what is behind these.
#[inline(always)]
fn changed(bytes: &[u8], len: usize) -> Option<(u64, &[u8])> {
    let rest = bytes.get(len..)?;
    let changed = match bytes.first_chunk() {
        Some(eight) => u64::from_le_bytes(*eight) & u64::MAX.unbounded_shr(64 - 8 * low(len)),
        None => bytes.iter().take(len).rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
    };
    Some((changed, rest))
}

/// Puts lanes where the bits of `changed` say, of which there are as many.
#[inline(always)]
fn apply(slot: &mut [u8; MAX], mut changed: u64, lanes: &[u8]) {
    let to: &mut [[u8; LANE]] = slot.as_chunks_mut().0;
    for lane in lanes.as_chunks().0 {
        to[lowest(changed)] = *lane;
        changed &= changed.wrapping_sub(1);
    }
}
