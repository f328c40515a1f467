//! The head of a frame of compressed batches.
//!
//! Who has a compressor, and which, is no matter of this crate: only the head is defined here, and what bounds a receiver's memory.

use core::fmt;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most batches in one frame.
pub const BATCHES_MAX: u16 = 64;

/// Bytes that the content says of each batch ahead of them all: its length.
pub const BATCH_LEN: usize = 4;

/// Most bytes of content: batches of 256 KiB together, and their lengths.
pub const CONTENT_MAX: usize = (256 << 10) + BATCHES_MAX as usize * BATCH_LEN;

/// How a content is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Method {
    /// One LZ4 block.
    Lz4 = 1,
    /// One zstd frame.
    Zstd = 2,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Lz4, Self::Zstd];

    /// Its bit among the features of [`Hello`](crate::replication::Hello).
    #[must_use]
    pub const fn feature(self) -> u64 {
        match self {
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// A head as it is on the wire.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    method: u8,
    reserved: u8,
    batches: U16,
    content: U32,
}

/// What comes ahead of the compressed bytes in a frame of [`Kind::COMPRESSED`](super::Kind::COMPRESSED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CompressedHead {
    /// How the content is compressed.
    pub method: Method,
    /// Batches in it, 1 to [`BATCHES_MAX`]. They have the frame's sequence number and those that follow it.
    pub batches: u16,
    /// Bytes of the content, 1 to [`CONTENT_MAX`].
    pub content: u32,
}

impl CompressedHead {
    /// Bytes of a head.
    pub const SIZE: usize = size_of::<Layout>();

    /// The bytes to send.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let Self { method, batches, content } = self;
        let layout =
            Layout { method: method as u8, reserved: 0, batches: batches.into(), content: content.into() };
        zerocopy::transmute!(layout)
    }

    /// Reads the head of a payload; the second value is what is behind it.
    ///
    /// # Errors
    ///
    /// See [`HeadError`]. What is behind a good head may still be anything.
    pub fn parse(payload: &[u8]) -> Result<(Self, &[u8]), HeadError> {
        let (layout, rest) =
            Layout::ref_from_prefix(payload).map_err(|_| HeadError::Short { found: payload.len() })?;
        let method = Method::ALL.into_iter().find(|method| *method as u8 == layout.method);
        let method = method.ok_or(HeadError::Method(layout.method))?;
        if layout.reserved != 0 {
            return Err(HeadError::Reserved(layout.reserved));
        }
        let (batches, content) = (layout.batches.get(), layout.content.get());
        if !(1..=BATCHES_MAX).contains(&batches) {
            return Err(HeadError::Batches(batches));
        }
        // Every length is there, at least; and the limit fits.
        let least = u32::from(batches) * 4;
        if content < least || content as usize > CONTENT_MAX {
            return Err(HeadError::Content(content));
        }
        Ok((Self { method, batches, content }, rest))
    }
}

/// Why a payload has no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum HeadError {
    /// The payload is shorter than a head.
    Short {
        /// Its bytes.
        found: usize,
    },
    /// No method has this number.
    Method(u8),
    /// The reserved byte is not 0.
    Reserved(u8),
    /// None, or more than [`BATCHES_MAX`].
    Batches(u16),
    /// Less than the lengths of the batches take, or more than [`CONTENT_MAX`].
    Content(u32),
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bad head of compressed batches: ")?;
        match self {
            Self::Short { found } => write!(f, "{} bytes wanted, {found} there", CompressedHead::SIZE),
            Self::Method(method) => write!(f, "unknown method {method} at byte 0"),
            Self::Reserved(byte) => write!(f, "byte 1 is {byte} instead of 0"),
            Self::Batches(batches) => write!(f, "{batches} batches at byte 2, 1 to {BATCHES_MAX} can be"),
            Self::Content(content) => {
                write!(f, "a content of {content} bytes at byte 4, up to {CONTENT_MAX} can be")
            }
        }
    }
}

impl core::error::Error for HeadError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn heads_come_back_and_others_are_refused() {
        let head = CompressedHead { method: Method::Zstd, batches: 3, content: 0x0001_0203 };
        let mut bytes = head.to_bytes().to_vec();
        assert_eq!(bytes, [2, 0, 3, 0, 3, 2, 1, 0]);
        bytes.push(9);
        assert_eq!(CompressedHead::parse(&bytes), Ok((head, &[9][..])));
        let with = |at: usize, new: &[u8]| -> Vec<u8> {
            let mut bytes = bytes.clone();
            bytes[at..at + new.len()].copy_from_slice(new);
            bytes
        };
        let refused = |bytes: &[u8]| CompressedHead::parse(bytes).expect_err("refused");
        assert_eq!(refused(&bytes[..7]), HeadError::Short { found: 7 });
        assert_eq!(refused(&with(0, &[0])), HeadError::Method(0));
        assert_eq!(refused(&with(0, &[3])), HeadError::Method(3));
        assert_eq!(refused(&with(1, &[1])), HeadError::Reserved(1));
        assert_eq!(refused(&with(2, &[0])), HeadError::Batches(0));
        assert_eq!(refused(&with(2, &[65])), HeadError::Batches(65));
        assert_eq!(refused(&with(4, &[11, 0, 0])), HeadError::Content(11));
        assert_eq!(refused(&with(4, &[1, 1, 4])), HeadError::Content(0x0004_0101));
        assert!(CompressedHead::parse(&with(4, &[0, 1, 4])).is_ok(), "as much as there may be");
    }
}
