//! The thread that owns `xl migrate-receive` and writes committed epochs to it.

use std::io::Write;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::queue::ByteQueue;
use crate::net::{Permit, RUN_DIR};
use crate::xen::receive::{Killer, ReceiveError, Receiver};
use crate::xen::toolstack::{ToolstackError, Xl};

/// Patience with `xl` until it is ready for a stream.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Patience with `xl` until the domain runs: it restores devices first.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(60);

/// What the feeder is to do when its queue has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    /// Nothing was ordered: feeding.
    #[default]
    Feed,
    /// Let the domain run.
    TakeOver,
    /// Drop the copy.
    Abort,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Fed {
    /// The domain runs.
    TakenOver(TakeOverTimes),
    /// The copy is gone, as ordered.
    Aborted,
}

/// When the steps of a take-over were done.
#[derive(Clone, Copy, Debug)]
pub(super) struct TakeOverTimes {
    /// All committed epochs were with `xl`.
    pub(super) handed_over: Instant,
    /// The domain ran.
    pub(super) running: Instant,
}

/// Why the copy is lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum FeedError {
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error(transparent)]
    Toolstack(#[from] ToolstackError),
    #[error("The permit for the domain's network cannot be written")]
    Permit(#[from] crate::net::NetError),
    #[error("xl migrate-receive ended while it was fed; it said:\n{said}")]
    Ended { said: String },
}

/// Shared between a session and its feeder thread.
#[derive(Debug)]
pub(super) struct Feeder {
    pub(super) queue: ByteQueue,
    /// The domain's interface comes onto no bridge of the network's.
    isolated: bool,
    inner: Mutex<Inner>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    order: Order,
    killer: Option<Killer>,
    ended: bool,
}

impl Feeder {
    /// A feeder whose queue holds up to `limit` bytes of the first epoch.
    pub(super) fn new(limit: u64, isolated: bool) -> Self {
        Self { queue: ByteQueue::new(limit), isolated, inner: Mutex::default(), ended: Condvar::new() }
    }

    /// Ends the queue and has the domain run from what was in it.
    pub(super) fn take_over(&self) {
        self.lock().order = Order::TakeOver;
        self.queue.end();
    }

    /// Has the copy dropped.
    pub(super) fn abort(&self) {
        let mut inner = self.lock();
        inner.order = Order::Abort;
        self.queue.break_off();
        if let Some(killer) = inner.killer.take() {
            // Also frees a thread that is writing to it.
            killer.kill();
        }
    }

    /// Waits until the thread has ended. False after `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let inner = self.lock();
        let (inner, _) = self
            .ended
            .wait_timeout_while(inner, timeout, |i| !i.ended)
            .unwrap_or_else(PoisonError::into_inner);
        inner.ended
    }

    /// The thread: starts `xl`, feeds it, and ends as ordered. `fed` is called after each chunk.
    pub(super) fn run(&self, domain: &str, xl: &Xl, fed: impl Fn()) -> Result<Fed, FeedError> {
        let result = self.feed(domain, xl, fed);
        // Nobody may wait for room any more.
        self.queue.break_off();
        if !matches!(result, Ok(Fed::TakenOver(_)))
            && let Err(error) = xl.destroy_incoming(domain)
        {
            tracing::error!(domain, %error, "the copy of the domain could not be destroyed");
        }
        self.lock().ended = true;
        self.ended.notify_all();
        result
    }

    fn feed(&self, domain: &str, xl: &Xl, fed: impl Fn()) -> Result<Fed, FeedError> {
        Permit::clear(Path::new(RUN_DIR), domain)?;
        // What a killed predecessor left.
        if xl.destroy_incoming(domain)? {
            tracing::info!(domain, "destroyed a copy that an earlier llm had left");
        }
        let mut receiver = Receiver::start(xl.program(), START_TIMEOUT)?;
        {
            let mut inner = self.lock();
            if inner.order == Order::Abort {
                drop(inner);
                receiver.abort();
                return Ok(Fed::Aborted);
            }
            inner.killer = Some(receiver.killer());
        }
        while let Some(chunk) = self.queue.pop() {
            if let Err(error) = receiver.write_all(&chunk) {
                if self.lock().order == Order::Abort {
                    return Ok(Fed::Aborted);
                }
                tracing::debug!(%error, "writing to xl failed");
                return Err(FeedError::Ended { said: receiver.last_words() });
            }
            self.queue.give_back(chunk);
            fed();
        }
        let order = {
            let mut inner = self.lock();
            // From here on nobody may kill it half-way.
            inner.killer = None;
            inner.order
        };
        if order != Order::TakeOver {
            receiver.abort();
            return Ok(Fed::Aborted);
        }
        let handed_over = Instant::now();
        // Until xl has ended: each of the domain's interfaces asks for it.
        let _permit = Permit::grant(Path::new(RUN_DIR), domain, receiver.pid(), self.isolated)?;
        receiver.take_over(TAKE_OVER_TIMEOUT)?;
        Ok(Fed::TakenOver(TakeOverTimes { handed_over, running: Instant::now() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
