//! Exit codes, and the error that carries one.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// How a command ended. The numbers are an interface: scripts and units test them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked.
    Done = 0,
    /// Failed for a reason that the message tells.
    Failed = 1,
    /// The command line or the configuration file is wrong (clap's own code).
    Usage = 2,
    /// No such domain, or one that cannot be protected.
    Domain = 3,
    /// The host lacks something: not root, no Xen, no `xl`.
    Host = 4,
    /// The peer cannot be reached, refuses, or speaks another version.
    Peer = 5,
    /// The backup has taken the domain over; the copy here is stopped.
    TakenOver = 6,
    /// The domain or the address is already in use by another `llm`.
    Busy = 7,
}

/// The list of exit codes for `--help`.
pub(super) const TABLE: &str = "\
Exit codes:
  0  done as asked (also: released, ended by SIGTERM)
  1  failed; the message tells why
  2  wrong command line or configuration file
  3  no such domain, or one that cannot be protected
  4  the host lacks something: not root, no Xen, no xl
  5  the peer cannot be reached, refuses, or speaks another version
  6  the backup has taken the domain over; the copy here is stopped
  7  already in use by another llm";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error on its way to the user, with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// The code to leave with.
    pub exit: Exit,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// `error` ends the command with `exit`.
    pub fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, error: error.into() }
    }
}

impl fmt::Display for Failure {
    /// The whole chain, outermost first, joined by colons.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let mut source = self.error.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Attaches an exit code to an error.
pub(crate) trait OrExit<T> {
    /// The value, or a [`Failure`] with this code.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(exit, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_code() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Domain,
            Exit::Host,
            Exit::Peer,
            Exit::TakenOver,
            Exit::Busy,
        ] {
            assert!(TABLE.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }

    #[test]
    fn the_chain_is_printed() {
        #[derive(Debug, thiserror::Error)]
        #[error("Outer")]
        struct Outer(#[source] std::io::Error);
        let failure = Failure::new(Exit::Failed, Outer(std::io::Error::other("inner")));
        assert_eq!(failure.to_string(), "Outer: inner");
    }
}
