//! The pipe that the toolstack writes the checkpoint stream into, and the exact
//! count of bytes written so far.
//!
//! The packet path stamps each packet of the guest with [`PipeTap::mark`] after it
//! has received it. A mark below the end of an epoch's libxc record `CHECKPOINT`
//! says that the toolstack had not written that record yet. It resumes the guest
//! only after writing it, so the packet was sent before the guest was resumed,
//! hence before it was suspended: the epoch explains the packet. Nothing here
//! depends on how quick a reader is; a late mark only holds a packet one epoch longer.

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread, read, retry_on_intr};
use rustix::pipe::fcntl_setpipe_size;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Size asked of the kernel for the pipe, bytes: the usual limit of `pipe-max-size`.
pub const PIPE_SIZE: usize = 1 << 20;

/// The reading end of a pipe with a count of the bytes written into it.
///
/// All reads must go through here: another reader would make [`Self::mark`] wrong.
#[derive(Debug)]
pub struct PipeTap {
    fd: OwnedFd,
    /// Bytes read. The lock is held over each system call that changes or asks how
    /// many bytes are in the pipe, so that none is counted twice or not at all.
    read: Mutex<u64>,
}

impl PipeTap {
    /// Takes over the reading end of a pipe of which nothing has been read, makes it
    /// non-blocking and enlarges the pipe if the system's limits allow it.
    ///
    /// # Errors
    ///
    /// Those of `FIONREAD` and `FIONBIO`: `fd` is not a pipe.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        ioctl_fionread(&fd)?;
        ioctl_fionbio(&fd, true)?;
        if let Err(error) = fcntl_setpipe_size(&fd, PIPE_SIZE) {
            tracing::debug!(%error, "The checkpoint pipe keeps its size");
        }
        Ok(Self { fd, read: Mutex::new(0) })
    }

    /// Bytes written into the pipe so far, exactly; never falls.
    ///
    /// # Errors
    ///
    /// Those of `FIONREAD`. A caller that gets one must hold what it would have stamped.
    pub fn mark(&self) -> io::Result<u64> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(*read + ioctl_fionread(&self.fd)?)
    }

    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is there, without waiting; 0 at the end of the stream.
    ///
    /// Keep `buffer` at 1 MiB or less: [`Self::mark`] waits while it is filled.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if there is nothing now; those of `read`.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let got = retry_on_intr(|| read(&self.fd, &mut *buffer))?;
        *count += got as u64;
        Ok(got)
    }

    /// Reads what is there into the room behind what is in `buffer`, of which there must be some; otherwise as [`Self::read`].
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn read_behind(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut count = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let got = retry_on_intr(|| read(&self.fd, spare_capacity(&mut *buffer)))?;
        *count += got as u64;
        Ok(got)
    }

    /// Waits until there is something to read or the stream has ended; false after `timeout`.
    ///
    /// # Errors
    ///
    /// Those of `poll`.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(timeout).map_err(|_| Errno::INVAL)?;
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for PipeTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn counts_what_is_read_and_what_is_not() {
        let (reader, mut writer) = io::pipe().unwrap();
        let tap = PipeTap::new(reader.into()).unwrap();
        assert_eq!(tap.mark().unwrap(), 0);
        assert_eq!(tap.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!tap.wait(Duration::from_millis(1)).unwrap());
        writer.write_all(&[1; 100]).unwrap();
        assert_eq!(tap.mark().unwrap(), 100);
        assert_eq!(tap.read(&mut [0; 30]).unwrap(), 30);
        assert_eq!((tap.position(), tap.mark().unwrap()), (30, 100));
        drop(writer);
        let mut buffer = vec![9; 5];
        buffer.reserve_exact(60);
        assert_eq!(tap.read_behind(&mut buffer).unwrap(), buffer.len() - 5);
        assert!(buffer.starts_with(&[9, 9, 9, 9, 9, 1]) && buffer.len() >= 65);
        assert_eq!(tap.read(&mut [0; 300]).unwrap(), 75 - buffer.len());
        assert!(tap.wait(Duration::ZERO).unwrap());
        assert_eq!(tap.read(&mut [0; 300]).unwrap(), 0);
        assert_eq!(tap.mark().unwrap(), 100);
    }

    /// Whatever the reader is at, a mark taken after a write has returned counts it,
    /// and one taken before a write began does not.
    #[test]
    fn marks_are_exact_beside_a_busy_reader() {
        const TOTAL: u64 = 4 << 20;
        let (reader, mut writer) = io::pipe().unwrap();
        let tap = Arc::new(PipeTap::new(reader.into()).unwrap());
        let (begun, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        std::thread::scope(|scope| {
            let drain = Arc::clone(&tap);
            scope.spawn(move || {
                let mut buffer = vec![0; 50_000];
                while drain.position() < TOTAL {
                    if drain.wait(Duration::from_secs(5)).unwrap() {
                        drain.read(&mut buffer).unwrap();
                    }
                }
            });
            let (b, d) = (Arc::clone(&begun), Arc::clone(&done));
            scope.spawn(move || {
                let mut written = 0;
                while written < TOTAL {
                    let piece = (TOTAL - written).min(1 + written % 7919);
                    b.store(written + piece, Ordering::SeqCst);
                    writer.write_all(&vec![0; piece as usize]).unwrap();
                    written += piece;
                    d.store(written, Ordering::SeqCst);
                }
            });
            let mut last = 0;
            while last < TOTAL {
                let low = done.load(Ordering::SeqCst);
                let mark = tap.mark().unwrap();
                let high = begun.load(Ordering::SeqCst);
                assert!(low <= mark && mark <= high && last <= mark, "{low} {mark} {high} {last}");
                last = mark;
            }
        });
    }
}
