//! Primary side: the checkpoint stream into batches of page diffs.

use super::local::{Local, LocalRun};
use super::offload::{Offload, OffloadError, Piece};
use super::shadow::Shadow;
use super::stream::{Item, Mark, MarkKind, Parser, StreamError};
use crate::digest::Digest;
use llm_core::page::{Kind, Page};
use std::sync::Arc;

/// Largest batch written, bytes.
pub const MAX_BATCH_LEN: usize = 256 << 10;

/// What comes out of an [`Encoder`], in order.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// A batch, to be sent as the payload of one frame.
    Batch(&'a [u8]),
    /// A place in the stream other than the end of an epoch; without an [`Offload`] all that lies ahead of
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
    /// Those encoded here, by kind of record; index by `Kind as usize`.
    pub kinds: [u32; Kind::COUNT],
    /// Bytes of all batches.
    pub batch_bytes: u64,
    /// The stream ended here as a plain save does; no epoch follows.
    pub last: bool,
}

/// Cuts a checkpoint stream into batches, page by page against the last copy sent; by itself, or by an [`Offload`].
#[derive(Debug)]
pub struct Encoder {
    parser: Parser,
    local: Local,
    remote: Option<Box<Offload>>,
    fault: Option<OffloadError>,
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
            local: Local::new(shadow_pages),
            remote: None,
            fault: None,
            digest: Digest::new(),
            epoch: EpochSummary::default(),
        }
    }

    /// The same, with an `offload` just begun that encodes for as long as it can. If it fails, encoding goes on here in the
    /// middle of the stream, without the old copies; see [`Self::take_fault`].
    #[must_use]
    pub fn with_offload(shadow_pages: u32, offload: Offload) -> Self {
        Self { remote: Some(Box::new(offload)), ..Self::new(shadow_pages) }
    }

    /// Why encoding is not left to others any more; told once.
    pub fn take_fault(&mut self) -> Option<OffloadError> {
        self.fault.take()
    }

    /// The copies of guest pages that are held here.
    #[must_use]
    pub fn shadow(&self) -> &Shadow {
        &self.local.shadow
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
    pub fn feed(&mut self, input: &[u8], sink: impl FnMut(Output<'_>)) -> Result<(), StreamError> {
        if let Some(remote) = &mut self.remote {
            remote.chunk(Arc::new(input.to_vec()));
        }
        self.run(input, sink)
    }

    /// The same, of a piece that can be kept without a copy; it is given back if it is not.
    ///
    /// # Errors
    ///
    /// As [`Self::feed`].
    pub fn feed_chunk(
        &mut self,
        input: Vec<u8>,
        sink: impl FnMut(Output<'_>),
    ) -> Result<Option<Vec<u8>>, StreamError> {
        let Some(remote) = &mut self.remote else {
            self.run(&input, sink)?;
            return Ok(Some(input));
        };
        let input = Arc::new(input);
        remote.chunk(Arc::clone(&input));
        self.run(&input, sink)?;
        Ok(None)
    }

    fn run(&mut self, mut input: &[u8], mut sink: impl FnMut(Output<'_>)) -> Result<(), StreamError> {
        let Self { parser, local, remote, fault, digest, epoch } = self;
        let mut stage = Stage { local: local.begin(), remote, fault, batch_bytes: 0, sink: &mut sink };
        while let Some(item) = parser.next(&mut input)? {
            match item {
                Item::Bytes(bytes) => {
                    digest.update(bytes);
                    epoch.stream_bytes += bytes.len() as u64;
                    stage.bytes(bytes);
                }
                Item::Page { pfn, page } => {
                    digest.update(page);
                    epoch.stream_bytes += page.len() as u64;
                    epoch.pages += 1;
                    stage.page(pfn, page);
                }
                Item::Mark(mark) => match mark.kind {
                    MarkKind::Epoch | MarkKind::Stream => {
                        stage.finish();
                        epoch.batch_bytes += std::mem::take(&mut stage.batch_bytes);
                        epoch.kinds = std::mem::take(stage.local.kinds);
                        epoch.end = mark.end;
                        epoch.digest = std::mem::take(digest).value();
                        epoch.last = mark.kind == MarkKind::Stream;
                        (stage.sink)(Output::Epoch(epoch));
                        *epoch = EpochSummary { index: epoch.index + 1, ..EpochSummary::default() };
                    }
                    MarkKind::Checkpoint => {
                        stage.pause();
                        epoch.checkpoint_end = mark.end;
                        (stage.sink)(Output::Mark(mark));
                    }
                    MarkKind::Preamble => {
                        stage.pause();
                        (stage.sink)(Output::Mark(mark));
                    }
                },
            }
        }
        stage.pause();
        epoch.batch_bytes += stage.batch_bytes;
        Ok(())
    }
}

/// Who encodes during one piece of the stream.
struct Stage<'a> {
    local: LocalRun<'a>,
    remote: &'a mut Option<Box<Offload>>,
    fault: &'a mut Option<OffloadError>,
    batch_bytes: u64,
    sink: &'a mut dyn FnMut(Output<'_>),
}

impl Stage<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        if !self.leave(|remote, out| remote.bytes(bytes, out)) {
            let Self { local, batch_bytes, sink, .. } = self;
            local.bytes(bytes, &mut emit(batch_bytes, *sink));
        }
    }

    fn page(&mut self, pfn: u64, page: &Page) {
        if !self.leave(|remote, out| remote.page(pfn, page, out)) {
            let Self { local, batch_bytes, sink, .. } = self;
            local.page(pfn, page, &mut emit(batch_bytes, *sink));
        }
    }

    /// All so far goes into batches.
    fn finish(&mut self) {
        self.leave(Offload::finish);
        let Self { local, batch_bytes, sink, .. } = self;
        local.flush(&mut emit(batch_bytes, *sink));
    }

    /// All so far goes on its way.
    fn pause(&mut self) {
        self.leave(Offload::pause);
        let Self { local, batch_bytes, sink, .. } = self;
        local.flush(&mut emit(batch_bytes, *sink));
    }

    /// Leaves something to the offload, if there is one. When it fails, this too is done here. False if there is none.
    fn leave(
        &mut self,
        work: impl FnOnce(&mut Offload, &mut dyn FnMut(&[u8])) -> Result<(), OffloadError>,
    ) -> bool {
        let Self { local, remote, fault, batch_bytes, sink } = self;
        let Some(offload) = remote.as_mut() else { return false };
        let mut out = emit(batch_bytes, *sink);
        if let Err(error) = work(offload, &mut out) {
            **fault = Some(error);
            if let Some(offload) = remote.take() {
                let (held, rest) = offload.give_up();
                *local.held = Some(held);
                rest.each(|piece| match piece {
                    Piece::Bytes(bytes) => local.bytes(bytes, &mut out),
                    Piece::Page(pfn, page) => local.page(pfn, page, &mut out),
                });
            }
        }
        true
    }
}

/// Where batches go.
fn emit<'s, 'a>(
    bytes: &'s mut u64,
    sink: &'s mut (dyn FnMut(Output<'_>) + 'a),
) -> impl FnMut(&[u8]) + use<'s, 'a> {
    |batch| {
        *bytes += batch.len() as u64;
        sink(Output::Batch(batch));
    }
}
