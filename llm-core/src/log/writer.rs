//! Writes records into a caller's buffer.

use zerocopy::IntoBytes;

use super::layout::Layout;
use super::{Entry, HEADER, MAX_PACKET};
use crate::checksum::digest;

/// Why a record was not appended; the log is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum AppendError {
    /// The buffer has no room for it.
    Full,
    /// The packet is longer than [`MAX_PACKET`].
    TooLong {
        /// Its bytes.
        len: usize,
    },
    /// Every number was used.
    LsnExhausted,
}

impl core::fmt::Display for AppendError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Full => f.write_str("Log buffer is full"),
            Self::TooLong { len } => {
                write!(f, "Packet of {len} bytes cannot be logged: {MAX_PACKET} allowed")
            }
            Self::LsnExhausted => f.write_str("Log cannot go on: every record number was used"),
        }
    }
}

impl core::error::Error for AppendError {}

/// Appends records, numbering them.
#[derive(Debug)]
pub struct LogWriter<'a> {
    buf: &'a mut [u8],
    len: usize,
    next_lsn: Option<u64>,
}

impl<'a> LogWriter<'a> {
    /// An empty piece of log in `buf`, whose first record gets the number `first_lsn`.
    #[must_use]
    pub fn new(buf: &'a mut [u8], first_lsn: u64) -> Self {
        Self { buf, len: 0, next_lsn: Some(first_lsn) }
    }

    /// Appends a record and returns its number.
    ///
    /// # Errors
    ///
    /// There is no room, the packet is too long, or numbers ran out.
    pub fn append(&mut self, entry: &Entry<'_>) -> Result<u64, AppendError> {
        let len = entry.packet.len();
        let too_long = AppendError::TooLong { len };
        if len > MAX_PACKET {
            return Err(too_long);
        }
        let wire_len = u32::try_from(len).map_err(|_| too_long)?;
        let lsn = self.next_lsn.ok_or(AppendError::LsnExhausted)?;
        let room = self.buf.get_mut(self.len..).and_then(|room| room.get_mut(..HEADER + len));
        let record = room.ok_or(AppendError::Full)?;
        let layout = Layout {
            check: 0.into(),
            lsn: lsn.into(),
            epoch: entry.epoch.into(),
            time_ns: entry.time.as_nanos().into(),
            len: wire_len.into(),
            vif: entry.vif.into(),
            flags: (entry.flags.bits() | u16::from(entry.kind.code()) << 8).into(),
        };
        let (head, packet) = record.split_at_mut(HEADER);
        head.copy_from_slice(layout.as_bytes());
        packet.copy_from_slice(entry.packet);
        let (check, covered) = record.split_at_mut(size_of::<u64>());
        check.copy_from_slice(&digest(covered).to_le_bytes());
        self.len += HEADER + len;
        self.next_lsn = lsn.checked_add(1);
        Ok(lsn)
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number that the next record gets; `None` if numbers ran out.
    #[must_use]
    pub fn next_lsn(&self) -> Option<u64> {
        self.next_lsn
    }

    /// The piece as it is so far, for writers that go on in the same buffer.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        self.buf.get(..self.len).unwrap_or_default()
    }

    /// Begins an empty piece in the same buffer; its first record gets the number that comes next.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Begins an empty piece in the same buffer, whose first record gets the number `first_lsn`.
    pub fn restart(&mut self, first_lsn: u64) {
        (self.len, self.next_lsn) = (0, Some(first_lsn));
    }

    /// Ends the piece: its length in bytes, from the start of the buffer.
    #[must_use]
    pub fn finish(self) -> usize {
        self.len
    }
}
