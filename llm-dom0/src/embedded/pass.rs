//! Gives descriptors to another process, through a socket.

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Most descriptors of one message.
pub const MAX: usize = 8;

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX));

/// Sends copies of descriptors.
///
/// # Errors
///
/// The socket is broken; they are more than [`MAX`].
pub fn send(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MAX || !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "Too many descriptors for a message"));
    }
    // Without a byte nothing is sent.
    let byte = [IoSlice::new(&[0])];
    retry_on_intr(|| sendmsg(socket, &byte, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives `N` descriptors that were sent together.
///
/// # Errors
///
/// The socket is broken; `InvalidData` if they are less or more.
pub fn receive<const N: usize>(socket: &UnixStream) -> io::Result<[OwnedFd; N]> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds: Vec<OwnedFd> = rights.flatten().collect();
    let other = |fds: Vec<_>| format!("{} descriptors received, {N} expected", fds.len());
    fds.try_into().map_err(|fds| io::Error::new(io::ErrorKind::InvalidData, other(fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn what_is_sent_is_what_comes() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut one, other) = UnixStream::pair().unwrap();
        send(&a, &[other.as_fd(), other.as_fd()]).unwrap();
        drop(other);
        let [first, second] = receive::<2>(&b).unwrap();
        drop(second);
        UnixStream::from(first).write_all(b"x").unwrap();
        let mut read = Vec::new();
        one.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"x");

        send(&a, &[one.as_fd()]).unwrap();
        assert_eq!(receive::<2>(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(send(&a, &[one.as_fd(); 9]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        drop(a);
        assert_eq!(receive::<1>(&b).unwrap_err().to_string(), "0 descriptors received, 1 expected");
    }
}
