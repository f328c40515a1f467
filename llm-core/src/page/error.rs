//! What can be wrong with a page record.

use super::Kind;

/// A record that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PageError {
    /// Where in the record, in bytes from its kind byte.
    pub offset: usize,
    /// What is wrong there.
    pub reason: PageReason,
}

/// Why a record cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PageReason {
    /// The record ends before its content does.
    Truncated {
        /// Bytes wanted from the offset on.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// No kind has this number.
    UnknownKind(u8),
    /// A record of this kind came for a page without an old copy.
    NeedsOld(Kind),
    /// The length is not in its shortest form or exceeds what a diff may have.
    BadLength,
    /// A mask that marks nothing, where something must be marked.
    EmptyMask,
    /// The unused half of the last code byte is not zero.
    Padding,
    /// The body goes on after the last change.
    Trailing {
        /// Bytes left over.
        left: usize,
    },
}

impl PageError {
    pub(super) const fn new(offset: usize, reason: PageReason) -> Self {
        Self { offset, reason }
    }
}

impl core::fmt::Display for PageReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Truncated { need, have } => write!(f, "{need} bytes wanted, {have} there"),
            Self::UnknownKind(kind) => write!(f, "unknown kind {kind}"),
            Self::NeedsOld(kind) => write!(f, "kind {kind:?} needs an old copy of the page"),
            Self::BadLength => f.write_str("bad length of a diff"),
            Self::EmptyMask => f.write_str("empty mask"),
            Self::Padding => f.write_str("padding is not zero"),
            Self::Trailing { left } => write!(f, "{left} bytes after the last change"),
        }
    }
}

impl core::fmt::Display for PageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bad page record at byte {}: {}", self.offset, self.reason)
    }
}

impl core::error::Error for PageError {}
