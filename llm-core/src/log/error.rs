//! What can be wrong with a log.

use super::MAX_PACKET;

/// A place where the log cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LogError {
    /// Where the record concerned starts, in bytes from the start of the log.
    pub offset: u64,
    /// What is wrong with it.
    pub reason: LogReason,
}

/// Why a log cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum LogReason {
    /// The log ends inside the record.
    Truncated {
        /// Bytes of the record that are there.
        have: usize,
    },
    /// The packet is longer than [`MAX_PACKET`].
    TooLong {
        /// Bytes announced.
        len: u32,
    },
    /// The checksum is wrong.
    Checksum,
    /// A flag is set that has no meaning.
    Flags(u16),
    /// The record does not continue the one before it.
    Lsn {
        /// The number that should come.
        want: u64,
        /// The record's number.
        got: u64,
    },
    /// The record before was the last that can have a number.
    LsnExhausted,
    /// A packed record is against the format, or refers to what there was not.
    Difference,
    /// The record belongs to an earlier epoch than the one before it.
    Epoch {
        /// Epoch of the record before.
        last: u64,
        /// Epoch of the record.
        got: u64,
    },
}

impl core::fmt::Display for LogReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Truncated { have } => write!(f, "ends after {have} bytes"),
            Self::TooLong { len } => write!(f, "packet of {len} bytes, {MAX_PACKET} allowed"),
            Self::Checksum => f.write_str("checksum is wrong"),
            Self::Flags(flags) => write!(f, "flags {flags:#06x} unknown"),
            Self::Lsn { want, got } => write!(f, "record {got} where {want} should come"),
            Self::LsnExhausted => f.write_str("no record can follow the last number"),
            Self::Difference => f.write_str("packed record is malformed"),
            Self::Epoch { last, got } => write!(f, "epoch {got} after epoch {last}"),
        }
    }
}

impl core::fmt::Display for LogError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bad record at byte {} of the log: {}", self.offset, self.reason)
    }
}

impl core::error::Error for LogError {}
