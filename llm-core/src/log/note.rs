//! Records that are no packets.

use crate::flow::{FlowKey, Packet, RangeDigest, Translation, flags};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What the domain sent: 76 bytes, little-endian; the bytes themselves follow if the flow's policy asks for them.
///
/// The packet leaves only when the backup has acknowledged its note. So the backup knows of everything
/// that a client can have seen, and every input delivered before has a smaller number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Note {
    key: FlowKey,
    mark: U64,
    digest: U64,
    seq: U32,
    ack: U32,
    timestamp: U32,
    len: U32,
    window: U16,
    tcp_flags: u8,
    bits: u8,
}

/// Bit of [`Note`]: the segment has a timestamp option.
const TIMESTAMP: u8 = 1;
/// Bit of [`Note`]: the payload follows.
const BYTES: u8 = 2;

/// A payload that is not what its record's kind says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum NoteError {
    /// Not the size of that kind.
    Length {
        /// Bytes in the record.
        found: usize,
        /// Bytes of the kind.
        wanted: usize,
    },
    /// A bit that has no meaning.
    Bits(u8),
}

impl core::fmt::Display for NoteError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length { found, wanted } => write!(f, "record of {found} bytes where {wanted} are due"),
            Self::Bits(bits) => write!(f, "unknown bits {bits:#04x} in a note"),
        }
    }
}

impl core::error::Error for NoteError {}

impl Note {
    /// Size in a record, bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// Describes a frame that the guest has sent; `mark` is its place in the checkpoint stream.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a frame is far shorter than 4 GiB")]
    pub fn of(frame: &[u8], packet: &Packet, key: FlowKey, mark: u64) -> Self {
        let (range, seq, ack, timestamp, window, tcp_flags) = match packet.segment() {
            Some(s) => (s.payload_range(), s.seq, s.ack, s.timestamp, s.window, s.flags),
            None => (packet.content(), 0, 0, None, 0, 0),
        };
        let content = frame.get(range).unwrap_or_default();
        Self {
            key,
            mark: mark.into(),
            digest: RangeDigest::of(content).value().into(),
            seq: seq.into(),
            ack: ack.into(),
            timestamp: timestamp.map_or(0, |t| t.value).into(),
            len: (content.len() as u32).into(),
            window: window.into(),
            tcp_flags,
            bits: if timestamp.is_some() { TIMESTAMP } else { 0 },
        }
    }

    /// The same, to be followed by the payload in its record.
    #[must_use]
    pub const fn followed_by_bytes(mut self) -> Self {
        self.bits |= BYTES;
        self
    }

    /// Reads what a record of kind [`super::RecordKind::Note`] holds.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        let note = Self::read_from_prefix(bytes).map_or_else(|_| read(bytes), |(note, _)| Ok(note))?;
        if note.bits & !(TIMESTAMP | BYTES) != 0 {
            return Err(NoteError::Bits(note.bits));
        }
        let wanted = Self::SIZE + if note.bits & BYTES == 0 { 0 } else { note.len.get() as usize };
        if bytes.len() == wanted { Ok(note) } else { Err(NoteError::Length { found: bytes.len(), wanted }) }
    }

    /// The payload that follows in `record`, which this was parsed from; `None` if none does.
    #[must_use]
    pub fn bytes<'a>(&self, record: &'a [u8]) -> Option<&'a [u8]> {
        if self.bits & BYTES == 0 { None } else { record.get(Self::SIZE..) }
    }

    /// The bytes for a record.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        self.as_bytes()
    }

    /// The flow.
    #[must_use]
    pub const fn key(&self) -> &FlowKey {
        &self.key
    }

    /// Place in the checkpoint stream: the guest had sent it before a suspension whose
    /// [`Cut::limit`] is above.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.mark.get()
    }

    /// Sequence number of a TCP segment, as the guest counts.
    #[must_use]
    pub fn seq(&self) -> u32 {
        self.seq.get()
    }

    /// The sequence number behind it.
    #[must_use]
    pub fn seq_end(&self) -> u32 {
        let control = u32::from(self.has(flags::SYN)) + u32::from(self.has(flags::FIN));
        self.seq().wrapping_add(self.len.get()).wrapping_add(control)
    }

    /// What the guest acknowledges, if it acknowledges.
    #[must_use]
    pub fn ack(&self) -> Option<u32> {
        self.has(flags::ACK).then_some(self.ack.get())
    }

    /// Value of the guest's timestamp clock, if the connection uses timestamps.
    #[must_use]
    pub fn timestamp(&self) -> Option<u32> {
        (self.bits & TIMESTAMP != 0).then_some(self.timestamp.get())
    }

    /// Window, not scaled.
    #[must_use]
    pub fn window(&self) -> u16 {
        self.window.get()
    }

    /// Digest of a segment's payload, or of what another packet carries.
    #[must_use]
    pub fn digest(&self) -> RangeDigest {
        RangeDigest::from_parts(self.digest.get(), self.len.get().into())
    }

    /// Whether a TCP segment has all of these flags.
    #[must_use]
    pub const fn has(&self, flags: u8) -> bool {
        self.tcp_flags & flags == flags
    }

    /// All TCP flags.
    #[must_use]
    pub const fn tcp_flags(&self) -> u8 {
        self.tcp_flags
    }
}

/// How far a checkpoint reaches: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Cut {
    epoch: U64,
    limit: U64,
}

impl Cut {
    /// Size in a record, bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// What the guest sent with a mark below `limit`, it sent before the suspension of `epoch`.
    #[must_use]
    pub fn new(epoch: u64, limit: u64) -> Self {
        Self { epoch: epoch.into(), limit: limit.into() }
    }

    /// Reads what a record of kind [`super::RecordKind::Cut`] holds.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        read(bytes)
    }

    /// The bytes for a record.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        self.as_bytes()
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// The first mark that proves nothing.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.get()
    }
}

/// A connection whose numbers are translated on the primary, since it was taken over once: 48 bytes.
/// The other records of the flow count as the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Carry {
    key: FlowKey,
    seq: U32,
    timestamp: U32,
}

impl Carry {
    /// Size in a record, bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// The translation of a flow; an empty one says that there is none any more.
    #[must_use]
    pub fn new(key: FlowKey, translation: Translation) -> Self {
        Self { key, seq: translation.seq.into(), timestamp: translation.timestamp.into() }
    }

    /// Reads what a record of kind [`super::RecordKind::Carry`] holds.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        read(bytes)
    }

    /// The bytes for a record.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        self.as_bytes()
    }

    /// The flow.
    #[must_use]
    pub const fn key(&self) -> &FlowKey {
        &self.key
    }

    /// Its translation.
    #[must_use]
    pub fn translation(&self) -> Translation {
        Translation { seq: self.seq.get(), timestamp: self.timestamp.get() }
    }
}

fn read<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Result<T, NoteError> {
    T::read_from_bytes(bytes).map_err(|_| NoteError::Length { found: bytes.len(), wanted: size_of::<T>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::build::{self, Link, Says};
    use crate::flow::{Direction, NO_VLAN, TCP, VNET_HEADER};

    #[test]
    fn a_note_tells_what_was_sent() {
        let key = FlowKey::new(6, TCP, NO_VLAN, ([1; 16], 80), ([2; 16], 4000));
        let says = Says {
            seq: 100,
            ack: 200,
            flags: flags::ACK | flags::FIN,
            window: 300,
            timestamps: Some((400, 500)),
        };
        let mut buf = [0; build::BUILT_MAX];
        let end = build::segment(&mut buf, &Link::default(), &key, Direction::FromGuest, &says).unwrap();
        let frame = &buf[VNET_HEADER..end];
        let packet = Packet::parse(frame).unwrap();
        let note = Note::of(frame, &packet, packet.key(Direction::FromGuest), 9);
        assert_eq!(Note::parse(note.as_wire()), Ok(note));
        assert_eq!(*note.key(), key);
        assert_eq!((note.seq(), note.seq_end(), note.ack()), (100, 101, Some(200)));
        assert_eq!((note.timestamp(), note.window(), note.mark()), (Some(400), 300, 9));
        assert_eq!(note.digest(), RangeDigest::EMPTY);
        assert_eq!(note.as_wire().len(), 76);
    }

    #[test]
    fn what_is_none_is_refused() {
        assert_eq!(Note::parse(&[0; 75]), Err(NoteError::Length { found: 75, wanted: 76 }));
        let mut bytes = [0; 76];
        bytes[75] = 4;
        assert_eq!(Note::parse(&bytes), Err(NoteError::Bits(4)));
        // Its length is 0, so nothing may follow.
        bytes[75] = 2;
        assert_eq!(Note::parse(&bytes).map(|note| note.bytes(&bytes)), Ok(Some(&[][..])));
        assert_eq!(Note::parse(&[0; 77]), Err(NoteError::Length { found: 77, wanted: 76 }));
        bytes[68] = 2;
        assert_eq!(Note::parse(&bytes), Err(NoteError::Length { found: 76, wanted: 78 }));
        assert_eq!(Cut::parse(&[0; 17]), Err(NoteError::Length { found: 17, wanted: 16 }));
        let cut = Cut::new(3, 1 << 40);
        assert_eq!(Cut::parse(cut.as_wire()), Ok(cut));
        let carry = Carry::new(FlowKey::NONE, Translation { seq: 1, timestamp: 2 });
        assert_eq!(Carry::parse(carry.as_wire()), Ok(carry));
    }
}
