//! What can be wrong with a stream of frames.

/// A place where the stream holds no good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct FrameError {
    /// Where it starts, in bytes from the start of the stream.
    pub offset: u64,
    /// What is wrong there.
    pub reason: FrameReason,
    /// Bytes dropped so far on account of it; more may follow silently, see
    /// [`Parser::skipped`](super::Parser::skipped).
    pub skipped: u64,
}

/// Why there is no good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FrameReason {
    /// No frame starts here.
    Magic,
    /// The header's checksum is wrong.
    HeaderChecksum,
    /// The frame is of another version of the framing.
    Version {
        /// Its version.
        got: u8,
        /// The one that is understood.
        supported: u8,
    },
    /// The payload is longer than allowed.
    TooLong {
        /// Bytes announced.
        len: u32,
        /// Bytes allowed.
        max: usize,
    },
    /// The payload's checksum is wrong.
    PayloadChecksum {
        /// Kind of the frame.
        kind: u8,
        /// Its sequence number.
        seq: u64,
    },
}

impl core::fmt::Display for FrameReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Magic => f.write_str("no frame starts here"),
            Self::HeaderChecksum => f.write_str("header checksum is wrong"),
            Self::Version { got, supported } => {
                write!(f, "frame version {got}, but version {supported} is the one understood")
            }
            Self::TooLong { len, max } => write!(f, "payload of {len} bytes, {max} allowed"),
            Self::PayloadChecksum { kind, seq } => {
                write!(f, "payload checksum is wrong (kind {kind}, sequence number {seq})")
            }
        }
    }
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bad frame at byte {} of the stream: {}", self.offset, self.reason)
    }
}

impl core::error::Error for FrameError {}

/// A parser's buffer cannot even hold a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TooSmall {
    /// Bytes of the buffer.
    pub size: usize,
}

impl core::fmt::Display for TooSmall {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Frame buffer of {} bytes is too small: a header is {}", self.size, super::HEADER)
    }
}

impl core::error::Error for TooSmall {}
