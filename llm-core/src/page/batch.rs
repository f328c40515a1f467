//! Batches: byte ranges and page records that together rebuild a byte stream.
//!
//! A batch is the payload of a frame. It stands alone: page numbers are coded
//! as differences inside one batch only. The bytes are specified in
//! `docs/wire-format.md`.

use super::varint::{self, MAX_VARINT, VarintError};
use super::{Encoded, Encoder, MAX_RECORD, Next, Page, PageError, record_len};

#[cfg(test)]
mod tests;

/// Most bytes that a page operation adds to the page's record.
pub const MAX_PAGE_HEAD: usize = 1 + MAX_VARINT;

const OP_BYTES: u8 = 0;
/// A page operation says whether the page is kept, and whether its number follows
/// the one before or comes as a difference.
const OP_PAGE: u8 = 1;
const OP_PAGE_FOLLOWS: u8 = 2;
const OP_PAGE_NOT_KEPT: u8 = 3;
const OP_PAGE_NOT_KEPT_FOLLOWS: u8 = 4;

/// One step of rebuilding the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// These bytes come next.
    Bytes(&'a [u8]),
    /// The 4096 bytes that a page record decodes to come next.
    Page {
        /// Number of the page in its domain.
        pfn: u64,
        /// Whether both ends keep the page as the old copy for the next record of this page.
        keep: bool,
        /// The record, whole; its content is checked by [`decode`](super::decode).
        record: &'a [u8],
    },
}

/// The batch has no room for the operation; it is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Full;

impl core::fmt::Display for Full {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Batch is full")
    }
}

impl core::error::Error for Full {}

/// Writes a batch into a caller's buffer.
#[derive(Debug)]
pub struct BatchWriter<'a> {
    buf: &'a mut [u8],
    len: usize,
    last_pfn: u64,
}

impl<'a> BatchWriter<'a> {
    /// An empty batch that may grow to the size of `buf`.
    #[must_use]
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0, last_pfn: 0 }
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

    /// Appends as much of `data` as there is room for, and returns how much
    /// that is: 0 if the batch is full. Go on with the rest in the next batch.
    #[must_use = "a batch may take a part only"]
    pub fn bytes(&mut self, data: &[u8]) -> usize {
        let room = self.buf.len() - self.len;
        // The length's own size depends on the length: fit the largest that still goes.
        let mut part = data.len().min(room.saturating_sub(2));
        let mut varint = [0; MAX_VARINT];
        let mut varint_len = varint::write(part as u64, &mut varint);
        while 1 + varint_len + part > room && part > 0 {
            part -= 1;
            varint_len = varint::write(part as u64, &mut varint);
        }
        if part == 0 {
            return 0;
        }
        self.put(&[OP_BYTES]);
        self.put(&varint[..varint_len]);
        self.put(&data[..part]);
        part
    }

    /// Appends a page whose record was made elsewhere. `record` must be one whole record.
    ///
    /// # Errors
    ///
    /// [`Full`] if operation and record do not fit.
    pub fn page(&mut self, pfn: u64, keep: bool, record: &[u8]) -> Result<(), Full> {
        debug_assert_eq!(record_len(record), Ok(record.len()));
        let (head, head_len) = page_head(pfn, self.last_pfn, keep);
        if head_len + record.len() > self.buf.len() - self.len {
            return Err(Full);
        }
        self.put(&head[..head_len]);
        self.put(record);
        self.last_pfn = pfn;
        Ok(())
    }

    /// Encodes a page straight into the batch, as [`Encoder::encode`] does.
    ///
    /// # Errors
    ///
    /// [`Full`] if there might be no room: [`MAX_PAGE_HEAD`] + [`MAX_RECORD`] bytes are always enough.
    pub fn encode_page(
        &mut self,
        encoder: &mut Encoder,
        pfn: u64,
        keep: bool,
        old: Option<&Page>,
        new: &Page,
    ) -> Result<Encoded, Full> {
        self.encode_with(pfn, keep, |out| encoder.encode(old, new, None, out))
    }

    /// As [`Self::encode_page`], of a page that is kept; and `old` becomes equal to `new`. `next`, if known, is fetched from
    /// memory meanwhile.
    ///
    /// # Errors
    ///
    /// [`Full`] if there might be no room; then `old` is as it was.
    pub fn encode_page_update(
        &mut self,
        encoder: &mut Encoder,
        pfn: u64,
        old: &mut Page,
        new: &Page,
        next: Option<Next<'_>>,
    ) -> Result<Encoded, Full> {
        self.encode_with(pfn, true, |out| encoder.encode_update(old, new, next, out))
    }

    fn encode_with(
        &mut self,
        pfn: u64,
        keep: bool,
        encode: impl FnOnce(&mut [u8; MAX_RECORD]) -> Encoded,
    ) -> Result<Encoded, Full> {
        let (head, head_len) = page_head(pfn, self.last_pfn, keep);
        let room = self.buf.get_mut(self.len + head_len..).and_then(<[u8]>::first_chunk_mut::<MAX_RECORD>);
        let encoded = encode(room.ok_or(Full)?);
        self.put(&head[..head_len]);
        self.len += encoded.len;
        self.last_pfn = pfn;
        Ok(encoded)
    }

    /// The batch as it is so far, for writers that go on in the same buffer.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        self.buf.get(..self.len).unwrap_or_default()
    }

    /// Begins an empty batch in the same buffer.
    pub fn clear(&mut self) {
        (self.len, self.last_pfn) = (0, 0);
    }

    /// Ends the batch: its length in bytes, from the start of the buffer.
    #[must_use]
    pub fn finish(self) -> usize {
        self.len
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buf[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// The operation byte and, unless the page follows the one before, the difference of page numbers.
fn page_head(pfn: u64, last: u64, keep: bool) -> ([u8; MAX_PAGE_HEAD], usize) {
    let mut head = [0; MAX_PAGE_HEAD];
    let follows = pfn == last.wrapping_add(1);
    head[0] = match (keep, follows) {
        (true, false) => OP_PAGE,
        (true, true) => OP_PAGE_FOLLOWS,
        (false, false) => OP_PAGE_NOT_KEPT,
        (false, true) => OP_PAGE_NOT_KEPT_FOLLOWS,
    };
    if follows {
        return (head, 1);
    }
    let mut varint = [0; MAX_VARINT];
    let len = varint::write(varint::zigzag(pfn.wrapping_sub(last).cast_signed()), &mut varint);
    head[1..].copy_from_slice(&varint);
    (head, 1 + len)
}

/// Reads the operations of a batch, in order. After an error there is nothing more.
#[derive(Clone, Debug)]
pub struct BatchReader<'a> {
    rest: &'a [u8],
    len: usize,
    last_pfn: u64,
}

impl<'a> BatchReader<'a> {
    /// Reads the batch that `bytes` is, whole.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, len: bytes.len(), last_pfn: 0 }
    }

    /// Where the next operation starts, in bytes from the start of the batch.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.len.saturating_sub(self.rest.len())
    }

    fn op(&mut self, code: u8) -> Result<Op<'a>, BatchError> {
        match code {
            OP_BYTES => {
                let len = self.varint()?;
                let have = self.rest.len();
                let taken = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
                let (bytes, rest) =
                    taken.ok_or_else(|| self.error(BatchReason::Truncated { need: len, have }))?;
                self.rest = rest;
                Ok(Op::Bytes(bytes))
            }
            OP_PAGE | OP_PAGE_NOT_KEPT => {
                let difference = varint::unzigzag(self.varint()?);
                self.page(self.last_pfn.wrapping_add_signed(difference), code == OP_PAGE)
            }
            OP_PAGE_FOLLOWS | OP_PAGE_NOT_KEPT_FOLLOWS => {
                self.page(self.last_pfn.wrapping_add(1), code == OP_PAGE_FOLLOWS)
            }
            _ => Err(BatchError {
                offset: self.offset().saturating_sub(1),
                reason: BatchReason::UnknownOp(code),
            }),
        }
    }

    fn page(&mut self, pfn: u64, keep: bool) -> Result<Op<'a>, BatchError> {
        let len = record_len(self.rest).map_err(|error| self.error(BatchReason::Page(error)))?;
        let (record, rest) = self.rest.split_at_checked(len).unwrap_or((self.rest, &[]));
        self.rest = rest;
        self.last_pfn = pfn;
        Ok(Op::Page { pfn, keep, record })
    }

    fn varint(&mut self) -> Result<u64, BatchError> {
        let (value, len) = varint::read(self.rest).map_err(|error| {
            self.error(match error {
                VarintError::Truncated => {
                    BatchReason::Truncated { need: self.rest.len() as u64 + 1, have: self.rest.len() }
                }
                VarintError::Malformed => BatchReason::BadNumber,
            })
        })?;
        self.rest = self.rest.get(len..).unwrap_or(&[]);
        Ok(value)
    }

    fn error(&self, reason: BatchReason) -> BatchError {
        BatchError { offset: self.offset(), reason }
    }
}

impl<'a> Iterator for BatchReader<'a> {
    type Item = Result<Op<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&code, rest) = self.rest.split_first()?;
        self.rest = rest;
        let op = self.op(code);
        if op.is_err() {
            self.rest = &[];
        }
        Some(op)
    }
}

impl core::iter::FusedIterator for BatchReader<'_> {}

/// A batch that cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct BatchError {
    /// Where, in bytes from the start of the batch.
    pub offset: usize,
    /// What is wrong there.
    pub reason: BatchReason,
}

/// Why a batch cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum BatchReason {
    /// The batch ends inside an operation.
    Truncated {
        /// Bytes wanted from the offset on.
        need: u64,
        /// Bytes there.
        have: usize,
    },
    /// No operation has this number.
    UnknownOp(u8),
    /// A number is longer than needed, or beyond 64 bits.
    BadNumber,
    /// No whole page record starts at the offset.
    Page(PageError),
}

impl core::fmt::Display for BatchError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bad batch at byte {}: ", self.offset)?;
        match self.reason {
            BatchReason::Truncated { need, have } => write!(f, "{need} bytes wanted, {have} there"),
            BatchReason::UnknownOp(op) => write!(f, "unknown operation {op}"),
            BatchReason::BadNumber => f.write_str("bad number"),
            BatchReason::Page(error) => write!(f, "{}, {} bytes on", error.reason, error.offset),
        }
    }
}

impl core::error::Error for BatchError {}
