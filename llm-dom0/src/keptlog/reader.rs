//! Reads a kept log. Nothing in it is trusted, and one record at a time is in memory.

use std::io::{self, ErrorKind, Read};

use llm_core::log::{Cursor, LogReason, MAX_RECORD, Record};

use super::layout::{FIXED, Layout};
use super::{Header, KeptLogError, Order};

/// Bytes read ahead: several of the longest records.
const BUFFER: usize = 4 * MAX_RECORD;

/// A record of a kept log, and how it stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept<'a> {
    /// Where it starts, in bytes from the start of the file.
    pub offset: u64,
    /// How many numbers are missing between the record before and this one.
    pub missing: u64,
    /// The record.
    pub record: Record<'a>,
}

/// Reads a kept log from its front to its end.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    header: Header,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// Of `start` in the file.
    offset: u64,
    order: Order,
    /// Why nothing more can be read; told when what was read before is used up.
    failed: Option<io::Error>,
    over: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// It cannot be read, or is not that of a kept log.
    pub fn new(mut input: R) -> Result<Self, KeptLogError> {
        let mut buf = vec![0; BUFFER];
        let read = |(have, failed): (usize, Option<io::Error>), start| match failed {
            Some(source) => Err(KeptLogError::Read { offset: (start + have) as u64, source }),
            None => Ok(have),
        };
        let have = read(fill(&mut input, &mut buf[..FIXED]), 0)?;
        let layout = Layout::parse(&buf[..have])?;
        let name = &mut buf[..layout.name_len()];
        let have = read(fill(&mut input, name), FIXED)?;
        let header = layout.header(&name[..have])?;
        let offset = (FIXED + have) as u64;
        Ok(Self {
            input,
            header,
            buf,
            start: 0,
            end: 0,
            offset,
            order: Order::default(),
            failed: None,
            over: false,
        })
    }

    /// What the log says of itself.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The next record; `None` at the end, and after an error.
    ///
    /// # Errors
    /// The file cannot be read, or a record is bad: the log ends there.
    pub fn next_record(&mut self) -> Result<Option<Kept<'_>>, KeptLogError> {
        if self.over {
            return Ok(None);
        }
        // Until it is known to be good.
        self.over = true;
        if self.end - self.start < MAX_RECORD && self.failed.is_none() {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let (read, failed) = fill(&mut self.input, &mut self.buf[self.end..]);
            self.end += read;
            self.failed = failed;
        }
        let offset = self.offset;
        let bad = |reason| KeptLogError::Record { offset, reason };
        let mut rest = &self.buf[self.start..self.end];
        let have = rest.len();
        // A fresh cursor each time: numbers may be missing.
        let record = match Cursor::new(None).take(&mut rest) {
            Ok(Some(record)) => record,
            Ok(None) if self.failed.is_some() => {
                let offset = offset + have as u64;
                return self
                    .failed
                    .take()
                    .map_or(Ok(None), |source| Err(KeptLogError::Read { offset, source }));
            }
            Ok(None) if have == 0 => return Ok(None),
            // The longest record would be whole here.
            Ok(None) => return Err(bad(LogReason::Truncated { have })),
            Err(error) => return Err(bad(error.reason)),
        };
        let missing = self.order.next(&record).map_err(bad)?;
        let taken = have - rest.len();
        self.start += taken;
        self.offset += taken as u64;
        self.over = false;
        Ok(Some(Kept { offset, missing, record }))
    }
}

/// Reads until `buf` is full or the input ends or fails; how many bytes, and the failure.
fn fill(input: &mut impl Read, buf: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut have = 0;
    while have < buf.len() {
        match input.read(&mut buf[have..]) {
            Ok(0) => break,
            // Even a reader that lies about its count is no reason to panic.
            Ok(read) => have = (have + read).min(buf.len()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return (have, Some(e)),
        }
    }
    (have, None)
}
