//! Reads records. Nothing in a log is trusted.

use zerocopy::FromBytes;

use super::layout::Layout;
use super::{Entry, Flags, HEADER, LogError, LogReason, MAX_PACKET, Record, RecordKind};
use crate::checksum::digest;
use crate::time::Instant;

/// The place up to which a log was read. It holds no bytes, so that the log can
/// be in a file or a ring and come in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Cursor {
    offset: u64,
    next: Next,
    last_epoch: u64,
}

/// The number that the next record must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
enum Next {
    Any,
    Lsn(u64),
    Exhausted,
}

impl Cursor {
    /// The start of a log, whose first record must be `first_lsn`, or may be any if that is `None`.
    #[must_use]
    pub const fn new(first_lsn: Option<u64>) -> Self {
        let next = match first_lsn {
            Some(lsn) => Next::Lsn(lsn),
            None => Next::Any,
        };
        Self { offset: 0, next, last_epoch: 0 }
    }

    /// Bytes read so far.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the record at the front of `bytes`, and shortens `bytes` by it.
    /// `Ok(None)`, and nothing taken, if no whole record is there: call again with more bytes behind.
    ///
    /// # Errors
    ///
    /// The record is bad or does not continue the log. Nothing is taken; the log ends here.
    pub fn take<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Record<'a>>, LogError> {
        let error = |reason| LogError { offset: self.offset, reason };
        let Ok((layout, rest)) = Layout::ref_from_prefix(bytes) else {
            return Ok(None);
        };
        let len = match usize::try_from(layout.len.get()) {
            Ok(len) if len <= MAX_PACKET => len,
            _ => return Err(error(LogReason::TooLong { len: layout.len.get() })),
        };
        let Some((packet, rest)) = rest.split_at_checked(len) else {
            return Ok(None);
        };
        let covered = bytes.get(size_of::<u64>()..HEADER + len).unwrap_or_default();
        if digest(covered) != layout.check.get() {
            return Err(error(LogReason::Checksum));
        }
        let flags = layout.flags.get();
        let [kind, bits] = flags.to_be_bytes();
        let kind = RecordKind::from_code(kind).ok_or_else(|| error(LogReason::Flags(flags)))?;
        let flags = Flags::from_bits(bits.into()).ok_or_else(|| error(LogReason::Flags(flags)))?;
        let (lsn, epoch) = (layout.lsn.get(), layout.epoch.get());
        match self.next {
            Next::Lsn(want) if want != lsn => return Err(error(LogReason::Lsn { want, got: lsn })),
            Next::Exhausted => return Err(error(LogReason::LsnExhausted)),
            Next::Lsn(_) | Next::Any => {}
        }
        if epoch < self.last_epoch {
            return Err(error(LogReason::Epoch { last: self.last_epoch, got: epoch }));
        }
        self.last_epoch = epoch;
        self.next = lsn.checked_add(1).map_or(Next::Exhausted, Next::Lsn);
        self.offset = self.offset.saturating_add((HEADER + len) as u64);
        *bytes = rest;
        let time = Instant::from_nanos(layout.time_ns.get());
        Ok(Some(Record { lsn, entry: Entry { kind, epoch, time, vif: layout.vif.get(), flags, packet } }))
    }

    /// Says that record `lsn`, which follows, of the epoch of the record before, was read by other means.
    pub(super) fn follow(&mut self, lsn: u64) {
        self.next = lsn.checked_add(1).map_or(Next::Exhausted, Next::Lsn);
    }

    /// Says that the log is over, with `rest` not taken.
    ///
    /// # Errors
    ///
    /// Something is left: the log ends inside a record.
    pub const fn finish(&self, rest: &[u8]) -> Result<(), LogError> {
        if rest.is_empty() {
            return Ok(());
        }
        Err(LogError { offset: self.offset, reason: LogReason::Truncated { have: rest.len() } })
    }
}

/// The records of a whole log. After an error there is nothing more.
#[must_use]
pub fn records(log: &[u8], first_lsn: Option<u64>) -> Records<'_> {
    Records { cursor: Cursor::new(first_lsn), rest: log }
}

/// Iterator made by [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    cursor: Cursor,
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let error = match self.cursor.take(&mut self.rest) {
            Ok(Some(record)) => return Some(Ok(record)),
            Ok(None) => self.cursor.finish(self.rest).err()?,
            Err(error) => error,
        };
        self.rest = &[];
        Some(Err(error))
    }
}

impl core::iter::FusedIterator for Records<'_> {}
