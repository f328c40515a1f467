//! The record header, byte by byte.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::HEADER;

/// A record's header as it is on the wire.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Layout {
    /// Digest of all that follows in the record.
    pub(super) check: U64,
    pub(super) lsn: U64,
    pub(super) epoch: U64,
    pub(super) time_ns: U64,
    pub(super) len: U32,
    pub(super) vif: U16,
    /// Flags below, the kind of the record above.
    pub(super) flags: U16,
}

const _: () = assert!(size_of::<Layout>() == HEADER);
