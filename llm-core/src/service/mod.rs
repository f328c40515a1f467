//! What a driver and a unikernel that encodes for it say to each other, over two rings: requests one way,
//! answers the other. The bytes are specified in `docs/stubdom.md`.

mod nodes;

pub use nodes::{State, node};

use core::fmt;

use embedded_io::Write;

use crate::log::{self, Entry, Flags, MAX_PACKET, RecordKind};
use crate::page::Page;
use crate::time::Instant;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the records and of the nodes in xenstore.
pub const VERSION: u32 = 3;

/// Bytes of the longest request: a log entry with the longest packet.
pub const MAX_REQUEST: usize = LOG_HEAD + MAX_PACKET;

/// Bytes of a log entry's request before its packet.
const LOG_HEAD: usize = size_of::<LogHead>();

/// Bytes of the longest answer: a frame with the longest piece of log.
pub const MAX_ANSWER: usize = FRAME_HEAD + crate::frame::HEADER + MAX_LOG;

/// Bytes that an answer starts with.
pub const ANSWER_HEAD: usize = size_of::<Head>();

/// Bytes of an answer before its frame.
pub const FRAME_HEAD: usize = ANSWER_HEAD + size_of::<U64>();

/// Bytes of the longest batch.
pub const MAX_BATCH: usize = 64 << 10;

/// Bytes of the longest piece of log: at least one record of any length.
pub const MAX_LOG: usize = 96 << 10;

/// Bytes of the longest message for the driver's log.
pub const MAX_MESSAGE: usize = 256;

const _: () = assert!(MAX_LOG >= log::MAX_RECORD);
// An echo of any length goes back.
const _: () = assert!(MAX_ANSWER >= MAX_REQUEST);

const BEGIN: u8 = 1;
const BYTES: u8 = 2;
const PAGE: u8 = 3;
const FLUSH: u8 = 4;
const LOG: u8 = 5;
const ECHO: u8 = 6;

/// How each record starts.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    kind: u8,
    reserved: [u8; 7],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BeginBody {
    copies: U32,
    reserved: U32,
    batch_seq: U64,
    log_seq: U64,
    lsn: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PageBody {
    pfn: U64,
    page: Page,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct LogHead {
    head: Head,
    epoch: U64,
    time_ns: U64,
    vif: U16,
    flags: U16,
    record: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<Head>() == 8 && size_of::<BeginBody>() == 32);
const _: () = assert!(size_of::<PageBody>() == 8 + 4096 && size_of::<LogHead>() == 32);

/// The first numbers of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Most copies of pages that both ends keep.
    pub copies: u32,
    /// Number of the first frame that holds a batch.
    pub batch_seq: u64,
    /// Number of the first frame that holds log records.
    pub log_seq: u64,
    /// Number of the first log record.
    pub lsn: u64,
}

/// What the driver asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// A new session: forget everything, and answer how many copies are kept.
    Begin(Begin),
    /// These bytes of the checkpoint stream come next.
    Bytes(&'a [u8]),
    /// This page comes next in the checkpoint stream.
    Page {
        /// Its number in the guest.
        pfn: u64,
        /// Its content.
        page: &'a Page,
    },
    /// Frame what there is, and say so with this token.
    Flush(u64),
    /// Append this to the input log.
    Log(Entry<'a>),
    /// Send these bytes back. It needs no session and frames nothing.
    Echo(&'a [u8]),
}

/// A request that is not understood: the driver is broken, or of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadRequest {
    /// Too short for a request, or for one of this kind.
    Short {
        /// Its bytes.
        len: usize,
    },
    /// No request has this number.
    Kind(u8),
    /// It has a length that its kind does not have.
    Length {
        /// The kind.
        kind: u8,
        /// Its bytes.
        len: usize,
    },
    /// What is reserved is not 0.
    Reserved {
        /// The kind.
        kind: u8,
    },
    /// A log entry of a kind or with flags that do not exist.
    Entry,
    /// No session was begun.
    NoSession,
    /// Every number of the log was used.
    LogExhausted,
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { len } => write!(f, "Bad request: {len} bytes are none"),
            Self::Kind(kind) => write!(f, "Bad request: there is no kind {kind}"),
            Self::Length { kind, len } => write!(f, "Bad request: kind {kind} does not have {len} bytes"),
            Self::Reserved { kind } => write!(f, "Bad request: reserved bits in one of kind {kind}"),
            Self::Entry => f.write_str("Bad request: unknown kind or flags of a log entry"),
            Self::NoSession => f.write_str("Bad request: no session was begun"),
            Self::LogExhausted => f.write_str("Bad request: every number of the log was used"),
        }
    }
}

impl core::error::Error for BadRequest {}

impl<'a> Request<'a> {
    /// Reads the record that `bytes` is, whole.
    ///
    /// # Errors
    /// [`BadRequest`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadRequest> {
        let len = bytes.len();
        let (head, body) = Head::ref_from_prefix(bytes).map_err(|_| BadRequest::Short { len })?;
        let kind = head.kind;
        let length = BadRequest::Length { kind, len };
        if head.reserved != [0; 7] {
            return Err(BadRequest::Reserved { kind });
        }
        match kind {
            BEGIN => {
                let body = BeginBody::ref_from_bytes(body).map_err(|_| length)?;
                if body.reserved.get() != 0 {
                    return Err(BadRequest::Reserved { kind });
                }
                let BeginBody { copies, batch_seq, log_seq, lsn, .. } = body;
                let (batch_seq, log_seq) = (batch_seq.get(), log_seq.get());
                Ok(Self::Begin(Begin { copies: copies.get(), batch_seq, log_seq, lsn: lsn.get() }))
            }
            BYTES => Ok(Self::Bytes(body)),
            ECHO => Ok(Self::Echo(body)),
            PAGE => {
                let body = PageBody::ref_from_bytes(body).map_err(|_| length)?;
                Ok(Self::Page { pfn: body.pfn.get(), page: &body.page })
            }
            FLUSH => Ok(Self::Flush(U64::read_from_bytes(body).map_err(|_| length)?.get())),
            LOG => {
                let (head, packet) = LogHead::ref_from_prefix(bytes).map_err(|_| length)?;
                if packet.len() > MAX_PACKET {
                    return Err(length);
                }
                if head.reserved != [0; 3] {
                    return Err(BadRequest::Reserved { kind });
                }
                Ok(Self::Log(Entry {
                    kind: RecordKind::from_code(head.record).ok_or(BadRequest::Entry)?,
                    epoch: head.epoch.get(),
                    time: Instant::from_nanos(head.time_ns.get()),
                    vif: head.vif.get(),
                    flags: Flags::from_bits(head.flags.get()).ok_or(BadRequest::Entry)?,
                    packet,
                }))
            }
            _ => Err(BadRequest::Kind(kind)),
        }
    }

    /// Bytes of the request.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Begin(_) => size_of::<Head>() + size_of::<BeginBody>(),
            Self::Bytes(bytes) | Self::Echo(bytes) => size_of::<Head>() + bytes.len(),
            Self::Page { .. } => size_of::<Head>() + size_of::<PageBody>(),
            Self::Flush(_) => size_of::<Head>() + size_of::<U64>(),
            Self::Log(entry) => LOG_HEAD + entry.packet.len(),
        }
    }

    /// False: each has a head.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Writes the request, [`len`](Self::len) bytes, to `out`: a ring's reservation, so that it is copied once, or
    /// a slice. For the driver's side, and tests.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to<W: Write>(&self, mut out: W) -> Result<(), W::Error> {
        let head = |kind| Head { kind, reserved: [0; 7] };
        match self {
            Self::Begin(Begin { copies, batch_seq, log_seq, lsn }) => {
                out.write_all(head(BEGIN).as_bytes())?;
                let (batch_seq, log_seq, lsn) = ((*batch_seq).into(), (*log_seq).into(), (*lsn).into());
                let body =
                    BeginBody { copies: (*copies).into(), reserved: U32::ZERO, batch_seq, log_seq, lsn };
                out.write_all(body.as_bytes())
            }
            Self::Bytes(bytes) => {
                out.write_all(head(BYTES).as_bytes())?;
                out.write_all(bytes)
            }
            Self::Echo(bytes) => {
                out.write_all(head(ECHO).as_bytes())?;
                out.write_all(bytes)
            }
            Self::Page { pfn, page } => {
                out.write_all(head(PAGE).as_bytes())?;
                out.write_all(&pfn.to_le_bytes())?;
                out.write_all(&page[..])
            }
            Self::Flush(token) => {
                out.write_all(head(FLUSH).as_bytes())?;
                out.write_all(&token.to_le_bytes())
            }
            Self::Log(entry) => {
                let head = LogHead {
                    head: head(LOG),
                    epoch: entry.epoch.into(),
                    time_ns: entry.time.as_nanos().into(),
                    vif: entry.vif.into(),
                    flags: entry.flags.bits().into(),
                    record: entry.kind.code(),
                    reserved: [0; 3],
                };
                out.write_all(head.as_bytes())?;
                out.write_all(entry.packet)
            }
        }
    }

    /// Writes the request to the front of `out`, and returns its bytes; `None` if it does not fit.
    pub fn write<'b>(&self, out: &'b mut [u8]) -> Option<&'b [u8]> {
        let out = out.get_mut(..self.len())?;
        self.write_to(&mut out[..]).ok()?;
        Some(out)
    }
}

/// What the unikernel answers. The number is the first byte of the record; the other bytes of its head are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// A session has begun; four bytes follow: how many copies are kept.
    Ready = 1,
    /// A frame. Eight bytes tell how far it goes: for a batch, bytes of the checkpoint stream that are in frames
    /// by now, since the session began; for log records, the number of the next one. Header and payload follow.
    Frame = 2,
    /// All that was asked for before a flush is framed; its token follows, eight bytes.
    Flushed = 3,
    /// The bytes of an echo follow.
    Echoed = 4,
    /// Something for the driver's log: one message of defmt follows, as its raw encoding has it, of [`MAX_MESSAGE`] bytes at
    /// most. It may come at any time, and answers nothing.
    Message = 5,
}

impl Answer {
    /// The start of the record.
    #[must_use]
    pub const fn head(self) -> [u8; ANSWER_HEAD] {
        [self as u8, 0, 0, 0, 0, 0, 0, 0]
    }

    /// The answer that starts with `head`, if there is one.
    #[must_use]
    pub fn from_head(head: [u8; ANSWER_HEAD]) -> Option<Self> {
        [Self::Ready, Self::Frame, Self::Flushed, Self::Echoed, Self::Message]
            .into_iter()
            .find(|answer| answer.head() == head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{vec, vec::Vec};

    fn requests() -> Vec<Request<'static>> {
        let entry = Entry {
            kind: RecordKind::Note,
            epoch: 3,
            time: Instant::from_nanos(4),
            vif: 5,
            flags: Flags::VNET_HEADER,
            packet: b"data",
        };
        vec![
            Request::Begin(Begin { copies: 1, batch_seq: 2, log_seq: 3, lsn: 4 }),
            Request::Bytes(b"head"),
            Request::Bytes(b""),
            Request::Page { pfn: 0xfeff8, page: &[7; 4096] },
            Request::Flush(9),
            Request::Log(entry),
            Request::Echo(b"again"),
        ]
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        for request in requests() {
            let mut out = [0xff; 5000];
            let len = request.write(&mut out).unwrap().len();
            assert_eq!(Request::parse(&out[..len]), Ok(request));
            assert_eq!(request.write(&mut out[..len - 1]), None);
        }
        let mut out = [0; 64];
        assert_eq!(
            Request::Flush(0x0102).write(&mut out),
            Some(&[4, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0][..])
        );
        assert_eq!(
            requests()[5].write(&mut out),
            Some(
                &[
                    5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 1, 0, 1, 0,
                    0, 0, b'd', b'a', b't', b'a'
                ][..]
            )
        );
    }

    #[test]
    fn wrong_lengths_kinds_and_reserved_bits_are_refused() {
        assert_eq!(Request::parse(&[4; 7]), Err(BadRequest::Short { len: 7 }));
        assert_eq!(Request::parse(&[7, 0, 0, 0, 0, 0, 0, 0]), Err(BadRequest::Kind(7)));
        assert_eq!(Request::parse(&[2, 0, 0, 0, 0, 0, 0, 1]), Err(BadRequest::Reserved { kind: 2 }));
        for request in requests() {
            let mut out = [0; 5000];
            let len = request.write(&mut out).unwrap().len();
            let short = match request {
                Request::Bytes(_) | Request::Echo(_) => continue,
                Request::Log(_) => 31,
                _ => len - 1,
            };
            let kind = out[0];
            assert_eq!(Request::parse(&out[..short]), Err(BadRequest::Length { kind, len: short }));
        }
        let long =
            vec![5, 0, 0, 0, 0, 0, 0, 0].into_iter().chain(vec![0; MAX_REQUEST - 7]).collect::<Vec<u8>>();
        assert_eq!(Request::parse(&long), Err(BadRequest::Length { kind: 5, len: MAX_REQUEST + 1 }));
        assert!(Request::parse(&long[..MAX_REQUEST]).is_ok());
    }

    proptest! {
        #[test]
        fn each_request_is_written_in_one_way(kind in 0..8_u8, rest in prop::collection::vec(0..6_u8, 0..80)) {
            let bytes = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &rest].concat();
            if let Ok(request) = Request::parse(&bytes) {
                let mut out = [0; 100];
                prop_assert_eq!(request.write(&mut out), Some(&bytes[..]));
            }
        }
    }

    #[test]
    fn answers_are_told_apart() {
        for answer in [Answer::Ready, Answer::Frame, Answer::Flushed, Answer::Echoed, Answer::Message] {
            assert_eq!(Answer::from_head(answer.head()), Some(answer));
        }
        assert_eq!(Answer::from_head([6, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Answer::from_head([2, 0, 0, 0, 0, 0, 0, 1]), None);
    }
}
