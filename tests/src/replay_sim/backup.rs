//! The backup's driver: it follows, takes over, replays, and translates.

use super::check::{Copy, Rule};
use super::guest::{Bytes, Guest, Step};
use super::pipe::Message;
use super::plan::Moment;
use super::primary::Snapshot;
use super::world::{Event, Link, World};
use super::{MS, Nanos};
use crate::sim::Rng;
use llm_core::flow::build::BUILT_MAX;
use llm_core::log::{Cursor, Cut, Entry, Flags, MAX_PACKET, Record, RecordKind};
use llm_core::replay::{self, Action, LogSource, Phase, Replay, Retention, Verdict};
use llm_core::time::{Duration, Instant};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

const FLOWS: usize = 64;

#[derive(Clone, Debug)]
struct Stored {
    kind: RecordKind,
    epoch: u64,
    flags: Flags,
    packet: Bytes,
}

/// The log as the backup holds it.
#[derive(Debug, Default)]
pub(super) struct Store(BTreeMap<u64, Stored>);

impl LogSource for Store {
    fn record(&self, lsn: u64) -> Option<Record<'_>> {
        let Stored { kind, epoch, flags, packet } = self.0.get(&lsn)?;
        let entry = Entry { kind: *kind, epoch: *epoch, time: Instant::ZERO, vif: 0, flags: *flags, packet };
        Some(Record { lsn, entry })
    }
}

impl Store {
    fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.0.keys().filter_map(|lsn| self.record(*lsn))
    }
}

pub(super) struct Restored {
    pub(super) guest: Guest,
    pub(super) ring: Vec<Bytes>,
    pub(super) replay: Box<Replay<FLOWS>>,
    /// What the guest's clock is behind.
    pub(super) behind: Nanos,
}

pub(super) struct Backup {
    store: Store,
    cursor: Cursor,
    retention: Box<Retention<FLOWS>>,
    pub(super) have: u64,
    cuts: HashMap<u64, (u64, u64)>,
    /// Epochs of which pieces have come, and how many.
    coming: BTreeMap<u64, (Rc<Snapshot>, u64, u64)>,
    committed: Rc<Snapshot>,
    heard: Nanos,
    pub(super) dead: bool,
    pub(super) taken_over: bool,
    pub(super) restored: Option<Restored>,
}

impl Backup {
    pub(super) fn new() -> Self {
        let empty = Snapshot { epoch: 0, steps: 0, clock: 0, acks: HashMap::new() };
        Self {
            store: Store::default(),
            cursor: Cursor::new(Some(1)),
            retention: Box::new(Retention::new()),
            have: 0,
            cuts: HashMap::new(),
            coming: BTreeMap::new(),
            committed: Rc::new(empty),
            heard: 0,
            dead: false,
            taken_over: false,
            restored: None,
        }
    }

    /// It holds a first copy.
    pub(super) fn begin(&mut self, committed: Rc<Snapshot>, now: Nanos) {
        (self.committed, self.heard) = (committed, now);
    }

    pub(super) fn is_live(&self) -> bool {
        self.restored.as_ref().is_some_and(|restored| restored.replay.phase() == Phase::Live)
    }
}

impl World {
    pub(super) fn on_log(&mut self, records: &[u8], sent: Nanos) {
        if self.backup.taken_over {
            self.send(Link::Back, Message::Stop);
            return;
        }
        let backup = &mut self.backup;
        backup.heard = self.now;
        let mut rest = records;
        while let Some(record) = backup.cursor.take(&mut rest).expect("the log is whole") {
            let Entry { kind, epoch, flags, packet, .. } = record.entry;
            if kind == RecordKind::Cut {
                let cut = Cut::parse(packet).expect("a cut");
                backup.cuts.insert(cut.epoch(), (record.lsn, cut.limit()));
            }
            backup.store.0.insert(record.lsn, Stored { kind, epoch, flags, packet: packet.into() });
            backup.have = record.lsn;
        }
        let have = backup.have;
        self.send(Link::Back, Message::Ack { have, echo: sent });
        self.commit();
        self.at(self.now + self.plan.detect, Event::Silence);
    }

    pub(super) fn on_piece(&mut self, snapshot: Rc<Snapshot>, index: u64, of: u64) {
        if self.backup.taken_over {
            return;
        }
        let coming = self.backup.coming.entry(snapshot.epoch).or_insert((snapshot, 0, of));
        if coming.1 != index {
            self.check.fail(Rule::WholeEpochs, format!("piece {index} where {} was due", coming.1));
        }
        coming.1 += 1;
        self.commit();
        self.moment(Moment::Piece);
    }

    /// Commits the epoch that is whole, if its cut is in the log.
    fn commit(&mut self) {
        let backup = &mut self.backup;
        let Some((&epoch, (snapshot, came, of))) = backup.coming.first_key_value() else { return };
        let Some(&(lsn, limit)) = backup.cuts.get(&epoch).filter(|_| came == of) else { return };
        let snapshot = Rc::clone(snapshot);
        self.check.committed(epoch, *came, *of);
        backup.coming.remove(&epoch);
        let cut = Cut::new(epoch, limit);
        for record in backup.store.iter() {
            backup.retention.fold(&record, &cut, lsn);
        }
        backup.retention.settle(lsn, false);
        let delivered = self.options.drop_delivered;
        let goes: Vec<u64> = backup
            .store
            .iter()
            .filter(|record| {
                let input = delivered && record.entry.kind == RecordKind::Input;
                if input { record.lsn < lsn } else { !backup.retention.keeps(record, &cut) }
            })
            .map(|record| record.lsn)
            .collect();
        for lsn in goes {
            let gone = backup.store.0.remove(&lsn).expect("it is there");
            if gone.kind == RecordKind::Input {
                self.check.dropped(lsn, &gone.packet, &snapshot, self.primary.taken.get(&lsn).copied());
            }
        }
        backup.committed = snapshot;
        self.trace(|| format!("epoch {epoch} committed"));
        self.send(Link::Back, Message::Committed(epoch));
        self.moment(Moment::Committed);
    }

    /// Nothing was heard for some time.
    pub(super) fn silence(&mut self) {
        let backup = &mut self.backup;
        if backup.dead || backup.taken_over || self.now < backup.heard + self.plan.detect {
            return;
        }
        backup.taken_over = true;
        self.check.taken_over();
        self.trace(|| "take-over".into());
        let ready = self.now + self.rng.range(5 * MS, 80 * MS);
        self.at(ready, Event::Restore);
    }

    pub(super) fn restore(&mut self) {
        let now = Instant::from_nanos(self.now);
        let backup = &mut self.backup;
        self.check.restored(backup.committed.epoch, self.primary.guest.stack.nic.dropped.0);
        let steps = &self.primary.guest.steps[..backup.committed.steps];
        let mut guest = Guest::restore(self.plan.build, steps);
        guest.service.random = Rng::new(self.rng.next());
        let config = replay::Config {
            // smoltcp answers what is out of the window once a second where Linux does twice, and its shortest
            // time until it sends again is a second.
            stall: Duration::from_millis(2500),
            total: Duration::from_secs(20),
            on_divergence: self.plan.policy,
            faults: self.options.faults,
            ..replay::Config::default()
        };
        let mut replay = Box::new(Replay::new(config, now));
        for (key, base) in backup.retention.flows() {
            replay.base(key, base);
        }
        for record in backup.store.iter() {
            replay.prepare(&record);
        }
        replay.start(now);
        let behind = self.now - backup.committed.clock;
        let (epoch, done) = (backup.committed.epoch, guest.service.done.len());
        backup.restored = Some(Restored { guest, ring: Vec::new(), replay, behind });
        self.trace(|| format!("restored from epoch {epoch}, {done} requests done"));
        self.wake_guest(Copy::Restored, self.now);
        self.pump();
        self.at(self.now + 20 * MS, Event::ReplayTick);
    }

    pub(super) fn replay_tick(&mut self) {
        let Some(restored) = &mut self.backup.restored else { return };
        let now = Instant::from_nanos(self.now);
        restored.replay.forget(now);
        if let Some(at) = restored.replay.poll_timeout(now) {
            self.at(at.as_nanos().max(self.now + MS), Event::ReplayTick);
        }
        self.pump();
    }

    /// Does what the replay asks for.
    fn pump(&mut self) {
        let now = Instant::from_nanos(self.now);
        let mut buf = std::mem::take(&mut self.buf);
        buf.resize(MAX_PACKET + 16, 0);
        while let Some(restored) = &mut self.backup.restored {
            match restored.replay.poll(&self.backup.store, &mut buf, now) {
                None => break,
                Some(Action::ToGuest(len)) => {
                    restored.ring.push(buf[..len].into());
                    self.trace(|| format!("replayed: {}", super::describe(&buf[..len])));
                    let at = self.now + self.rng.range(0, self.plan.ring);
                    self.wake_guest(Copy::Restored, at);
                }
                Some(Action::ToPeers(len)) => {
                    self.trace(|| format!("reset: {}", super::describe(&buf[..len])));
                    self.check.leaves(Copy::Restored, &buf[..len]);
                    self.send_to_client(buf[..len].to_vec());
                }
                Some(Action::GoLive) => {
                    let report = restored.replay.report().clone();
                    let different = report.services.iter().map(|service| service.different).sum();
                    self.check.summary.carried += u64::from(report.carried);
                    self.check.summary.compared += report.services.iter().map(|s| s.identical).sum::<u64>();
                    self.check.summary.stalls += report.stalls;
                    self.trace(|| format!("live: {report:?}"));
                    let unknown = report.services.iter().map(|service| service.unknown).sum();
                    self.check.live(different, unknown);
                    self.live_again();
                }
                Some(Action::Event(event)) => {
                    self.trace(|| format!("{event:?}"));
                    match event {
                        replay::Event::Diverged(d) => self.check.diverged(d.key, d.from, d.to),
                        replay::Event::Reset { key, cause } => self.check.gave_up(key, cause),
                        _ => {}
                    }
                }
            }
        }
        self.buf = buf;
    }

    pub(super) fn run_restored_guest(&mut self) {
        let Some(restored) = &mut self.backup.restored else { return };
        let clock = self.now - restored.behind;
        let ring = std::mem::take(&mut restored.ring);
        let sent = restored.guest.step(Step { clock, ring });
        let wake = restored.guest.wake_at(clock).map(|at| at + restored.behind);
        let now = Instant::from_nanos(self.now);
        for mut packet in sent {
            self.trace(|| format!("restored guest: {}", super::describe(&packet)));
            let Some(restored) = &mut self.backup.restored else { return };
            let mut answer = [0; BUILT_MAX];
            match restored.replay.from_guest(&self.backup.store, &mut packet, &mut answer, now) {
                Verdict::Drop => {}
                Verdict::Answer(len) => {
                    restored.ring.push(answer[..len].into());
                    self.wake_guest(Copy::Restored, self.now + MS);
                }
                Verdict::Forward => {
                    self.check.leaves(Copy::Restored, &packet);
                    self.send_to_client(packet);
                }
            }
        }
        if let Some(at) = wake {
            self.wake_guest(Copy::Restored, at);
        }
        self.pump();
    }

    /// A packet for the guest has come to the backup.
    pub(super) fn ingress_restored(&mut self, mut bytes: Vec<u8>) {
        self.trace(|| format!("in: {}", super::describe(&bytes)));
        let Some(restored) = &mut self.backup.restored else { return };
        if restored.replay.from_peer(&mut bytes, Instant::from_nanos(self.now)) == Verdict::Forward {
            restored.ring.push(bytes.into());
            let at = self.now + self.rng.range(0, self.plan.ring);
            self.wake_guest(Copy::Restored, at);
        }
        self.pump();
    }
}
