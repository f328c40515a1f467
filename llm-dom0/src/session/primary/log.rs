//! The input log of a protected domain, as its primary keeps it.
//!
//! The packet path appends; frames go to the control connection's outbox, which keeps them until the backup has
//! acknowledged them. An acknowledgement lets packets go at once, without a detour over the main thread.

mod batch;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llm_core::flow::{Class, Direction, Packet, Policy, Tracker, VNET_HEADER};
use llm_core::log::{Carry, Cut, Entry, Flags, HEADER, Note, Record, RecordKind};
use llm_core::replication::FIRST_EPOCH;

use self::batch::Batch;
use crate::clock;
use crate::control::LogStatus;
use crate::link::{MAX_PAYLOAD, Outbox};
use crate::net::{Recorder, Releaser, Translations};

/// A frame is closed before it gets longer than this; one more record always fits.
const FRAME: usize = MAX_PAYLOAD / 2;
/// With so many frames on their way, what comes next waits for an acknowledgement and goes in one frame: at most one round
/// trip later, and at a fraction of the cost.
const IN_FLIGHT: usize = 2;
/// Before the first suspension nothing waits for the log: frames of this size do.
const RELAXED: usize = 64 * 1024;
/// Flows whose class is remembered.
const FLOWS: usize = 4096;

/// How much a log may hold between two checkpoints, and on its way to the backup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Bytes; half of it since the last checkpoint asks for the next one.
    pub(crate) bytes: u64,
    /// Records since the last checkpoint that ask for the next one.
    pub(crate) records: u64,
}

/// The log. Shared by the packet path, the control connection's reader and the main thread.
#[derive(Debug)]
pub(crate) struct InputLog {
    budget: Budget,
    /// What a session's log has to begin with. Locked before `inner` where both are.
    translations: Arc<Translations>,
    inner: Mutex<Inner>,
    /// Bytes that the backup has not acknowledged.
    unacknowledged: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    /// Where frames go; none while no session runs.
    session: Option<(u64, Arc<Outbox>)>,
    /// Never used again, from one session to the next either.
    next_lsn: u64,
    epoch: u64,
    /// Output waits for the log.
    awaited: bool,
    /// Records of the frame that is being filled.
    batch: Batch,
    /// Of each frame that is not acknowledged: its sequence, its bytes, and the number behind its last record.
    frames: VecDeque<(u64, u64, u64)>,
    releasers: Vec<Releaser>,
    since_cut: LogStatus,
    total: LogStatus,
}

impl InputLog {
    pub(crate) fn new(budget: Budget, translations: Arc<Translations>) -> Self {
        Self {
            budget,
            translations,
            inner: Mutex::new(Inner {
                session: None,
                next_lsn: 1,
                epoch: FIRST_EPOCH,
                awaited: false,
                batch: Batch::new(false),
                frames: VecDeque::new(),
                releasers: Vec::new(),
                since_cut: LogStatus::default(),
                total: LogStatus::default(),
            }),
            unacknowledged: AtomicU64::new(0),
        }
    }

    /// A session begins whose log goes to `outbox`, packed if the backup can read that.
    pub(crate) fn begin(&self, session: u64, outbox: &Arc<Outbox>, packed: bool) {
        // Held, so that none changes between what is written of it here and by the packet path.
        let translations = self.translations.lock();
        let mut inner = self.lock();
        self.forget(&mut inner);
        inner.session = Some((session, Arc::clone(outbox)));
        inner.batch = Batch::new(packed);
        inner.epoch = FIRST_EPOCH;
        inner.awaited = false;
        inner.since_cut = LogStatus::default();
        self.write(&mut inner, translations.carries());
    }

    /// Connections are translated that were not when the session began.
    pub(crate) fn carry(&self) {
        let translations = self.translations.lock();
        self.write(&mut self.lock(), translations.carries());
    }

    fn write(&self, inner: &mut Inner, carries: impl Iterator<Item = Carry>) {
        for carry in carries {
            let _ = inner.append(RecordKind::Carry, 0, Flags::NONE, carry.as_wire());
            if inner.batch.len() >= FRAME {
                self.send(inner);
            }
        }
    }

    /// Nothing is logged any more, and nothing waits for it, until a session begins.
    pub(crate) fn end(&self) {
        self.forget(&mut self.lock());
    }

    /// Who lets packets go.
    pub(crate) fn add_releaser(&self, releaser: Releaser) {
        self.lock().releasers.push(releaser);
    }

    /// The keeper for the interface of that number.
    pub(crate) fn recorder(self: &Arc<Self>, vif: u16, policy: Policy) -> Box<dyn Recorder> {
        Box::new(VifRecorder {
            log: Arc::clone(self),
            vif,
            tracker: Box::new(Tracker::new(policy)),
            note: Vec::new(),
        })
    }

    /// The backup has all frames of that session before `next_seq`. Of an earlier session it is late, and of no use.
    pub(crate) fn acknowledged(&self, session: u64, next_seq: u64) {
        let mut inner = self.lock();
        let Some((_, outbox)) = inner.session.as_ref().filter(|(current, _)| *current == session) else {
            return;
        };
        if let Some(payload) = outbox.committed(next_seq.saturating_sub(1)) {
            inner.batch.spare(payload);
        }
        let mut limit = None;
        while let Some((_, bytes, end)) = inner.frames.pop_front_if(|(seq, ..)| *seq < next_seq) {
            self.unacknowledged.fetch_sub(bytes, Ordering::SeqCst);
            limit = Some(end);
        }
        let Some(limit) = limit else { return };
        for releaser in &inner.releasers {
            releaser.acknowledge(limit);
        }
        self.flush(&mut inner);
    }

    /// What was sent with a mark below `limit` was sent before the suspension of `epoch`. Epoch 0 is none: while the
    /// first copy runs, it tells what any checkpoint to come will hold.
    pub(crate) fn cut(&self, epoch: u64, limit: u64) {
        let mut inner = self.lock();
        inner.append(RecordKind::Cut, 0, Flags::NONE, Cut::new(epoch, limit).as_wire());
        inner.awaited |= epoch >= FIRST_EPOCH;
        self.send(&mut inner);
        inner.epoch = inner.epoch.max(epoch.saturating_add(1));
        inner.since_cut = LogStatus::default();
    }

    /// It is time for a checkpoint.
    pub(crate) fn is_over_budget(&self) -> bool {
        let inner = self.lock();
        inner.since_cut.bytes > self.budget.bytes / 2 || inner.since_cut.records > self.budget.records
    }

    pub(crate) fn status(&self) -> LogStatus {
        let inner = self.lock();
        LogStatus {
            unacknowledged_bytes: self.unacknowledged.load(Ordering::Relaxed),
            since_checkpoint_bytes: inner.since_cut.bytes,
            ..inner.total
        }
    }

    /// Sends what there is, unless it can wait.
    fn flush(&self, inner: &mut Inner) {
        let can_wait = match inner.awaited {
            true => inner.frames.len() >= IN_FLIGHT && inner.batch.len() < FRAME,
            false => inner.batch.len() < RELAXED,
        };
        if !can_wait {
            self.send(inner);
        }
    }

    fn send(&self, inner: &mut Inner) {
        if inner.batch.is_empty() {
            return;
        }
        let Some((_, outbox)) = &inner.session else { return inner.batch.clear() };
        let (kind, batch) = inner.batch.take();
        let bytes = batch.len() as u64;
        match outbox.data_over(kind, batch) {
            Ok(seq) => {
                let end = inner.next_lsn;
                inner.frames.push_back((seq, bytes, end));
                inner.total.sent_bytes += bytes;
                self.unacknowledged.fetch_add(bytes, Ordering::Relaxed);
            }
            // The session has ended; what comes next begins with a whole checkpoint.
            Err(_) => self.forget(inner),
        }
    }

    fn forget(&self, inner: &mut Inner) {
        inner.session = None;
        inner.batch = Batch::new(false);
        inner.frames.clear();
        self.unacknowledged.store(0, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The number of the new record; none without a session.
    fn append(&mut self, kind: RecordKind, vif: u16, flags: Flags, packet: &[u8]) -> Option<u64> {
        self.session.as_ref()?;
        let entry = Entry { kind, epoch: self.epoch, time: clock::now(), vif, flags, packet };
        let lsn = self.next_lsn;
        // Else it is longer than any packet can be.
        self.batch.append(&Record { lsn, entry }).ok()?;
        self.next_lsn = lsn.saturating_add(1);
        for count in [&mut self.since_cut, &mut self.total] {
            count.records += 1;
            count.bytes += (HEADER + packet.len()) as u64;
        }
        Some(lsn)
    }
}

#[derive(Debug)]
struct VifRecorder {
    log: Arc<InputLog>,
    vif: u16,
    tracker: Box<Tracker<FLOWS>>,
    /// A note and its bytes.
    note: Vec<u8>,
}

impl VifRecorder {
    fn class(&mut self, packet: &[u8], direction: Direction) -> Class {
        let parsed = packet.get(VNET_HEADER..).and_then(Packet::parse);
        parsed.map_or(Class::Llm, |parsed| self.tracker.classify(&parsed, direction))
    }

    fn append(&self, kind: RecordKind, flags: Flags, bytes: &[u8]) -> Option<u64> {
        let mut inner = self.log.lock();
        let lsn = inner.append(kind, self.vif, flags, bytes);
        if inner.batch.len() >= FRAME {
            self.log.send(&mut inner);
        }
        lsn
    }
}

impl Recorder for VifRecorder {
    fn is_full(&self) -> bool {
        self.log.unacknowledged.load(Ordering::SeqCst) > self.log.budget.bytes / 2
    }

    fn input(&mut self, packet: &[u8]) {
        if self.class(packet, Direction::ToGuest) != Class::Remus {
            let _ = self.append(RecordKind::Input, Flags::VNET_HEADER, packet);
        }
    }

    fn waits_for_log(&mut self, packet: &[u8]) -> bool {
        self.class(packet, Direction::FromGuest) != Class::Remus
    }

    fn output(&mut self, packet: &[u8], mark: u64) -> u64 {
        let frame = packet.get(VNET_HEADER..).unwrap_or_default();
        // What cannot be read has no note, and waits for a checkpoint.
        let Some(parsed) = Packet::parse(frame) else { return u64::MAX };
        let note = Note::of(frame, &parsed, parsed.key(Direction::FromGuest), mark);
        let lsn = match self.tracker.classify(&parsed, Direction::FromGuest) {
            Class::LlmBytes => {
                let content = parsed.segment().map_or_else(|| parsed.content(), |s| s.payload_range());
                let note = note.followed_by_bytes();
                self.note.clear();
                self.note.extend_from_slice(note.as_wire());
                self.note.extend_from_slice(frame.get(content).unwrap_or_default());
                self.append(RecordKind::Note, Flags::NONE, &self.note)
            }
            Class::Llm | Class::Remus => self.append(RecordKind::Note, Flags::NONE, note.as_wire()),
        };
        lsn.unwrap_or(u64::MAX)
    }

    fn carry(&mut self, carry: &Carry) {
        let _ = self.append(RecordKind::Carry, Flags::NONE, carry.as_wire());
    }

    fn flush(&mut self) {
        let mut inner = self.log.lock();
        self.log.flush(&mut inner);
    }
}

#[cfg(test)]
mod tests;
