//! One stream over the link, epoch by epoch: the next one is written when the one before is out.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

use super::world::World;
use crate::bench::stream::child::{CompressWith, Report};
use crate::bench::stream::input::Input;
use crate::bench::stream::process::Process;
use crate::bench::stream::run::PIPE;
use crate::scenario::ScenarioError;

/// Bytes that may wait between two threads: an epoch must not have to wait for room.
const BUFFER: u64 = 64 << 20;
/// Time between two epochs, in which both ends come to rest.
const PAUSE: Duration = Duration::from_millis(4);

/// How it went.
#[derive(Clone, Debug, Default)]
pub(super) struct Carried {
    /// Seconds of each epoch, from its first byte into the pipe to its last one out of the other; the first epoch is the first.
    pub(super) epochs: Vec<f64>,
    /// Of primary and backup.
    pub(super) ends: [Report; 2],
    /// Bytes on the link behind the first epoch.
    pub(super) later_bytes: u64,
}

/// Carries the stream once.
pub(super) fn carry(world: &World, input: &Input, compress: CompressWith) -> Result<Carried, ScenarioError> {
    let (near, far) = world.connect()?;
    let broken = |error: io::Error| ScenarioError::Broken(format!("the stream over the link: {error}"));
    let (from, source) = io::pipe().map_err(broken)?;
    let (sink, into) = io::pipe().map_err(broken)?;
    for end in [source.try_clone().map(OwnedFd::from), into.try_clone().map(OwnedFd::from)] {
        end.and_then(|end| Ok(fcntl_setpipe_size(end, PIPE)?)).map_err(broken)?;
    }
    let limits = (input.guest, BUFFER, compress);
    let mut primary = Process::start("primary", limits, from.into(), near.into()).map_err(broken)?;
    let mut backup = Process::start("backup", limits, far.into(), into.into()).map_err(broken)?;
    let (go, gone) = channel();
    let (source, sink) = (OwnedFd::from(source), OwnedFd::from(sink));
    let taken = thread::scope(|scope| {
        let writer = scope.spawn(move || write(input, source, &gone));
        let taken = take(world, input, &sink, &go);
        // Without the sender the writer ends, and lets go of the pipe.
        drop(go);
        let written = writer.join().map_err(|_| ScenarioError::Broken("the writer panicked".into()))?;
        taken.and_then(|taken| written.map_err(broken).map(|()| taken))
    });
    let (epochs, later_bytes) = taken?;
    let ends = [primary.report().map_err(broken)?, backup.report().map_err(broken)?];
    Ok(Carried { epochs, ends, later_bytes })
}

/// What stands for `xl remus`: an epoch each time it is told to.
fn write(input: &Input, pipe: OwnedFd, go: &Receiver<()>) -> io::Result<()> {
    let mut at = 0;
    for &end in &input.ends {
        if go.recv().is_err() {
            return Ok(());
        }
        while at < end {
            let len = PIPE.min(usize::try_from(end - at).unwrap_or(PIPE));
            if splice(&input.file, Some(&mut at), &pipe, None, len, SpliceFlags::empty())? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
    drop(pipe);
    Ok(())
}

/// What stands for `xl migrate-receive`: drops the pages, and has the next epoch begun. Seconds of each epoch, and bytes on the link
/// behind the first.
fn take(
    world: &World,
    input: &Input,
    pipe: &OwnedFd,
    go: &Sender<()>,
) -> Result<(Vec<f64>, u64), ScenarioError> {
    let broken = |error: io::Error| ScenarioError::Broken(format!("the stream over the link: {error}"));
    let null = OwnedFd::from(File::options().write(true).open("/dev/null").map_err(broken)?);
    let (mut taken, mut epochs, mut before) = (0, Vec::new(), 0);
    for &end in &input.ends {
        thread::sleep(PAUSE);
        let begin = Instant::now();
        // An error of the writer comes from itself.
        let _ = go.send(());
        while taken < end {
            match splice(pipe, None, &null, None, PIPE, SpliceFlags::empty()).map_err(|e| broken(e.into()))? {
                0 => return Err(ScenarioError::Broken(format!("the stream ended after {taken} bytes"))),
                n => taken += n as u64,
            }
        }
        epochs.push(begin.elapsed().as_secs_f64());
        if epochs.len() == 1 {
            before = world.sent()?;
        }
    }
    Ok((epochs, world.sent()? - before))
}
