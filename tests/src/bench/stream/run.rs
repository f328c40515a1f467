//! One stream from a pipe to another, through two processes and a connection of the loopback device.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use llm_core::checksum::Digest;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};
use rustix::time::{ClockId, clock_gettime};

use super::child::{CompressWith, Report};
use super::input::Input;
use super::process::Process;

/// Bytes of a pipe, and of one splice.
pub(in crate::bench) const PIPE: usize = 1 << 20;

/// What carries a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) name: &'static str,
    /// What the two processes are.
    pub(super) ends: [&'static str; 2],
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub(super) struct Carried {
    /// Seconds from the first byte in to the last one out.
    pub(super) all: f64,
    /// Of these, seconds until the first epoch was out.
    pub(super) first: f64,
    /// Of primary and backup.
    pub(super) ends: [Report; 2],
    /// Seconds of processor time that it took to write the stream into the pipe and to take it out of the other.
    pub(super) outside: [f64; 2],
}

/// Carries the stream once. With `check`, all that comes out is compared with what went in; its time says nothing then.
///
/// # Errors
/// A process ended early, or the stream differs.
pub(super) fn carry(way: Way, input: &Input, buffer: u64, check: bool) -> io::Result<Carried> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let far = listener.accept()?.0;
    let (from, source) = io::pipe()?;
    let (sink, into) = io::pipe()?;
    for end in [OwnedFd::from(source.try_clone()?), into.try_clone()?.into()] {
        fcntl_setpipe_size(&end, PIPE)?;
    }
    let limits = (input.guest, buffer, CompressWith::None);
    let mut primary = Process::start(way.ends[0], limits, from.into(), near.into())?;
    let mut backup = Process::start(way.ends[1], limits, far.into(), into.into())?;
    // Open until both have ended: to an end that splices, a pipe that nobody reads is an error even at the end.
    let sink = OwnedFd::from(sink);
    let begin = Instant::now();
    let (written, taken) = thread::scope(|scope| {
        let writer = scope.spawn(|| timed(|| write(input, source.into())));
        let taken = timed(|| if check { compare(input, &sink) } else { take(input, &sink, begin) });
        (writer.join(), taken)
    });
    let all = begin.elapsed().as_secs_f64();
    let ends = [primary.report()?, backup.report()?];
    let (written, writing) = written.map_err(|_| io::Error::other("the writer panicked"))?;
    written?;
    let (first, taking) = taken;
    Ok(Carried { all, first: first?.as_secs_f64(), ends, outside: [writing, taking] })
}

/// The result, and seconds of processor time of the present thread.
fn timed<T>(run: impl FnOnce() -> T) -> (T, f64) {
    let time = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    let before = time();
    let result = run();
    (result, time().saturating_sub(before).as_secs_f64())
}

/// What stands for `xl remus`: puts the pages of the file itself into the pipe, so that no time is spent on it.
fn write(input: &Input, pipe: OwnedFd) -> io::Result<()> {
    let mut at = 0;
    while at < input.bytes {
        if splice(&input.file, Some(&mut at), &pipe, None, PIPE, SpliceFlags::empty())? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    drop(pipe);
    Ok(())
}

/// What stands for `xl migrate-receive`: drops the pages. When the first epoch was out.
fn take(input: &Input, pipe: &OwnedFd, begin: Instant) -> io::Result<Duration> {
    let null = OwnedFd::from(std::fs::File::options().write(true).open("/dev/null")?);
    let (mut taken, mut first) = (0, Duration::ZERO);
    while taken < input.bytes {
        match splice(pipe, None, &null, None, PIPE, SpliceFlags::empty())? {
            0 => return Err(cut_short(taken)),
            n => taken += n as u64,
        }
        if first.is_zero() && taken >= input.first_bytes {
            first = begin.elapsed();
        }
    }
    Ok(first)
}

fn compare(input: &Input, pipe: &OwnedFd) -> io::Result<Duration> {
    let (mut taken, mut digest, mut buffer) = (0, Digest::new(), vec![0; PIPE]);
    while taken < input.bytes {
        match rustix::io::read(pipe, &mut buffer)? {
            0 => return Err(cut_short(taken)),
            n => {
                taken += n as u64;
                digest.update(&buffer[..n]);
            }
        }
    }
    if taken == input.bytes && digest.value() == input.digest {
        Ok(Duration::ZERO)
    } else {
        Err(io::Error::other("the stream that came out is not the one that went in"))
    }
}

fn cut_short(taken: u64) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the stream ended after {taken} bytes"))
}
