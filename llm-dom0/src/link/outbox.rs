//! What waits to be sent to the peer on one path, and what was sent but may
//! have to be sent again.
//!
//! Messages (heartbeats, acknowledgements) belong to a connection: when it
//! breaks they are worthless and dropped. Data frames belong to the session:
//! they stay until their epoch is committed, and a new connection starts at
//! the first one that the backup says it lacks.
//!
//! What is small and finds nothing ahead of it is written by whoever queues it, as far as the socket takes it: a
//! request's way to the backup and back then wakes no writer thread.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use llm_core::frame::{Kind, encode_header};

use super::direct;
use super::drain::Drain;

#[cfg(test)]
mod tests;
mod waiting;

pub use waiting::{Found, Run, Wanted};

/// A data frame: a batch of encoded pages, or the end of an epoch.
#[derive(Clone, Debug)]
pub struct DataFrame {
    /// Frame kind, as in the frame header.
    pub kind: Kind,
    /// Data sequence number of the session; the first is 1.
    pub seq: u64,
    /// Sequence numbers that it stands for, from `seq` on; more than 1 if batches were compressed together.
    pub count: u64,
    /// The payload.
    pub payload: Arc<Vec<u8>>,
}

impl DataFrame {
    /// The sequence number behind it.
    fn end(&self) -> u64 {
        self.seq + self.count
    }
}

/// What a connection's writer has to write next.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// The rest of a frame that was written in part.
    Rest(Vec<u8>),
    /// An encoded message, and its number on this connection.
    Message(u64, Vec<u8>),
    /// A data frame.
    Data(DataFrame),
}

/// How full an outbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Payload bytes kept.
    pub bytes: u64,
    /// Data frames kept.
    pub frames: usize,
    /// Data frames kept that this connection has not written yet.
    pub unsent: u64,
    /// Times that a producer had to wait for room.
    pub waits: u64,
}

/// The outbox was closed: nothing will be sent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The link of this session is closed")]
pub struct Closed;

/// Messages queued at most; more means that the peer reads nothing, and
/// heartbeats older than that are of no use to it.
const MESSAGES_MAX: usize = 1024;
/// Payloads longer than this are left to the writer thread, so that their producer pays neither for the checksum nor for the copy.
const DIRECT_MAX: usize = 16 * 1024;

/// Outgoing side of one path. Shared by its producers and one writer at a time.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    /// Something to send, or the connection is over.
    ready: Condvar,
    /// Room for data, or closed.
    room: Condvar,
    /// More waits than somebody waits for, or closed.
    grown: Condvar,
}

#[derive(Debug)]
struct Inner {
    messages: VecDeque<Vec<u8>>,
    /// Number of the connection's next message.
    next_message: u64,
    /// What a direct write has left over; it comes first.
    rest: Vec<u8>,
    /// Where direct writes go; none if there shall be none.
    socket: Option<Arc<TcpStream>>,
    /// The writer has something in hand.
    writing: bool,
    data: VecDeque<DataFrame>,
    /// Sequence of the newest data frame that was pushed.
    last_seq: u64,
    /// Next data sequence to write; `None` until the peer has said where to start.
    cursor: Option<u64>,
    bytes: u64,
    /// Of these, bytes that the present connection has not written.
    unsent: u64,
    limit: u64,
    waits: u64,
    /// Counts connections; a writer of an older one gets nothing.
    generation: u64,
    up: bool,
    closed: bool,
    /// How fast the writer gets rid of data, if somebody wants to know.
    drain: Option<Drain>,
    /// Bytes that the kernel may hold back of a connection, if that is limited.
    in_kernel: Option<u32>,
    /// Unsent bytes at which somebody wants to be woken.
    wake_at: Option<u64>,
    /// How few unsent bytes there must be for a producer that waits for room: half of what there may be, so that it does not wake
    /// for every frame.
    room_at: Option<u64>,
}

impl Outbox {
    /// An outbox that keeps up to `limit` bytes of data (and always at least one frame).
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            inner: Mutex::new(Inner {
                messages: VecDeque::new(),
                next_message: 0,
                rest: Vec::new(),
                socket: None,
                writing: false,
                data: VecDeque::new(),
                last_seq: 0,
                cursor: None,
                bytes: 0,
                unsent: 0,
                limit,
                waits: 0,
                generation: 0,
                up: false,
                closed: false,
                drain: None,
                in_kernel: None,
                wake_at: None,
                room_at: None,
            }),
            ready: Condvar::new(),
            room: Condvar::new(),
            grown: Condvar::new(),
        }
    }

    /// A new connection takes over; earlier writers end. Returns its generation. With a `socket`, which must be
    /// the one that the connection's writer writes to, small frames go to it without a detour over the writer.
    pub fn connect(&self, socket: Option<Arc<TcpStream>>) -> u64 {
        let mut inner = self.lock();
        inner.generation += 1;
        inner.up = true;
        inner.stand_still();
        inner.socket = socket;
        inner.shorten();
        self.ready.notify_all();
        inner.generation
    }

    /// The connection of that generation is gone.
    pub fn disconnect(&self, generation: u64) {
        let mut inner = self.lock();
        if inner.generation == generation {
            inner.up = false;
            inner.stand_still();
            self.ready.notify_all();
        }
    }

    /// Lets data flow on this connection, from `next_seq` on.
    ///
    /// Returns false if frames before the oldest one kept are asked for: the
    /// peer has lost what it had acknowledged.
    #[must_use]
    pub fn resume(&self, next_seq: u64) -> bool {
        let mut inner = self.lock();
        let oldest = inner.data.front().map_or(inner.last_seq + 1, |f| f.seq);
        if next_seq < oldest || next_seq > inner.last_seq + 1 {
            return false;
        }
        inner.cursor = Some(next_seq);
        inner.unsent = inner.data.iter().filter(|f| f.end() > next_seq).map(|f| f.payload.len() as u64).sum();
        self.ready.notify_all();
        // With nothing left to write there is room, and nobody else would say so.
        self.room.notify_all();
        true
    }

    /// Queues a message for the present connection; without one it is dropped.
    pub fn message(&self, bytes: Vec<u8>) {
        let mut inner = self.lock();
        if inner.up && inner.messages.len() < MESSAGES_MAX && !inner.write_message(&bytes) {
            inner.messages.push_back(bytes);
        }
        let wakes = inner.wants_writer();
        drop(inner);
        if wakes {
            self.ready.notify_all();
        }
    }

    /// Queues a data frame and returns its sequence. Waits while more than `unsent_max`
    /// bytes (or the limit, if that is less) have not been written yet.
    ///
    /// Frames that were written are kept for as long as they fit into the limit. One
    /// that had to go makes a later [`Outbox::resume`] fail if it is asked for.
    ///
    /// # Errors
    /// [`Closed`] if the session ended meanwhile.
    pub fn data(&self, kind: Kind, payload: Vec<u8>, unsent_max: u64) -> Result<u64, Closed> {
        let mut inner = self.lock();
        let max = unsent_max.min(inner.limit);
        if inner.is_full(max) {
            inner.waits += 1;
            while inner.is_full(max) {
                inner.room_at = Some(inner.room_at.map_or(max / 2, |at| at.max(max / 2)));
                inner = self.room.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.push(inner, kind, payload)
    }

    /// As [`Outbox::data`], but never waits: for the few bytes that end an epoch,
    /// without which nothing would ever make room.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn data_over(&self, kind: Kind, payload: Vec<u8>) -> Result<u64, Closed> {
        self.push(self.lock(), kind, payload)
    }

    fn push(&self, mut inner: MutexGuard<'_, Inner>, kind: Kind, payload: Vec<u8>) -> Result<u64, Closed> {
        let pushed = inner.push_data(kind, payload);
        let (wakes, grown) = (inner.wants_writer(), inner.wake_at.is_some_and(|bytes| inner.unsent >= bytes));
        // Whoever wakes can have the lock at once.
        drop(inner);
        if wakes && pushed.is_ok() {
            self.ready.notify_all();
        }
        if grown {
            self.grown.notify_all();
        }
        pushed
    }

    /// Forgets all data frames up to and including `seq`. The payload of the last of them, if nobody else has it.
    pub fn committed(&self, seq: u64) -> Option<Vec<u8>> {
        let (mut inner, mut last) = (self.lock(), None);
        while inner.data.front().is_some_and(|f| f.end() <= seq + 1) {
            last = inner.drop_oldest();
        }
        self.room.notify_all();
        drop(inner);
        Arc::into_inner(last?.payload)
    }

    /// The next thing to write on the connection of that generation: messages
    /// before data. Waits for it; `None` when the connection is over.
    #[must_use]
    pub fn next(&self, generation: u64) -> Option<Outgoing> {
        let mut inner = self.lock();
        loop {
            if inner.generation != generation {
                return None;
            }
            inner.writing = true;
            if let Some(drain) = &mut inner.drain {
                drain.end(Instant::now());
            }
            if !inner.rest.is_empty() {
                return Some(Outgoing::Rest(std::mem::take(&mut inner.rest)));
            }
            if let Some(message) = inner.messages.pop_front() {
                inner.next_message += 1;
                return Some(Outgoing::Message(inner.next_message - 1, message));
            }
            if inner.closed || !inner.up {
                return None;
            }
            if let Some(frame) = inner.next_data() {
                let unsent = inner.unsent;
                let is_room = inner.room_at.take_if(|at| unsent <= *at).is_some();
                drop(inner);
                if is_room {
                    self.room.notify_all();
                }
                return Some(Outgoing::Data(frame));
            }
            inner.writing = false;
            if let Some(drain) = &mut inner.drain {
                drain.idle();
            }
            inner = self.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the session's sending: producers get [`Closed`], the writer writes
    /// the messages that are queued and ends.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.data.clear();
        inner.bytes = 0;
        inner.unsent = 0;
        self.ready.notify_all();
        self.room.notify_all();
        self.grown.notify_all();
    }

    /// How full it is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let inner = self.lock();
        let unsent = inner.cursor.map_or(inner.data.len() as u64, |c| (inner.last_seq + 1).saturating_sub(c));
        Fill { bytes: inner.bytes, frames: inner.data.len(), unsent, waits: inner.waits }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere aborts the process; a poisoned lock is never seen in a release.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push_data(&mut self, kind: Kind, payload: Vec<u8>) -> Result<u64, Closed> {
        if self.closed {
            return Err(Closed);
        }
        let is_next = self.is_idle() && self.cursor == Some(self.last_seq + 1);
        self.last_seq += 1;
        self.bytes += payload.len() as u64;
        self.unsent += payload.len() as u64;
        self.data.push_back(DataFrame { kind, seq: self.last_seq, count: 1, payload: Arc::new(payload) });
        // What was written may have to be written again, but not at any price.
        while self.bytes > self.limit && self.data.front().is_some_and(|f| self.cursor >= Some(f.end())) {
            self.drop_oldest();
        }
        if is_next {
            self.write_data();
        }
        Ok(self.last_seq)
    }

    /// Nothing is ahead of a message, and the writer does nothing.
    fn is_idle(&self) -> bool {
        self.up && !self.closed && !self.writing && self.rest.is_empty() && self.messages.is_empty()
    }

    /// The writer has something to do.
    fn has_work(&self) -> bool {
        !self.rest.is_empty()
            || !self.messages.is_empty()
            || self.cursor.is_some_and(|cursor| cursor <= self.last_seq)
    }

    /// The writer has something to do, and waits for that.
    fn wants_writer(&self) -> bool {
        !self.writing && self.has_work()
    }

    /// Writes a message at once, if that does not wait. False if nothing of it was written.
    fn write_message(&mut self, payload: &[u8]) -> bool {
        let header = encode_header(Kind::MESSAGE, 0, self.next_message, payload);
        let written = self.is_idle() && self.write(&header, payload);
        self.next_message += u64::from(written);
        written
    }

    /// Writes the newest data frame at once, if that does not wait; the cursor stands on it.
    fn write_data(&mut self) {
        let Some(frame) = self.data.back().filter(|frame| frame.payload.len() <= DIRECT_MAX).cloned() else {
            return;
        };
        let header = encode_header(frame.kind, 0, frame.seq, &frame.payload);
        if self.write(&header, &frame.payload) {
            self.cursor = Some(frame.seq + 1);
            self.unsent -= frame.payload.len() as u64;
        }
    }

    /// Writes without waiting; what the socket does not take becomes the rest. False if nothing was written: a broken
    /// socket is the writer's to find.
    fn write(&mut self, header: &[u8], payload: &[u8]) -> bool {
        let Some(socket) = &self.socket else { return false };
        let Some(written) = direct::write(socket, header, payload).ok().filter(|&n| n > 0) else {
            return false;
        };
        self.rest.extend(header.iter().chain(payload).skip(written));
        true
    }

    fn is_full(&self, unsent_max: u64) -> bool {
        self.unsent >= unsent_max && self.unsent > 0 && !self.closed
    }

    fn drop_oldest(&mut self) -> Option<DataFrame> {
        let frame = self.data.pop_front()?;
        let bytes = frame.payload.len() as u64;
        self.bytes -= bytes;
        if self.cursor < Some(frame.end()) {
            self.unsent -= bytes;
        }
        Some(frame)
    }

    /// No connection: everything that is kept may have to be written.
    fn stand_still(&mut self) {
        self.cursor = None;
        self.unsent = self.bytes;
        self.messages.clear();
        self.next_message = 0;
        self.rest.clear();
        self.socket = None;
        self.writing = false;
        if let Some(drain) = &mut self.drain {
            drain.broken();
        }
    }

    fn next_data(&mut self) -> Option<DataFrame> {
        let cursor = self.cursor?;
        let frame = self.data.get(self.data.partition_point(|f| f.end() <= cursor))?.clone();
        self.cursor = Some(frame.end());
        let bytes = frame.payload.len() as u64;
        self.unsent -= bytes;
        if let Some(drain) = &mut self.drain {
            drain.begin(Instant::now(), bytes);
        }
        Some(frame)
    }
}
