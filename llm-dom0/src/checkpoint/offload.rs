//! Primary side: encoding left to somebody else, who may die or lie.
//!
//! Pages go out, finished batches come back. Whatever is not in a batch yet can be had back at any time, so that the
//! stream goes on here when the other side fails.

use super::held::Held;
use crate::digest::digest;
use llm_core::frame::{HEADER, Header, Kind};
use llm_core::page::{PAGE, Page};
use llm_core::service::{ANSWER_HEAD, Answer, Begin, FRAME_HEAD, MAX_ANSWER, MAX_BATCH, Request};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Silence after which an encoder that owes something counts as hung, where nothing else is wanted.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether the other side is still there.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes of requests that are shown together, half of the unikernel's ring: the other side may begin if it has a processor
/// of its own; where both share one, each time costs an event and a switch.
const TOGETHER: usize = 128 << 10;
/// Answers that are taken before something else is done: messages could come for ever.
const TAKEN: u32 = 256;
/// Bytes of the stream after which a batch is asked for even if it is small: bounds what must be kept here.
const FLUSH: u64 = 2 << 20;
/// Bytes of the stream, other than pages, in one request.
const PIECE: usize = 16 << 10;

/// The way to who encodes: requests one way, answers the other.
pub trait Line: Debug + Send {
    /// Queues a request; false if there is no room.
    ///
    /// # Errors
    /// The other side cannot be used any more. So for all of these.
    fn send(&mut self, request: &Request<'_>) -> Result<bool, LineError>;

    /// Shows it all requests so far.
    ///
    /// # Errors
    /// As above.
    fn show(&mut self) -> Result<(), LineError>;

    /// Copies the next answer to the front of `into`, which has [`MAX_ANSWER`] bytes: its length, or `None` if there is
    /// none now.
    ///
    /// # Errors
    /// As above.
    fn answer(&mut self, into: &mut [u8]) -> Result<Option<usize>, LineError>;

    /// Shows all requests and waits for an answer or, with `room`, for room for a request; at most `patience`. False if
    /// nothing came.
    ///
    /// # Errors
    /// As above.
    fn wait(&mut self, room: bool, patience: Duration) -> Result<bool, LineError>;

    /// The other side has this to say to whoever reads the log. It is not trusted.
    fn message(&mut self, message: &[u8]);

    /// Whether the other side still exists.
    ///
    /// # Errors
    /// As above.
    fn is_there(&mut self) -> Result<bool, LineError>;
}

/// What a [`Line`] says when it cannot go on.
pub type LineError = Box<dyn Error + Send + Sync>;

/// Why encoding cannot be left to the other side any longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OffloadError {
    /// The way to it.
    #[error("The encoder's rings cannot be used: {0}")]
    Line(LineError),
    /// It is gone.
    #[error("The encoder's domain is gone")]
    Gone,
    /// It does nothing.
    #[error("The encoder has been silent for {0:?}")]
    Silent(Duration),
    /// It says what it must not say.
    #[error("The encoder gives a wrong answer: {0}")]
    Answer(&'static str),
}

/// A piece of the stream that may have to be encoded here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Bytes(&'a [u8]),
    Page(u64, &'a Page),
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    /// Its first byte, from the start of the stream.
    start: u64,
    len: u32,
    /// Of a page.
    pfn: Option<u64>,
}

/// Encoding that is left to the other side of a [`Line`].
#[derive(Debug)]
pub struct Offload {
    line: Box<dyn Line>,
    patience: Duration,
    answer: Box<[u8]>,
    held: Held,
    /// Bytes of the stream that went out, that are in batches, and that were asked for by the last flush.
    sent: u64,
    done: u64,
    flushed_at: u64,
    /// Tokens of the newest flush, and of the newest that was answered.
    token: u64,
    answered: u64,
    /// Bytes of requests that were not shown yet.
    unshown: usize,
    /// The other side has said that the session has begun.
    ready: bool,
    /// What is in no batch yet, and the pieces of the stream that hold it, with their starts.
    pending: VecDeque<Sent>,
    chunks: VecDeque<(u64, Arc<Vec<u8>>)>,
    /// End of the last chunk.
    fed: u64,
}

impl Offload {
    /// Begins a session of a stream whose two ends keep copies of up to `shadow_pages` pages. Silence that lasts longer
    /// than `patience`, while something is owed, is a failure.
    ///
    /// # Errors
    /// [`OffloadError`].
    pub fn begin(line: Box<dyn Line>, shadow_pages: u32, patience: Duration) -> Result<Self, OffloadError> {
        let mut offload = Self {
            line,
            patience,
            answer: vec![0; MAX_ANSWER].into_boxed_slice(),
            held: Held::new(shadow_pages),
            sent: 0,
            done: 0,
            flushed_at: 0,
            token: 0,
            answered: 0,
            unshown: 0,
            ready: false,
            pending: VecDeque::new(),
            chunks: VecDeque::new(),
            fed: 0,
        };
        let begin = Begin { copies: shadow_pages, batch_seq: 0, log_seq: 0, lsn: 1 };
        offload.send(&Request::Begin(begin), &mut |_| {})?;
        offload.finish(&mut |_| {})?;
        Ok(offload)
    }

    /// The next piece of the stream, which the following calls take from.
    pub(super) fn chunk(&mut self, chunk: Arc<Vec<u8>>) {
        let start = self.fed;
        self.fed += chunk.len() as u64;
        self.chunks.push_back((start, chunk));
    }

    /// These bytes come next. After an error [`Self::give_up`] has them.
    pub(super) fn bytes(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), OffloadError> {
        for piece in bytes.chunks(PIECE) {
            self.note(piece.len(), None);
        }
        for piece in bytes.chunks(PIECE) {
            self.send(&Request::Bytes(piece), out)?;
        }
        Ok(())
    }

    /// This page comes next. After an error [`Self::give_up`] has it.
    pub(super) fn page(
        &mut self,
        pfn: u64,
        page: &Page,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<(), OffloadError> {
        self.held.insert(pfn);
        self.note(PAGE, Some(pfn));
        self.send(&Request::Page { pfn, page }, out)?;
        if self.sent - self.flushed_at >= FLUSH {
            self.flush(out)?;
        }
        Ok(())
    }

    /// Waits until all of it is in batches.
    pub(super) fn finish(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), OffloadError> {
        self.flush(out)?;
        let mut heard = Instant::now();
        while self.answered != self.token {
            self.wait(false, &mut heard, out)?;
        }
        if self.done == self.sent { Ok(()) } else { Err(OffloadError::Answer("a flush that left something")) }
    }

    /// Shows what is queued, and takes what is there; never waits.
    pub(super) fn pause(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), OffloadError> {
        self.unshown = 0;
        self.line.show().map_err(OffloadError::Line)?;
        self.take(out).map(drop)
    }

    /// Gives up: the pages that the backup may hold, and what is in no batch yet.
    pub(super) fn give_up(self) -> (Held, Rest) {
        (self.held, Rest { pending: self.pending, chunks: self.chunks })
    }

    fn note(&mut self, len: usize, pfn: Option<u64>) {
        // A page, or a piece.
        let len = u32::try_from(len).unwrap_or_default();
        self.pending.push_back(Sent { start: self.sent, len, pfn });
        self.sent += u64::from(len);
    }

    fn flush(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), OffloadError> {
        self.token += 1;
        self.flushed_at = self.sent;
        self.send(&Request::Flush(self.token), out)
    }

    fn send(&mut self, request: &Request<'_>, out: &mut dyn FnMut(&[u8])) -> Result<(), OffloadError> {
        let mut heard = Instant::now();
        while !self.line.send(request).map_err(OffloadError::Line)? {
            self.wait(true, &mut heard, out)?;
        }
        self.unshown += request.len();
        if self.unshown >= TOGETHER {
            self.pause(out)?;
        }
        Ok(())
    }

    /// Takes answers, or waits for some, or for room.
    fn wait(
        &mut self,
        room: bool,
        heard: &mut Instant,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<(), OffloadError> {
        if self.take(out)? {
            // What `out` took to do is not the other side's silence.
            *heard = Instant::now();
            return Ok(());
        }
        if heard.elapsed() > self.patience {
            return Err(OffloadError::Silent(self.patience));
        }
        let came = self.line.wait(room, LOOK).map_err(OffloadError::Line)?;
        if came || self.line.is_there().map_err(OffloadError::Line)? {
            Ok(())
        } else {
            Err(OffloadError::Gone)
        }
    }

    /// Takes the answers that are there. Whether there were any, other than messages: one that does nothing but talk
    /// counts as hung.
    fn take(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<bool, OffloadError> {
        let mut some = false;
        for _ in 0..TAKEN {
            let Some(len) = self.line.answer(&mut self.answer).map_err(OffloadError::Line)? else { break };
            some |= self.handle(len, out)?;
        }
        Ok(some)
    }

    /// Whether it was an answer to something.
    fn handle(&mut self, len: usize, out: &mut dyn FnMut(&[u8])) -> Result<bool, OffloadError> {
        let answer = self.answer.get(..len).unwrap_or_default();
        let wrong = |what| Err(OffloadError::Answer(what));
        let Some((head, rest)) = answer.split_first_chunk::<ANSWER_HEAD>() else { return wrong("too short") };
        match Answer::from_head(*head) {
            None | Some(Answer::Echoed) => return wrong("of a kind that nobody asked for"),
            Some(Answer::Message) => {
                self.line.message(rest);
                return Ok(false);
            }
            // It may hold fewer copies than there could be; its batches say which.
            Some(Answer::Ready) if !self.ready => self.ready = true,
            Some(Answer::Ready) => return wrong("a session that was not asked for"),
            Some(Answer::Flushed) => {
                let token = rest.try_into().map(u64::from_le_bytes);
                if !token.is_ok_and(|token| token == self.answered + 1 && token <= self.token) {
                    return wrong("a flush that was not asked for");
                }
                self.answered += 1;
            }
            Some(Answer::Frame) => {
                let (end, batch) = match batch(answer) {
                    Ok(found) => found,
                    Err(what) => return wrong(what),
                };
                if end <= self.done || end > self.sent {
                    return wrong("a batch of what was not sent");
                }
                out(batch);
                self.advance(end);
            }
        }
        Ok(true)
    }

    /// All up to `end` is in batches: it need not be kept.
    fn advance(&mut self, end: u64) {
        self.done = end;
        while let Some(first) = self.pending.front_mut() {
            if first.start + u64::from(first.len) > end {
                if first.start < end && first.pfn.is_none() {
                    // Bytes may be cut anywhere.
                    let gone = u32::try_from(end - first.start).unwrap_or(first.len);
                    (first.start, first.len) = (end, first.len - gone);
                }
                break;
            }
            self.pending.pop_front();
        }
        while self.chunks.front().is_some_and(|(start, chunk)| start + chunk.len() as u64 <= end) {
            self.chunks.pop_front();
        }
    }
}

/// What is in no batch yet.
#[derive(Debug)]
pub(super) struct Rest {
    pending: VecDeque<Sent>,
    chunks: VecDeque<(u64, Arc<Vec<u8>>)>,
}

impl Rest {
    /// Gives it to `sink`, in order.
    pub(super) fn each(&self, mut sink: impl FnMut(Piece<'_>)) {
        let mut page = [0; PAGE];
        for &Sent { start, len, pfn } in &self.pending {
            let end = start + u64::from(len);
            for (from, chunk) in &self.chunks {
                let within = |at: u64| {
                    usize::try_from(at.saturating_sub(*from)).map_or(chunk.len(), |at| at.min(chunk.len()))
                };
                let (first, last) = (within(start), within(end));
                let part = chunk.get(first..last).unwrap_or_default();
                match pfn {
                    _ if part.is_empty() => {}
                    None => sink(Piece::Bytes(part)),
                    Some(_) => {
                        let at = usize::try_from((from + first as u64).saturating_sub(start)).unwrap_or(PAGE);
                        if let Some(room) = page.get_mut(at..at + part.len()) {
                            room.copy_from_slice(part);
                        }
                    }
                }
            }
            if let Some(pfn) = pfn {
                sink(Piece::Page(pfn, &page));
            }
        }
    }
}

/// The batch in an answer, and how far it goes in the stream.
fn batch(answer: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    let (head, frame) = answer.split_at_checked(FRAME_HEAD).ok_or("half a frame")?;
    let end = head.get(ANSWER_HEAD..).and_then(|end| end.try_into().ok()).map_or(0, u64::from_le_bytes);
    let (header, payload) = frame.split_first_chunk::<HEADER>().ok_or("half a frame")?;
    let header = Header::parse(header).ok_or("a frame with a bad header")?;
    if header.kind != Kind::BATCH || header.len as usize != payload.len() || payload.len() > MAX_BATCH {
        return Err("a frame that is no batch");
    }
    if digest(payload) != header.payload_digest {
        return Err("a batch that does not fit its checksum");
    }
    Ok((end, payload))
}
