//! Packet captures of a bridge, by tcpdump from the unpacked packages.

use super::command::describe;
use super::error::{Context as _, Result};
use super::net::{Link, Namespace};
use super::paths::Paths;
use super::state::{Process, State};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A capture that runs; dropping it ends it and leaves the file complete.
#[derive(Debug)]
pub struct Capture {
    child: Child,
}

impl Capture {
    /// Captures all packets on the bridge of `link`, the first `snap` bytes of each, into the pcap file `to`; what tcpdump
    /// says goes beside it, as `.log`. Returns once it listens.
    ///
    /// # Errors
    /// When tcpdump cannot be started or ends at once.
    pub fn start(paths: &Paths, link: Link, snap: u32, to: &Path) -> Result<Self> {
        let log = to.with_extension("log");
        let errors = File::create(&log).context(|| format!("create {}", log.display()))?;
        let root = paths.root();
        let mut command = Namespace::new(&paths.name).command("env");
        command
            .arg(format!("LD_LIBRARY_PATH={}", root.join("usr/lib/x86_64-linux-gnu").display()))
            .arg(root.join("usr/bin/tcpdump"))
            .args([
                "-n",
                "-U",
                "-Z",
                "root",
                "-B",
                "16384",
                "-s",
                &snap.to_string(),
                "-i",
                link.bridge(),
                "-w",
            ])
            .arg(to)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .process_group(0);
        let child = command.spawn().context(|| format!("run `{}`", describe(&command)))?;
        if let (Some(mut state), Some(process)) = (State::load(paths)?, Process::of(child.id())) {
            state.helpers.retain(|p| p.alive());
            state.helpers.push(process);
            state.store(paths)?;
        }
        let capture = Self { child };
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains("listening on") {
                return Ok(capture);
            }
            if Instant::now() > end {
                return Err(std::io::Error::other(said)).context(|| "start a packet capture".to_owned());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // On SIGINT tcpdump writes out what it holds.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let _ = self.child.wait();
    }
}
