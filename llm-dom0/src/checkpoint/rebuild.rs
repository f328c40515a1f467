//! Backup side: the batches of page diffs into the stream that they were made from.

use super::shadow::Shadow;
use super::stream::{Item, Parser, StreamError};
use super::width::features;
use crate::digest::Digest;
use llm_core::page::batch::{BatchError, BatchReader, Op};
use llm_core::page::{Features, PAGE, Page, PageError, ask_ahead, decode_with};

/// Why a batch or the end of an epoch was refused.
///
/// After any of these the rebuilder is of no use: both ends must start again with a
/// new stream. Epochs that were finished before stay good.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// The batch cannot be read.
    #[error("The primary sent a batch that cannot be read; restart the protection of the domain")]
    Batch(#[source] BatchError),
    /// A page cannot be decoded.
    #[error(
        "The primary sent page {pfn:#x} in a way that cannot be decoded; restart the protection of the domain"
    )]
    Page {
        /// Guest page frame number.
        pfn: u64,
        /// What is wrong with it.
        source: PageError,
    },
    /// The two ends do not agree whether a page is kept.
    #[error(
        "Primary and backup disagree whether page {pfn:#x} is kept; restart the protection of the domain"
    )]
    Keep {
        /// Guest page frame number.
        pfn: u64,
    },
    /// A page where the stream has none, or none where it has one.
    #[error("The batches do not fit the stream at byte {offset}; restart the protection of the domain")]
    Misfit {
        /// Bytes from the start of the stream.
        offset: u64,
    },
    /// What was rebuilt is not a checkpoint stream.
    #[error("The rebuilt stream is not understood; restart the protection of the domain")]
    Stream(#[from] StreamError),
    /// The epoch ends where the stream has no epoch's end.
    #[error("An epoch ends at byte {offset} of the stream, where there is no end of a checkpoint")]
    NotWhole {
        /// Bytes from the start of the stream.
        offset: u64,
    },
    /// The rebuilt epoch differs from the one that was sent.
    #[error(
        "A rebuilt epoch differs from what the primary read: {got:?} instead of {expected:?}; \
         restart the protection of the domain and suspect memory or a program error"
    )]
    Differs {
        /// What was rebuilt.
        got: EpochCheck,
        /// What the primary said.
        expected: EpochCheck,
    },
    /// The rebuilder was used again after an error.
    #[error("The stream cannot be rebuilt any further after an earlier error")]
    Unusable,
}

/// What both ends must agree on at the end of an epoch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EpochCheck {
    /// Bytes of the stream in the epoch.
    pub stream_bytes: u64,
    /// XXH3-64 of these bytes.
    pub digest: u64,
    /// Guest pages in the epoch.
    pub pages: u32,
}

/// Rebuilds a checkpoint stream from batches.
#[derive(Debug)]
pub struct Rebuilder {
    features: Features,
    parser: Parser,
    shadow: Shadow,
    page: Box<Page>,
    digest: Digest,
    stream_bytes: u64,
    pages: u32,
    usable: bool,
}

impl Rebuilder {
    /// A rebuilder at the start of a stream that keeps copies of up to `shadow_pages`
    /// guest pages: the number that the encoder was made with.
    #[must_use]
    pub fn new(shadow_pages: u32) -> Self {
        Self {
            features: features(),
            parser: Parser::new(),
            shadow: Shadow::new(shadow_pages),
            page: Box::new([0; PAGE]),
            digest: Digest::new(),
            stream_bytes: 0,
            pages: 0,
            usable: true,
        }
    }

    /// The copies of guest pages.
    #[must_use]
    pub fn shadow(&self) -> &Shadow {
        &self.shadow
    }

    /// Bytes of the stream rebuilt so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.parser.offset()
    }

    /// Applies the next batch and gives the rebuilt bytes to `out`, in pieces.
    ///
    /// # Errors
    ///
    /// See [`RebuildError`]. What `out` got of the unfinished epoch must be thrown away.
    pub fn apply(&mut self, batch: &[u8], mut out: impl FnMut(&[u8])) -> Result<(), RebuildError> {
        self.guard(|this| {
            let mut ops = BatchReader::new(batch);
            let mut next = ops.next();
            while let Some(op) = next {
                next = ops.next();
                // The copy of the page behind this one comes from memory meanwhile.
                if let Some(Ok(Op::Page { pfn, .. })) = &next
                    && let Some(page) = this.shadow.get(*pfn)
                {
                    ask_ahead(page);
                }
                match op.map_err(RebuildError::Batch)? {
                    Op::Bytes(bytes) => this.bytes(bytes, &mut out)?,
                    Op::Page { pfn, keep, record } => this.page(pfn, keep, record, &mut out)?,
                }
            }
            Ok(())
        })
    }

    /// Ends the epoch: compares what was rebuilt since the last one with what the primary says.
    ///
    /// # Errors
    ///
    /// [`RebuildError::NotWhole`] and [`RebuildError::Differs`]: the epoch must not be used.
    pub fn finish_epoch(&mut self, expected: EpochCheck) -> Result<(), RebuildError> {
        self.guard(|this| {
            let (stream_bytes, pages) = (this.stream_bytes, this.pages);
            let got = EpochCheck { stream_bytes, digest: this.digest.value(), pages };
            if got != expected {
                return Err(RebuildError::Differs { got, expected });
            }
            if !this.parser.at_epoch_end() {
                return Err(RebuildError::NotWhole { offset: this.parser.offset() });
            }
            this.digest = Digest::new();
            this.stream_bytes = 0;
            this.pages = 0;
            Ok(())
        })
    }

    fn guard(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), RebuildError>,
    ) -> Result<(), RebuildError> {
        if !self.usable {
            return Err(RebuildError::Unusable);
        }
        let result = work(self);
        self.usable = result.is_ok();
        result
    }

    fn bytes(&mut self, mut bytes: &[u8], out: &mut impl FnMut(&[u8])) -> Result<(), RebuildError> {
        self.digest.update(bytes);
        self.stream_bytes += bytes.len() as u64;
        out(bytes);
        while let Some(item) = self.parser.next(&mut bytes)? {
            if let Item::Page { .. } = item {
                return Err(RebuildError::Misfit { offset: self.parser.offset() });
            }
        }
        if self.parser.in_page() {
            return Err(RebuildError::Misfit { offset: self.parser.offset() });
        }
        Ok(())
    }

    fn page(
        &mut self,
        pfn: u64,
        keep: bool,
        record: &[u8],
        out: &mut impl FnMut(&[u8]),
    ) -> Result<(), RebuildError> {
        // Whoever encodes may have less room for copies than there is here.
        let (page, held) = if keep {
            self.shadow.entry(pfn).ok_or(RebuildError::Keep { pfn })?
        } else if self.shadow.get(pfn).is_none() {
            (&mut *self.page, false)
        } else {
            return Err(RebuildError::Keep { pfn });
        };
        decode_with(self.features, record, page, held)
            .map_err(|source| RebuildError::Page { pfn, source })?;
        match self.parser.next(&mut &page[..])? {
            Some(Item::Page { pfn: expected, .. }) if expected == pfn => {}
            _ => return Err(RebuildError::Misfit { offset: self.parser.offset() }),
        }
        self.digest.update(page);
        self.stream_bytes += PAGE as u64;
        self.pages += 1;
        out(page);
        Ok(())
    }
}
