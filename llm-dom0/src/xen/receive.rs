//! `xl migrate-receive -r` on the backup: feeding it, letting it take over, ending it.

use super::child::Child;
use super::stdio::{BANNER, readable};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::Signal;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A libxc `END` record: behind a whole epoch it ends the restore, and `xl` starts the domain.
const LIBXC_END: [u8; 8] = [0; 8];
/// Size asked of the kernel for the pipe to `xl`, bytes: the usual limit of `pipe-max-size`.
const PIPE_SIZE: usize = 1 << 20;

/// What went wrong with `xl migrate-receive`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The program could not be run.
    #[error("Cannot run {}; is xen-utils installed?", xl.display())]
    Run {
        /// The program.
        xl: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `xl` did not say that it is ready.
    #[error("The command xl migrate-receive did not get ready within {waited:?} and said:\n{said}")]
    NotReady {
        /// The time-out.
        waited: Duration,
        /// Its last messages.
        said: String,
    },
    /// `xl` ended before or instead of taking over.
    #[error("The command xl migrate-receive failed ({status}) and said:\n{said}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its last messages.
        said: String,
    },
    /// `xl` did not finish starting the domain in time.
    #[error(
        "The command xl migrate-receive has not started the domain within {waited:?}; \
         look at `xl list` and at what it said:\n{said}"
    )]
    Slow {
        /// The time-out.
        waited: Duration,
        /// Its last messages.
        said: String,
    },
    /// The pipe to `xl`.
    #[error("Cannot write to xl migrate-receive, which said:\n{said}")]
    Pipe {
        /// Why.
        source: io::Error,
        /// Its last messages.
        said: String,
    },
}

/// A running `xl migrate-receive -r`, to which whole epochs are written.
///
/// `xl` holds the writing end of its own input as well: neither our death nor a
/// dropped handle looks like the end of the stream, which `xl` would take for the
/// order to start the domain. Only [`Self::take_over`] gives that order. When we die,
/// or this is dropped, `xl` is killed; the paused domain `NAME--incoming` is left
/// behind and must be destroyed by whoever starts again.
#[derive(Debug)]
pub struct Receiver {
    child: Child,
    input: File,
    /// Kept open: `xl` inherits it to its monitor.
    _output: Option<std::process::ChildStdout>,
    give_up: bool,
}

impl Receiver {
    /// Starts `xl` and waits until it is ready for a stream.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]; no `xl` is left running then.
    pub fn start(xl: &std::path::Path, timeout: Duration) -> Result<Self, ReceiveError> {
        let run = |source| ReceiveError::Run { xl: xl.to_owned(), source };
        let (reader, writer) = io::pipe().map_err(run)?;
        if let Err(error) = fcntl_setpipe_size(&writer, PIPE_SIZE) {
            tracing::debug!(%error, "The pipe to xl keeps its size");
        }
        let held_by_xl = OwnedFd::from(writer.try_clone().map_err(run)?);
        let mut command = Command::new(xl);
        command.args(["migrate-receive", "-r"]).stdin(reader).stdout(Stdio::piped());
        let started = Child::start("xl-receive", command, Signal::KILL, Some(held_by_xl)).map_err(run)?;
        let mut receiver = Self {
            child: started.child,
            input: File::from(OwnedFd::from(writer)),
            _output: started.stdout,
            give_up: true,
        };
        receiver.await_banner(timeout)?;
        Ok(receiver)
    }

    /// Process number of `xl`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// A handle that ends `xl` from another thread.
    #[must_use]
    pub fn killer(&self) -> Killer {
        Killer { child: self.child.clone() }
    }

    /// How `xl` ended; `None` if it runs.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.ended()
    }

    /// The last messages of an `xl` that has failed, all of them: waits for up to a second.
    #[must_use]
    pub fn last_words(&self) -> String {
        self.child.last_words()
    }

    /// The last messages of `xl`.
    #[must_use]
    pub fn said(&self) -> String {
        self.child.tail()
    }

    /// Has `xl` start the domain from the last whole epoch written, and returns once it
    /// runs under its own name.
    ///
    /// What was written must be whole epochs, the first one at least: the order is a
    /// record of the stream.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]. After [`ReceiveError::Slow`] `xl` goes on; after the others it has ended.
    pub fn take_over(mut self, timeout: Duration) -> Result<(), ReceiveError> {
        let written = self.input.write_all(&LIBXC_END);
        if let Err(source) = written {
            return Err(self.child.wait(Duration::from_secs(1)).map_or_else(
                || ReceiveError::Pipe { source, said: self.said() },
                |status| ReceiveError::Ended { status, said: self.last_words() },
            ));
        }
        // From here on `xl` must not be killed half-way.
        self.give_up = false;
        match self.child.wait(timeout) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(ReceiveError::Ended { status, said: self.last_words() }),
            None => Err(ReceiveError::Slow { waited: timeout, said: self.said() }),
        }
    }

    /// Ends `xl` without starting the domain, and waits for its end. The caller then
    /// destroys the domain `NAME--incoming`, if there is one.
    pub fn abort(self) {
        self.killer().kill();
    }

    fn await_banner(&mut self, timeout: Duration) -> Result<(), ReceiveError> {
        let until = Instant::now() + timeout;
        let mut seen = Vec::new();
        while let Some(output) = &mut self._output
            && seen.len() < BANNER.len()
        {
            let left = until.saturating_duration_since(Instant::now());
            let mut byte = [0];
            let read = match readable(output.as_fd(), left) {
                Ok(true) => output.read(&mut byte).unwrap_or(0),
                _ => 0,
            };
            if read == 0 {
                if let Some(status) = self.child.wait(Duration::from_millis(50).min(left)) {
                    return Err(ReceiveError::Ended { status, said: self.last_words() });
                }
                if left.is_zero() {
                    break;
                }
                continue;
            }
            seen.push(byte[0]);
        }
        if seen == BANNER {
            return Ok(());
        }
        Err(ReceiveError::NotReady { waited: timeout, said: self.said() })
    }
}

impl Write for Receiver {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.input.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.input.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if self.give_up {
            self.killer().kill();
        }
    }
}

/// Ends a [`Receiver`]'s `xl`, also while another thread writes to it.
#[derive(Clone, Debug)]
pub struct Killer {
    child: Child,
}

impl Killer {
    /// Kills `xl` and its helper, and waits for `xl`'s end. A thread that writes to the
    /// receiver gets an error.
    pub fn kill(&self) {
        if self.child.signal_group(Signal::KILL) && self.child.wait(Duration::from_secs(5)).is_none() {
            tracing::warn!("The command xl migrate-receive does not end when killed");
        }
    }
}

#[cfg(test)]
mod tests;
