//! `xl remus` on the primary: starting it, taking its stream, pacing it.

use super::child::Child;
use super::stdio::{BANNER, Pipes, StdioListener};
use rustix::process::Signal;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long `xl` may take to stop on a signal.
const STOP_TIMEOUT: Duration = Duration::from_millis(100);
/// Kept free ahead of `xl`'s timer when judging whether a stop was in time.
const HOLD_MARGIN: Duration = Duration::from_millis(1);

/// How to start `xl remus`.
#[derive(Clone, Debug)]
pub struct RemusConfig {
    /// The `xl` program.
    pub xl: PathBuf,
    /// Name or number of the domain.
    pub domain: String,
    /// `xl`'s own pause between the end of a checkpoint and the start of the next: the
    /// least interval. [`Pacer::hold`] needs some 20 ms of it.
    pub interval: Duration,
    /// Command line that ends in a call of [`stdio_client`](super::stdio::stdio_client);
    /// the socket's path is appended. For example `/usr/sbin/llm stdio`.
    pub stdio: Vec<String>,
    /// Where the socket is made; a directory of ours that is not shared.
    pub socket: PathBuf,
    /// How long `xl` may take to run the command.
    pub start_timeout: Duration,
}

/// What went wrong with `xl remus`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemusError {
    /// The program could not be run.
    #[error("Cannot run {}; is xen-utils installed?", xl.display())]
    Run {
        /// The program.
        xl: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket for the pipes.
    #[error("Cannot use the socket {} for the pipes of xl remus", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `xl` ended before it gave us its pipes.
    #[error("The command xl remus ended at once ({status}) and said:\n{said}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its last messages.
        said: String,
    },
    /// `xl` did not give us its pipes in time.
    #[error("The command xl remus did not start within {waited:?} and said:\n{said}")]
    Slow {
        /// The time-out.
        waited: Duration,
        /// Its last messages.
        said: String,
    },
    /// `xl` did not take the banner.
    #[error("Cannot greet xl remus")]
    Greet(#[source] io::Error),
}

/// A running `xl remus`.
///
/// It ends when the stream that [`Self::start`] returned is closed: `xl` then fails
/// to write, resumes the domain and exits with an error. The same happens if we die,
/// even while it is held. Dropping this lets a held `xl` go on.
#[derive(Debug)]
pub struct Remus {
    child: Child,
    interval: Duration,
    /// `xl` reads answers from here only for COLO; closed early it might take us for dead.
    _to_xl: OwnedFd,
}

impl Remus {
    /// Starts checkpoints of a domain; returns with the pipe that the stream comes from,
    /// of which nothing was read.
    ///
    /// # Errors
    ///
    /// [`RemusError`]; no `xl` is left running then.
    pub fn start(config: &RemusConfig) -> Result<(Self, OwnedFd), RemusError> {
        let socket = |source| RemusError::Socket { path: config.socket.clone(), source };
        let listener = StdioListener::bind(config.socket.clone()).map_err(socket)?;
        let mut words = config.stdio.clone();
        words.push(listener.path().to_string_lossy().into_owned());
        let transport = words.iter().map(|word| shell_quoted(word)).collect::<Vec<_>>().join(" ");
        let mut command = Command::new(&config.xl);
        // -F: allow -n and -d, which switch the buffering of packets and disks off (packets
        // are held by us). -s '': the last argument is the command that carries the stream.
        command.args(["remus", "-Fdn", "-i", &config.interval.as_millis().to_string(), "-s", ""]);
        command.arg(&config.domain).arg(format!("exec {transport}"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // Should we die while it is held, it must go on, find the pipe broken and resume the guest.
        let run = |source| RemusError::Run { xl: config.xl.clone(), source };
        let child = Child::start("xl-remus", command, Signal::CONT, None).map_err(run)?.child;
        let result = accept(&listener, &child, config.start_timeout).and_then(|pipes| {
            let mut to_xl = File::from(pipes.to_xl);
            to_xl.write_all(BANNER).map_err(RemusError::Greet)?;
            Ok((pipes.from_xl, OwnedFd::from(to_xl)))
        });
        match result {
            Ok((stream, to_xl)) => Ok((Self { child, interval: config.interval, _to_xl: to_xl }, stream)),
            Err(error) => {
                // Before the banner `xl` has not touched the domain.
                child.signal_group(Signal::KILL);
                Err(error)
            }
        }
    }

    /// A handle that holds `xl` between checkpoints.
    #[must_use]
    pub fn pacer(&self) -> Pacer {
        Pacer { child: self.child.clone(), interval: self.interval }
    }

    /// How `xl` ended; `None` if it runs.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.ended()
    }

    /// Waits for the end of `xl`, which is near once the stream has been closed; `None` after `timeout`.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        self.child.signal(Signal::CONT);
        self.child.wait(timeout)
    }

    /// Ends `xl` at once, without resuming the domain if it is suspended.
    pub fn kill(&self) {
        self.child.signal_group(Signal::KILL);
    }

    /// The last messages of `xl`.
    #[must_use]
    pub fn said(&self) -> String {
        self.child.tail()
    }
}

impl Drop for Remus {
    fn drop(&mut self) {
        self.child.signal(Signal::CONT);
    }
}

/// Holds `xl remus` between two checkpoints, with the guest running.
#[derive(Clone, Debug)]
pub struct Pacer {
    child: Child,
    interval: Duration,
}

/// Whether `xl` is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Held {
    /// It is stopped, the guest runs, and no checkpoint comes before [`Pacer::go`].
    Yes,
    /// It is stopped, but may have begun the next checkpoint before that. The caller looks
    /// whether the domain is or becomes suspended, and calls [`Pacer::go`] if so.
    InDoubt,
    /// It could not be stopped in time and goes on, or has ended.
    No,
}

impl Pacer {
    /// Stops `xl` behind the end of a checkpoint.
    ///
    /// `not_before` is a time at which the record `CHECKPOINT_END` had not been read
    /// yet: the start of the wait that ended with it. `xl` starts its timer after it
    /// has written that record, so if it stands still less than the interval after
    /// `not_before`, it has not begun to suspend the guest.
    pub fn hold(&self, not_before: Instant) -> Held {
        if !self.child.signal(Signal::STOP) {
            return Held::No;
        }
        if !self.child.wait_stopped(STOP_TIMEOUT) {
            self.go();
            return Held::No;
        }
        if not_before.elapsed() + HOLD_MARGIN < self.interval { Held::Yes } else { Held::InDoubt }
    }

    /// Lets `xl` go on; a timer that ran out meanwhile starts the next checkpoint at
    /// once. False if `xl` has ended.
    pub fn go(&self) -> bool {
        self.child.signal(Signal::CONT)
    }
}

fn accept(listener: &StdioListener, child: &Child, timeout: Duration) -> Result<Pipes, RemusError> {
    let until = Instant::now() + timeout;
    loop {
        let pipes = listener.accept(Duration::from_millis(20));
        let path = || listener.path().to_owned();
        if let Some(pipes) = pipes.map_err(|source| RemusError::Socket { path: path(), source })? {
            return Ok(pipes);
        }
        if let Some(status) = child.ended() {
            return Err(RemusError::Ended { status, said: child.last_words() });
        }
        if Instant::now() >= until {
            return Err(RemusError::Slow { waited: timeout, said: child.tail() });
        }
    }
}

/// `word` such that a POSIX shell takes it for one word of exactly these characters.
fn shell_quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
