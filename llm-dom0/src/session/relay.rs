//! The way of a checkpoint stream from one pipe to another, over one connection: the threads and queues of a protection, without its
//! session. So nothing paces the stream, nothing is taken over, and a connection that breaks is an error. For measuring.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::checkpoint::rebuild::RebuildError;
use crate::checkpoint::stream::StreamError;
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
    /// The other end sent what is not expected.
    #[error("The other end of the relay sent something else than its part of the stream")]
    Unexpected,
    /// The stream was cut off.
    #[error("The relay was cut off")]
    CutOff,
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

    use super::*;
    use crate::checkpoint::stream::{Guest, StreamWriter};

    fn ends() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        (near, listener.accept().expect("a connection").0)
    }

    #[test]
    fn a_stream_comes_out_as_it_went_in() {
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
        let limits = Limits { shadow_pages: 2000, buffer: 1 << 20 };
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
            let mut sent = threads(sent.join().expect("a thread").expect("sent"));
            sent.sort_unstable();
            assert_eq!(sent, ["encode", "pipe"]);
            let received = threads(received.join().expect("a thread").expect("received"));
            assert_eq!(received, ["feeder", "rx"]);
        });
        assert!(out == stream, "the stream differs");
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        let (near, far) = ends();
        let (from, mut source) = io::pipe().expect("a pipe");
        source.write_all(&[b'x'; 5000]).expect("the pipe");
        drop(source);
        let limits = Limits { shadow_pages: 0, buffer: 1 << 20 };
        let sent = std::thread::spawn(move || send(from.into(), near, &limits));
        assert!(receive(far, io::sink(), &limits).is_ok(), "nothing came");
        assert!(matches!(sent.join().expect("a thread"), Err(RelayError::Stream(_))));
    }
}
