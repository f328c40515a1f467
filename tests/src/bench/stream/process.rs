//! One end of a relay as a process of its own.

use std::env;
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use super::child::{CompressWith, READY, Report};

/// One end's process.
#[derive(Debug)]
pub(in crate::bench) struct Process {
    child: Child,
    says: BufReader<ChildStderr>,
}

impl Process {
    /// Starts it for a guest of so many pages, with so many bytes between two threads; it is ready when this returns.
    ///
    /// # Errors
    /// It cannot be started.
    pub(in crate::bench) fn start(
        end: &str,
        (pages, buffer, compress): (usize, u64, CompressWith),
        from: OwnedFd,
        to: OwnedFd,
    ) -> io::Result<Self> {
        let program = program()?;
        let mut child = Command::new(&program)
            .args(["stream", end, &pages.to_string(), &buffer.to_string(), compress.name()])
            .stdin(from)
            .stdout(to)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", program.display())))?;
        let says = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut process = Self { child, says: BufReader::new(says) };
        let line = process.line()?;
        if line == READY { Ok(process) } else { Err(io::Error::other(line)) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// What it says at its end.
    ///
    /// # Errors
    /// It failed.
    pub(in crate::bench) fn report(&mut self) -> io::Result<Report> {
        let line = self.line()?;
        self.child.wait()?;
        serde_json::from_str(&line).map_err(|_| io::Error::other(format!("an end failed: {line}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and is waited for all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What plays the ends: beside this program, or above it if this is a test.
fn program() -> io::Result<PathBuf> {
    let mut folder = env::current_exe()?;
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    Ok(folder.join("embedded"))
}
