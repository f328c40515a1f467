//! The input log of a protected domain, as its primary keeps it.
//!
//! The packet path appends; frames go to the control connection's outbox, which keeps them until the backup has
//! acknowledged them. An acknowledgement lets packets go at once, without a detour over the main thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llm_core::flow::{Class, Direction, Packet, Policy, Tracker, VNET_HEADER};
use llm_core::frame::Kind;
use llm_core::log::{Carry, Cut, Entry, Flags, HEADER, LogWriter, Note, Packer, Record, RecordKind, SEAL};
use llm_core::replication::FIRST_EPOCH;

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
    batch: Vec<u8>,
    /// Of this session, if its records go packed.
    packer: Option<Box<Packer>>,
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
                batch: Vec::new(),
                packer: None,
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
        inner.packer = packed.then(Box::default);
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
        outbox.committed(next_seq.saturating_sub(1));
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
        let mut batch = std::mem::take(&mut inner.batch);
        let kind = match &inner.packer {
            None => Kind::LOG,
            Some(packer) => {
                let from = batch.len();
                batch.resize(from + SEAL, 0);
                let sealed = packer.seal(batch.get_mut(from..).unwrap_or_default());
                debug_assert_eq!(sealed, Ok(SEAL));
                Kind::PACKED_LOG
            }
        };
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
        inner.packer = None;
        inner.batch.clear();
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
        let (lsn, from) = (self.next_lsn, self.batch.len());
        // Most that it takes; a packed record tells how little that was.
        let room = match self.packer {
            Some(_) => Packer::room(packet.len()),
            None => HEADER + packet.len(),
        };
        self.batch.resize(from + room, 0);
        let out = self.batch.get_mut(from..)?;
        let written = match &mut self.packer {
            Some(packer) => packer.pack(&Record { lsn, entry }, out),
            None => LogWriter::new(out, lsn).append(&entry).map(|_| room),
        };
        // Else it is longer than any packet can be.
        self.batch.truncate(from + written.unwrap_or(0));
        written.ok()?;
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
mod tests {
    use super::*;
    use crate::link::Outgoing;
    use llm_core::flow::{FlowKey, NO_VLAN, TCP, Translation};
    use llm_core::log::{Unpacked, Unpacker, records};
    use llm_core::replay::Handed;

    fn log() -> (Arc<InputLog>, Arc<Outbox>, u64) {
        let outbox = Arc::new(Outbox::new(1 << 20));
        let log = Arc::new(InputLog::new(Budget { bytes: 4096, records: 10 }, Arc::default()));
        log.begin(7, &outbox, false);
        let generation = outbox.connect(None);
        assert!(outbox.resume(1));
        (log, outbox, generation)
    }

    fn lsns(frame: Option<Outgoing>) -> Vec<u64> {
        let Some(Outgoing::Data(frame)) = frame else { panic!("a frame is due") };
        assert_eq!(frame.kind, Kind::LOG);
        records(&frame.payload, None).map(|r| r.expect("a sound record").lsn).collect()
    }

    #[test]
    fn records_go_out_in_frames_and_are_acknowledged_by_frame() {
        let (log, outbox, generation) = log();
        log.cut(1, 0);
        assert_eq!(lsns(outbox.next(generation)), [1]);
        log.acknowledged(7, 2);
        let mut recorder = log.recorder(0, Policy::default());
        recorder.input(&[0; 60]);
        recorder.input(&[1; 60]);
        recorder.flush();
        recorder.input(&[2; 60]);
        recorder.flush();
        recorder.flush();
        assert_eq!(lsns(outbox.next(generation)), [2, 3]);
        assert_eq!(lsns(outbox.next(generation)), [4]);
        assert_eq!(log.status().unacknowledged_bytes, 3 * (HEADER as u64 + 60));
        log.acknowledged(7, 3);
        assert_eq!(log.status().unacknowledged_bytes, HEADER as u64 + 60);
        log.acknowledged(6, 4);
        assert_eq!(log.status().unacknowledged_bytes, HEADER as u64 + 60);
        log.acknowledged(7, 4);
        assert_eq!(log.status().unacknowledged_bytes, 0);
        assert_eq!(outbox.fill().frames, 0);
    }

    #[test]
    fn packed_frames_end_with_a_seal_and_begin_anew_with_a_session() {
        let (log, ..) = log();
        for session in [8, 9] {
            let outbox = Arc::new(Outbox::new(1 << 20));
            log.begin(session, &outbox, true);
            let generation = outbox.connect(None);
            assert!(outbox.resume(1));
            log.cut(1, 0);
            let mut recorder = log.recorder(0, Policy::default());
            let mut packet = [0; 80];
            for n in 0..3 {
                packet[70] = n;
                recorder.input(&packet);
            }
            // Neither is remembered.
            recorder.input(&[1; 60]);
            recorder.input(&[2; 4000]);
            log.cut(2, 9);
            let (mut unpacker, mut seals, mut found) = (Box::new(Unpacker::new()), 0, Vec::new());
            let mut bytes = 0;
            while outbox.fill().unsent > 0 {
                let Some(Outgoing::Data(frame)) = outbox.next(generation) else { panic!("a frame is due") };
                assert_eq!(frame.kind, Kind::PACKED_LOG);
                let mut rest = &frame.payload[..];
                bytes += rest.len();
                while let Some(taken) = unpacker.take(&mut rest).expect("sound") {
                    match taken {
                        Unpacked::Record(record) => {
                            found.push((record.entry.kind, record.entry.packet.len()));
                        }
                        Unpacked::Seal => seals += usize::from(rest.is_empty()),
                    }
                }
            }
            let input = |len| (RecordKind::Input, len);
            let cut = (RecordKind::Cut, 16);
            assert_eq!(found, [cut, input(80), input(80), input(80), input(60), input(4000), cut]);
            assert_eq!(seals, 2, "one for each frame");
            assert_eq!(log.status().unacknowledged_bytes, bytes as u64);
            assert_eq!(log.status().sent_bytes, bytes as u64 * (session - 7));
            let (wholes, differences) = (5 * (HEADER + 2), 2 * 13);
            assert_eq!(bytes, 4000 + 60 + 80 + 2 * 16 + wholes + differences + 2 * SEAL);
        }
    }

    #[test]
    fn where_the_policy_asks_for_it_the_bytes_follow_their_note() {
        use llm_core::flow::Rule;
        use llm_core::flow::build::{self, BUILT_MAX, Link, Says};
        let (log, outbox, generation) = log();
        log.cut(1, 0);
        assert_eq!(lsns(outbox.next(generation)), [1]);
        let rule = Rule { protocol: None, port: None, class: Class::LlmBytes };
        let mut recorder = log.recorder(0, Policy::new(&[rule]).expect("few"));
        let key = FlowKey::new(6, TCP, NO_VLAN, ([1; 16], 80), ([2; 16], 4000));
        let mut packet = vec![0; BUILT_MAX];
        let says = Says { flags: llm_core::flow::flags::ACK, ..Says::default() };
        let len =
            build::segment(&mut packet, &Link::default(), &key, Direction::FromGuest, &says).expect("room");
        packet.truncate(len);
        packet.extend_from_slice(b"reply");
        // Behind the Ethernet header: the length of what follows the IPv6 header.
        packet[VNET_HEADER + 18..VNET_HEADER + 20].copy_from_slice(&25_u16.to_be_bytes());
        assert!(recorder.waits_for_log(&packet));
        assert_eq!(recorder.output(&packet, 7), 2);
        recorder.flush();
        let Some(Outgoing::Data(frame)) = outbox.next(generation) else { panic!("a frame is due") };
        let record = records(&frame.payload, None).next().expect("one").expect("sound");
        let note = Note::parse(record.entry.packet).expect("a note");
        assert_eq!(note.bytes(record.entry.packet), Some(&b"reply"[..]));
    }

    #[test]
    fn with_two_frames_on_their_way_the_rest_goes_together() {
        let (log, outbox, generation) = log();
        log.cut(1, 0);
        let frames = || lsns(outbox.next(generation));
        assert_eq!(frames(), [1]);
        log.acknowledged(7, 2);
        let mut recorder = log.recorder(0, Policy::default());
        for _ in 0..5 {
            recorder.input(&[0; 60]);
            recorder.flush();
        }
        assert_eq!((frames(), frames()), (vec![2], vec![3]));
        assert_eq!(outbox.fill().unsent, 0, "records 4 to 6 wait");
        log.acknowledged(7, 3);
        assert_eq!(frames(), [4, 5, 6]);
    }

    #[test]
    fn before_the_first_suspension_frames_are_large() {
        let (log, outbox, generation) = log();
        let mut recorder = log.recorder(0, Policy::default());
        for _ in 0..3 {
            recorder.input(&[0; 60]);
            recorder.flush();
        }
        assert_eq!(outbox.fill().frames, 0);
        log.cut(0, 9);
        assert_eq!(lsns(outbox.next(generation)), [1, 2, 3, 4]);
    }

    #[test]
    fn what_piles_up_stops_the_input_and_asks_for_a_checkpoint() {
        let (log, _, _) = log();
        let mut recorder = log.recorder(0, Policy::default());
        assert!(!recorder.is_full() && !log.is_over_budget());
        log.cut(1, 0);
        recorder.input(&[0; 2100]);
        recorder.flush();
        assert!(recorder.is_full() && log.is_over_budget());
        log.cut(2, 5);
        assert!(recorder.is_full() && !log.is_over_budget());
        for _ in 0..11 {
            recorder.input(&[0; 20]);
        }
        assert!(log.is_over_budget(), "by number");
        log.end();
        assert!(!recorder.is_full(), "what no backup waits for stops no input");
    }

    #[test]
    fn each_session_begins_with_what_is_translated() {
        let (log, outbox, generation) = log();
        let key = FlowKey::new(6, TCP, NO_VLAN, ([1; 16], 80), ([2; 16], 4000));
        let translation = Translation { seq: 5, timestamp: 6 };
        log.translations.take(&[Handed { key, translation, opened: None, closed: false }]);
        log.carry();
        log.cut(0, 9);
        let carry = Carry::new(key, translation);
        let carries = |frame| {
            let Some(Outgoing::Data(frame)) = frame else { panic!("a frame is due") };
            let all = records(&frame.payload, None).map(|record| record.expect("a sound record").entry);
            all.filter(|entry| entry.kind == RecordKind::Carry && entry.packet == carry.as_wire()).count()
        };
        assert_eq!(carries(outbox.next(generation)), 1);
        let outbox = Arc::new(Outbox::new(1 << 20));
        log.begin(8, &outbox, false);
        let generation = outbox.connect(None);
        assert!(outbox.resume(1));
        log.cut(0, 9);
        assert_eq!(carries(outbox.next(generation)), 1, "the new backup knows nothing yet");
    }

    #[test]
    fn numbers_go_on_from_session_to_session() {
        let (log, _, _) = log();
        let mut recorder = log.recorder(0, Policy::default());
        recorder.input(&[0; 60]);
        let outbox = Arc::new(Outbox::new(1 << 20));
        log.begin(8, &outbox, false);
        let generation = outbox.connect(None);
        assert!(outbox.resume(1));
        log.cut(1, 0);
        assert_eq!(lsns(outbox.next(generation)), [2]);
        outbox.close();
        recorder.input(&[0; 60]);
        recorder.flush();
        assert_eq!(recorder.output(&[0; 80], 3), u64::MAX, "without a session nothing is logged");
    }
}
