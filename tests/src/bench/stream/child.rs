//! One end of the link, as a process: from its input to its output, one of which is the connection and the other a pipe.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use llm_core::frame::Method;
use llm_dom0::checkpoint::second::Compress;
use llm_dom0::control::SecondStageStatus;
use llm_dom0::session::relay::{Limits, Sent, receive, send};
use rustix::pipe::{SpliceFlags, splice};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What the process is.
    pub end: End,
    /// Pages of which a copy is kept.
    pub shadow_pages: u32,
    /// Bytes that may wait between two threads.
    pub buffer: u64,
    /// What is compressed while it waits for the connection.
    pub compress: CompressWith,
}

/// As `llm protect --compress` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CompressWith {
    /// Nothing.
    None,
    /// By LZ4.
    Lz4,
    /// By zstd.
    Zstd,
    /// As it pays.
    Auto,
}

impl CompressWith {
    /// As it is said.
    pub(in crate::bench) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Auto => "auto",
        }
    }

    const fn choice(self) -> Compress {
        match self {
            Self::None => Compress::Never,
            Self::Lz4 => Compress::By(Method::Lz4),
            Self::Zstd => Compress::By(Method::Zstd),
            Self::Auto => Compress::Auto,
        }
    }
}

/// What carries the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum End {
    /// What `llm protect` does between its pipe and its connection.
    Primary,
    /// What `llm backup` does between its connection and its pipe.
    Backup,
    /// Reads and writes, as a transport for stock `xl remus` does at either end.
    Copy,
    /// Splices: the kernel does not copy into a process.
    Splice,
}

/// What a process says when it is done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::bench) struct Report {
    /// Seconds of processor time since it was ready.
    pub(in crate::bench) cpu: f64,
    /// Of these, seconds of threads by their name.
    pub(in crate::bench) threads: BTreeMap<String, f64>,
    pub(in crate::bench) peak_rss_bytes: u64,
    /// Of a primary: seconds from the end of each epoch to its commit.
    pub(in crate::bench) commits: Vec<f64>,
    /// Of a primary: what was compressed.
    pub(in crate::bench) second_stage: SecondStageStatus,
}

/// What a process says when it can begin.
pub(super) const READY: &str = "ready";

/// Bytes of one read or splice.
const PIECE: usize = 1 << 20;

/// Says that it is ready, carries the stream to its end, and says what that took, on its third descriptor.
///
/// # Errors
/// The stream broke.
pub fn run(args: &Args) -> io::Result<()> {
    let from = io::stdin().as_fd().try_clone_to_owned()?;
    let to = io::stdout().as_fd().try_clone_to_owned()?;
    let limits =
        Limits { shadow_pages: args.shadow_pages, buffer: args.buffer, compress: args.compress.choice() };
    let before = process_time();
    eprintln!("{READY}");
    let mut sent = Sent::default();
    let usages = match args.end {
        End::Primary => {
            sent = send(from, TcpStream::from(to), &limits).map_err(io::Error::other)?;
            std::mem::take(&mut sent.threads)
        }
        End::Backup => receive(TcpStream::from(from), File::from(to), &limits).map_err(io::Error::other)?,
        End::Copy => copy(from, to).map(|()| Vec::new())?,
        End::Splice => spliced(&from, &to).map(|()| Vec::new())?,
    };
    let report = Report {
        cpu: process_time().saturating_sub(before).as_secs_f64(),
        threads: usages.iter().map(|usage| (usage.thread.to_owned(), usage.cpu.as_secs_f64())).collect(),
        peak_rss_bytes: peak_rss(),
        commits: sent.commits.iter().map(Duration::as_secs_f64).collect(),
        second_stage: sent.second_stage,
    };
    eprintln!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn copy(from: OwnedFd, to: OwnedFd) -> io::Result<()> {
    let (mut from, mut to, mut buffer) = (File::from(from), File::from(to), vec![0; PIECE]);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

/// One of the two must be a pipe.
pub(super) fn spliced(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    while splice(from, None, to, None, PIECE, SpliceFlags::empty())? > 0 {}
    Ok(())
}

fn process_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
