//! A client of xenstore, over the ring that the toolstack gives each domain.
//!
//! One request is under way at a time; its reply is waited for. Watch events that come meanwhile are kept as bits of
//! their tokens, so that no number of them fills anything: an event says only that something changed, and what
//! it is, is read afterwards. Xenstore is not trusted with lengths: a reply that is longer than its request allows
//! is cut or refused, never believed.

mod wire;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use wire::{HEADER, Header, Kind, MAX_PAYLOAD, Refusal};

use crate::abi::store_ring::{REQ, REQ_CONS, REQ_PROD, RSP, RSP_CONS, RSP_PROD};
use crate::shared::{BrokenRing, ByteRing, Shared};
use core::fmt;

/// How the other side is told and waited for.
pub trait Line {
    /// Tells the other side that the ring has changed.
    fn notify(&mut self);

    /// Waits until the other side may have changed the ring; false if it took too long.
    fn wait(&mut self) -> bool;
}

/// Why a request did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Xenstore says no.
    Refused(Refusal),
    /// No reply came in time.
    TimedOut,
    /// The request, or the reply, has more bytes than allowed.
    TooLong {
        /// Its bytes.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A reply to no request of ours, or of another kind.
    Reply {
        /// Its kind.
        kind: Kind,
        /// The request that it names.
        id: u32,
    },
    /// The reply's payload makes no sense.
    Payload,
    /// The ring's indices make no sense.
    Ring(BrokenRing),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "xenstore refuses: {refusal:?}"),
            Self::TimedOut => f.write_str("xenstore does not answer"),
            Self::TooLong { len, max } => write!(f, "xenstore message of {len} bytes, {max} allowed"),
            Self::Reply { kind, id } => write!(f, "xenstore sends message {} for request {id}", kind.0),
            Self::Payload => f.write_str("xenstore sends a payload without meaning"),
            Self::Ring(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StoreError {}

impl From<BrokenRing> for StoreError {
    fn from(error: BrokenRing) -> Self {
        Self::Ring(error)
    }
}

/// A transaction, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tx(u32);

impl Tx {
    /// Each request for itself.
    pub const NONE: Self = Self(0);
}

/// Watches that have fired, by their tokens from 0 to 31.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fired(u32);

impl Fired {
    /// Whether the watch with this token has.
    #[must_use]
    pub const fn has(self, token: u8) -> bool {
        token < 32 && self.0 >> token & 1 != 0
    }

    /// Adds those that have fired since.
    pub const fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }
}

/// How far the message that comes next is in.
#[derive(Debug)]
enum Incoming {
    Header { bytes: [u8; HEADER], len: usize },
    Payload { header: Header, len: usize },
}

impl Incoming {
    const NEXT: Self = Self::Header { bytes: [0; HEADER], len: 0 };
}

/// The client.
#[derive(Debug)]
pub struct Store<S, L> {
    page: S,
    line: L,
    requests: ByteRing,
    replies: ByteRing,
    incoming: Incoming,
    payload: [u8; MAX_PAYLOAD],
    next_id: u32,
    fired: Fired,
}

impl<S: Shared, L: Line> Store<S, L> {
    /// The client of the ring in `page`.
    pub fn new(page: S, line: L) -> Self {
        let requests = ByteRing::new(&page, REQ, REQ_PROD, REQ_CONS);
        let replies = ByteRing::new(&page, RSP, RSP_CONS, RSP_PROD);
        let incoming = Incoming::NEXT;
        Self {
            page,
            line,
            requests,
            replies,
            incoming,
            payload: [0; MAX_PAYLOAD],
            next_id: 1,
            fired: Fired(0),
        }
    }

    /// The value of a node. Paths that do not start with `/` are below this domain's own node.
    ///
    /// # Errors
    /// [`StoreError`]; so in all functions below. What is wrong with xenstore itself stays wrong.
    pub fn read(&mut self, tx: Tx, path: &str) -> Result<&[u8], StoreError> {
        self.call(Kind::READ, tx, &[path.as_bytes(), b"\0"])
    }

    /// Sets the value of a node.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(&mut self, tx: Tx, path: &str, value: &[u8]) -> Result<(), StoreError> {
        self.call(Kind::WRITE, tx, &[path.as_bytes(), b"\0", value]).map(drop)
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn remove(&mut self, tx: Tx, path: &str) -> Result<(), StoreError> {
        self.call(Kind::RM, tx, &[path.as_bytes(), b"\0"]).map(drop)
    }

    /// The names of a node's children.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn directory(&mut self, tx: Tx, path: &str) -> Result<impl Iterator<Item = &[u8]>, StoreError> {
        let names = self.call(Kind::DIRECTORY, tx, &[path.as_bytes(), b"\0"])?;
        Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()))
    }

    /// Asks for events with `token`, at most 31, when a node or one below it changes. The first comes at once.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn watch(&mut self, path: &str, token: u8) -> Result<(), StoreError> {
        let digits = [b'0' + token / 10 % 10, b'0' + token % 10, 0];
        self.call(Kind::WATCH, Tx::NONE, &[path.as_bytes(), b"\0", &digits]).map(drop)
    }

    /// Begins a transaction: its requests are carried out together, or not at all.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn begin(&mut self) -> Result<Tx, StoreError> {
        let number = self.call(Kind::TRANSACTION_START, Tx::NONE, &[b"\0"])?;
        match decimal(number) {
            Some(tx) if tx != 0 => Ok(Tx(tx)),
            _ => Err(StoreError::Payload),
        }
    }

    /// Carries a transaction out.
    ///
    /// # Errors
    /// As for [`read`](Self::read); with [`Refusal::Again`] it was not carried out, and can be begun anew.
    pub fn commit(&mut self, tx: Tx) -> Result<(), StoreError> {
        self.call(Kind::TRANSACTION_END, tx, &[b"T\0"]).map(drop)
    }

    /// Gives a transaction up.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn abort(&mut self, tx: Tx) -> Result<(), StoreError> {
        self.call(Kind::TRANSACTION_END, tx, &[b"F\0"]).map(drop)
    }

    /// The watches that have fired since the last call. Does not wait.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn fired(&mut self) -> Result<Fired, StoreError> {
        while let Some(header) = self.receive()? {
            self.dispatch(&header, None)?;
        }
        Ok(core::mem::take(&mut self.fired))
    }

    /// Sends a request, whose payload is `parts` one behind the other, and waits for its reply's payload.
    fn call(&mut self, kind: Kind, tx: Tx, parts: &[&[u8]]) -> Result<&[u8], StoreError> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let too_long = StoreError::TooLong { len, max: MAX_PAYLOAD };
        let bytes = u32::try_from(len).ok().filter(|_| len <= MAX_PAYLOAD).ok_or(too_long)?;
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let header = Header { kind, id, transaction: tx.0, len: bytes };
        self.send(&header.to_bytes())?;
        for part in parts {
            self.send(part)?;
        }
        loop {
            let Some(got) = self.receive()? else {
                self.wait()?;
                continue;
            };
            if !self.dispatch(&got, Some(id))? {
                continue;
            }
            let payload = self.payload.get(..got.len as usize).unwrap_or_default();
            return match got.kind {
                Kind::ERROR => Err(StoreError::Refused(Refusal::from_payload(payload))),
                got if got == kind => Ok(payload),
                kind => Err(StoreError::Reply { kind, id }),
            };
        }
    }

    /// Takes a message in; true if it is the reply that is `awaited`, the newest one.
    fn dispatch(&mut self, header: &Header, awaited: Option<u32>) -> Result<bool, StoreError> {
        if header.kind == Kind::WATCH_EVENT {
            let payload = self.payload.get(..header.len as usize).unwrap_or_default();
            // The path, then the token; a token that is not ours is nobody's.
            let token = payload.split(|byte| *byte == 0).nth(1).and_then(decimal);
            self.fired.0 |= token.filter(|token| *token < 32).map_or(0, |token| 1 << token);
            return Ok(false);
        }
        // How many requests ago; beyond half of all numbers, it was none yet.
        let behind = self.next_id.wrapping_sub(1).wrapping_sub(header.id);
        if behind >= u32::MAX / 2 {
            return Err(StoreError::Reply { kind: header.kind, id: header.id });
        }
        // A reply to a request that was given up is passed over.
        Ok(awaited == Some(header.id))
    }

    /// The next message, once it is whole; its payload is in `self.payload` then.
    fn receive(&mut self) -> Result<Option<Header>, StoreError> {
        loop {
            let (into, at) = match &mut self.incoming {
                Incoming::Header { bytes, len } => (&mut bytes[..], len),
                Incoming::Payload { header, len } => {
                    // The length was checked when the header was whole.
                    (self.payload.get_mut(..header.len as usize).unwrap_or_default(), len)
                }
            };
            let rest = into.get_mut(*at..).unwrap_or_default();
            let wanted = rest.len();
            let count = self.replies.read(&self.page, rest)?;
            *at += count;
            if count > 0 {
                self.line.notify();
            }
            if count < wanted {
                return Ok(None);
            }
            match self.incoming {
                Incoming::Header { bytes, .. } => {
                    let header = Header::from_bytes(bytes);
                    let len = header.len as usize;
                    if len > MAX_PAYLOAD {
                        return Err(StoreError::TooLong { len, max: MAX_PAYLOAD });
                    }
                    self.incoming = Incoming::Payload { header, len: 0 };
                }
                Incoming::Payload { header, .. } => {
                    self.incoming = Incoming::NEXT;
                    return Ok(Some(header));
                }
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let count = self.requests.write(&self.page, bytes)?;
            bytes = bytes.split_at(count).1;
            if count > 0 {
                self.line.notify();
            } else {
                self.wait()?;
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), StoreError> {
        if self.line.wait() { Ok(()) } else { Err(StoreError::TimedOut) }
    }
}

/// The number that decimal digits are, perhaps with a NUL behind them.
#[must_use]
pub fn decimal(text: &[u8]) -> Option<u32> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    // A sign is no digit.
    let digits = text.first().is_some_and(u8::is_ascii_digit);
    core::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}
