//! The thread that compresses batches while they wait for the link.
//!
//! It works on what the outbox has not begun to write and is far enough from that, and lets go of what comes too late. It compresses on
//! processor time that nothing else wants: what encodes, writes or talks goes first.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use llm_core::frame::{BATCH_LEN, BATCHES_MAX, CONTENT_MAX, Kind};
use rustix::time::{ClockId, clock_gettime};

use crate::checkpoint::second::pack::Packer;
use crate::checkpoint::second::rule::{Plan, Rule};
use crate::checkpoint::second::{Compress, Level};
use crate::control::SecondStageStatus;
use crate::idle::while_idle;
use crate::link::{Found, Outbox, Wanted};

/// Bytes that the kernel may hold back of a connection, at least and at most: what it has cannot be compressed any more. It wakes the
/// writer when half of them are left; the most last for 100 us at 10 Gb/s.
const IN_KERNEL: [u32; 2] = [16 << 10, 128 << 10];
/// Seconds for which it may hold back between these bounds.
const IN_KERNEL_FOR: f64 = 4e-3;
/// Fewer bytes are not worth a look.
const LEAST: u64 = 16 << 10;
/// Bytes of a run that compress about as well as more of them; a shorter run waits for more as long as it can.
const WISH: usize = 64 << 10;
/// How long to wait for more.
const SOON: Duration = Duration::from_micros(500);
/// How long to wait for the link's rate to be known.
const UNKNOWN: Duration = Duration::from_millis(2);
/// How long to let it be when nothing pays.
const NOT_NOW: Duration = Duration::from_millis(1);

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
    let in_kernel = IN_KERNEL[1];
    bulk.keep_short(in_kernel);
    let (packer, bulk, stage) = (Packer::new()?, Arc::clone(bulk), Arc::clone(stage));
    let squeezer = Squeezer { rule, packer, bulk, stage, from: 0, in_kernel };
    thread::Builder::new().name("squeeze".into()).spawn(move || squeezer.run()).map(drop)
}

struct Squeezer {
    rule: Rule,
    packer: Packer,
    bulk: Arc<Outbox>,
    stage: Arc<SecondStage>,
    /// Frames before this one were looked at.
    from: u64,
    /// Bytes that the kernel may hold back.
    in_kernel: u32,
}

impl Squeezer {
    fn run(mut self) {
        // Of the thread alone, as for the encoder's.
        let _ = rustix::process::setpriority_process(None, 0);
        let mut wait = (LEAST, 0, None);
        while self.bulk.wait_for_backlog(wait.0, wait.1, wait.2) {
            let Some(link) = self.bulk.backlog().1 else {
                thread::sleep(UNKNOWN);
                continue;
            };
            self.keep_short(link);
            let Some(plan) = self.rule.plan(link) else {
                self.stage.lock().method = "none".into();
                self.rule.calm();
                thread::sleep(NOT_NOW);
                wait = (LEAST, 0, None);
                continue;
            };
            let step = self.squeeze(plan, link);
            if !matches!(step, Step::Done) {
                self.rule.calm();
            }
            wait = match step {
                Step::Done => (0, 0, None),
                Step::Soon => (u64::MAX, 0, Some(SOON)),
                // A frame that comes will have enough ahead of it if this much waits.
                Step::Nothing(behind) => {
                    (LEAST + (plan.lead.fixed + plan.lead.each * LEAST as f64) as u64, behind, None)
                }
                Step::Closed => return,
            };
        }
    }

    /// Leaves the kernel no more than it needs to keep a link of that rate busy.
    fn keep_short(&mut self, link: f64) {
        let wanted = (link * IN_KERNEL_FOR) as u32;
        let wanted = wanted.clamp(IN_KERNEL[0], IN_KERNEL[1]);
        if wanted.abs_diff(self.in_kernel) > self.in_kernel / 4 {
            self.in_kernel = wanted;
            self.bulk.keep_short(wanted);
        }
    }

    /// Compresses the next run, if there is one.
    fn squeeze(&mut self, Plan { level, lead, probe }: Plan, link: f64) -> Step {
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
            Found::Nothing(behind) => return Step::Nothing(behind),
            Found::Closed => return Step::Closed,
        };
        let spare = run.ahead as f64 - lead.fixed - lead.each * run.bytes as f64;
        if run.last && run.bytes < WISH && spare > 2.0 * SOON.as_secs_f64() * link {
            return Step::Soon;
        }
        let begun = (Instant::now(), thread_time());
        let payloads = run.payloads.iter().map(|payload| payload.as_slice());
        let packed = while_idle(|| self.packer.pack(level, payloads));
        let (took, cpu) = (begun.0.elapsed(), thread_time().saturating_sub(begun.1));
        let len = packed.as_ref().map_or(run.bytes, Vec::len);
        self.rule.sample(level, run.bytes, len, cpu.as_secs_f64(), took.as_secs_f64());
        self.from = run.first + run.payloads.len() as u64;
        let done = packed.is_some_and(|payload| self.bulk.replace(&run, Kind::COMPRESSED, payload));
        self.count((!probe).then_some(level), done.then_some((run.bytes, len)), cpu);
        Step::Done
    }

    fn count(&self, level: Option<Level>, done: Option<(usize, usize)>, cpu: Duration) {
        let mut status = self.stage.lock();
        status.cpu_ms += cpu.as_secs_f64() * 1e3;
        let Some((before, after)) = done else {
            status.in_vain += 1;
            return;
        };
        if let Some(level) = level {
            level.name().clone_into(&mut status.method);
        }
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
    /// Nothing up to the frame of this sequence.
    Nothing(u64),
    Closed,
}

fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
