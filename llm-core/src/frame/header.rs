//! The frame header, byte by byte.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{HEADER, Kind, MAGIC, VERSION};
use crate::checksum::digest;

/// A frame header as it is on the wire.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    flags: U16,
    seq: U64,
    payload_digest: U64,
    len: U32,
    /// Low half of the digest of all bytes before it.
    check: U32,
}

const _: () = assert!(size_of::<Layout>() == HEADER);

/// The meaning of a header whose own checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Header {
    /// Version of the framing; the other fields mean the same in all versions.
    pub version: u8,
    /// What the payload is.
    pub kind: Kind,
    /// Flags of that kind.
    pub flags: u16,
    /// Sequence number; which numbers follow each other is for the kind to say.
    pub seq: u64,
    /// Bytes of payload; not limited yet.
    pub len: u32,
    /// XXH3-64 of the payload.
    pub payload_digest: u64,
}

impl Header {
    /// Reads a header; `None` if it does not start with the magic or its checksum is wrong.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let layout = Layout::ref_from_bytes(bytes).ok()?;
        let right = layout.magic == MAGIC && layout.check.get() == check(bytes);
        right.then_some(Self {
            version: layout.version,
            kind: Kind(layout.kind),
            flags: layout.flags.get(),
            seq: layout.seq.get(),
            len: layout.len.get(),
            payload_digest: layout.payload_digest.get(),
        })
    }

    /// The header's bytes, with its checksum.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut layout = Layout {
            magic: MAGIC,
            version: self.version,
            kind: self.kind.0,
            flags: self.flags.into(),
            seq: self.seq.into(),
            payload_digest: self.payload_digest.into(),
            len: self.len.into(),
            check: U32::ZERO,
        };
        layout.check = check(&zerocopy::transmute!(layout)).into();
        zerocopy::transmute!(layout)
    }
}

/// The header of a frame with this payload, for writers that send the two together.
///
/// The payload must not exceed [`MAX_PAYLOAD`](super::MAX_PAYLOAD).
#[must_use]
pub fn encode_header(kind: Kind, flags: u16, seq: u64, payload: &[u8]) -> [u8; HEADER] {
    encode_header_with(digest, kind, flags, seq, payload)
}

/// As [`encode_header`], with the payload's checksum by `digest`: the values of
/// [`checksum::digest`](crate::checksum::digest), made by what this processor does best.
#[must_use]
pub fn encode_header_with(
    digest: fn(&[u8]) -> u64,
    kind: Kind,
    flags: u16,
    seq: u64,
    payload: &[u8],
) -> [u8; HEADER] {
    debug_assert!(payload.len() <= super::MAX_PAYLOAD);
    // A payload beyond the field's range is beyond every reader's limit too.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    Header { version: VERSION, kind, flags, seq, len, payload_digest: digest(payload) }.to_bytes()
}

/// Checksum of a header: over all its bytes but the checksum itself.
fn check(bytes: &[u8; HEADER]) -> u32 {
    let [covered @ .., _, _, _, _] = bytes;
    let [a, b, c, d, ..] = digest(covered).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
