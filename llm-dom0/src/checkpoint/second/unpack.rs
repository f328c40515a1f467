//! The payload of a frame into its batches. The peer is not trusted.

use std::io;

use llm_core::frame::{BATCH_LEN, CONTENT_MAX, CompressedHead, HeadError, Method};

/// Why a frame of compressed batches was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// It has no head.
    #[error("The primary sent compressed batches without a head: {0}; restart the protection of the domain")]
    Head(HeadError),
    /// Nobody has agreed to this method.
    #[error(
        "The primary sent batches compressed by {0}, which was not agreed on; restart the protection of the domain"
    )]
    NotAgreed(Method),
    /// What is behind the head is not what the method makes.
    #[error(
        "The primary sent batches compressed by {method} that cannot be decompressed ({error}); \
         restart the protection of the domain"
    )]
    Broken {
        /// The method.
        method: Method,
        /// The decompressor's word.
        error: io::Error,
    },
    /// More or less came out than the head says.
    #[error(
        "The primary sent compressed batches of {got} bytes and said that they are {said}; restart the protection of the domain"
    )]
    Length {
        /// What came out.
        got: usize,
        /// What the head says.
        said: u32,
    },
    /// The batches' lengths do not add up to the content.
    #[error(
        "The primary sent {batches} compressed batches whose lengths do not add up to {content} bytes; \
         restart the protection of the domain"
    )]
    Lengths {
        /// Batches there are.
        batches: u16,
        /// Bytes that came out.
        content: usize,
    },
}

/// Decompresses. What it takes of memory is fixed, whatever a peer says, and nothing before the first frame.
#[derive(Default)]
pub struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    content: Vec<u8>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

impl Unpacker {
    /// The batches of a payload, of which `features` allow the method.
    ///
    /// # Errors
    /// See [`UnpackError`].
    pub fn unpack(&mut self, payload: &[u8], features: u64) -> Result<Batches<'_>, UnpackError> {
        let (head, packed) = CompressedHead::parse(payload).map_err(UnpackError::Head)?;
        let method = head.method;
        if method.feature() & features == 0 {
            return Err(UnpackError::NotAgreed(method));
        }
        self.content.resize(CONTENT_MAX, 0);
        // No longer than the buffer: the head was parsed.
        let room = self.content.get_mut(..head.content as usize).unwrap_or_default();
        let broken = |error| UnpackError::Broken { method, error };
        let got = match method {
            Method::Lz4 => lz4_flex::block::decompress_into(packed, room)
                .map_err(|error| broken(io::Error::new(io::ErrorKind::InvalidData, error)))?,
            Method::Zstd => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(zstd::bulk::Decompressor::new().map_err(broken)?),
                };
                zstd.decompress_to_buffer(packed, room).map_err(broken)?
            }
        };
        if got != head.content as usize {
            return Err(UnpackError::Length { got, said: head.content });
        }
        Batches::new(room, head.batches)
    }
}

/// Batches that came out of one frame, in order.
#[derive(Clone, Copy, Debug)]
pub struct Batches<'a> {
    lengths: &'a [[u8; BATCH_LEN]],
    bytes: &'a [u8],
}

impl<'a> Batches<'a> {
    fn new(content: &'a [u8], batches: u16) -> Result<Self, UnpackError> {
        let wrong = UnpackError::Lengths { batches, content: content.len() };
        let Some((lengths, bytes)) = content.split_at_checked(usize::from(batches) * BATCH_LEN) else {
            return Err(wrong);
        };
        let lengths = lengths.as_chunks().0;
        let sum: u64 = lengths.iter().map(|len| u64::from(u32::from_le_bytes(*len))).sum();
        if sum == bytes.len() as u64 { Ok(Self { lengths, bytes }) } else { Err(wrong) }
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, lengths) = self.lengths.split_first()?;
        let (batch, bytes) = self.bytes.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        (self.lengths, self.bytes) = (lengths, bytes);
        Some(batch)
    }
}
