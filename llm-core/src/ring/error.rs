//! Why a ring cannot be used, or has ended.

use super::{MAGIC, VERSION};
use core::fmt;

/// A ring that has ended, and why. It stays so: all later calls return the same.
///
/// When a call first returns this, notify the peer once, so that it does not sleep for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RingError {
    /// The peer has closed the ring in order, and all its records are read. No violation.
    Closed,
    /// The peer says that this end has violated the protocol.
    Refused,
    /// The peer's index went back, or beyond what there is.
    Index {
        /// Which one.
        index: Index,
        /// What it is.
        got: u64,
        /// The least that it may be.
        min: u64,
        /// The most that it may be.
        max: u64,
    },
    /// The peer's index is no multiple of eight.
    Unaligned {
        /// Which one.
        index: Index,
        /// What it is.
        got: u64,
    },
    /// A record is longer than allowed.
    TooLong {
        /// Its position.
        at: u64,
        /// Bytes of payload announced.
        len: u32,
        /// Bytes allowed.
        max: u32,
    },
    /// A record ends behind what is published.
    Torn {
        /// Its position.
        at: u64,
        /// Bytes that it takes.
        size: u64,
        /// Bytes published from its position on.
        have: u64,
    },
    /// What is reserved in front of a record is not 0.
    Reserved {
        /// Position of the record.
        at: u64,
        /// What it is.
        got: u32,
    },
    /// The peer's state is none that exists.
    State(u64),
    /// 2^64 bytes have gone through the ring, and no more can.
    Exhausted,
}

/// An index of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Index {
    /// The producer's.
    Producer,
    /// The consumer's.
    Consumer,
}

/// Why a record cannot be reserved, now or ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ReserveError {
    /// It is longer than the ring's records may be. The ring goes on.
    TooLong {
        /// Bytes asked for.
        len: usize,
        /// Bytes allowed.
        max: u32,
    },
    /// The ring has ended.
    Ended(RingError),
}

/// Why memory cannot be used as a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum AttachError {
    /// The data area has no size that a ring can have.
    DataLen(usize),
    /// Records of the wanted size do not fit into the data area.
    MaxRecord {
        /// Bytes of payload wanted.
        max: usize,
        /// Bytes of the data area.
        data_len: u64,
    },
    /// The header page does not start with the magic.
    Magic([u8; 4]),
    /// The ring is of another version.
    Version {
        /// Its version.
        got: u16,
        /// What is reserved behind the version.
        reserved: u16,
    },
    /// The ring was made for a data area of another size.
    OtherDataLen {
        /// Bytes by the header page.
        got: u64,
        /// Bytes that are there.
        want: u64,
    },
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Closed => f.write_str("Ring closed by the peer"),
            Self::Refused => f.write_str("Ring ended by the peer: it says that the protocol was violated"),
            Self::Index { index, got, min, max } => {
                write!(f, "Bad ring: {index} index {got}, not between {min} and {max}")
            }
            Self::Unaligned { index, got } => write!(f, "Bad ring: {index} index {got}, no multiple of 8"),
            Self::TooLong { at, len, max } => {
                write!(f, "Bad ring: record of {len} bytes at position {at}, {max} allowed")
            }
            Self::Torn { at, size, have } => {
                write!(f, "Bad ring: record at position {at} takes {size} bytes, {have} are published")
            }
            Self::Reserved { at, got } => {
                write!(f, "Bad ring: reserved bits {got:#x} in front of the record at position {at}")
            }
            Self::State(got) => write!(f, "Bad ring: peer's state {got} does not exist"),
            Self::Exhausted => f.write_str("Ring used up: its positions have come to their end"),
        }
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Producer => "producer's",
            Self::Consumer => "consumer's",
        })
    }
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, max } => write!(f, "Record of {len} bytes, the ring allows {max}"),
            Self::Ended(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DataLen(len) => write!(f, "A ring cannot have {len} bytes of data"),
            Self::MaxRecord { max, data_len } => {
                write!(f, "Records of {max} bytes do not fit into a ring of {data_len} bytes")
            }
            Self::Magic(got) => write!(f, "No ring: it starts with {got:02x?}, not {MAGIC:02x?}"),
            Self::Version { got, reserved: 0 } => {
                write!(f, "Ring version {got}, but version {VERSION} is the one understood")
            }
            Self::Version { reserved, .. } => {
                write!(f, "Bad ring: reserved bits {reserved:#x} in its header")
            }
            Self::OtherDataLen { got, want } => {
                write!(f, "Ring for {got} bytes of data, but {want} are mapped")
            }
        }
    }
}

impl core::error::Error for RingError {}
impl core::error::Error for ReserveError {}
impl core::error::Error for AttachError {}

impl From<RingError> for ReserveError {
    fn from(error: RingError) -> Self {
        Self::Ended(error)
    }
}
