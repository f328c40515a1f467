//! Primary side: the checkpoint stream into batches of page diffs.

use super::shadow::Shadow;
use super::stream::{Item, Mark, MarkKind, Parser, StreamError};
use super::width::features;
use llm_core::checksum::Digest;
use llm_core::page::batch::BatchWriter;
use llm_core::page::{self, Density, Kind, Page};

/// Largest batch written, bytes.
pub const MAX_BATCH_LEN: usize = 256 << 10;

/// What comes out of an [`Encoder`], in order.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// A batch, to be sent as the payload of one frame.
    Batch(&'a [u8]),
    /// A place in the stream other than the end of an epoch; all that lies ahead of
    /// it was in the batches so far.
    Mark(Mark),
    /// An epoch is whole; all of it was in the batches since the last one.
    Epoch(&'a EpochSummary),
}

/// What one epoch was.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EpochSummary {
    /// Epochs that ended ahead of this one in the same stream.
    pub index: u64,
    /// End of the epoch, bytes from the start of the stream.
    pub end: u64,
    /// End of its libxc record `CHECKPOINT`, bytes from the start of the stream: a
    /// packet stamped below this is explained by the epoch.
    pub checkpoint_end: u64,
    /// Bytes of the stream in this epoch.
    pub stream_bytes: u64,
    /// XXH3-64 of these bytes.
    pub digest: u64,
    /// Guest pages in this epoch.
    pub pages: u32,
    /// These pages by kind of record; index by `Kind as usize`.
    pub kinds: [u32; Kind::COUNT],
    /// Bytes of all batches.
    pub batch_bytes: u64,
    /// The stream ended here as a plain save does; no epoch follows.
    pub last: bool,
}

/// Cuts a checkpoint stream into batches, page by page against the last copy sent.
#[derive(Debug)]
pub struct Encoder {
    parser: Parser,
    shadow: Shadow,
    pages: Box<page::Encoder>,
    buffer: Box<[u8]>,
    digest: Digest,
    epoch: EpochSummary,
}

impl Encoder {
    /// An encoder at the start of a stream that keeps copies of up to `shadow_pages`
    /// guest pages; the [`Rebuilder`](super::rebuild::Rebuilder) must keep as many.
    #[must_use]
    pub fn new(shadow_pages: u32) -> Self {
        Self {
            parser: Parser::new(),
            shadow: Shadow::new(shadow_pages),
            pages: Box::new(page::Encoder::new(features(), Density::Fast)),
            buffer: vec![0; MAX_BATCH_LEN].into_boxed_slice(),
            digest: Digest::new(),
            epoch: EpochSummary::default(),
        }
    }

    /// The copies of guest pages.
    #[must_use]
    pub fn shadow(&self) -> &Shadow {
        &self.shadow
    }

    /// Bytes of the stream taken in so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.parser.offset()
    }

    /// Encodes the next piece of the stream and gives what comes of it to `sink`.
    ///
    /// Each call ends its last batch, so feed pieces of 64 KiB and more when they are to be had.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if the stream is not understood. The encoder is of no use then:
    /// both ends must start again with a new stream.
    pub fn feed(&mut self, mut input: &[u8], mut sink: impl FnMut(Output<'_>)) -> Result<(), StreamError> {
        let Self { parser, shadow, pages, buffer, digest, epoch } = self;
        let mut writer = BatchWriter::new(&mut buffer[..]);
        while let Some(item) = parser.next(&mut input)? {
            match item {
                Item::Bytes(mut bytes) => {
                    digest.update(bytes);
                    epoch.stream_bytes += bytes.len() as u64;
                    while !bytes.is_empty() {
                        let taken = writer.bytes(bytes);
                        bytes = bytes.get(taken..).unwrap_or_default();
                        if taken == 0 {
                            let len = writer.finish();
                            emit(buffer, len, epoch, &mut sink);
                            writer = BatchWriter::new(&mut buffer[..]);
                        }
                    }
                }
                Item::Page { pfn, page } => {
                    digest.update(page);
                    epoch.stream_bytes += page.len() as u64;
                    epoch.pages += 1;
                    if !encode_page(&mut writer, pages, shadow, epoch, pfn, page) {
                        let len = writer.finish();
                        emit(buffer, len, epoch, &mut sink);
                        writer = BatchWriter::new(&mut buffer[..]);
                        // An empty batch has room for any page.
                        encode_page(&mut writer, pages, shadow, epoch, pfn, page);
                    }
                }
                Item::Mark(mark) => {
                    let len = writer.finish();
                    emit(buffer, len, epoch, &mut sink);
                    writer = BatchWriter::new(&mut buffer[..]);
                    match mark.kind {
                        MarkKind::Epoch | MarkKind::Stream => {
                            epoch.end = mark.end;
                            epoch.digest = std::mem::take(digest).value();
                            epoch.last = mark.kind == MarkKind::Stream;
                            sink(Output::Epoch(epoch));
                            *epoch = EpochSummary { index: epoch.index + 1, ..EpochSummary::default() };
                        }
                        MarkKind::Checkpoint => {
                            epoch.checkpoint_end = mark.end;
                            sink(Output::Mark(mark));
                        }
                        MarkKind::Preamble => sink(Output::Mark(mark)),
                    }
                }
            }
        }
        let len = writer.finish();
        emit(buffer, len, epoch, &mut sink);
        Ok(())
    }
}

/// Puts a page into the batch and the shadow; false, with nothing changed, if the batch is full.
fn encode_page(
    writer: &mut BatchWriter<'_>,
    pages: &mut page::Encoder,
    shadow: &mut Shadow,
    epoch: &mut EpochSummary,
    pfn: u64,
    page: &Page,
) -> bool {
    let encoded = if let Some(old) = shadow.get_mut(pfn) {
        writer.encode_page_update(pages, pfn, old, page)
    } else {
        let keep = shadow.keeps(pfn);
        let encoded = writer.encode_page(pages, pfn, keep, None, page);
        if keep && encoded.is_ok() {
            shadow.update(pfn, page);
        }
        encoded
    };
    let Ok(encoded) = encoded else { return false };
    if let Some(count) = epoch.kinds.get_mut(encoded.kind as usize) {
        *count += 1;
    }
    true
}

fn emit(buffer: &[u8], len: usize, epoch: &mut EpochSummary, sink: &mut impl FnMut(Output<'_>)) {
    if let Some(batch @ [_, ..]) = buffer.get(..len) {
        epoch.batch_bytes += len as u64;
        sink(Output::Batch(batch));
    }
}
