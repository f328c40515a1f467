//! Notifications by two eventfds, one each way.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::shared::EventChannel;

/// One end of a channel.
#[derive(Debug)]
pub struct Eventfds {
    own: OwnedFd,
    peer: OwnedFd,
}

impl Eventfds {
    /// Both ends of a new channel.
    ///
    /// # Errors
    ///
    /// No descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let new = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (a, b) = (new()?, new()?);
        let other = Self { own: b.try_clone()?, peer: a.try_clone()? };
        Ok((Self { own: a, peer: b }, other))
    }

    /// One end, by the eventfd that notifies it and the one that notifies its peer. Both must not block.
    #[must_use]
    pub fn new(own: OwnedFd, peer: OwnedFd) -> Self {
        Self { own, peer }
    }

    /// Descriptors for [`Self::new`] in another process: that which notifies this end, and that which notifies its peer.
    #[must_use]
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.own.as_fd(), self.peer.as_fd()]
    }
}

impl EventChannel for Eventfds {
    fn notify(&self) -> io::Result<()> {
        match write(&self.peer, &1_u64.to_ne_bytes()) {
            // A counter that is full has notified already.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&self) -> io::Result<bool> {
        match read(&self.own, &mut [0; 8]) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Eventfds {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn notifications_are_remembered_and_become_one() {
        let (a, b) = Eventfds::pair().unwrap();
        assert!(!a.take().unwrap() && !b.take().unwrap());
        a.notify().unwrap();
        a.notify().unwrap();
        assert!(!a.take().unwrap(), "it is for the other");
        assert!(b.wait(None).unwrap());
        assert!(!b.take().unwrap());
        let start = Instant::now();
        assert!(!b.wait(Some(Duration::from_millis(20))).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert!(!b.wait(Some(Duration::ZERO)).unwrap());
        // A full counter is a notification, not an error.
        write(&b.own, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        a.notify().unwrap();
        assert!(b.wait(None).unwrap() && !b.take().unwrap());
    }
}
