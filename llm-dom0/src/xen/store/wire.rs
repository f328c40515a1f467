//! Messages of XenStore: a header of four numbers, and a payload.

use std::io::Read;
use zerocopy::native_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::StoreError;

/// Most bytes of a payload (`XENSTORE_PAYLOAD_MAX`).
const PAYLOAD_MAX: usize = 4096;

/// `struct xsd_sockmsg`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    kind: U32,
    request: U32,
    transaction: U32,
    len: U32,
}

/// `enum xsd_sockmsg_type`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Kind(pub(super) u32);

impl Kind {
    pub(super) const DIRECTORY: Self = Self(1);
    pub(super) const READ: Self = Self(2);
    pub(super) const WATCH: Self = Self(4);
    pub(super) const UNWATCH: Self = Self(5);
    pub(super) const TRANSACTION_START: Self = Self(6);
    pub(super) const TRANSACTION_END: Self = Self(7);
    pub(super) const WRITE: Self = Self(11);
    pub(super) const RM: Self = Self(13);
    pub(super) const SET_PERMS: Self = Self(14);
    pub(super) const WATCH_EVENT: Self = Self(15);
    pub(super) const ERROR: Self = Self(16);
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) request: u32,
    pub(super) payload: Vec<u8>,
}

/// The bytes of a request: strings, each with a NUL behind it, and perhaps a value without.
pub(super) fn request(
    kind: Kind,
    request: u32,
    transaction: u32,
    strings: &[&str],
    value: Option<&[u8]>,
) -> Result<Vec<u8>, StoreError> {
    let unfit = || StoreError::Unfit(strings.first().copied().unwrap_or_default().to_owned());
    let mut payload = Vec::new();
    for string in strings {
        if string.contains('\0') {
            return Err(unfit());
        }
        payload.extend_from_slice(string.as_bytes());
        payload.push(0);
    }
    payload.extend_from_slice(value.unwrap_or_default());
    let len = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_MAX).ok_or_else(unfit)?;
    let header = Header {
        kind: kind.0.into(),
        request: request.into(),
        transaction: transaction.into(),
        len: len.into(),
    };
    // In one piece: the kernel puts a message together only within limits.
    Ok([header.as_bytes(), &payload].concat())
}

/// The next message.
pub(super) fn receive(device: &mut impl Read) -> Result<Message, StoreError> {
    let mut header = [0; size_of::<Header>()];
    device.read_exact(&mut header)?;
    let header: Header = zerocopy::transmute!(header);
    let len = usize::try_from(header.len.get()).ok().filter(|len| *len <= PAYLOAD_MAX);
    let mut payload = vec![0; len.ok_or(StoreError::Malformed("a payload that is too long"))?];
    device.read_exact(&mut payload)?;
    Ok(Message { kind: Kind(header.kind.get()), request: header.request.get(), payload })
}

/// The strings of a payload, each of which has a NUL behind it.
pub(super) fn strings(payload: &[u8]) -> Result<Vec<String>, StoreError> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
    let Some((0, all)) = payload.split_last() else {
        return match payload {
            [] => Ok(Vec::new()),
            _ => Err(StoreError::Malformed("a string without an end")),
        };
    };
    let strings = all.split(|byte| *byte == 0).map(text).collect::<Result<_, _>>();
    strings.map_err(|_| StoreError::Malformed("a string that is no UTF-8"))
}
