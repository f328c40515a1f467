//! The work for one protected domain: encodes its pages against their last committed copies, frames them, and frames
//! its input log. Requests come in, answers go out; how, is not known here.

mod copies;

#[cfg(test)]
mod tests;

pub use copies::{Copies, MAX_PFN};
use llm_core::frame::{self, Kind};
use llm_core::log::{AppendError, Entry, LogWriter};
use llm_core::page::batch::{BatchWriter, MAX_PAGE_HEAD};
use llm_core::page::{self, Density, Encoder, Features, MAX_RECORD, Page};
use llm_core::service::{Answer, BadRequest, Begin, MAX_BATCH, MAX_LOG, Request};

/// Where answers go.
pub trait Output {
    /// Why one could not go.
    type Error;

    /// Hands over one answer: `parts`, one behind the other,
    /// [`MAX_ANSWER`](llm_core::service::MAX_ANSWER) bytes at most.
    ///
    /// # Errors
    /// Nobody takes answers any more.
    fn answer(&mut self, parts: &[&[u8]]) -> Result<(), Self::Error>;
}

/// Why a request was not carried out. The session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure<E> {
    /// It is not understood.
    Request(BadRequest),
    /// Its answer could not go out.
    Output(E),
}

impl<E> From<BadRequest> for Failure<E> {
    fn from(error: BadRequest) -> Self {
        Self::Request(error)
    }
}

/// What was done in a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages encoded.
    pub pages: u64,
    /// Log records framed.
    pub records: u64,
    /// Frames handed over.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// The state of one session.
#[derive(Debug)]
pub struct Service<'a> {
    copies: Copies<'a>,
    encoder: Encoder,
    batch: BatchWriter<'a>,
    log: LogWriter<'a>,
    /// Numbers of the next frames; none before a session has begun.
    seqs: Option<Seqs>,
    /// Copies kept by a session that nobody was told of.
    begun: Option<u32>,
    counts: Counts,
}

#[derive(Debug)]
struct Seqs {
    batch: u64,
    log: u64,
    /// Bytes of the checkpoint stream in batches so far.
    taken: u64,
}

impl<'a> Service<'a> {
    /// A service without a session. `batch` should have [`MAX_BATCH`] bytes, `log` [`MAX_LOG`].
    #[must_use]
    pub fn new(copies: Copies<'a>, batch: &'a mut [u8], log: &'a mut [u8]) -> Self {
        let (batch, log) =
            (BatchWriter::new(first(batch, MAX_BATCH)), LogWriter::new(first(log, MAX_LOG), 1));
        // What every x86-64 has: Xen may not save the state of more.
        let encoder = Encoder::new(Features::PORTABLE, Density::Fast);
        Self { copies, encoder, batch, log, seqs: None, begun: None, counts: Counts::default() }
    }

    /// Copies that there is room for.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.copies.capacity()
    }

    /// What was done since the session began.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Copies that are kept by the session that has begun since this was last asked, if one has.
    pub const fn take_begun(&mut self) -> Option<u32> {
        self.begun.take()
    }

    /// Ends the session; requests are refused until the next one begins.
    pub fn end(&mut self) {
        self.seqs = None;
        self.begun = None;
    }

    /// Carries out the request that `bytes` are.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn handle<O: Output>(&mut self, bytes: &[u8], out: &mut O) -> Result<(), Failure<O::Error>> {
        let request = Request::parse(bytes)?;
        let free = matches!(request, Request::Begin(_) | Request::Echo(_));
        if !free && self.seqs.is_none() {
            return Err(BadRequest::NoSession.into());
        }
        match request {
            Request::Begin(begin) => self.begin(begin, out).map_err(Failure::Output),
            Request::Echo(bytes) => out.answer(&[&Answer::Echoed.head(), bytes]).map_err(Failure::Output),
            Request::Bytes(bytes) => self.bytes(bytes, out).map_err(Failure::Output),
            Request::Page { pfn, page } => self.page(pfn, page, out).map_err(Failure::Output),
            Request::Flush(token) => self.flush(token, out).map_err(Failure::Output),
            Request::Log(entry) => self.append(&entry, out),
        }
    }

    /// To be called when no request is left for now: the log goes out, as replies wait for it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn idle<O: Output>(&mut self, out: &mut O) -> Result<(), O::Error> {
        self.frame_log(out)
    }

    fn begin<O: Output>(&mut self, begin: Begin, out: &mut O) -> Result<(), O::Error> {
        let copies = begin.copies.min(u32::try_from(self.copies.capacity()).unwrap_or(u32::MAX));
        self.copies.clear(copies);
        self.batch.clear();
        self.log.restart(begin.lsn);
        self.seqs = Some(Seqs { batch: begin.batch_seq, log: begin.log_seq, taken: 0 });
        self.begun = Some(copies);
        self.counts = Counts::default();
        out.answer(&[&Answer::Ready.head(), &copies.to_le_bytes()])
    }

    fn bytes<O: Output>(&mut self, mut bytes: &[u8], out: &mut O) -> Result<(), O::Error> {
        while !bytes.is_empty() {
            let taken = self.batch.bytes(bytes);
            bytes = bytes.split_at(taken).1;
            self.take(taken);
            if taken == 0 {
                self.frame_batch(out)?;
            }
        }
        Ok(())
    }

    fn page<O: Output>(&mut self, pfn: u64, page: &Page, out: &mut O) -> Result<(), O::Error> {
        if MAX_BATCH - self.batch.len() < MAX_PAGE_HEAD + MAX_RECORD {
            self.frame_batch(out)?;
        }
        // An error is impossible: there is room for any page.
        match self.copies.insert(pfn) {
            Some((copy, held)) => {
                let encoded =
                    self.batch.encode_page(&mut self.encoder, pfn, true, held.then_some(&*copy), page);
                if encoded.is_ok_and(|encoded| encoded.kind != page::Kind::Unchanged) {
                    *copy = *page;
                }
            }
            None => drop(self.batch.encode_page(&mut self.encoder, pfn, false, None, page)),
        }
        self.take(page.len());
        self.counts.pages += 1;
        Ok(())
    }

    fn take(&mut self, bytes: usize) {
        if let Some(seqs) = &mut self.seqs {
            seqs.taken += bytes as u64;
        }
    }

    fn flush<O: Output>(&mut self, token: u64, out: &mut O) -> Result<(), O::Error> {
        self.frame_batch(out)?;
        self.frame_log(out)?;
        out.answer(&[&Answer::Flushed.head(), &token.to_le_bytes()])
    }

    fn append<O: Output>(&mut self, entry: &Entry<'_>, out: &mut O) -> Result<(), Failure<O::Error>> {
        let mut appended = self.log.append(entry);
        if appended == Err(AppendError::Full) {
            self.frame_log(out).map_err(Failure::Output)?;
            appended = self.log.append(entry);
        }
        // The packet's length was checked, and an empty piece has room for it.
        appended.map_err(|_| BadRequest::LogExhausted)?;
        self.counts.records += 1;
        Ok(())
    }

    fn frame_batch<O: Output>(&mut self, out: &mut O) -> Result<(), O::Error> {
        if let Some(seqs) = self.seqs.as_mut().filter(|_| !self.batch.is_empty()) {
            let frame = Frame { kind: Kind::BATCH, end: seqs.taken, payload: self.batch.written() };
            put(&frame, &mut seqs.batch, &mut self.counts, out)?;
            self.batch.clear();
        }
        Ok(())
    }

    fn frame_log<O: Output>(&mut self, out: &mut O) -> Result<(), O::Error> {
        if let Some(seqs) = self.seqs.as_mut().filter(|_| !self.log.is_empty()) {
            // None once every number is used.
            let end = self.log.next_lsn().unwrap_or(u64::MAX);
            let frame = Frame { kind: Kind::LOG, end, payload: self.log.written() };
            put(&frame, &mut seqs.log, &mut self.counts, out)?;
            self.log.clear();
        }
        Ok(())
    }
}

/// A frame to be.
struct Frame<'a> {
    kind: Kind,
    /// How far it goes.
    end: u64,
    payload: &'a [u8],
}

/// Hands a frame over, with its number, and goes on to the next number.
fn put<O: Output>(
    frame: &Frame<'_>,
    seq: &mut u64,
    counts: &mut Counts,
    out: &mut O,
) -> Result<(), O::Error> {
    let Frame { kind, end, payload } = *frame;
    let header = frame::encode_header(kind, 0, *seq, payload);
    out.answer(&[&Answer::Frame.head(), &end.to_le_bytes(), &header, payload])?;
    *seq = seq.wrapping_add(1);
    counts.frames += 1;
    counts.bytes += (header.len() + payload.len()) as u64;
    Ok(())
}

/// The first `len` bytes, or all if there are less.
fn first(bytes: &mut [u8], len: usize) -> &mut [u8] {
    let len = len.min(bytes.len());
    bytes.split_at_mut(len).0
}
