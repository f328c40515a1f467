//! The incremental parser.

use super::{FrameError, FrameReason, HEADER, Header, Kind, MAGIC, MAX_PAYLOAD, TooSmall, VERSION};
use crate::checksum::digest;

/// A good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where it starts, in bytes from the start of the stream.
    pub offset: u64,
    /// What the payload is.
    pub kind: Kind,
    /// Flags of that kind.
    pub flags: u16,
    /// Sequence number.
    pub seq: u64,
    /// The payload; its checksum was right.
    pub payload: &'a [u8],
}

/// Finds the frames of a stream that arrives in pieces of any size.
///
/// Bytes go in by [`space`](Self::space) and [`advance`](Self::advance), which
/// let a reader read straight into the buffer, or by [`push`](Self::push).
/// After each, call [`next_frame`](Self::next_frame) until it returns `Ok(None)`.
///
/// After an error the parser looks for the next good frame, starting with the
/// byte behind the bad magic. What it drops while it looks belongs to the same
/// error and is not reported again, but counted by [`skipped`](Self::skipped).
#[derive(Clone, Debug)]
pub struct Parser<B> {
    buffer: B,
    /// The bytes not yet used up are `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Stream offset of `buffer[start]`.
    offset: u64,
    max_payload: usize,
    /// Looking for the next frame after an error.
    lost: bool,
    skipped: u64,
    /// Payloads in a row whose checksum was wrong.
    bad_payloads: u32,
    digest: fn(&[u8]) -> u64,
}

/// So many bad payloads in a row are searched for frames inside; the ones after
/// are dropped whole. Otherwise a stream made of nested headers would have each
/// of its bytes checked thousands of times.
const SEARCHED_PAYLOADS: u32 = 16;

/// What is at the front of the buffered bytes.
enum Front {
    /// Not enough to tell.
    Incomplete,
    Frame(Header),
    Bad {
        reason: FrameReason,
        /// Bytes to drop before looking on.
        drop: usize,
        /// Whether a header was there, so that this is news even while looking.
        header: bool,
    },
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Parser<B> {
    /// A parser at the start of a stream. Payloads are limited to `max_payload`, to
    /// [`MAX_PAYLOAD`] and to what the buffer holds beside a header; a buffer of
    /// twice that size saves copying.
    ///
    /// # Errors
    ///
    /// The buffer cannot hold a header.
    pub fn new(mut buffer: B, max_payload: usize) -> Result<Self, TooSmall> {
        // A buffer whose two views differ in size is used as far as both go.
        let size = buffer.as_ref().len().min(buffer.as_mut().len());
        let room = size.checked_sub(HEADER).ok_or(TooSmall { size })?;
        let max_payload = max_payload.min(MAX_PAYLOAD).min(room);
        Ok(Self {
            buffer,
            start: 0,
            end: 0,
            offset: 0,
            max_payload,
            lost: false,
            skipped: 0,
            bad_payloads: 0,
            digest,
        })
    }

    /// Payloads are checked by `digest` from here on: the values of
    /// [`checksum::digest`](crate::checksum::digest), made by what this processor does best.
    #[must_use]
    pub fn checked_by(self, digest: fn(&[u8]) -> u64) -> Self {
        Self { digest, ..self }
    }

    /// Most bytes of a payload that this parser takes.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Stream offset of the first byte not yet used up.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes taken in that are not used up yet. If this is not 0 when the stream
    /// ends, it ended inside a frame.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Bytes dropped in all, because they belonged to no good frame.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Room for the next bytes of the stream. Never empty after
    /// [`next_frame`](Self::next_frame) returned `Ok(None)`.
    #[must_use]
    pub fn space(&mut self) -> &mut [u8] {
        self.compact();
        self.buffer.as_mut().get_mut(self.end..).unwrap_or_default()
    }

    /// Says that the first `len` bytes of [`space`](Self::space) were filled.
    /// More than there was room for counts as all of it.
    pub fn advance(&mut self, len: usize) {
        let room = self.buffer.as_ref().len().saturating_sub(self.end);
        self.end = self.end.saturating_add(len.min(room));
    }

    /// Takes in as much of `bytes` as there is room for, and shortens it by that.
    pub fn push(&mut self, bytes: &mut &[u8]) {
        let space = self.space();
        let len = space.len().min(bytes.len());
        if let (Some(to), Some((from, rest))) = (space.get_mut(..len), bytes.split_at_checked(len)) {
            to.copy_from_slice(from);
            *bytes = rest;
            self.advance(len);
        }
    }

    /// The next good frame; `Ok(None)` if more bytes are needed for it.
    ///
    /// # Errors
    ///
    /// No good frame is where one should start. The parser can go on: the next
    /// call looks for the next good frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let header = loop {
            match self.front() {
                Front::Incomplete => return Ok(None),
                Front::Frame(header) => break header,
                Front::Bad { reason, drop, header } => {
                    let offset = self.offset;
                    let known = self.lost && !header;
                    self.lost = true;
                    let before = self.skipped;
                    self.skip(drop);
                    self.skip_to_magic();
                    if !known {
                        return Err(FrameError { offset, reason, skipped: self.skipped - before });
                    }
                }
            }
        };
        self.lost = false;
        self.bad_payloads = 0;
        let (offset, start) = (self.offset, self.start);
        // The header was only taken for good because the payload is there.
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        self.consume(HEADER.saturating_add(len));
        let payload = self.buffer.as_ref().get(start..self.end).and_then(|bytes| bytes.get(HEADER..));
        let payload = payload.and_then(|bytes| bytes.get(..len)).unwrap_or_default();
        Ok(Some(Frame { offset, kind: header.kind, flags: header.flags, seq: header.seq, payload }))
    }

    fn front(&mut self) -> Front {
        let bytes = self.buffer.as_ref().get(self.start..self.end).unwrap_or_default();
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else {
            // Even a part of a header must start with the magic, as far as it goes.
            let right = bytes.iter().zip(&MAGIC).all(|(byte, magic)| byte == magic);
            return if right {
                Front::Incomplete
            } else {
                Front::Bad { reason: FrameReason::Magic, drop: 1, header: false }
            };
        };
        let Some(header) = Header::parse(head) else {
            let reason =
                if head.starts_with(&MAGIC) { FrameReason::HeaderChecksum } else { FrameReason::Magic };
            return Front::Bad { reason, drop: 1, header: false };
        };
        let bad = |reason, drop| Front::Bad { reason, drop, header: true };
        if header.version != VERSION {
            return bad(FrameReason::Version { got: header.version, supported: VERSION }, 1);
        }
        let len = match usize::try_from(header.len) {
            Ok(len) if len <= self.max_payload => len,
            _ => return bad(FrameReason::TooLong { len: header.len, max: self.max_payload }, 1),
        };
        let Some(payload) = rest.get(..len) else {
            return Front::Incomplete;
        };
        if (self.digest)(payload) != header.payload_digest {
            let reason = FrameReason::PayloadChecksum { kind: header.kind.0, seq: header.seq };
            self.bad_payloads = self.bad_payloads.saturating_add(1);
            let searched = self.bad_payloads <= SEARCHED_PAYLOADS;
            return bad(reason, if searched { 1 } else { HEADER.saturating_add(len) });
        }
        Front::Frame(header)
    }

    /// Drops what cannot be the start of a frame.
    fn skip_to_magic(&mut self) {
        let bytes = self.buffer.as_ref().get(self.start..self.end).unwrap_or_default();
        let [first, ..] = MAGIC;
        let mut at = 0;
        while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == first)) {
            at += found;
            let candidate = bytes.get(at..).unwrap_or_default();
            if candidate.iter().zip(&MAGIC).all(|(byte, magic)| byte == magic) {
                return self.skip(at);
            }
            at += 1;
        }
        self.skip(bytes.len());
    }

    fn skip(&mut self, len: usize) {
        self.skipped = self.skipped.saturating_add(len.min(self.pending()) as u64);
        self.consume(len);
    }

    fn consume(&mut self, len: usize) {
        let len = len.min(self.pending());
        self.start = self.start.saturating_add(len);
        self.offset = self.offset.saturating_add(len as u64);
    }

    /// Moves the pending bytes to the front of the buffer, when that costs nothing,
    /// when it is paid for by at least as many bytes used up, or when the buffer is
    /// at its end: then at most once for each frame.
    fn compact(&mut self) {
        let size = self.buffer.as_ref().len();
        let pending = self.pending();
        if self.start > 0 && (pending <= self.start || self.end >= size) {
            let bytes = self.buffer.as_mut();
            if self.end <= bytes.len() {
                bytes.copy_within(self.start..self.end, 0);
            }
            self.start = 0;
            self.end = pending;
        }
    }
}
