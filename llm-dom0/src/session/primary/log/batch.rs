//! The frame that is being filled with records.

use llm_core::frame::Kind;
use llm_core::log::{AppendError, HEADER, LogWriter, Packer, Record, SEAL};

/// Records one behind the other.
#[derive(Debug)]
pub(super) struct Batch {
    /// Of which the first `len` are records. Those behind were set once, or are left of an earlier frame: to set them for each
    /// record would cost as much as to copy it.
    bytes: Vec<u8>,
    len: usize,
    /// Of a session whose records go packed.
    packer: Option<Box<Packer>>,
    /// Of a frame that is done with: memory that is fresh from the system costs more than what is copied into it.
    spare: Vec<u8>,
}

impl Batch {
    pub(super) fn new(packed: bool) -> Self {
        Self { bytes: Vec::new(), len: 0, packer: packed.then(Box::default), spare: Vec::new() }
    }

    /// Bytes of the records.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Its packet is too long.
    pub(super) fn append(&mut self, record: &Record<'_>) -> Result<(), AppendError> {
        let packet = record.entry.packet.len();
        // Most that it takes; a packed record tells how little that was.
        let room = if self.packer.is_some() { Packer::room(packet) } else { HEADER + packet };
        let out = room_in(&mut self.bytes, self.len, room);
        self.len += match &mut self.packer {
            Some(packer) => packer.pack(record, out)?,
            None => LogWriter::new(out, record.lsn).append(&record.entry).map(|_| room)?,
        };
        Ok(())
    }

    /// What is to be sent, as a frame of that kind; begins the next one.
    pub(super) fn take(&mut self) -> (Kind, Vec<u8>) {
        let mut kind = Kind::LOG;
        if self.packer.is_some() {
            kind = Kind::PACKED_LOG;
            let out = room_in(&mut self.bytes, self.len, SEAL);
            let sealed = self.packer.as_ref().map_or(Ok(0), |packer| packer.seal(out));
            // There is room.
            self.len += sealed.unwrap_or(0);
        }
        self.bytes.truncate(std::mem::take(&mut self.len));
        (kind, std::mem::replace(&mut self.bytes, std::mem::take(&mut self.spare)))
    }

    /// The payload of a frame that is done with, to be used again.
    pub(super) fn spare(&mut self, payload: Vec<u8>) {
        self.spare = payload;
    }
}

/// `room` bytes from `at` on.
fn room_in(bytes: &mut Vec<u8>, at: usize, room: usize) -> &mut [u8] {
    let end = at + room;
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes.get_mut(at..end).unwrap_or_default()
}
