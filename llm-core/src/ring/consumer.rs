//! The end that reads records.

use super::end::{Consumes, End};
use super::layout::decode_head;
use super::{AttachError, Memory, RingError, UNIT, Wait, Wake, record_size};

/// The end of a ring that reads records.
///
/// If it is dropped without [`close`](Self::close), the producer is not told.
#[derive(Debug)]
pub struct Consumer<M> {
    end: End<M, Consumes>,
}

impl<M: Memory> Consumer<M> {
    /// The consumer of a ring that nothing was read from yet. Both ends must agree on `max_record`, the most
    /// bytes of payload that a record may have.
    ///
    /// # Errors
    ///
    /// The memory is no ring, not of this size, or has no room for such records.
    pub fn attach(memory: M, max_record: usize) -> Result<Self, AttachError> {
        Ok(Self { end: End::attach(memory, max_record)? })
    }

    /// The next record; `Ok(None)` if none is there now: see [`wait`](Self::wait).
    ///
    /// The record counts as consumed once the next call is made, but its memory is not given back before
    /// [`release`](Self::release). A call returns at most what fits into the ring before that.
    ///
    /// # Errors
    ///
    /// The ring has ended: by a violation, or with [`RingError::Closed`] behind the last record.
    // An iterator could not lend its items.
    #[expect(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Record<'_, M>>, RingError> {
        self.end.alive()?;
        if self.have() == 0 && self.look()? == 0 {
            return Ok(None);
        }
        let (at, have) = (self.end.place, self.have());
        // The only time that this word is read.
        let word = self.end.memory.load_word(self.end.offset);
        let len = decode_head(word, self.end.max, at).map_err(|error| self.end.fail(error))? as usize;
        let size = record_size(len);
        if size as u64 > have {
            return Err(self.end.fail(RingError::Torn { at, size: size as u64, have }));
        }
        let payload = self.end.behind(UNIT);
        self.end.advance(size)?;
        Ok(Some(Record { memory: &self.end.memory, at: payload, len }))
    }

    /// Gives the memory of all records consumed so far back to the producer.
    pub fn release(&mut self) -> Wake {
        self.end.show()
    }

    /// To be called before sleeping, when there was no record. Releases, and asks to be notified of the next record.
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next).
    pub fn wait(&mut self) -> Result<Wait, RingError> {
        self.end.alive()?;
        let wake = self.end.show();
        if self.have() == 0 {
            self.end.want(self.end.place.saturating_add(1));
            self.look()?;
        }
        Ok(Wait { wake, sleep: self.have() == 0 })
    }

    /// Ends the ring in order: releases, and lets the producer know that nobody reads on.
    pub fn close(self) -> Wake {
        self.end.close()
    }

    #[cfg(test)]
    pub(super) fn set_place(&mut self, place: u64) {
        self.end.set_place(place);
    }

    /// Bytes of records that are there, as far as known.
    fn have(&self) -> u64 {
        self.end.seen.saturating_sub(self.end.place)
    }

    /// Looks how many bytes of records are there by now.
    fn look(&mut self) -> Result<u64, RingError> {
        let closed = self.end.look()?;
        match self.have() {
            0 if closed => Err(self.end.fail(RingError::Closed)),
            have => Ok(have),
        }
    }
}

/// A record in shared memory. Its length was checked and does not change; its bytes may, with a hostile peer:
/// every copy of them may differ from the one before.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a, M> {
    memory: &'a M,
    /// Place of the payload in the data area.
    at: usize,
    len: usize,
}

impl<'a, M: Memory> Record<'a, M> {
    /// Bytes of payload.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the record has no payload.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the whole record to the front of `into`, and returns the copy; `None` if `into` is too small.
    pub fn copy_to<'b>(&self, into: &'b mut [u8]) -> Option<&'b mut [u8]> {
        let copy = into.get_mut(..self.len)?;
        self.read_at(0, copy);
        Some(copy)
    }

    /// Copies bytes from `at` in the record on; how many there were, at most as many as fit into `into`.
    pub fn read_at(&self, at: usize, into: &mut [u8]) -> usize {
        let count = self.len.saturating_sub(at).min(into.len());
        if let Some(into) = into.get_mut(..count)
            && count > 0
        {
            let (at, len) = (self.at + at, self.memory.data_len());
            self.memory.read(if at < len { at } else { at - len }, into);
        }
        count
    }

    /// Reads the record in pieces, each byte once.
    #[must_use]
    pub const fn reader(self) -> Reader<'a, M> {
        Reader { record: self, at: 0 }
    }
}

/// Reads a record in pieces, through [`embedded_io::Read`].
#[derive(Clone, Debug)]
pub struct Reader<'a, M> {
    record: Record<'a, M>,
    at: usize,
}

impl<M: Memory> embedded_io::Read for Reader<'_, M> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Self::Error> {
        let count = self.record.read_at(self.at, into);
        self.at += count;
        Ok(count)
    }
}

impl<M: Memory> embedded_io::ErrorType for Reader<'_, M> {
    type Error = core::convert::Infallible;
}
