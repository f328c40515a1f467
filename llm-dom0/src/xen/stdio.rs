//! How `xl remus` gives us its pipes.
//!
//! With `-s ''` it runs a shell command with two pipes as stdin and stdout. That
//! command is the `llm` program again, which connects to our socket and hands the
//! two pipes over (`SCM_RIGHTS`), so that no process copies the stream.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `xl` as a sender waits for before it writes anything.
pub const BANNER: &[u8] = b"xl migration receiver ready, send binary domain data.\n";

/// The two pipes of a transport command of `xl`.
#[derive(Debug)]
pub struct Pipes {
    /// What `xl` writes: the checkpoint stream.
    pub from_xl: OwnedFd,
    /// What `xl` reads: banner and answers.
    pub to_xl: OwnedFd,
}

/// A socket that one [`stdio_client`] connects to. Its file is removed on drop.
#[derive(Debug)]
pub struct StdioListener {
    listener: UnixListener,
    path: PathBuf,
}

impl StdioListener {
    /// Makes the socket at `path`, for our own user only; a stale one is replaced.
    ///
    /// # Errors
    ///
    /// Those of `unlink`, `bind` and `chmod`.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pipes, once a client has brought them; `None` after `timeout`.
    ///
    /// # Errors
    ///
    /// Those of the socket, and [`io::ErrorKind::InvalidData`] if a client brings anything else.
    pub fn accept(&self, timeout: Duration) -> io::Result<Option<Pipes>> {
        if !readable(self.listener.as_fd(), timeout)? {
            return Ok(None);
        }
        let mut stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let pipes = receive(&stream)?;
        stream.write_all(&[1])?;
        Ok(Some(pipes))
    }
}

impl Drop for StdioListener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "Cannot remove a socket");
        }
    }
}

/// What the hidden `stdio` subcommand does: hands our stdin and stdout to the
/// listener at `path` and returns once it has them. The caller should exit then, as
/// the pipes stay open in it until it does.
///
/// # Errors
///
/// Those of the socket; [`io::ErrorKind::UnexpectedEof`] if the listener went away.
pub fn stdio_client(path: &Path) -> io::Result<()> {
    hand_over(path, io::stdin().as_fd(), io::stdout().as_fd())
}

fn hand_over(path: &Path, input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    let fds = [input, output];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(&stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    stream.read_exact(&mut [0])
}

fn receive(stream: &UnixStream) -> io::Result<Pipes> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut fds = fds.next().into_iter().flatten();
    match (fds.next(), fds.next()) {
        (Some(from_xl), Some(to_xl)) => Ok(Pipes { from_xl, to_xl }),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "The client sent no pipes")),
    }
}

/// Whether `fd` is readable within `timeout`.
pub(super) fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn pipes_change_hands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = StdioListener::bind(path.clone()).unwrap();
        assert!(listener.accept(Duration::from_millis(1)).unwrap().is_none());
        let (stdin, mut xl_writes) = io::pipe().unwrap();
        let (mut xl_reads, stdout) = io::pipe().unwrap();
        let client = std::thread::spawn({
            let path = path.clone();
            move || hand_over(&path, stdin.as_fd(), stdout.as_fd())
        });
        let pipes = listener.accept(Duration::from_secs(20)).unwrap().unwrap();
        client.join().unwrap().unwrap();
        xl_writes.write_all(b"stream").unwrap();
        drop(xl_writes);
        let mut text = String::new();
        File::from(pipes.from_xl).read_to_string(&mut text).unwrap();
        assert_eq!(text, "stream");
        File::from(pipes.to_xl).write_all(BANNER).unwrap();
        text.clear();
        xl_reads.read_to_string(&mut text).unwrap();
        assert_eq!(text.as_bytes(), BANNER);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_client_without_pipes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = StdioListener::bind(path.clone()).unwrap();
        UnixStream::connect(&path).unwrap().write_all(b"hello").unwrap();
        let error = listener.accept(Duration::from_secs(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
