//! The way of a checkpoint stream from one pipe to another, over one connection: the threads and queues of a protection, without its
//! session. So nothing paces the stream, nothing is taken over, and a connection that breaks is an error. For measuring.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::checkpoint::rebuild::RebuildError;
use crate::checkpoint::second::Compress;
use crate::checkpoint::second::unpack::UnpackError;
use crate::checkpoint::stream::StreamError;
use crate::control::SecondStageStatus;
use crate::link::LinkError;

pub use super::backup::relay::receive;
pub use super::primary::relay::send;

/// What both ends must agree on, and what bounds their memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Pages of which each end keeps a copy.
    pub shadow_pages: u32,
    /// Bytes that may wait at each place where a thread leaves something to another one; on the backup, beside the
    /// epoch that is coming in.
    pub buffer: u64,
    /// What is compressed while it waits for the connection.
    pub compress: Compress,
}

/// Why a relay ended before its stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The system refuses a socket, a pipe or a thread.
    #[error("The stream cannot be relayed")]
    System(#[from] io::Error),
    /// The connection broke.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The stream is not understood.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The stream cannot be rebuilt.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// Compressed batches cannot be read.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The other end sent what is not expected.
    #[error("The other end of the relay sent something else than its part of the stream")]
    Unexpected,
    /// The stream was cut off.
    #[error("The relay was cut off")]
    CutOff,
}

/// What a primary's half of a relay has to tell.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// The time of its threads, but for the one that writes to the connection.
    pub threads: Vec<Usage>,
    /// How long it took from the end of each epoch, as it was read from the pipe, to its commit.
    pub commits: Vec<Duration>,
    /// What was compressed.
    pub second_stage: SecondStageStatus,
}

/// What a thread had of the processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The thread's name.
    pub thread: &'static str,
    /// Its processor time, with that of the system on its behalf.
    pub cpu: Duration,
}

/// Collects what threads have used when they end.
#[derive(Debug, Default)]
pub(super) struct Usages(Mutex<Vec<Usage>>);

impl Usages {
    /// Runs what the present thread does.
    pub(super) fn of<T>(&self, thread: &'static str, run: impl FnOnce() -> T) -> T {
        let before = thread_time();
        let result = run();
        let cpu = thread_time().saturating_sub(before);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Usage { thread, cpu });
        result
    }

    pub(super) fn into_vec(self) -> Vec<Usage> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use llm_core::frame::Method;

    use super::*;
    use crate::checkpoint::stream::{Guest, StreamWriter};

    fn ends() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        (near, listener.accept().expect("a connection").0)
    }

    #[test]
    fn a_stream_comes_out_as_it_went_in() {
        for compress in [Compress::Never, Compress::Auto] {
            relays(compress);
        }
    }

    fn relays(compress: Compress) {
        let page = |epoch: u64, pfn: u64| {
            let mut page = [pfn as u8; 4096];
            page[pfn as usize % 4096] = epoch as u8;
            page
        };
        let mut writer = StreamWriter::new();
        writer.start(b"{}", Guest::Hvm, 3);
        for epoch in 0..6 {
            let pages: Vec<_> = (0..900).map(|pfn| (pfn * (1 + epoch % 3), page(epoch, pfn))).collect();
            writer.pages(pages.iter().map(|(pfn, page)| (*pfn, Some(page)))).epoch_end(b"context", None);
        }
        let stream = writer.take();
        let limits = Limits { shadow_pages: 2000, buffer: 1 << 20, compress };
        let (near, far) = ends();
        let (from, mut source) = io::pipe().expect("a pipe");
        let (mut sink, into) = io::pipe().expect("a pipe");
        let mut out = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                source.write_all(&stream).expect("the pipe");
                drop(source);
            });
            let sent = scope.spawn(move || send(from.into(), near, &limits));
            let received = scope.spawn(move || receive(far, into, &limits));
            sink.read_to_end(&mut out).expect("the pipe");
            let threads = |usages: Vec<Usage>| usages.iter().map(|u| u.thread).collect::<Vec<_>>();
            let sent = sent.join().expect("a thread").expect("sent");
            assert_eq!(sent.commits.len(), 6);
            let mut sent = threads(sent.threads);
            sent.sort_unstable();
            assert_eq!(sent, ["encode", "pipe"]);
            let received = threads(received.join().expect("a thread").expect("received"));
            assert_eq!(received, ["feeder", "rx"]);
        });
        assert!(out == stream, "the stream differs");
    }

    /// Carries all that goes from `from` to `to` at this rate, and all of the other direction as it comes.
    fn slow_link(from: TcpStream, mut to: TcpStream, bytes_per_s: u64) {
        let (mut back, mut answers) =
            (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
        let (mut from, mut piece) = (from, vec![0; 16 << 10]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = io::copy(&mut answers, &mut back);
                let _ = back.shutdown(std::net::Shutdown::Write);
            });
            let (begin, mut bytes) = (std::time::Instant::now(), 0);
            while let Some(n) = from.read(&mut piece).ok().filter(|n| *n > 0) {
                bytes += n as u64;
                let due = begin + Duration::from_nanos(bytes * 1_000_000_000 / bytes_per_s);
                std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
                if to.write_all(&piece[..n]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }

    /// Some words again and again, like those of text: every method makes less of it.
    fn text(epoch: u64, pfn: u64) -> [u8; 4096] {
        let mut state = (epoch << 32 | pfn) + 1;
        let mut page = [0; 4096];
        for word in page.as_chunks_mut::<8>().0 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *word = ((state >> 58) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        }
        page
    }

    /// What was compressed of a stream on its way over a slow link, out of which it comes as it went in.
    fn over_a_slow_link(stream: &[u8], compress: Compress) -> SecondStageStatus {
        let limits = Limits { shadow_pages: 1000, buffer: 4 << 20, compress };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        // Else the kernel takes all there is.
        socket2::SockRef::from(&listener).set_recv_buffer_size(64 << 10).expect("a size");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let middle = listener.accept().expect("a connection").0;
        let (out_of_it, far) = ends();
        let (from, mut source) = io::pipe().expect("a pipe");
        let (mut sink, into) = io::pipe().expect("a pipe");
        let mut out = Vec::new();
        let sent = std::thread::scope(|scope| {
            scope.spawn(|| slow_link(middle, out_of_it, 20_000_000));
            scope.spawn(|| {
                source.write_all(stream).expect("the pipe");
                drop(source);
            });
            let sent = scope.spawn(move || send(from.into(), near, &limits));
            let received = scope.spawn(move || receive(far, into, &limits));
            sink.read_to_end(&mut out).expect("the pipe");
            received.join().expect("a thread").expect("received");
            sent.join().expect("a thread").expect("sent")
        });
        assert!(out == stream, "the stream differs with {compress:?}");
        sent.second_stage
    }

    #[test]
    fn what_waits_for_a_slow_link_is_compressed_and_comes_out_as_it_went_in() {
        let mut writer = StreamWriter::new();
        writer.start(b"{}", Guest::Hvm, 3);
        for epoch in 0..4 {
            let pages: Vec<_> = (0..500).map(|pfn| (pfn, text(epoch, pfn))).collect();
            writer.pages(pages.iter().map(|(pfn, page)| (*pfn, Some(page)))).epoch_end(b"context", None);
        }
        let stream = writer.take();
        assert_eq!(over_a_slow_link(&stream, Compress::Never), SecondStageStatus::default());
        for compress in [Compress::By(Method::Lz4), Compress::By(Method::Zstd), Compress::Auto] {
            // On a processor that others keep busy all the time nothing is compressed, and rightly so: then once more.
            let mut stages = (0..40).map(|_| over_a_slow_link(&stream, compress));
            let stage = stages.find(|stage| stage.frames > 0).expect("something is compressed some time");
            assert!(stage.bytes_after < stage.bytes_before, "{compress:?}: {stage:?}");
        }
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        let (near, far) = ends();
        let (from, mut source) = io::pipe().expect("a pipe");
        source.write_all(&[b'x'; 5000]).expect("the pipe");
        drop(source);
        let limits = Limits { shadow_pages: 0, buffer: 1 << 20, compress: Compress::Auto };
        let sent = std::thread::spawn(move || send(from.into(), near, &limits));
        assert!(receive(far, io::sink(), &limits).is_ok(), "nothing came");
        assert!(matches!(sent.join().expect("a thread"), Err(RelayError::Stream(_))));
    }
}
