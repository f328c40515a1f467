//! What waits in an outbox, for whoever makes it shorter meanwhile.
//!
//! A *run* is some data frames that follow each other and that the present connection has not begun to write. While they are worked on they
//! stay where they are, and the writer takes them as they are when their turn comes. So nobody waits for the work; what comes too late is dropped.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use llm_core::frame::Kind;

use super::{DataFrame, Inner, Outbox};

/// A run of frames.
#[derive(Clone, Debug)]
pub struct Run {
    /// Sequence of the first frame.
    pub first: u64,
    /// The payloads.
    pub payloads: Vec<Arc<Vec<u8>>>,
    /// Bytes of payload.
    pub bytes: usize,
    /// Bytes that are to be written before it.
    pub ahead: u64,
    /// Nothing is queued behind it.
    pub last: bool,
}

/// What a search has found.
#[derive(Debug)]
pub enum Found {
    /// These frames.
    Run(Run),
    /// Nothing up to the frame of this sequence, the newest there is.
    Nothing(u64),
    /// The outbox is closed.
    Closed,
}

/// Which frames are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Kind of all of them.
    pub kind: Kind,
    /// Not before this sequence.
    pub from: u64,
    /// Most frames.
    pub frames: usize,
    /// Most bytes of payload.
    pub bytes: usize,
    /// Bytes that must be ahead of the first in any case.
    pub ahead: f64,
    /// Bytes that must be ahead for each byte of the run.
    pub ahead_each: f64,
}

impl Outbox {
    /// Lets the kernel hold back that many bytes of a connection, this one and later ones, so that frames wait here; and measures
    /// from now on how fast a connection takes what is written.
    pub fn keep_short(&self, bytes: u32) {
        let mut inner = self.lock();
        inner.drain.get_or_insert_default();
        inner.in_kernel = Some(bytes);
        inner.shorten();
    }

    /// Bytes that wait to be written, and bytes a second that the connection takes, if both are known.
    #[must_use]
    pub fn backlog(&self) -> (u64, Option<f64>) {
        let inner = self.lock();
        (inner.unsent, inner.drain.as_ref().and_then(|drain| drain.per_second(Instant::now())))
    }

    /// The next run that has enough ahead of it.
    #[must_use]
    pub fn find(&self, wanted: &Wanted) -> Found {
        let inner = self.lock();
        if inner.closed { Found::Closed } else { inner.find(wanted) }
    }

    /// Puts one frame in the place of the run. False if that came too late: its first frame is being written, was written or
    /// is gone.
    pub fn replace(&self, run: &Run, kind: Kind, payload: Vec<u8>) -> bool {
        let mut inner = self.lock();
        let done = inner.replace(run, kind, payload);
        if done {
            self.room.notify_all();
        }
        done
    }

    /// Waits until `bytes` wait to be written and there is a frame behind the one of sequence `behind`; at most for `most`, if that is
    /// given. False once the outbox is closed.
    #[must_use]
    pub fn wait_for_backlog(&self, bytes: u64, behind: u64, most: Option<Duration>) -> bool {
        let mut inner = self.lock();
        let until = most.map(|most| Instant::now() + most);
        while !inner.closed && (inner.unsent < bytes || inner.last_seq <= behind) {
            inner.wake_at = Some(bytes);
            inner = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.grown.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => self.grown.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        inner.wake_at = None;
        !inner.closed
    }
}

impl Inner {
    /// Tells the kernel how much it may hold back.
    pub(super) fn shorten(&self) {
        if let (Some(socket), Some(bytes)) = (&self.socket, self.in_kernel)
            && let Err(error) = socket2::SockRef::from(&**socket).set_tcp_notsent_lowat(bytes)
        {
            tracing::debug!(%error, "the kernel takes all that there is to send: little will be compressed");
        }
    }

    fn find(&self, wanted: &Wanted) -> Found {
        let cursor = self.cursor.unwrap_or(0);
        let mut ahead = 0.0;
        let mut frames = self.data.iter().skip(self.data.partition_point(|frame| frame.end() <= cursor));
        let mut run = Run { first: 0, payloads: Vec::new(), bytes: 0, ahead: 0, last: false };
        let fits = |frame: &DataFrame| frame.kind == wanted.kind && frame.payload.len() <= wanted.bytes;
        let first = loop {
            let Some(frame) = frames.next() else { return Found::Nothing(self.last_seq) };
            let len = frame.payload.len() as f64;
            let needed = wanted.ahead + wanted.ahead_each * len;
            if frame.seq >= wanted.from && fits(frame) && ahead >= needed {
                break frame;
            }
            ahead += len;
        };
        (run.first, run.ahead) = (first.seq, ahead as u64);
        let most = ((ahead - wanted.ahead) / wanted.ahead_each).min(wanted.bytes as f64);
        for frame in std::iter::once(first).chain(frames).take(wanted.frames) {
            let bytes = run.bytes + frame.payload.len();
            if !fits(frame) || (bytes as f64 > most && !run.payloads.is_empty()) {
                break;
            }
            run.bytes = bytes;
            run.payloads.push(Arc::clone(&frame.payload));
        }
        run.last = run.first + run.payloads.len() as u64 > self.last_seq;
        Found::Run(run)
    }

    fn replace(&mut self, run: &Run, kind: Kind, payload: Vec<u8>) -> bool {
        let count = run.payloads.len();
        let at = self.data.partition_point(|frame| frame.seq < run.first);
        let unwritten = self.cursor.is_none_or(|cursor| cursor <= run.first);
        // The same payloads: these frames, and none that came in their place.
        let same = self.data.iter().skip(at).zip(&run.payloads).filter(|(f, p)| Arc::ptr_eq(&f.payload, p));
        if self.closed || !unwritten || same.count() != count || payload.len() > run.bytes {
            return false;
        }
        let saved = (run.bytes - payload.len()) as u64;
        self.bytes -= saved;
        self.unsent -= saved;
        self.data.drain(at + 1..at + count);
        if let Some(frame) = self.data.get_mut(at) {
            *frame = DataFrame { kind, seq: run.first, count: count as u64, payload: Arc::new(payload) };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outgoing;
    use super::*;

    const ANY: Wanted =
        Wanted { kind: Kind::BATCH, from: 0, frames: 64, bytes: 1000, ahead: 0.0, ahead_each: 1.0 };

    /// Frames of these lengths, each filled with its number, on a connection; the first is the writer's.
    fn outbox(lengths: &[usize]) -> (Outbox, u64) {
        let outbox = Outbox::new(10_000);
        let generation = outbox.connect(None);
        assert!(outbox.resume(1));
        for (at, len) in lengths.iter().enumerate() {
            assert_eq!(outbox.data(Kind::BATCH, vec![at as u8 + 1; *len], u64::MAX), Ok(at as u64 + 1));
        }
        (outbox, generation)
    }

    fn run(outbox: &Outbox, wanted: &Wanted) -> Run {
        match outbox.find(wanted) {
            Found::Run(run) => run,
            other => panic!("a run expected, got {other:?}"),
        }
    }

    fn next(outbox: &Outbox, generation: u64) -> DataFrame {
        match outbox.next(generation) {
            Some(Outgoing::Data(frame)) => frame,
            other => panic!("data expected, got {other:?}"),
        }
    }

    #[test]
    fn a_run_has_enough_ahead_of_it_and_no_more_than_that_allows() {
        let (outbox, _) = outbox(&[100, 60, 50, 50, 50, 900]);
        let found = run(&outbox, &ANY);
        assert_eq!((found.first, found.bytes), (2, 60), "100 bytes ahead are not enough for 110");
        let found = run(&outbox, &Wanted { from: 3, ..ANY });
        assert_eq!((found.first, found.payloads.len(), found.bytes), (3, 3, 150));
        let found = run(&outbox, &Wanted { from: 3, frames: 2, ..ANY });
        assert_eq!(found.payloads.len(), 2);
        let found = run(&outbox, &Wanted { ahead: 150.0, ..ANY });
        assert_eq!(found.first, 4, "110 ahead of the third do not do");
        assert!(matches!(outbox.find(&Wanted { ahead_each: 9.0, ..ANY }), Found::Nothing(6)));
        assert!(matches!(outbox.find(&Wanted { kind: Kind::LOG, ..ANY }), Found::Nothing(6)));
        outbox.close();
        assert!(matches!(outbox.find(&ANY), Found::Closed));
    }

    #[test]
    fn a_run_is_written_as_one_frame_and_counts_as_less() {
        let (outbox, generation) = outbox(&[100, 60, 50, 50, 50]);
        assert_eq!(outbox.data(Kind::EPOCH_END, vec![0; 32], u64::MAX), Ok(6));
        let found = run(&outbox, &Wanted { from: 3, ..ANY });
        assert!(outbox.replace(&found, Kind::COMPRESSED, vec![9; 30]));
        assert!(!outbox.replace(&found, Kind::COMPRESSED, vec![9; 30]), "once only");
        assert_eq!((outbox.fill().bytes, outbox.backlog().0, outbox.fill().unsent), (222, 222, 6));
        let seqs: Vec<_> =
            (0..4).map(|_| next(&outbox, generation)).map(|f| (f.kind, f.seq, f.payload.len())).collect();
        let (batch, end) = (Kind::BATCH, Kind::EPOCH_END);
        assert_eq!(seqs, [(batch, 1, 100), (batch, 2, 60), (Kind::COMPRESSED, 3, 30), (end, 6, 32)]);
        assert_eq!((outbox.backlog().0, outbox.fill().unsent), (0, 0));
        // The run is kept until its last frame is committed.
        outbox.committed(4);
        assert_eq!(outbox.fill().bytes, 62);
        outbox.committed(5);
        assert_eq!(outbox.fill().bytes, 32);
    }

    #[test]
    fn a_connection_may_start_in_the_middle_of_a_run() {
        let (outbox, _) = outbox(&[100, 60, 50, 50, 50]);
        let found = run(&outbox, &Wanted { from: 3, ..ANY });
        assert!(outbox.replace(&found, Kind::COMPRESSED, vec![9; 30]));
        let again = outbox.connect(None);
        assert!(outbox.resume(4));
        assert_eq!(outbox.backlog().0, 30);
        // From its start: the peer drops what it has.
        let frame = next(&outbox, again);
        assert_eq!((frame.seq, frame.count, outbox.backlog().0), (3, 3, 0));
        let _ = outbox.connect(None);
        assert!(outbox.resume(6), "nothing is left");
        assert!(!outbox.resume(7));
    }

    #[test]
    fn what_comes_too_late_is_dropped() {
        let (outbox, generation) = outbox(&[100, 60, 50, 50, 50]);
        let found = run(&outbox, &ANY);
        assert_eq!(found.first, 2);
        let _ = (next(&outbox, generation), next(&outbox, generation));
        assert!(!outbox.replace(&found, Kind::COMPRESSED, vec![9; 30]), "it is being written");
        let rest = run(&outbox, &Wanted { ahead_each: 0.1, ..ANY });
        outbox.committed(4);
        assert!(!outbox.replace(&rest, Kind::COMPRESSED, vec![9; 3]), "it is gone");
        assert_eq!(outbox.fill().bytes, 50);
        // Longer than the run: nothing is gained.
        let (outbox, _) = self::outbox(&[100, 60, 50]);
        assert!(!outbox.replace(&run(&outbox, &ANY), Kind::COMPRESSED, vec![9; 61]));
    }

    #[test]
    fn who_waits_for_a_backlog_is_woken_by_it() {
        let (outbox, _) = outbox(&[100]);
        assert!(outbox.wait_for_backlog(100, 0, None));
        assert!(outbox.wait_for_backlog(101, 0, Some(Duration::from_millis(1))), "not for ever");
        assert!(outbox.wait_for_backlog(100, 1, Some(Duration::from_millis(1))), "not for ever");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| outbox.wait_for_backlog(200, 1, None));
            assert_eq!(outbox.data(Kind::BATCH, vec![0; 100], u64::MAX), Ok(2));
            assert!(waiter.join().expect("a thread"));
            let later = scope.spawn(|| outbox.wait_for_backlog(1000, 0, None));
            outbox.close();
            assert!(!later.join().expect("a thread"));
        });
    }
}
