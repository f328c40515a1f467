//! The frame that closes an epoch.

use super::FIRST_EPOCH;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of a guest page in the rebuilt stream, bytes.
const PAGE: u64 = 4096;

/// What the backup must have rebuilt for the epoch to be whole: 32 bytes,
/// little-endian, the payload of a frame of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EpochEnd {
    epoch: U64,
    stream_bytes: U64,
    digest: U64,
    pages: U32,
    flags: U32,
}

impl EpochEnd {
    /// Size on the wire, bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// An epoch of `stream_bytes` rebuilt bytes, `pages` of them as page records, with
    /// the [`crate::checksum::digest`] of the rebuilt bytes.
    #[must_use]
    pub fn new(epoch: u64, stream_bytes: u64, digest: u64, pages: u32) -> Self {
        Self {
            epoch: epoch.into(),
            stream_bytes: stream_bytes.into(),
            digest: digest.into(),
            pages: pages.into(),
            flags: 0.into(),
        }
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// See [`EpochEndError`].
    pub fn parse(payload: &[u8]) -> Result<Self, EpochEndError> {
        let end =
            Self::read_from_bytes(payload).map_err(|_| EpochEndError::Length { found: payload.len() })?;
        if end.epoch() < FIRST_EPOCH {
            return Err(EpochEndError::Epoch);
        }
        if u64::from(end.pages()) * PAGE > end.stream_bytes() {
            return Err(EpochEndError::Pages { pages: end.pages(), stream_bytes: end.stream_bytes() });
        }
        if end.flags.get() != 0 {
            return Err(EpochEndError::Flags { found: end.flags.get() });
        }
        Ok(end)
    }

    /// The bytes to send.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        self.as_bytes()
    }

    /// Number of the epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Length of the rebuilt stream of this epoch, bytes.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes.get()
    }

    /// XXH3-64 of the rebuilt stream of this epoch.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest.get()
    }

    /// Pages that came as page records.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages.get()
    }
}

/// Why a payload is not an epoch's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EpochEndError {
    /// Not [`EpochEnd::SIZE`] bytes.
    Length {
        /// Bytes in the payload.
        found: usize,
    },
    /// Epoch 0 (offset 0).
    Epoch,
    /// More pages than the stream has room for (offset 24).
    Pages {
        /// As stated.
        pages: u32,
        /// As stated.
        stream_bytes: u64,
    },
    /// A flag this version does not know (offset 28).
    Flags {
        /// All flags.
        found: u32,
    },
}

impl core::fmt::Display for EpochEndError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length { found } => {
                write!(f, "epoch end has {found} bytes instead of {}", EpochEnd::SIZE)
            }
            Self::Epoch => write!(f, "epoch end at offset 0: epochs count from {FIRST_EPOCH}"),
            Self::Pages { pages, stream_bytes } => {
                write!(f, "epoch end at offset 24: {pages} pages do not fit into {stream_bytes} bytes")
            }
            Self::Flags { found } => write!(f, "epoch end at offset 28: unknown flags {found:#x}"),
        }
    }
}

impl core::error::Error for EpochEndError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_as_documented() {
        let end = EpochEnd::new(0x0102, 8192, 0x1122_3344_5566_7788, 2);
        #[rustfmt::skip]
        let bytes = [
            0x02, 0x01, 0, 0, 0, 0, 0, 0,
            0x00, 0x20, 0, 0, 0, 0, 0, 0,
            0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
            2, 0, 0, 0,
            0, 0, 0, 0,
        ];
        assert_eq!(end.as_wire(), bytes);
        assert_eq!(EpochEnd::parse(&bytes), Ok(end));
    }

    #[test]
    fn bad_ends_are_named() {
        let good = EpochEnd::new(1, 4096, 7, 1);
        assert_eq!(EpochEnd::parse(&good.as_wire()[..31]), Err(EpochEndError::Length { found: 31 }));
        assert_eq!(EpochEnd::parse(&[0; 33]), Err(EpochEndError::Length { found: 33 }));
        assert_eq!(EpochEnd::parse(&[0; 32]), Err(EpochEndError::Epoch));
        let crowded = EpochEnd::new(1, 4095, 7, 1);
        assert!(matches!(EpochEnd::parse(crowded.as_wire()), Err(EpochEndError::Pages { pages: 1, .. })));
        let mut flagged = [0; 32];
        flagged.copy_from_slice(good.as_wire());
        flagged[28] = 4;
        assert_eq!(EpochEnd::parse(&flagged), Err(EpochEndError::Flags { found: 4 }));
    }
}
