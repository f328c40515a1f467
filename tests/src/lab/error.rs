//! What can go wrong in the lab, in words that say what to do about it.

use std::path::PathBuf;

/// Result of lab operations.
pub type Result<T> = std::result::Result<T, LabError>;

/// Error of the lab runner.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The lab makes network namespaces and taps.
    #[error("The lab needs root (network namespaces, taps): run it as root")]
    NotRoot,
    /// A file or a system call failed.
    #[error("Cannot {what}: {source}")]
    Io {
        /// The operation and its object.
        what: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A program of this machine ended with an error.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// Command line.
        command: String,
        /// Exit status.
        status: String,
        /// The last of what it wrote to stderr.
        stderr: String,
    },
    /// Something needed is not on this machine.
    #[error("{what} is missing: {hint}")]
    Missing {
        /// The thing.
        what: String,
        /// How to get it.
        hint: String,
    },
    /// A lab of this name is running already.
    #[error(
        "A lab named `{name}` is already running ({who}): stop it with `cargo lab down`, or choose another --name"
    )]
    Busy {
        /// Name of the lab.
        name: String,
        /// Processes that belong to it.
        who: String,
    },
    /// The command needs a running lab.
    #[error("No lab named `{name}` is running: start it with `cargo lab up`")]
    NotUp {
        /// Name of the lab.
        name: String,
    },
    /// QEMU of this host is not running.
    #[error("host{host} is down, its console's end:\n{tail}\n(whole log: {log})")]
    HostDown {
        /// Number of the host, 1 or 2.
        host: usize,
        /// End of the console log.
        tail: String,
        /// The console log.
        log: PathBuf,
    },
    /// Something did not come in time.
    #[error("Gave up after {seconds} s waiting for {what}{detail}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// Time waited.
        seconds: u64,
        /// Last reason or end of a log; may be empty.
        detail: String,
    },
    /// The agent in a host did not answer as it must.
    #[error("host{host}: {reason}")]
    Agent {
        /// Number of the host.
        host: usize,
        /// What the agent, or the connection to it, said.
        reason: String,
    },
    /// A command run in a host failed.
    #[error("host{host}: `{command}` ended with code {code}: {stderr}")]
    Remote {
        /// Number of the host.
        host: usize,
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
        /// Its stderr, or its stdout where that is empty.
        stderr: String,
    },
    /// A stored state file cannot be read.
    #[error("The lab's state {} is not readable: {source}; remove it after `ip netns del {name}`", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Name of the lab.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Adds to an I/O error what was being done.
pub trait Context<T> {
    /// Names the operation: "read /x".
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| LabError::Io { what: what(), source: e.into() })
    }
}
