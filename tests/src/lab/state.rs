//! The lab's processes, on disk, so that any later command finds exactly them.

use super::error::{Context as _, LabError, Result};
use super::paths::Paths;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::{Duration, Instant};

/// A process, told from a later one with the same number by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Start in clock ticks after boot (field 22 of `/proc/PID/stat`).
    pub start: u64,
}

/// State letter and start time of a process; `None` when there is none.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, in brackets, may itself hold brackets and blanks: fields count from the last one.
    let rest = text.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

impl Process {
    /// The process that has this id now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|(_, start)| Self { pid, start })
    }

    /// Whether it is still there; a zombie is not, unless threads of it are left, which hold its files open.
    #[must_use]
    pub fn alive(self) -> bool {
        let threads = || fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
        stat(self.pid).is_some_and(|(state, start)| {
            start == self.start && (!matches!(state, 'Z' | 'X') || threads() > 1)
        })
    }

    /// Sends a signal, if it is still this process.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        match pid {
            Some(pid) if self.alive() => {
                kill_process(pid, signal).context(|| format!("signal process {}", self.pid))
            }
            _ => Ok(()),
        }
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed, or is still there after ten seconds.
    pub fn kill(self) -> Result<()> {
        self.signal(Signal::KILL)?;
        let end = Instant::now() + Duration::from_secs(10);
        while self.alive() {
            if Instant::now() > end {
                return Err(LabError::Timeout {
                    what: format!("process {} to die", self.pid),
                    seconds: 10,
                    detail: String::new(),
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// What is running.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// QEMU of each host, if it was started and not killed by us.
    pub hosts: [Option<Process>; 2],
    /// How often each host was started; part of the names of its logs.
    pub starts: [u32; 2],
    /// Other processes to end with the lab, such as captures.
    pub helpers: Vec<Process>,
    /// Kernel, initrd and memory the hosts were started with.
    pub machine: super::qemu::Machine,
}

impl State {
    /// Reads the state; `None` when this lab is not up.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn load(paths: &Paths) -> Result<Option<Self>> {
        let path = paths.state();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| LabError::State {
                path,
                name: paths.name.clone(),
                source,
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context(|| format!("read {}", path.display())),
        }
    }

    /// Writes the state, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, paths: &Paths) -> Result<()> {
        let path = paths.state();
        let part = path.with_extension("part");
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::from);
        text.and_then(|text| fs::write(&part, text))
            .and_then(|()| fs::rename(&part, &path))
            .context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_by_its_start() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.alive());
        let stale = Process { start: process.start + 1, ..process };
        assert!(!stale.alive());
        stale.signal(Signal::KILL).unwrap();
        assert!(process.alive(), "a stale record must kill nobody");
        process.kill().unwrap();
        assert!(!process.alive(), "a zombie counts as gone");
        child.wait().unwrap();
    }
}
