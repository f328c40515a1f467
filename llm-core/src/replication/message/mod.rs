//! Messages on the two connections, in postcard. The layouts of Hello and
//! Refuse never change, so that any two versions can tell each other apart.

use super::{Path, Timing};
use core::fmt;
use core::net::IpAddr;
use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Longest domain name, bytes.
pub const DOMAIN_MAX: usize = 64;
/// Longest text of a refusal, bytes.
pub const REFUSAL_TEXT_MAX: usize = 96;
/// Most addresses in one [`Addresses`].
pub const ADDRESSES_MAX: usize = 16;
/// A buffer of this many bytes takes every message.
pub const MESSAGE_MAX: usize = 384;

/// How output waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Mode {
    /// For the commit of its epoch.
    Remus,
    /// For the acknowledgement of the inputs before it.
    Llm,
    /// For nothing, as published; unsafe, to reproduce the paper.
    LlmPaper,
}

impl Mode {
    /// Whether an input log is kept.
    #[must_use]
    pub const fn has_log(self) -> bool {
        matches!(self, Self::Llm | Self::LlmPaper)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remus => "remus",
            Self::Llm => "llm",
            Self::LlmPaper => "llm-paper",
        })
    }
}

/// A message. Who may send it is in brackets: P primary, B backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "no allocation here; a handful exist at a time")]
#[non_exhaustive]
pub enum Message {
    /// [P] First on each connection.
    Hello(Hello),
    /// [B] Answer to a Hello: the connection is up.
    Welcome(Welcome),
    /// [B] Instead of a Welcome, or later: this connection is of no use. It is closed next.
    Refuse(Refusal),
    /// [P, B] I live.
    Heartbeat(Heartbeat),
    /// [B] All epochs up to this one are whole and held.
    Commit(Commit),
    /// [P] What the guest answers to, for the announcement after a take-over.
    Addresses(Addresses),
    /// [P, B] The session ends.
    Goodbye(Goodbye),
    /// [B] I run the domain now; stop yours.
    TakenOver,
    /// [B] All log frames up to this one are held. On the control path only.
    LogAck(LogAck),
}

/// Opening of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version the primary speaks.
    pub min: u16,
    /// Newest version the primary speaks.
    pub max: u16,
    /// Abilities offered, one a bit.
    pub features: u64,
    /// The session: random, never 0.
    pub session: u64,
    /// The [`Welcome::incarnation`] that welcomed this session before, if one did. A
    /// backup that cannot go on from there refuses instead of starting afresh.
    pub resume: Option<u64>,
    /// Which of the two connections this is.
    pub path: Path,
    /// How output waits.
    pub mode: Mode,
    /// Name of the domain on the primary; see [`Hello::domain_is_valid`].
    pub domain: String<DOMAIN_MAX>,
    /// Checkpoint interval, milliseconds.
    pub interval_ms: u32,
    /// Detect time, milliseconds.
    pub detect_ms: u32,
    /// Heartbeat period, milliseconds.
    pub heartbeat_ms: u32,
    /// Pages of the shadow copy that both ends keep.
    pub shadow_pages: u64,
    /// The primary's clock, nanoseconds; counts as a heartbeat's.
    pub sent: u64,
}

impl Hello {
    /// Whether `name` can name a domain: 1 to [`DOMAIN_MAX`] bytes of letters, digits and
    /// `_ - . + :`, the first one a letter, a digit or `_`. It ends up in commands and file names.
    #[must_use]
    pub fn domain_is_valid(name: &str) -> bool {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        name.len() <= DOMAIN_MAX
            && name.bytes().next().is_some_and(plain)
            && name.bytes().all(|c| plain(c) || b"-.+:".contains(&c))
    }

    /// The times of the session.
    ///
    /// # Errors
    /// As [`Timing::new`].
    pub fn timing(&self) -> Result<Timing, super::TimingError> {
        Timing::from_millis(self.interval_ms, self.detect_ms, self.heartbeat_ms)
    }
}

/// Answer to a Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version to speak.
    pub version: u16,
    /// Abilities both have.
    pub features: u64,
    /// Random, drawn when the backup's machine for this session was made. Another one
    /// means: what this session had sent is gone.
    pub incarnation: u64,
    /// First sequence number not yet received on this path: of bulk data, or of log frames.
    pub next_seq: u64,
    /// Newest committed epoch.
    pub committed: Option<u64>,
    /// Newest `sent` received from the primary.
    pub echo: u64,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender's clock, nanoseconds.
    pub sent: u64,
    /// Newest `sent` received from the peer on any path of this session; 0 if none.
    pub echo: u64,
}

/// Acknowledgement of epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Newest committed epoch; all before it are committed too.
    pub epoch: u64,
    /// As in [`Heartbeat`].
    pub echo: u64,
}

/// Acknowledgement of log frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAck {
    /// The first log frame that is not held.
    pub next_seq: u64,
}

/// What one interface of the guest answers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Hardware address.
    pub mac: [u8; 6],
    /// IPv4 and IPv6 addresses seen.
    pub ips: Vec<IpAddr, ADDRESSES_MAX>,
}

/// End of a session. The backup answers the primary's Released and ShuttingDown in kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// Why.
    pub reason: GoodbyeReason,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum GoodbyeReason {
    /// The domain goes on unprotected; drop the copy.
    Released,
    /// The primary gives the domain up; take over at once.
    Failing,
    /// From the primary: the domain has ended. From the backup: the service ends.
    /// Either way the copy is dropped.
    ShuttingDown,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RefuseReason {
    /// No common version.
    Version,
    /// The first message was not a Hello that can be read.
    Malformed,
    /// The mode is not offered.
    Mode,
    /// A time is out of bounds.
    Timing,
    /// More shadow pages than the backup gives.
    ShadowLimit,
    /// Another session protects this domain now. May pass: try again.
    DomainBusy,
    /// No room for another domain. May pass.
    Full,
    /// The domain runs on the backup host.
    TakenOver,
    /// The backup no longer has what this session sent: begin a new one.
    UnknownSession,
    /// Not what the session's first Hello said.
    Mismatch,
    /// An older Hello than that of the connection in use. May pass.
    Stale,
    /// An epoch did not come out as announced; no further one will be committed.
    Corrupt,
}

impl RefuseReason {
    /// Whether the same Hello may be accepted later.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::DomainBusy | Self::Full | Self::Stale)
    }
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "no common protocol version",
            Self::Malformed => "no readable Hello came first",
            Self::Mode => "the mode is not offered",
            Self::Timing => "a time is out of bounds",
            Self::ShadowLimit => "the shadow copy is larger than allowed",
            Self::DomainBusy => "another session protects the domain",
            Self::Full => "no room for another domain",
            Self::TakenOver => "the domain runs on the backup host",
            Self::UnknownSession => "the session is not known any more",
            Self::Mismatch => "the Hello differs from the session's first one",
            Self::Stale => "a newer connection is in use",
            Self::Corrupt => "an epoch did not arrive as announced",
        })
    }
}

/// A refusal: to be sent as [`Message::Refuse`], then the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub reason: RefuseReason,
    /// Oldest version the backup speaks.
    pub min: u16,
    /// Newest version the backup speaks.
    pub max: u16,
    /// For people.
    pub text: String<REFUSAL_TEXT_MAX>,
}

impl Refusal {
    /// A refusal with the versions spoken here. `text` is cut where it gets too long.
    #[must_use]
    pub fn new(reason: RefuseReason, text: fmt::Arguments<'_>) -> Self {
        struct Cut<'a>(&'a mut String<REFUSAL_TEXT_MAX>);
        impl fmt::Write for Cut<'_> {
            fn write_str(&mut self, s: &str) -> fmt::Result {
                for c in s.chars() {
                    self.0.push(c).map_err(|_| fmt::Error)?;
                }
                Ok(())
            }
        }
        let mut cut = String::new();
        // An error is the end of the room; what fitted stays.
        let _ = fmt::write(&mut Cut(&mut cut), text);
        Self { reason, min: super::PROTOCOL_MIN, max: super::PROTOCOL_MAX, text: cut }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if self.reason == RefuseReason::Version {
            write!(f, " (backup speaks {} to {})", self.min, self.max)?;
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

impl core::error::Error for Refusal {}

impl Message {
    /// Writes the message to the front of `buf` and returns what was written.
    /// [`MESSAGE_MAX`] bytes are always enough.
    ///
    /// # Errors
    /// [`MessageError::NoRoom`].
    pub fn encode<'b>(&self, buf: &'b mut [u8]) -> Result<&'b [u8], MessageError> {
        let room = buf.len();
        postcard::to_slice(self, buf).map(|used| &*used).map_err(|_| MessageError::NoRoom { room })
    }

    /// Reads a message that fills `bytes` exactly.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let (message, rest) = postcard::take_from_bytes::<Self>(bytes)
            .map_err(|_| MessageError::Malformed { len: bytes.len(), first: bytes.first().copied() })?;
        if !rest.is_empty() {
            return Err(MessageError::Trailing { offset: bytes.len() - rest.len(), extra: rest.len() });
        }
        match &message {
            Self::Hello(hello) if !Hello::domain_is_valid(&hello.domain) => Err(MessageError::Domain),
            Self::Hello(hello) if hello.session == 0 => Err(MessageError::Session),
            _ => Ok(message),
        }
    }
}

/// Why bytes are not a message, or a message no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// The buffer is too small.
    NoRoom {
        /// Its size, bytes.
        room: usize,
    },
    /// Cut short, an unknown kind, or a field out of bounds.
    Malformed {
        /// Bytes looked at.
        len: usize,
        /// The first of them: the kind.
        first: Option<u8>,
    },
    /// Bytes after the message.
    Trailing {
        /// Where they begin.
        offset: usize,
        /// How many.
        extra: usize,
    },
    /// A domain name that may not be used; see [`Hello::domain_is_valid`].
    Domain,
    /// Session 0.
    Session,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom { room } => {
                write!(f, "message does not fit into {room} bytes; {MESSAGE_MAX} always do")
            }
            Self::Malformed { len, first } => {
                write!(f, "message of {len} bytes and kind {first:?} cannot be read")
            }
            Self::Trailing { offset, extra } => {
                write!(f, "message ends at offset {offset}, {extra} bytes before its frame")
            }
            Self::Domain => f.write_str("hello names a domain with characters that are not allowed"),
            Self::Session => f.write_str("hello names session 0"),
        }
    }
}

impl core::error::Error for MessageError {}
