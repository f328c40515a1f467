//! Framing over any byte stream.
//!
//! A frame is a header of [`HEADER`] bytes and a payload. The header carries a
//! checksum of itself and one of the payload; the bytes are specified in
//! `docs/wire-format.md`. [`Parser`] takes a stream in pieces of any size and
//! finds the next good frame again after damage.
//!
//! The checksums find accidents, not attackers. Payloads hold guest memory, and
//! a guest may well write bytes there that look like a frame. So a receiver on a
//! live connection ends the connection at the first error; going on behind one
//! is for reading damaged recordings.
//!
//! ```
//! use llm_core::frame::{HEADER, Kind, Parser, write_frame};
//!
//! let mut stream = [0; 64];
//! let mut out = &mut stream[..];
//! write_frame(&mut out, Kind::MESSAGE, 0, 7, b"hello")?;
//!
//! let mut parser = Parser::new([0; 1024], 512)?;
//! let mut input = &stream[..HEADER + 5];
//! parser.push(&mut input);
//! let frame = parser.next_frame()?.ok_or("a whole frame was pushed")?;
//! assert_eq!((frame.kind, frame.seq, frame.payload), (Kind::MESSAGE, 7, &b"hello"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compressed;
mod error;
mod header;
mod parser;

#[cfg(test)]
mod tests;

pub use compressed::{BATCH_LEN, BATCHES_MAX, CONTENT_MAX, CompressedHead, HeadError, Method};
pub use error::{FrameError, FrameReason, TooSmall};
pub use header::{Header, encode_header, encode_header_with};
pub use parser::{Frame, Parser};

use embedded_io::Write;

/// Bytes of a frame's header.
pub const HEADER: usize = 32;

/// Most bytes of a payload that any frame may have.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// The version of the framing that this code writes and the only one it reads.
pub const VERSION: u8 = 1;

/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"LLMF";

/// What a frame's payload is. Numbers that this code does not know are passed on
/// by the parser: what to do with them is for the receiver to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Kind(pub u8);

impl Kind {
    /// A control message.
    pub const MESSAGE: Self = Self(1);
    /// A batch of page operations.
    pub const BATCH: Self = Self(2);
    /// The end of an epoch.
    pub const EPOCH_END: Self = Self(3);
    /// Records of the input log.
    pub const LOG: Self = Self(4);
    /// Batches that follow each other, compressed together; see [`CompressedHead`].
    pub const COMPRESSED: Self = Self(5);
    /// Packed records of the input log, and a seal behind them; see [`log::Packer`](crate::log::Packer).
    pub const PACKED_LOG: Self = Self(6);
}

/// Writes a frame to `out`: its header, then its payload.
///
/// The payload must not exceed [`MAX_PAYLOAD`]; a longer one would be refused by
/// every reader.
///
/// # Errors
///
/// Those of `out`. Part of the frame may have been written then.
pub fn write_frame<W: Write>(
    out: &mut W,
    kind: Kind,
    flags: u16,
    seq: u64,
    payload: &[u8],
) -> Result<(), W::Error> {
    out.write_all(&encode_header(kind, flags, seq, payload))?;
    out.write_all(payload)
}
