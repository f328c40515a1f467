//! Memory and notifications shared with a peer: another domain, or another process.
//!
//! | | between domains: [`crate::xen`] | between processes: [`crate::embedded`] |
//! |---|---|---|
//! | pages of one's own | `gntalloc` | a memfd |
//! | pages of the peer | `gntdev` | the same memfd |
//! | notifications | `evtchn` | two eventfds |
//!
//! On top of both lies the ring of `llm-core` (`docs/ring.md`), which knows of neither.
mod mapping;

pub use mapping::{Mapping, Part};

use llm_core::ring::Mapped;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A header page and data pages in shared memory, mapped.
pub type RingPages = Mapped<Mapping>;

/// Pages that are shared with a peer: one for the header, the rest for data.
pub trait SharedPages {
    /// Maps them for one end of a ring.
    ///
    /// # Errors
    ///
    /// The kernel does not map them; there are less than two.
    fn map(self) -> io::Result<RingPages>;
}

/// A channel for notifications. One that comes when nobody waits is remembered; several may become one.
///
/// The descriptor is readable when there is a notification, for those who wait for more than this.
pub trait EventChannel: AsFd {
    /// Notifies the peer. Never blocks.
    ///
    /// # Errors
    ///
    /// The channel is broken.
    fn notify(&self) -> io::Result<()>;

    /// Takes the notifications that have come: whether there were any. Look at the ring *after* this.
    ///
    /// # Errors
    ///
    /// The channel is broken.
    fn take(&self) -> io::Result<bool>;

    /// Waits for a notification, at most that long, and takes it: whether one came.
    ///
    /// # Errors
    ///
    /// The channel is broken.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let time = left.and_then(|left| Timespec::try_from(left).ok());
            // First of all: to ask in vain would cost a system call each time.
            match poll(&mut [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN)], time.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if self.take()? {
                return Ok(true);
            }
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
        }
    }
}
