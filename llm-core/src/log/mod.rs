//! Records of the input log: the packets that went into the domain, in order, and what
//! else a replay needs to know ([`RecordKind`]).
//!
//! A record is a header of [`HEADER`] bytes and a packet, with a checksum of its
//! own: the log is kept in files and passed through rings without the frame it
//! came in. There is nothing to find the next record by after damage, on
//! purpose: a log with a hole in it cannot be replayed, so it ends there. The
//! bytes are specified in `docs/wire-format.md`.
//!
//! ```
//! use llm_core::log::{Entry, Flags, LogWriter, RecordKind, records};
//! use llm_core::time::Instant;
//!
//! let mut buf = [0; 256];
//! let mut log = LogWriter::new(&mut buf, 1);
//! let (kind, flags) = (RecordKind::Input, Flags::NONE);
//! let entry = Entry { kind, epoch: 4, time: Instant::from_nanos(5), vif: 0, flags, packet: b"data" };
//! assert_eq!(log.append(&entry), Ok(1));
//! assert_eq!(log.append(&entry), Ok(2));
//! let len = log.finish();
//!
//! let mut lsn = 0;
//! for record in records(&buf[..len], Some(1)) {
//!     lsn = record?.lsn;
//! }
//! assert_eq!(lsn, 2);
//! # Ok::<(), llm_core::log::LogError>(())
//! ```
//!
//! On their way to another host they take less than half of their bytes: see [`Packer`].

mod cursor;
mod error;
mod layout;
mod note;
mod packed;
mod writer;

#[cfg(test)]
mod tests;

pub use cursor::{Cursor, Records, records};
pub use error::{LogError, LogReason};
pub use note::{Carry, Cut, Note, NoteError};
pub use packed::{MAX_SMALL, Packer, SEAL, SLOTS, Unpacked, Unpacker};
pub use writer::{AppendError, LogWriter};

use crate::time::Instant;

/// Bytes of a record's header.
pub const HEADER: usize = 40;

/// Most bytes of a packet: 64 KiB of a merged segment, with its link-layer and virtio-net headers.
pub const MAX_PACKET: usize = 65_600;

/// Bytes of the longest record.
pub const MAX_RECORD: usize = HEADER + MAX_PACKET;

/// What a packet's bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Flags(u16);

impl Flags {
    /// The packet is a plain Ethernet frame.
    pub const NONE: Self = Self(0);
    /// The Ethernet frame comes after a virtio-net header of 10 bytes.
    pub const VNET_HEADER: Self = Self(1);

    /// The flags with these bits; `None` if a bit has no meaning.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::VNET_HEADER.0 == 0 { Some(Self(bits)) } else { None }
    }

    /// The flags as bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum RecordKind {
    /// A packet that went into the domain.
    #[default]
    Input,
    /// What the domain sent, described by a [`Note`]. It is written before the packet may leave.
    Note,
    /// How far a checkpoint reaches: a [`Cut`].
    Cut,
    /// What an earlier take-over left to translate: a [`Carry`].
    Carry,
}

impl RecordKind {
    const ALL: [Self; 4] = [Self::Input, Self::Note, Self::Cut, Self::Carry];

    /// The upper half of the header's flags.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Input => 0,
            Self::Note => 1,
            Self::Cut => 2,
            Self::Carry => 3,
        }
    }

    /// The kind with this code; `None` if there is none.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// What a record says, but for its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// The epoch in which the packet went into the domain.
    pub epoch: u64,
    /// When it did, on the primary's clock.
    pub time: Instant,
    /// Number of the domain's interface, from 0.
    pub vif: u16,
    /// What the packet's bytes are.
    pub flags: Flags,
    /// The packet, or what the kind says; at most [`MAX_PACKET`] bytes.
    pub packet: &'a [u8],
}

/// A record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number: one more than that of the record before it.
    pub lsn: u64,
    /// What it says.
    pub entry: Entry<'a>,
}
