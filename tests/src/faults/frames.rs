//! What a host lets out of the guest, frame by frame.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use super::here;
use crate::lab::{Lab, Link, Process, State, guest};
use crate::scenario::{Result, ScenarioError};

/// Notes when frames with the guest's hardware address come out of one host's card on the service link.
/// Frames to the host, and the other host's, do not count. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Frames {
    child: Child,
    file: PathBuf,
}

impl Frames {
    /// Returns once it listens.
    pub(super) fn out_of(lab: &Lab, host: usize) -> Result<Self> {
        let tap = Link::Service.tap(host + 1);
        let (file, log) =
            (lab.paths().logs().join(format!("{tap}.txt")), lab.paths().logs().join(format!("{tap}.log")));
        let root = lab.paths().root();
        let mut command = lab.namespace().command("env");
        command
            .arg(format!("LD_LIBRARY_PATH={}", root.join("usr/lib/x86_64-linux-gnu").display()))
            .arg(root.join("usr/bin/tcpdump"))
            .args(["-n", "-l", "-tt", "--immediate-mode", "-Z", "root", "-Q", "in", "-i", &tap])
            .args(["ether", "src", guest::MAC])
            .stdin(Stdio::null())
            .stdout(here("create the list of frames", File::create(&file))?)
            .stderr(here("create tcpdump's log", File::create(&log))?);
        let frames = Self { child: here("start tcpdump", command.spawn())?, file };
        // So that the lab's end is also its end.
        if let (Some(mut state), Some(process)) = (State::load(lab.paths())?, Process::of(frames.child.id()))
        {
            state.helpers.retain(|p| p.alive());
            state.helpers.push(process);
            state.store(lab.paths())?;
        }
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let said = fs::read_to_string(&log).unwrap_or_default();
            if said.contains("listening on") {
                return Ok(frames);
            }
            if Instant::now() > end {
                return Err(ScenarioError::Broken(format!("tcpdump does not listen: {said}")));
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// How many there were before `moment`, and from then on.
    pub(super) fn around(&self, moment: SystemTime) -> Result<(usize, usize)> {
        let moment = moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let text = here("read the list of frames", fs::read_to_string(&self.file))?;
        let times = text.lines().filter_map(|l| l.split(' ').next()?.parse::<f64>().ok());
        let (before, after): (Vec<_>, Vec<_>) = times.partition(|&t| t < moment);
        Ok((before.len(), after.len()))
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let _ = self.child.wait();
    }
}
