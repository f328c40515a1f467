//! Batches into the payload of one frame.

use std::io;

use llm_core::frame::{BATCH_LEN, BATCHES_MAX, CONTENT_MAX, CompressedHead};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::Level;

/// Compresses batches. Its buffers last.
pub struct Packer {
    lz4: CompressTable,
    zstd1: zstd::bulk::Compressor<'static>,
    zstd3: zstd::bulk::Compressor<'static>,
    content: Vec<u8>,
    out: Vec<u8>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

impl Packer {
    /// A packer with all methods.
    ///
    /// # Errors
    /// No memory for a method's tables.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            lz4: CompressTable::default(),
            zstd1: zstd::bulk::Compressor::new(1)?,
            zstd3: zstd::bulk::Compressor::new(3)?,
            content: Vec::new(),
            out: Vec::new(),
        })
    }

    /// Bytes of content that these batches are; `None` if they are none, or too many for a frame.
    #[must_use]
    pub fn content_len(batches: usize, bytes: usize) -> Option<usize> {
        let len = bytes.checked_add(batches.checked_mul(BATCH_LEN)?)?;
        (1..=usize::from(BATCHES_MAX)).contains(&batches).then_some(len).filter(|len| *len <= CONTENT_MAX)
    }

    /// The payload of a frame with these batches. `None` if it would not be shorter than they are, or if they are not what
    /// [`Self::content_len`] allows.
    pub fn pack<'a>(
        &mut self,
        level: Level,
        batches: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) -> Option<Vec<u8>> {
        let count = batches.len();
        let bytes = batches.clone().map(<[u8]>::len).sum::<usize>();
        let len = Self::content_len(count, bytes)?;
        self.content.clear();
        for batch in batches.clone() {
            self.content.extend_from_slice(&u32::try_from(batch.len()).ok()?.to_le_bytes());
        }
        batches.for_each(|batch| self.content.extend_from_slice(batch));
        let head = CompressedHead {
            method: level.method(),
            batches: u16::try_from(count).ok()?,
            content: u32::try_from(len).ok()?,
        };
        self.out.resize(CompressedHead::SIZE + get_maximum_output_size(CONTENT_MAX), 0);
        let (front, room) = self.out.split_first_chunk_mut::<{ CompressedHead::SIZE }>()?;
        *front = head.to_bytes();
        let packed = match level {
            Level::Lz4 => compress_into_with_table(&self.content, room, &mut self.lz4).ok()?,
            Level::Zstd1 => self.zstd1.compress_to_buffer(&self.content, room).ok()?,
            Level::Zstd3 => self.zstd3.compress_to_buffer(&self.content, room).ok()?,
        };
        let payload = self.out.get(..CompressedHead::SIZE + packed)?;
        (payload.len() < bytes).then(|| payload.to_vec())
    }
}
