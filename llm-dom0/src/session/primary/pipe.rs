//! The thread that drains the checkpoint pipe.
//!
//! The guest is paused for as long as `xl` writes, so this thread only reads,
//! finds the epochs' ends, and passes the bytes on; nothing slow is in its way
//! but the bound of the buffer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use llm_core::replication::FIRST_EPOCH;
use llm_core::time::Instant;

use super::super::queue::{ByteQueue, CHUNK};
use super::stream::FIRST_COPY_WINDOW;
use crate::checkpoint::stream::{Item, MarkKind, Parser, StreamError};
use crate::checkpoint::tap::PipeTap;
use crate::clock;

/// How often the thread looks up when nothing comes.
const IDLE: Duration = Duration::from_millis(500);

/// What the pipe tells the session.
#[derive(Debug)]
pub(crate) enum PipeEvent {
    /// The guest's suspension is past: output stamped below `limit` belongs to this epoch or an earlier one.
    Boundary {
        /// Number of the checkpoint in this stream, from [`FIRST_EPOCH`].
        epoch: u64,
        /// End of the libxc record `CHECKPOINT`, as a mark of the packet path.
        limit: u64,
    },
    /// The whole epoch has been read.
    Read {
        /// Number of the checkpoint.
        epoch: u64,
        /// When its last byte was read.
        at: Instant,
        /// Whether `xl` is held; otherwise its next checkpoint comes by itself.
        held: bool,
    },
    /// The pipe has ended.
    Ended(Result<(), PipeError>),
}

/// Why the pipe can't be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipeError {
    #[error("Reading the checkpoint pipe failed")]
    Io(#[source] io::Error),
    #[error("The checkpoint stream of xl cannot be used: {0}")]
    Stream(StreamError),
    #[error("The encoder has ended")]
    Broken,
}

/// What the thread needs.
pub(crate) struct PipeReader<H, P, E> {
    pub(crate) tap: Arc<PipeTap>,
    /// Added to offsets in this stream to make marks of the packet path.
    pub(crate) base: u64,
    /// Where the bytes go.
    pub(crate) queue: Arc<ByteQueue>,
    /// Stops `xl`; called at the end of each epoch, before anything else, with a time at which that
    /// end had not been written. Says whether it is held.
    pub(crate) hold: H,
    /// Told how far output may pass, until the first checkpoint.
    pub(crate) pass: P,
    /// Told of epochs and of the end.
    pub(crate) events: E,
}

impl<H, P, E> PipeReader<H, P, E>
where
    H: FnMut(std::time::Instant) -> bool,
    P: FnMut(u64),
    E: FnMut(PipeEvent),
{
    /// Reads until the stream ends, then says how.
    pub(crate) fn run(mut self) {
        let result = self.drain();
        self.queue.end();
        (self.events)(PipeEvent::Ended(result));
    }

    fn drain(&mut self) -> Result<(), PipeError> {
        let mut parser = Parser::new();
        let mut epoch = FIRST_EPOCH;
        let mut unprotected = true;
        let mut chunk = self.queue.buffer();
        // When the pipe was last known to be empty.
        let mut empty_at = std::time::Instant::now();
        loop {
            let before = std::time::Instant::now();
            let start = chunk.len();
            let room = chunk.capacity() - start;
            let n = match self.tap.read_behind(&mut chunk) {
                Ok(0) => return self.pass_on(chunk, unprotected).map(drop),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    empty_at = before;
                    chunk = self.pass_on(chunk, unprotected)?;
                    self.tap.wait(IDLE).map_err(PipeError::Io)?;
                    continue;
                }
                Err(e) => return Err(PipeError::Io(e)),
            };
            let Self { base, hold, events, .. } = self;
            parser
                .feed(chunk.get(start..).unwrap_or_default(), |item| {
                    let Item::Mark(mark) = item else { return };
                    match mark.kind {
                        MarkKind::Checkpoint => {
                            unprotected = false;
                            events(PipeEvent::Boundary { epoch, limit: *base + mark.end });
                        }
                        MarkKind::Epoch => {
                            // At once: `xl`'s timer runs.
                            let held = hold(empty_at);
                            events(PipeEvent::Read { epoch, at: clock::now(), held });
                            epoch += 1;
                        }
                        MarkKind::Preamble | MarkKind::Stream => {}
                    }
                })
                .map_err(PipeError::Stream)?;
            if unprotected {
                // All that was written up to here held no checkpoint: what was
                // stamped with a mark up to here was sent before the first suspension.
                (self.pass)(self.base + parser.offset() + 1);
            }
            if n < room {
                // That read took all there was.
                empty_at = before;
            } else {
                chunk = self.pass_on(chunk, unprotected)?;
            }
        }
    }

    /// Queues what was read, if anything, and returns a buffer for what comes next.
    fn pass_on(&self, chunk: Vec<u8>, unprotected: bool) -> Result<Vec<u8>, PipeError> {
        let (full, next) = match chunk.len() {
            0 => return Ok(chunk),
            // Queued as it is, a small piece would take the memory of a large one.
            1..SMALL => (chunk.as_slice().into(), chunk),
            _ => (chunk, self.queue.buffer()),
        };
        let limit = if unprotected { FIRST_COPY_WINDOW } else { u64::MAX };
        if !self.queue.push_within(full, limit) {
            return Err(PipeError::Broken);
        }
        Ok(cleared(next))
    }
}

/// Bytes below which a chunk is copied into memory of its own size.
const SMALL: usize = CHUNK / 2;

fn cleared(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;
    use crate::checkpoint::stream::{Guest, StreamWriter};

    fn run(stream: &[u8]) -> (Vec<String>, Vec<u8>, u64) {
        let (reader, mut writer) = io::pipe().expect("pipe");
        let tap = Arc::new(PipeTap::new(reader.into()).expect("tap"));
        let queue = Arc::new(ByteQueue::new(1 << 30));
        let log = Mutex::new(Vec::new());
        let mut passed = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in stream.chunks(1000) {
                    // A reader that has given up breaks the pipe.
                    if writer.write_all(piece).is_err() {
                        break;
                    }
                }
                drop(writer);
            });
            PipeReader {
                tap,
                base: 10,
                queue: Arc::clone(&queue),
                hold: |_| {
                    log.lock().expect("lock").push("hold".into());
                    true
                },
                pass: |limit| passed = limit,
                events: |event| {
                    let line = match event {
                        PipeEvent::Boundary { epoch, limit } => format!("boundary {epoch} {limit}"),
                        PipeEvent::Read { epoch, held, .. } => {
                            assert!(held);
                            format!("read {epoch}")
                        }
                        PipeEvent::Ended(Ok(())) => "ended".into(),
                        PipeEvent::Ended(Err(e)) => format!("error {e}"),
                    };
                    log.lock().expect("lock").push(line);
                },
            }
            .run();
        });
        let bytes = std::iter::from_fn(|| queue.pop()).flatten().collect();
        (log.into_inner().expect("lock"), bytes, passed)
    }

    /// A stream of two checkpoints, and where their `CHECKPOINT` records end.
    fn two_epochs() -> (Vec<u8>, Vec<u64>) {
        let page = [7; llm_core::page::PAGE];
        let mut writer = StreamWriter::new();
        writer.start(b"{}", Guest::Hvm, 3).pages([(1, Some(&page)), (2, None)]).epoch_end(b"context", None);
        let stream = writer.pages([(1, Some(&page))]).epoch_end(b"context", None).take();
        let mut ends = Vec::new();
        let collect = |item: Item<'_>| match item {
            Item::Mark(mark) if mark.kind == MarkKind::Checkpoint => ends.push(mark.end),
            _ => {}
        };
        Parser::new().feed(&stream, collect).expect("a sound stream");
        (stream, ends)
    }

    #[test]
    fn finds_the_epochs_and_passes_every_byte_on() {
        let (stream, ends) = two_epochs();
        let (log, bytes, passed) = run(&stream);
        assert_eq!(bytes, stream);
        let want = [
            format!("boundary 1 {}", ends[0] + 10),
            "hold".into(),
            "read 1".into(),
            format!("boundary 2 {}", ends[1] + 10),
            "hold".into(),
            "read 2".into(),
            "ended".into(),
        ];
        assert_eq!(log, want);
        assert!(passed <= ends[0] + 10, "output passes only up to the first checkpoint");
    }

    #[test]
    fn garbage_is_an_error_with_its_place() {
        let (log, _, _) = run(&[b'x'; 5000]);
        assert!(log.last().is_some_and(|l| l.starts_with("error The checkpoint stream")), "{log:?}");
    }
}
