//! The end that writes records.

use super::end::{End, Produces};
use super::layout::encode_head;
use super::{AttachError, Memory, ReserveError, RingError, UNIT, Wait, Wake, record_size};

/// The end of a ring that writes records.
///
/// If it is dropped without [`close`](Self::close), the consumer is not told.
#[derive(Debug)]
pub struct Producer<M> {
    end: End<M, Produces>,
}

impl<M: Memory> Producer<M> {
    /// The producer of a ring that nothing was written to yet. Both ends must agree on `max_record`, the most
    /// bytes of payload that a record may have.
    ///
    /// # Errors
    ///
    /// The memory is no ring, not of this size, or has no room for such records.
    pub fn attach(memory: M, max_record: usize) -> Result<Self, AttachError> {
        Ok(Self { end: End::attach(memory, max_record)? })
    }

    /// Room for a record with `len` bytes of payload; `Ok(None)` if the ring is full: see [`wait`](Self::wait).
    ///
    /// # Errors
    ///
    /// The record can never be written, or the ring has ended.
    pub fn reserve(&mut self, len: usize) -> Result<Option<Reservation<'_, M>>, ReserveError> {
        self.end.alive()?;
        let max = self.end.max;
        let Some(payload) = u32::try_from(len).ok().filter(|len| *len <= max) else {
            return Err(ReserveError::TooLong { len, max });
        };
        if self.end.place.checked_add(self.end.data_len).is_none() {
            return Err(self.end.fail(RingError::Exhausted).into());
        }
        let size = record_size(len) as u64;
        if self.free() < size && self.look()? < size {
            return Ok(None);
        }
        Ok(Some(Reservation { at: self.end.behind(UNIT), len: payload, written: 0, end: &mut self.end }))
    }

    /// Shows the consumer all records committed so far.
    pub fn publish(&mut self) -> Wake {
        self.end.show()
    }

    /// To be called before sleeping, when there was no room for a record with `len` bytes of payload. Publishes;
    /// then asks to be notified when there is room for that record and half of the ring is free.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve).
    pub fn wait(&mut self, len: usize) -> Result<Wait, ReserveError> {
        self.end.alive()?;
        let max = self.end.max;
        if len > max as usize {
            return Err(ReserveError::TooLong { len, max });
        }
        let wake = self.end.show();
        let size = record_size(len) as u64;
        if self.free() < size {
            let room = size.max(self.end.data_len / 2);
            // More is in use than would leave that room, so this is beyond what was seen.
            self.end.want((self.end.place.saturating_add(room)).saturating_sub(self.end.data_len));
            self.look()?;
        }
        Ok(Wait { wake, sleep: self.free() < size })
    }

    /// Ends the ring in order: publishes, and lets the consumer read to the end.
    pub fn close(self) -> Wake {
        self.end.close()
    }

    #[cfg(test)]
    pub(super) fn set_place(&mut self, place: u64) {
        self.end.set_place(place);
    }

    /// Bytes free, as far as known.
    fn free(&self) -> u64 {
        self.end.data_len.saturating_sub(self.end.place.saturating_sub(self.end.seen))
    }

    /// Looks how much is free by now.
    fn look(&mut self) -> Result<u64, RingError> {
        if self.end.look()? {
            return Err(self.end.fail(RingError::Closed));
        }
        Ok(self.free())
    }
}

/// Room in the ring for one record. What is written to it goes straight to shared memory, and counts once it
/// is committed; dropped, it is as if it had never been.
///
/// Bytes that are not written have the value that they had in shared memory before.
#[derive(Debug)]
pub struct Reservation<'a, M> {
    end: &'a mut End<M, Produces>,
    /// Place of the payload in the data area.
    at: usize,
    len: u32,
    /// Bytes written one after the other.
    written: usize,
}

impl<M: Memory> Reservation<'_, M> {
    /// Bytes of payload.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the record has no payload.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes written by [`embedded_io::Write`] so far.
    #[must_use]
    pub const fn written(&self) -> usize {
        self.written
    }

    /// Writes bytes at `at` in the record.
    ///
    /// # Errors
    ///
    /// They do not fit; nothing is written.
    pub fn write_at(&mut self, at: usize, bytes: &[u8]) -> Result<(), Full> {
        if at.checked_add(bytes.len()).is_none_or(|end| end > self.len()) {
            return Err(Full);
        }
        if !bytes.is_empty() {
            let (at, len) = (self.at + at, self.end.memory.data_len());
            self.end.memory.write(if at < len { at } else { at - len }, bytes);
        }
        Ok(())
    }

    /// Commits the record; it is published with the next batch.
    pub fn commit(self) {
        let len = self.len();
        self.commit_front(len);
    }

    /// Commits the first `len` bytes, at most all, as the record. For those who reserve the most that they may need.
    pub fn commit_front(self, len: usize) {
        let len = u32::try_from(len).map_or(self.len, |len| len.min(self.len));
        self.end.memory.store_word(self.end.offset, encode_head(len));
        // That positions do not run out was seen to when it was reserved.
        let _: Result<(), RingError> = self.end.advance(record_size(len as usize));
    }
}

/// Writes one piece after the other.
impl<M: Memory> embedded_io::Write for Reservation<'_, M> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Full> {
        let room = self.len() - self.written;
        let Some(bytes) =
            bytes.get(..bytes.len().min(room)).filter(|taken| bytes.is_empty() || !taken.is_empty())
        else {
            return Err(Full);
        };
        self.write_at(self.written, bytes)?;
        self.written += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Full> {
        Ok(())
    }
}

impl<M: Memory> embedded_io::ErrorType for Reservation<'_, M> {
    type Error = Full;
}

/// A reserved record has no room for what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Full;

impl core::fmt::Display for Full {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("No room in the reserved record")
    }
}

impl core::error::Error for Full {}

impl embedded_io::Error for Full {
    fn kind(&self) -> embedded_io::ErrorKind {
        embedded_io::ErrorKind::OutOfMemory
    }
}
