//! Clients of the protected guest: they load it, remember what it promised, and say what became of the promise.
//!
//! A client never replaces a connection that broke: failover is only transparent if the very same one goes on,
//! so a reset, an end of stream or a reply that stays away for [`Limits::reply`] is recorded as [`Broken`]. Only
//! the client whose connections last for one request opens the next one, some times.
//!
//! # Network namespaces
//! Every connection is a thread of its own, and a thread inherits the network namespace of the thread that
//! creates it. So either call `start` from a thread that has already entered the namespace, or give a
//! [`Setup`] hook: each client thread runs it first, before it opens any socket.
//!
//! # Bounds
//! Memory: [`Limits::samples`] samples a connection, a fixed number of keys, bounded replies. Time:
//! [`Limits`] bounds each wait and the whole run. All threads end when their [`Stop`] is raised.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

mod conn;
pub mod download;
pub mod echo;
pub mod http;
mod kind;
pub mod ledger;
mod pauses;
mod pool;
pub mod redis;
pub mod resp;
mod running;
pub mod stream;
pub mod timeline;
pub mod upload;

pub use kind::ClientKind;
pub use pauses::Pauses;
pub use running::Running;
pub use timeline::{Marks, Phase, Sample, Timeline};

/// The monotonic clock in nanoseconds, the same for all processes of this machine (`CLOCK_MONOTONIC`).
#[must_use]
pub fn now_ns() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanos
}

/// A flag that ends the clients; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks everything that holds a clone to end soon.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Sleeps for `time`, less if the flag is raised meanwhile.
    pub(crate) fn sleep(&self, time: Duration) {
        const SLICE: Duration = Duration::from_millis(50);
        let mut left = time;
        while !left.is_zero() && !self.is_raised() {
            let slice = left.min(SLICE);
            std::thread::sleep(slice);
            left -= slice;
        }
    }
}

/// Run by each client thread before it opens a socket, for instance to enter a network namespace.
#[derive(Clone)]
pub struct Setup(Arc<dyn Fn() -> io::Result<()> + Send + Sync>);

impl Setup {
    /// A hook from a function.
    pub fn new(hook: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn run(&self) -> io::Result<()> {
        (self.0)()
    }
}

impl Default for Setup {
    /// Does nothing: the threads stay in the namespace of their creator.
    fn default() -> Self {
        Self::new(|| Ok(()))
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Setup")
    }
}

/// Bounds of a client in time and memory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To establish a connection.
    pub connect: Duration,
    /// From sending a request to its whole reply; beyond it the connection counts as broken.
    pub reply: Duration,
    /// After [`Stop`], for replies still on their way; beyond it the connection counts as broken.
    pub drain: Duration,
    /// The whole run; the client then ends as if stopped.
    pub run: Duration,
    /// Samples a connection keeps (24 bytes each); at the limit the client ends and says so.
    pub samples: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            reply: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            run: Duration::from_secs(900),
            samples: 400_000,
        }
    }
}

/// Why a connection did not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The connection could not be opened.
    #[error("could not connect: {0}")]
    Connect(String),
    /// The peer closed it although a reply was due.
    #[error("closed by the peer")]
    Eof,
    /// The peer or the network reset it.
    #[error("reset: {0}")]
    Reset(String),
    /// A reply stayed away.
    #[error("no reply for {waited_ms} ms")]
    Timeout {
        /// How long the oldest open request had waited.
        waited_ms: u64,
    },
    /// The bytes were not the protocol's.
    #[error("protocol violated: {0}")]
    Protocol(String),
    /// Any other error of the socket.
    #[error("socket failed: {0}")]
    Socket(String),
}

/// One connection that did not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Whose connection.
    pub kind: ClientKind,
    /// Its number, from 0.
    pub connection: u16,
    /// When the client noticed, on [`now_ns`]'s clock.
    pub t_ns: u64,
    /// Why.
    pub cause: Cause,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connection {}: {}", self.kind, self.connection, self.cause)
    }
}

/// A client that could not do its work; what happens to connections in the course of it is no error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The first connection attempt failed.
    #[error("Cannot start {kind} connection {connection} to {addr} ({cause}): is the guest's service up?")]
    Start {
        /// Which client.
        kind: ClientKind,
        /// Which connection.
        connection: u16,
        /// The server.
        addr: SocketAddr,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// The setup hook or the creation of a thread failed.
    #[error("Cannot prepare a {kind} client thread: check the network namespace")]
    Thread {
        /// Which client.
        kind: ClientKind,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The values could not be read back, so nothing is known of them.
    #[error(
        "Cannot read back the values of redis connection {connection} from {addr} ({cause}): verification is void"
    )]
    Verify {
        /// Whose values.
        connection: u16,
        /// The server.
        addr: SocketAddr,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A client thread panicked.
    #[error("A {0} client thread panicked: this is a bug of the client")]
    Panicked(ClientKind),
    /// Options that make no sense.
    #[error("Bad client options: {0}")]
    Options(&'static str),
}

/// Counters of running clients, for a live view; clones of the `Arc` share them.
#[derive(Debug, Default)]
pub struct Progress {
    replies: AtomicU64,
    acked_writes: AtomicU64,
    broken: AtomicU64,
    suspect: AtomicU64,
    last_reply_ns: AtomicU64,
    last_latency_ns: AtomicU64,
}

/// [`Progress`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Replies received.
    pub replies: u64,
    /// Writes the server acknowledged.
    pub acked_writes: u64,
    /// Connections that broke.
    pub broken: u64,
    /// Values found lost or wrong so far.
    pub suspect: u64,
    /// Time of the newest reply on [`now_ns`]'s clock; 0 before the first.
    pub last_reply_ns: u64,
    /// Latency of the newest reply.
    pub last_latency_ns: u64,
}

impl Progress {
    /// Reads the counters.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            replies: self.replies.load(Ordering::Relaxed),
            acked_writes: self.acked_writes.load(Ordering::Relaxed),
            broken: self.broken.load(Ordering::Relaxed),
            suspect: self.suspect.load(Ordering::Relaxed),
            last_reply_ns: self.last_reply_ns.load(Ordering::Relaxed),
            last_latency_ns: self.last_latency_ns.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn reply(&self, sample: &Sample) {
        self.replies.fetch_add(1, Ordering::Relaxed);
        self.last_reply_ns.fetch_max(sample.t_ns, Ordering::Relaxed);
        self.last_latency_ns.store(sample.latency_ns, Ordering::Relaxed);
    }

    pub(crate) fn acked(&self) {
        self.acked_writes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn broke(&self) {
        self.broken.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn suspect(&self, n: u64) {
        self.suspect.fetch_add(n, Ordering::Relaxed);
    }
}

impl std::ops::Add for Snapshot {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let newest = if self.last_reply_ns >= other.last_reply_ns { self } else { other };
        Self {
            replies: self.replies + other.replies,
            acked_writes: self.acked_writes + other.acked_writes,
            broken: self.broken + other.broken,
            suspect: self.suspect + other.suspect,
            last_reply_ns: newest.last_reply_ns,
            last_latency_ns: newest.last_latency_ns,
        }
    }
}

/// What a client saw, once it has ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Which client.
    pub kind: ClientKind,
    /// How many connections it was started with.
    pub connections: u16,
    /// One for each reply, ordered by time within a connection only.
    pub samples: Vec<Sample>,
    /// Connections that did not go on.
    pub broken: Vec<Broken>,
    /// Replies that said no: a Redis error, an HTTP status other than 200. Their writes are not acknowledged.
    pub errors: u64,
    /// Writes the server acknowledged: Redis commands, and uploads with a receipt.
    pub acked_writes: u64,
    /// Acknowledged writes that are gone.
    pub lost_acked_writes: u64,
    /// Values, counters, bodies or keystrokes that were never sent so, or executed twice.
    pub wrong_values: u64,
    /// Connections replaced after an announced `Connection: close` (HTTP and download only); not counted as broken.
    pub renewed: u64,
    /// Attempts to connect in the course of the work that failed and were repeated; never established, so not broken.
    pub not_opened: u64,
    /// The first few findings in words.
    pub findings: Vec<String>,
}

impl Outcome {
    /// Findings kept in words; the counts go on.
    pub const FINDINGS: usize = 32;

    pub(crate) fn new(kind: ClientKind, connections: u16) -> Self {
        Self {
            kind,
            connections,
            samples: Vec::new(),
            broken: Vec::new(),
            errors: 0,
            acked_writes: 0,
            lost_acked_writes: 0,
            wrong_values: 0,
            renewed: 0,
            not_opened: 0,
            findings: Vec::new(),
        }
    }

    /// The same with its connections numbered from `first` on, to tell them from those of a client of the same kind.
    pub(crate) fn numbered_from(mut self, first: u16) -> Self {
        self.samples.iter_mut().for_each(|sample| sample.connection += first);
        self.broken.iter_mut().for_each(|broken| broken.connection += first);
        self
    }

    pub(crate) fn find(&mut self, what: String) {
        if self.findings.len() < Self::FINDINGS {
            self.findings.push(what);
        }
    }

    pub(crate) fn merge(&mut self, mut other: Self) {
        self.samples.append(&mut other.samples);
        self.broken.append(&mut other.broken);
        self.errors += other.errors;
        self.acked_writes += other.acked_writes;
        self.lost_acked_writes += other.lost_acked_writes;
        self.wrong_values += other.wrong_values;
        self.renewed += other.renewed;
        self.not_opened += other.not_opened;
        other.findings.into_iter().for_each(|what| self.find(what));
    }
}
