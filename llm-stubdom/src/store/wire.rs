//! Messages of xenstore. Source: xen/include/public/io/xs_wire.h.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a header.
pub const HEADER: usize = 16;

/// Most bytes of a payload.
pub const MAX_PAYLOAD: usize = 4096;

/// What a message is (`XS_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub u32);

impl Kind {
    /// Names of a node's children.
    pub const DIRECTORY: Self = Self(1);
    /// A node's value.
    pub const READ: Self = Self(2);
    /// Tell of changes to a node and all below it.
    pub const WATCH: Self = Self(4);
    /// Begin a transaction.
    pub const TRANSACTION_START: Self = Self(6);
    /// End a transaction.
    pub const TRANSACTION_END: Self = Self(7);
    /// Set a node's value; made if it was not there.
    pub const WRITE: Self = Self(11);
    /// Remove a node and all below it.
    pub const RM: Self = Self(13);
    /// A watched node has changed.
    pub const WATCH_EVENT: Self = Self(15);
    /// The request failed.
    pub const ERROR: Self = Self(16);
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: Kind,
    /// A number of the request that its reply has too.
    pub id: u32,
    /// The transaction, 0 for none.
    pub transaction: u32,
    /// Bytes of payload; not checked.
    pub len: u32,
}

/// `struct xsd_sockmsg`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    kind: U32,
    id: U32,
    transaction: U32,
    len: U32,
}

const _: () = assert!(size_of::<Layout>() == HEADER);

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let Self { kind, id, transaction, len } = self;
        zerocopy::transmute!(Layout {
            kind: kind.0.into(),
            id: id.into(),
            transaction: transaction.into(),
            len: len.into(),
        })
    }

    /// The header that `bytes` are.
    #[must_use]
    pub fn from_bytes(bytes: [u8; HEADER]) -> Self {
        let layout: Layout = zerocopy::transmute!(bytes);
        Self {
            kind: Kind(layout.kind.get()),
            id: layout.id.get(),
            transaction: layout.transaction.get(),
            len: layout.len.get(),
        }
    }
}

/// What xenstore says when it refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `ENOENT`: there is no such node.
    NoEntry,
    /// `EACCES`: this domain may not.
    NoAccess,
    /// `EAGAIN`: another transaction came first; begin anew.
    Again,
    /// `EEXIST`: it is there already.
    Exists,
    /// `EQUOTA` and other names.
    Other,
}

impl Refusal {
    /// What the payload of an error names; the NUL at its end is optional.
    #[must_use]
    pub fn from_payload(payload: &[u8]) -> Self {
        match payload.strip_suffix(b"\0").unwrap_or(payload) {
            b"ENOENT" => Self::NoEntry,
            b"EACCES" => Self::NoAccess,
            b"EAGAIN" => Self::Again,
            b"EEXIST" => Self::Exists,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_four_words() {
        let header = Header { kind: Kind::WRITE, id: 2, transaction: 3, len: 0x0102_0304 };
        let bytes = header.to_bytes();
        assert_eq!(bytes, [11, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 3, 2, 1]);
        assert_eq!(Header::from_bytes(bytes), header);
    }

    #[test]
    fn refusals_are_named() {
        assert_eq!(Refusal::from_payload(b"ENOENT\0"), Refusal::NoEntry);
        assert_eq!(Refusal::from_payload(b"EAGAIN"), Refusal::Again);
        assert_eq!(Refusal::from_payload(b""), Refusal::Other);
        assert_eq!(Refusal::from_payload(b"ENOENT\0\0"), Refusal::Other);
    }
}
