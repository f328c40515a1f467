//! Header page and records, byte by byte: `docs/ring.md`.

use core::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{AttachError, Field, MAGIC, Memory, RingError, VERSION};

/// Sizes and places of records are multiples of this many bytes.
pub const UNIT: usize = 8;

/// Most bytes of a data area.
pub const MAX_DATA: usize = 1 << 30;

/// Bytes in front of a record.
const HEAD: usize = size_of::<RecordHead>();

/// Pads an eight byte field, or two, so that the next line starts 128 bytes behind it: processors
/// fetch lines of 64 bytes in pairs.
type Pad<const N: usize> = [u8; N];

/// The header page. What the two ends write often, and what they write seldom, are lines of their own.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    identity: Identity,
    data_len: U64,
    pad0: Pad<112>,
    producer_index: U64,
    pad1: Pad<120>,
    producer_want: U64,
    producer_state: U64,
    pad2: Pad<112>,
    consumer_index: U64,
    pad3: Pad<120>,
    consumer_want: U64,
    consumer_state: U64,
    rest: Pad<3568>,
}

const _: () = assert!(size_of::<Header>() == 4096);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Identity {
    magic: [u8; 4],
    version: U16,
    reserved: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RecordHead {
    len: U32,
    reserved: U32,
}

impl Field {
    /// Where it lies in the header page.
    #[must_use]
    pub const fn offset(self) -> usize {
        match self {
            Self::Identity => offset_of!(Header, identity),
            Self::DataLen => offset_of!(Header, data_len),
            Self::ProducerIndex => offset_of!(Header, producer_index),
            Self::ProducerWant => offset_of!(Header, producer_want),
            Self::ProducerState => offset_of!(Header, producer_state),
            Self::ConsumerIndex => offset_of!(Header, consumer_index),
            Self::ConsumerWant => offset_of!(Header, consumer_want),
            Self::ConsumerState => offset_of!(Header, consumer_state),
        }
    }
}

/// Bytes that a record with a payload of `len` bytes takes in the ring. The largest, if it is too large to tell.
#[must_use]
pub const fn record_size(len: usize) -> usize {
    match len.checked_next_multiple_of(UNIT) {
        Some(len) => len.saturating_add(HEAD),
        None => usize::MAX,
    }
}

/// The first word of the header page.
pub(super) fn identity() -> u64 {
    let identity = Identity { magic: MAGIC, version: VERSION.into(), reserved: U16::ZERO };
    u64::from_le_bytes(zerocopy::transmute!(identity))
}

/// Whether the header page is that of a ring of this size; if so, the size of its data area.
pub(super) fn check<M: Memory>(memory: &M) -> Result<u64, AttachError> {
    use core::sync::atomic::Ordering::{Acquire, Relaxed};
    let want = checked_data_len(memory)?;
    let got: Identity = zerocopy::transmute!(memory.load(Field::Identity, Acquire).to_le_bytes());
    if got.magic != MAGIC {
        return Err(AttachError::Magic(got.magic));
    }
    if got.version.get() != VERSION || got.reserved.get() != 0 {
        return Err(AttachError::Version { got: got.version.get(), reserved: got.reserved.get() });
    }
    match memory.load(Field::DataLen, Relaxed) {
        got if got == want => Ok(want),
        got => Err(AttachError::OtherDataLen { got, want }),
    }
}

/// The size of the data area, if the ring can use it.
pub(super) fn checked_data_len<M: Memory>(memory: &M) -> Result<u64, AttachError> {
    match memory.data_len() {
        len if len % UNIT == 0 && (2 * UNIT..=MAX_DATA).contains(&len) => Ok(len as u64),
        len => Err(AttachError::DataLen(len)),
    }
}

/// The largest payload that is allowed, if there is room for it at all.
pub(super) fn checked_max(max_record: usize, data_len: u64) -> Result<u32, AttachError> {
    let error = AttachError::MaxRecord { max: max_record, data_len };
    if record_size(max_record) as u64 > data_len {
        return Err(error);
    }
    u32::try_from(max_record).map_err(|_| error)
}

/// The word in front of a record of `len` bytes.
pub(super) fn encode_head(len: u32) -> u64 {
    u64::from_le_bytes(zerocopy::transmute!(RecordHead { len: len.into(), reserved: U32::ZERO }))
}

/// Bytes of payload by the word in front of the record at position `at`.
pub(super) fn decode_head(word: u64, max: u32, at: u64) -> Result<u32, RingError> {
    let head: RecordHead = zerocopy::transmute!(word.to_le_bytes());
    let (len, reserved) = (head.len.get(), head.reserved.get());
    if reserved != 0 {
        return Err(RingError::Reserved { at, got: reserved });
    }
    if len > max {
        return Err(RingError::TooLong { at, len, max });
    }
    Ok(len)
}
