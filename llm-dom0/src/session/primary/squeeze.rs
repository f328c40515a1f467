//! The thread that compresses batches while they wait for the link.
//!
//! It works on what the outbox has not begun to write and is far enough from that, and lets go of what comes too late. It has the
//! lowest priority: what encodes, writes or talks goes first.

use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use llm_core::frame::{BATCH_LEN, BATCHES_MAX, CONTENT_MAX, Kind};
use rustix::time::{ClockId, clock_gettime};

use crate::checkpoint::second::pack::Packer;
use crate::checkpoint::second::rule::{Plan, Rule};
use crate::checkpoint::second::{Compress, Level};
use crate::control::SecondStageStatus;
use crate::link::{Found, Outbox, Wanted};

/// Bytes that the kernel may hold back for a connection: what it has cannot be compressed any more. At 10 Gb/s they
/// last for 100 us, in which the writer is woken.
const IN_KERNEL: u32 = 128 << 10;
/// Fewer bytes are not worth a look.
const LEAST: u64 = 16 << 10;
/// Bytes of a run that compress about as well as more of them; a shorter run waits for more as long as it can.
const WISH: usize = 64 << 10;
/// How long to wait for more.
const SOON: Duration = Duration::from_micros(500);
/// How long to wait for the link's rate to be known.
const UNKNOWN: Duration = Duration::from_millis(2);
/// How long to let it be when nothing pays.
const NOT_NOW: Duration = Duration::from_millis(20);

/// What a session's second stage has done so far.
#[derive(Debug, Default)]
pub(crate) struct SecondStage(Mutex<SecondStageStatus>);

impl SecondStage {
    /// What it has done.
    pub(crate) fn status(&self) -> SecondStageStatus {
        self.lock().clone()
    }

    /// Puts the totals into the log.
    pub(crate) fn log(&self) {
        let status = self.status();
        if status.frames + status.in_vain > 0 {
            let SecondStageStatus { method, frames, bytes_before, bytes_after, in_vain, cpu_ms } = status;
            tracing::info!(
                method,
                frames,
                bytes_before,
                bytes_after,
                in_vain,
                cpu_ms,
                "compressed while waiting"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, SecondStageStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets batches wait in the outbox, where they can be compressed, and not in the kernel.
pub(crate) fn tune(choice: Compress, stream: &TcpStream) {
    if choice != Compress::Never
        && let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(IN_KERNEL)
    {
        tracing::debug!(%error, "the kernel takes all that there is to send: little will be compressed");
    }
}

/// Starts the thread, which ends when the outbox is closed. Without a method that both ends have, nothing is started.
///
/// # Errors
/// The system refuses a thread or memory.
pub(crate) fn start(
    choice: Compress,
    features: u64,
    bulk: &Arc<Outbox>,
    stage: &Arc<SecondStage>,
) -> io::Result<()> {
    let rule = Rule::new(choice, features);
    if !rule.may() {
        return Ok(());
    }
    stage.lock().method = "waiting".into();
    bulk.measure();
    let squeezer =
        Squeezer { rule, packer: Packer::new()?, bulk: Arc::clone(bulk), stage: Arc::clone(stage), from: 0 };
    thread::Builder::new().name("squeeze".into()).spawn(move || squeezer.run()).map(drop)
}

struct Squeezer {
    rule: Rule,
    packer: Packer,
    bulk: Arc<Outbox>,
    stage: Arc<SecondStage>,
    /// Frames before this one were looked at.
    from: u64,
}

impl Squeezer {
    fn run(mut self) {
        // Of the thread alone. If it fails, the rule still sees how long everything takes.
        let _ = rustix::process::setpriority_process(None, 19);
        let mut wait = (LEAST, None);
        while self.bulk.wait_for_backlog(wait.0, wait.1) {
            let Some(link) = self.bulk.backlog().1 else {
                thread::sleep(UNKNOWN);
                continue;
            };
            let Some(plan) = self.rule.plan(link) else {
                self.stage.lock().method = "none".into();
                thread::sleep(NOT_NOW);
                wait = (LEAST, None);
                continue;
            };
            wait = match self.squeeze(plan, link) {
                Step::Done => (0, None),
                Step::Soon => (u64::MAX, Some(SOON)),
                Step::Later(bytes) => (bytes.max(LEAST), None),
                Step::Closed => return,
            };
        }
    }

    /// Compresses the next run, if there is one.
    fn squeeze(&mut self, Plan { level, lead }: Plan, link: f64) -> Step {
        let wanted = Wanted {
            kind: Kind::BATCH,
            from: self.from,
            frames: usize::from(BATCHES_MAX),
            bytes: CONTENT_MAX - usize::from(BATCHES_MAX) * BATCH_LEN,
            ahead: lead.fixed,
            ahead_each: lead.each,
        };
        let run = match self.bulk.find(&wanted) {
            Found::Run(run) => run,
            Found::Later(bytes) => return Step::Later(bytes),
            Found::Closed => return Step::Closed,
        };
        let spare = run.ahead as f64 - lead.fixed - lead.each * run.bytes as f64;
        if run.last && run.bytes < WISH && spare > 2.0 * SOON.as_secs_f64() * link {
            return Step::Soon;
        }
        let begun = (Instant::now(), thread_time());
        let packed = self.packer.pack(level, run.payloads.iter().map(|payload| payload.as_slice()));
        let (took, cpu) = (begun.0.elapsed(), thread_time().saturating_sub(begun.1));
        let len = packed.as_ref().map_or(run.bytes, Vec::len);
        self.rule.sample(level, run.bytes, len, took.as_secs_f64());
        self.from = run.first + run.payloads.len() as u64;
        let done = packed.is_some_and(|payload| self.bulk.replace(&run, Kind::COMPRESSED, payload));
        self.count(level, done.then_some((run.bytes, len)), cpu);
        Step::Done
    }

    fn count(&self, level: Level, done: Option<(usize, usize)>, cpu: Duration) {
        let mut status = self.stage.lock();
        status.cpu_ms += cpu.as_secs_f64() * 1e3;
        let Some((before, after)) = done else {
            status.in_vain += 1;
            return;
        };
        level.name().clone_into(&mut status.method);
        status.frames += 1;
        status.bytes_before += before as u64;
        status.bytes_after += after as u64;
    }
}

/// What comes next.
enum Step {
    Done,
    /// Not enough is ahead, but more is to come.
    Soon,
    Later(u64),
    Closed,
}

fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
