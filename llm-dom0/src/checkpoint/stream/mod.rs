//! The checkpoint stream: what `xl remus`, `xl save` and `xl migrate` write.
//!
//! Three layers lie in each other: the preamble of `xl`, the records of libxl and,
//! from the libxl record `LIBXC_CONTEXT` on, the records of libxc with the guest's
//! memory. libxc gives the stream back to libxl at its `END` and `CHECKPOINT`
//! records; after a checkpoint's `CHECKPOINT_END` libxl gives it back to libxc.
//!
//! [`Parser`] takes the stream in pieces of any size and cuts it into verbatim
//! bytes and guest pages; laid end to end these are the input again. It holds at
//! most one page and the page numbers of one memory record ([`MAX_BATCH`]).
mod error;
mod layout;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{Fault, Layer, StreamError};
pub use writer::{Guest, StreamWriter};

use layout::{be16, be32, has_contents, le16, le32, libxc, libxl, padded};
use llm_core::page::{PAGE, Page};

/// Longest body of a libxl or libxc record, bytes: libxc's own limit (`REC_LENGTH_MAX`).
pub const MAX_RECORD: u32 = 128 << 20;
/// Longest data of the preamble (the domain's configuration), bytes.
pub const MAX_CONFIG: u32 = 16 << 20;
/// Most page numbers in one memory record; Xen writes up to 1024.
pub const MAX_BATCH: u32 = 1 << 16;

/// A piece of the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Item<'a> {
    /// Bytes that are not guest memory.
    Bytes(&'a [u8]),
    /// The contents of a guest page.
    Page {
        /// Guest page frame number.
        pfn: u64,
        /// The contents.
        page: &'a Page,
    },
    /// A place in the stream, right behind the bytes returned so far.
    Mark(Mark),
}

/// A place in the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// What ends here.
    pub kind: MarkKind,
    /// Bytes from the start of the stream to here.
    pub end: u64,
}

/// What ends at a [`Mark`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MarkKind {
    /// The preamble of `xl`.
    Preamble,
    /// The libxc record `CHECKPOINT`. The guest stays suspended until the toolstack
    /// has written it.
    Checkpoint,
    /// The libxl record `CHECKPOINT_END`: the epoch is whole.
    Epoch,
    /// The libxl record `END`: the stream is whole.
    Stream,
}

/// Incremental parser of a checkpoint stream.
///
/// It never panics whatever the input. After an error it returns that error for ever.
#[derive(Debug)]
pub struct Parser {
    state: State,
    offset: u64,
    /// The fixed header being read, and how much of it is there.
    head: [u8; layout::PREAMBLE_LEN],
    head_len: usize,
    /// Page numbers whose contents follow, and how many have been returned.
    pfns: Vec<u64>,
    pfns_done: usize,
    /// A page cut in two by the caller's pieces, and how much of it is there.
    page: Box<Page>,
    page_len: usize,
    /// Body length and page count of the memory record being read.
    record_len: u32,
    batch_count: u32,
    epoch_end: Option<u64>,
    seen_context: bool,
    in_checkpoint: bool,
    pending: Option<Mark>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Preamble,
    Config { left: u64 },
    LibxlHeader,
    LibxlRecord,
    LibxlBody { left: u64 },
    Image,
    Domain,
    LibxcRecord,
    LibxcBody { left: u64 },
    Batch,
    Pfns { left: u32 },
    Pages,
    Done,
    Failed(StreamError),
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Preamble,
            offset: 0,
            head: [0; layout::PREAMBLE_LEN],
            head_len: 0,
            pfns: Vec::new(),
            pfns_done: 0,
            page: Box::new([0; PAGE]),
            page_len: 0,
            record_len: 0,
            batch_count: 0,
            epoch_end: None,
            seen_context: false,
            in_checkpoint: false,
            pending: None,
        }
    }

    /// Bytes taken in so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether an epoch or the stream ended with the last byte taken in.
    #[must_use]
    pub fn at_epoch_end(&self) -> bool {
        self.epoch_end == Some(self.offset)
    }

    /// Whether a page has been taken in in part.
    #[must_use]
    pub fn in_page(&self) -> bool {
        self.page_len > 0
    }

    /// The next piece of `input`, which is moved past it; `None` once `input` is used up.
    ///
    /// A page that is whole in `input` is borrowed from it, as are verbatim bytes.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if the stream is not one that Xen's tools would accept.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Result<Option<Item<'a>>, StreamError> {
        if let State::Failed(error) = self.state {
            return Err(error);
        }
        if let Some(mark) = self.pending.take() {
            return Ok(Some(Item::Mark(mark)));
        }
        let start = *input;
        while !input.is_empty() && self.pending.is_none() && !matches!(self.state, State::Pages) {
            if let Err(error) = self.step(input) {
                self.state = State::Failed(error);
                return Err(error);
            }
        }
        let used = start.len().saturating_sub(input.len());
        if let (verbatim @ [_, ..], _) = start.split_at(used) {
            return Ok(Some(Item::Bytes(verbatim)));
        }
        Ok(self.next_page(input))
    }

    /// Feeds all of `input` and gives every piece of it to `sink`.
    ///
    /// # Errors
    ///
    /// As for [`Self::next`]; pieces ahead of the fault have been given out then.
    pub fn feed(&mut self, mut input: &[u8], mut sink: impl FnMut(Item<'_>)) -> Result<(), StreamError> {
        while let Some(item) = self.next(&mut input)? {
            sink(item);
        }
        Ok(())
    }

    fn next_page<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<Item<'a>> {
        if !matches!(self.state, State::Pages) {
            return None;
        }
        let pfn = *self.pfns.get(self.pfns_done)?;
        if self.page_len == 0
            && let Some((page, rest)) = input.split_first_chunk::<PAGE>()
        {
            *input = rest;
            self.offset += PAGE as u64;
            self.page_done();
            return Some(Item::Page { pfn, page });
        }
        self.offset += fill(&mut self.page[..], &mut self.page_len, input);
        if self.page_len < PAGE {
            return None;
        }
        self.page_len = 0;
        self.page_done();
        Some(Item::Page { pfn, page: &self.page })
    }

    fn page_done(&mut self) {
        self.pfns_done += 1;
        if self.pfns_done == self.pfns.len() {
            self.state = State::LibxcRecord;
        }
    }

    /// Takes the next field or a part of it from `input`, which is not empty.
    fn step(&mut self, input: &mut &[u8]) -> Result<(), StreamError> {
        match self.state {
            State::Preamble => {
                if self.header::<{ layout::PREAMBLE_LEN }>(input) {
                    self.preamble()?;
                }
            }
            State::Config { ref mut left } => {
                self.offset += skip(left, input);
                if *left == 0 {
                    self.end_preamble();
                }
            }
            State::LibxlHeader => {
                if self.header::<{ layout::LIBXL_HEADER_LEN }>(input) {
                    self.libxl_header()?;
                }
            }
            State::LibxlRecord => {
                if self.header::<{ layout::RECORD_LEN }>(input) {
                    self.libxl_record()?;
                }
            }
            State::LibxlBody { ref mut left } => {
                self.offset += skip(left, input);
                if *left == 0 {
                    self.state = State::LibxlRecord;
                }
            }
            State::Image => {
                if self.header::<{ layout::LIBXC_IMAGE_LEN }>(input) {
                    self.image_header()?;
                }
            }
            State::Domain => {
                if self.header::<{ layout::LIBXC_DOMAIN_LEN }>(input) {
                    self.domain_header()?;
                }
            }
            State::LibxcRecord => {
                if self.header::<{ layout::RECORD_LEN }>(input) {
                    self.libxc_record()?;
                }
            }
            State::LibxcBody { ref mut left } => {
                self.offset += skip(left, input);
                if *left == 0 {
                    self.state = State::LibxcRecord;
                }
            }
            State::Batch => {
                if self.header::<8>(input) {
                    self.batch_header()?;
                }
            }
            State::Pfns { left } => {
                if self.header::<8>(input) {
                    self.batch_pfn(left)?;
                }
            }
            State::Done => return Err(self.error(Layer::Libxl, Fault::AfterEnd)),
            State::Pages | State::Failed(_) => {}
        }
        Ok(())
    }

    fn preamble(&mut self) -> Result<(), StreamError> {
        let head = &self.head;
        let (order, mandatory, data) = (le32(head, 32), le32(head, 36), le32(head, 44));
        let fail = |fault| Err(self.error(Layer::Preamble, fault));
        if !head.starts_with(&layout::PREAMBLE_MAGIC) {
            return fail(Fault::Identification);
        }
        if order != layout::BYTE_ORDER {
            return fail(Fault::BigEndian);
        }
        let unknown = mandatory & !(layout::FLAG_JSON | layout::FLAG_STREAM_V2);
        if unknown != 0 {
            return fail(Fault::Flags(unknown));
        }
        if mandatory & layout::FLAG_STREAM_V2 == 0 {
            return fail(Fault::Legacy);
        }
        if data > MAX_CONFIG {
            return fail(Fault::Length { record: 0, length: data, min: 0, max: MAX_CONFIG });
        }
        if data == 0 {
            self.end_preamble();
        } else {
            // Not padded, unlike everything behind it.
            self.state = State::Config { left: u64::from(data) };
        }
        Ok(())
    }

    fn end_preamble(&mut self) {
        self.mark(MarkKind::Preamble);
        self.state = State::LibxlHeader;
    }

    fn libxl_header(&mut self) -> Result<(), StreamError> {
        let (version, options) = (be32(&self.head, 8), be32(&self.head, 12));
        let fail = |fault| Err(self.error(Layer::Libxl, fault));
        if !self.head.starts_with(&layout::LIBXL_IDENT) {
            return fail(Fault::Identification);
        }
        if version != layout::LIBXL_VERSION {
            let (min, max) = (layout::LIBXL_VERSION, layout::LIBXL_VERSION);
            return fail(Fault::Version { got: version, min, max });
        }
        if options & layout::LIBXL_BIG_ENDIAN != 0 {
            return fail(Fault::BigEndian);
        }
        self.state = State::LibxlRecord;
        Ok(())
    }

    fn libxl_record(&mut self) -> Result<(), StreamError> {
        let (record, length) = (le32(&self.head, 0), le32(&self.head, 4));
        let empty = |layer| self.length(layer, record, length, 0, 0);
        match record {
            libxl::END if !self.in_checkpoint && self.seen_context => {
                empty(Layer::Libxl)?;
                self.mark(MarkKind::Stream);
                self.state = State::Done;
            }
            libxl::LIBXC_CONTEXT if !self.seen_context => {
                empty(Layer::Libxl)?;
                self.seen_context = true;
                self.state = State::Image;
            }
            libxl::CHECKPOINT_END if self.in_checkpoint => {
                empty(Layer::Libxl)?;
                self.in_checkpoint = false;
                self.mark(MarkKind::Epoch);
                self.state = State::LibxcRecord;
            }
            libxl::EMULATOR_XENSTORE_DATA | libxl::EMULATOR_CONTEXT => {
                self.length(Layer::Libxl, record, length, 8, MAX_RECORD)?;
                self.state = State::LibxlBody { left: padded(length) };
            }
            libxl::END | libxl::LIBXC_CONTEXT | libxl::CHECKPOINT_END | libxl::CHECKPOINT_STATE => {
                return Err(self.error(Layer::Libxl, Fault::MisplacedRecord(record)));
            }
            _ if record & layout::OPTIONAL != 0 => {
                self.length(Layer::Libxl, record, length, 0, MAX_RECORD)?;
                if length != 0 {
                    self.state = State::LibxlBody { left: padded(length) };
                }
            }
            _ => return Err(self.error(Layer::Libxl, Fault::UnknownRecord(record))),
        }
        Ok(())
    }

    fn image_header(&mut self) -> Result<(), StreamError> {
        let (version, options) = (be32(&self.head, 12), be16(&self.head, 16));
        let fail = |fault| Err(self.error(Layer::Libxc, fault));
        if !self.head.starts_with(&layout::LIBXC_MARKER)
            || self.head.get(8..12) != Some(&layout::LIBXC_IDENT[..])
        {
            return fail(Fault::Identification);
        }
        let (min, max) = layout::LIBXC_VERSIONS;
        if version < min || version > max {
            return fail(Fault::Version { got: version, min, max });
        }
        if options & layout::LIBXC_BIG_ENDIAN != 0 {
            return fail(Fault::BigEndian);
        }
        self.state = State::Domain;
        Ok(())
    }

    fn domain_header(&mut self) -> Result<(), StreamError> {
        let (guest, shift) = (le32(&self.head, 0), le16(&self.head, 4));
        if guest != layout::GUEST_PV && guest != layout::GUEST_HVM {
            return Err(self.error(Layer::Libxc, Fault::GuestType(guest)));
        }
        if shift != layout::PAGE_SHIFT {
            return Err(self.error(Layer::Libxc, Fault::PageShift(shift)));
        }
        self.state = State::LibxcRecord;
        Ok(())
    }

    fn libxc_record(&mut self) -> Result<(), StreamError> {
        let (record, length) = (le32(&self.head, 0), le32(&self.head, 4));
        let empty = || self.length(Layer::Libxc, record, length, 0, 0);
        match record {
            libxc::PAGE_DATA => {
                self.length(Layer::Libxc, record, length, 16, MAX_RECORD)?;
                self.record_len = length;
                self.state = State::Batch;
            }
            libxc::END => {
                empty()?;
                self.state = State::LibxlRecord;
            }
            libxc::CHECKPOINT => {
                empty()?;
                self.in_checkpoint = true;
                self.mark(MarkKind::Checkpoint);
                self.state = State::LibxlRecord;
            }
            libxc::VERIFY | libxc::STATIC_DATA_END => empty()?,
            libxc::CHECKPOINT_DIRTY_PFN_LIST => {
                return Err(self.error(Layer::Libxc, Fault::MisplacedRecord(record)));
            }
            _ if record <= libxc::LAST || record & layout::OPTIONAL != 0 => {
                self.length(Layer::Libxc, record, length, 0, MAX_RECORD)?;
                // Xen 4.6 to 4.8 write known records without a body.
                if length != 0 {
                    self.state = State::LibxcBody { left: padded(length) };
                }
            }
            _ => return Err(self.error(Layer::Libxc, Fault::UnknownRecord(record))),
        }
        Ok(())
    }

    fn batch_header(&mut self) -> Result<(), StreamError> {
        let count = le32(&self.head, 0);
        if count == 0 || count > MAX_BATCH {
            return Err(self.error(Layer::Libxc, Fault::PageCount(count)));
        }
        self.batch_count = count;
        self.pfns.clear();
        self.pfns_done = 0;
        self.state = State::Pfns { left: count };
        Ok(())
    }

    fn batch_pfn(&mut self, left: u32) -> Result<(), StreamError> {
        let entry = self.head.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (pfn, kind) = (entry & layout::PFN_MASK, (entry >> layout::PFN_TYPE_SHIFT) as u8);
        match has_contents(kind) {
            Some(true) => self.pfns.push(pfn),
            Some(false) => {}
            None => return Err(self.error(Layer::Libxc, Fault::PageType { pfn, kind })),
        }
        if left > 1 {
            self.state = State::Pfns { left: left - 1 };
            return Ok(());
        }
        // At most 2^16 pages: 8 + 2^19 + 2^28 fits.
        let pages = u32::try_from(self.pfns.len()).unwrap_or(MAX_BATCH);
        let expected = 8 + 8 * self.batch_count + PAGE as u32 * pages;
        self.length(Layer::Libxc, libxc::PAGE_DATA, self.record_len, expected, expected)?;
        self.state = if self.pfns.is_empty() { State::LibxcRecord } else { State::Pages };
        Ok(())
    }

    /// Collects a fixed header of `N` bytes in `self.head`; true once it is whole.
    fn header<const N: usize>(&mut self, input: &mut &[u8]) -> bool {
        let Some(head) = self.head.first_chunk_mut::<N>() else { return false };
        self.offset += fill(head, &mut self.head_len, input);
        let whole = self.head_len == N;
        if whole {
            self.head_len = 0;
        }
        whole
    }

    fn mark(&mut self, kind: MarkKind) {
        self.pending = Some(Mark { kind, end: self.offset });
        if matches!(kind, MarkKind::Epoch | MarkKind::Stream) {
            self.epoch_end = Some(self.offset);
        }
    }

    fn length(&self, layer: Layer, record: u32, length: u32, min: u32, max: u32) -> Result<(), StreamError> {
        if length < min || length > max {
            return Err(self.error(layer, Fault::Length { record, length, min, max }));
        }
        Ok(())
    }

    fn error(&self, layer: Layer, fault: Fault) -> StreamError {
        StreamError { offset: self.offset, layer, fault }
    }
}

/// Moves bytes from the front of `input` to `buffer[*have..]`; returns how many.
fn fill(buffer: &mut [u8], have: &mut usize, input: &mut &[u8]) -> u64 {
    let Some(space) = buffer.get_mut(*have..) else { return 0 };
    let take = space.len().min(input.len());
    let (bytes, rest) = input.split_at(take);
    if let Some(space) = space.get_mut(..take) {
        space.copy_from_slice(bytes);
    }
    *input = rest;
    *have += take;
    take as u64
}

/// Drops up to `left` bytes from the front of `input`; returns how many.
fn skip(left: &mut u64, input: &mut &[u8]) -> u64 {
    let take = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *input = input.split_at(take).1;
    *left -= take as u64;
    take as u64
}
