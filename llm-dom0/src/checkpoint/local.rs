//! Encoding in this process: pages against their last copies, into batches.

use super::encode::MAX_BATCH_LEN;
use super::held::Held;
use super::shadow::Shadow;
use super::width::features;
use llm_core::page::batch::BatchWriter;
use llm_core::page::{self, Density, Kind, Page};

/// What lasts from one piece of the stream to the next.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) shadow: Shadow,
    /// Pages that the backup may hold while there is no copy here, if others have encoded before.
    held: Option<Held>,
    pages: Box<page::Encoder>,
    buffer: Box<[u8]>,
    kinds: [u32; Kind::COUNT],
}

impl Local {
    pub(super) fn new(shadow_pages: u32) -> Self {
        Self {
            shadow: Shadow::new(shadow_pages),
            held: None,
            pages: Box::new(page::Encoder::new(features(), Density::Fast)),
            buffer: vec![0; MAX_BATCH_LEN].into_boxed_slice(),
            kinds: [0; Kind::COUNT],
        }
    }

    /// A piece of the stream begins.
    pub(super) fn begin(&mut self) -> LocalRun<'_> {
        let Self { shadow, held, pages, buffer, kinds } = self;
        LocalRun { shadow, held, pages, kinds, writer: BatchWriter::new(buffer) }
    }
}

/// Encodes one piece of the stream.
#[derive(Debug)]
pub(super) struct LocalRun<'a> {
    shadow: &'a mut Shadow,
    pub(super) held: &'a mut Option<Held>,
    pages: &'a mut page::Encoder,
    /// Pages of this epoch by kind of record.
    pub(super) kinds: &'a mut [u32; Kind::COUNT],
    writer: BatchWriter<'a>,
}

impl LocalRun<'_> {
    pub(super) fn bytes(&mut self, mut bytes: &[u8], out: &mut impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let taken = self.writer.bytes(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
            if taken == 0 {
                self.flush(out);
            }
        }
    }

    /// Takes in a page. The one behind it is not asked for ahead of time: here that costs more than it gains.
    pub(super) fn page(&mut self, pfn: u64, page: &Page, out: &mut impl FnMut(&[u8])) {
        if !self.fits(pfn, page) {
            self.flush(out);
            // An empty batch has room for any page.
            self.fits(pfn, page);
        }
    }

    /// Ends the batch, if there is anything in it.
    pub(super) fn flush(&mut self, out: &mut impl FnMut(&[u8])) {
        if !self.writer.is_empty() {
            out(self.writer.written());
            self.writer.clear();
        }
    }

    /// Puts a page into the batch and the shadow; false, with nothing changed, if the batch is full.
    fn fits(&mut self, pfn: u64, page: &Page) -> bool {
        let Self { shadow, held, pages, kinds, writer } = self;
        let encoded = if let Some(old) = shadow.get_mut(pfn) {
            writer.encode_page_update(pages, pfn, old, page, None)
        } else {
            let keep = held.as_mut().map_or_else(|| shadow.keeps(pfn), |held| held.insert(pfn));
            let encoded = writer.encode_page(pages, pfn, keep, None, page);
            if keep && encoded.is_ok() {
                shadow.update(pfn, page);
            }
            encoded
        };
        let Ok(encoded) = encoded else { return false };
        if let Some(count) = kinds.get_mut(encoded.kind as usize) {
            *count += 1;
        }
        true
    }
}
