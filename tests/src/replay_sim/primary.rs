//! The primary's driver.

use super::check::Copy;
use super::guest::{Bytes, Guest};
use super::pipe::Message;
use super::plan::Moment;
use super::world::{Event, Link, World};
use super::{MS, Nanos};
use llm_core::flow::{Direction, Packet, VNET_HEADER};
use llm_core::log::{Cut, Entry, Flags, HEADER, LogWriter, Note, RecordKind};
use llm_core::replay::Carried;
use llm_core::time::Instant;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

const HEARTBEAT: Nanos = 40 * MS;

/// The guest as it was suspended.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) epoch: u64,
    pub(super) steps: usize,
    pub(super) clock: Nanos,
    /// What it had acknowledged, by its peer.
    pub(super) acks: HashMap<([u8; 16], u16), u32>,
}

/// A packet of the guest's, on its way out.
#[derive(Debug)]
struct Output {
    bytes: Vec<u8>,
    /// Newest input delivered when the guest sent it.
    inputs: u64,
    note: u64,
}

pub(super) struct Primary {
    pub(super) guest: Guest,
    ring: Vec<(u64, Bytes)>,
    /// When the guest took each input out of its ring, in steps.
    pub(super) taken: HashMap<u64, usize>,
    pub(super) dead: bool,
    /// It knows that the backup runs the domain.
    pub(super) stopped: bool,
    /// There is no backup any more, and somebody said so.
    pub(super) alone: bool,
    pub(super) frozen_until: Nanos,
    suspended: bool,
    vif: VecDeque<Output>,
    held: VecDeque<Output>,
    /// Bytes of the checkpoint stream so far.
    offset: u64,
    epoch: u64,
    committed: u64,
    next_lsn: u64,
    inputs: u64,
    chunk: Vec<u8>,
    flushing: bool,
    acknowledged: u64,
    echo: Nanos,
    /// What the guest's clock is behind, and what is translated, after a take-over.
    behind: Nanos,
    pub(super) carried: Box<Carried<64>>,
}

impl Primary {
    pub(super) fn new(guest: Guest) -> Self {
        Self {
            guest,
            ring: Vec::new(),
            taken: HashMap::new(),
            dead: false,
            stopped: false,
            alone: false,
            frozen_until: 0,
            suspended: false,
            vif: VecDeque::new(),
            held: VecDeque::new(),
            offset: 1,
            epoch: 0,
            committed: 0,
            next_lsn: 1,
            inputs: 0,
            chunk: Vec::new(),
            flushing: false,
            acknowledged: 0,
            echo: 0,
            behind: 0,
            carried: Box::default(),
        }
    }

    /// With a guest that was taken over, and what is on its way to it.
    pub(super) fn again(guest: Guest, behind: Nanos, ring: Vec<Bytes>) -> Self {
        let ring = ring.into_iter().map(|bytes| (0, bytes)).collect();
        Self { behind, ring, ..Self::new(guest) }
    }

    pub(super) const fn works(&self) -> bool {
        !self.dead && !self.stopped
    }
}

impl World {
    pub(super) fn append(&mut self, kind: RecordKind, flags: Flags, packet: &[u8]) -> u64 {
        let primary = &mut self.primary;
        let mut buf = vec![0; HEADER + packet.len()];
        let mut log = LogWriter::new(&mut buf, primary.next_lsn);
        let entry =
            Entry { kind, epoch: primary.epoch, time: Instant::from_nanos(self.now), vif: 0, flags, packet };
        let lsn = log.append(&entry).expect("room for one");
        primary.next_lsn = lsn + 1;
        primary.chunk.append(&mut buf);
        if !primary.flushing {
            primary.flushing = true;
            let at = self.now + self.rng.range(0, self.plan.batch);
            self.at(at, Event::Flush);
        }
        lsn
    }

    /// A packet for the guest has come.
    pub(super) fn ingress(&mut self, mut bytes: Vec<u8>) {
        self.carried_in(&mut bytes);
        if self.primary.alone {
            self.primary.ring.push((0, bytes.into()));
        } else {
            let lsn = self.append(RecordKind::Input, Flags::VNET_HEADER, &bytes);
            self.trace(|| format!("input {lsn}: {}", super::describe(&bytes)));
            self.primary.inputs = lsn;
            self.primary.ring.push((lsn, bytes.into()));
        }
        let at = self.now + self.rng.range(0, self.plan.ring);
        self.wake_guest(Copy::Primary, at);
    }

    pub(super) fn run_primary_guest(&mut self) {
        let primary = &mut self.primary;
        if primary.suspended {
            // It runs when it is resumed.
            return;
        }
        let (numbers, ring): (Vec<u64>, Vec<Bytes>) = std::mem::take(&mut primary.ring).into_iter().unzip();
        let behind = primary.behind;
        let clock = self.now - behind;
        let sent = primary.guest.step(super::guest::Step { clock, ring });
        let steps = primary.guest.steps.len();
        primary.taken.extend(numbers.into_iter().map(|lsn| (lsn, steps)));
        let any = !sent.is_empty();
        let inputs = primary.inputs;
        primary.vif.extend(sent.into_iter().map(|bytes| Output { bytes, inputs, note: 0 }));
        if let Some(at) = primary.guest.wake_at(clock) {
            self.wake_guest(Copy::Primary, at + behind);
        }
        if any {
            let at = self.now + self.rng.range(0, self.plan.vif);
            self.at(at, Event::Vif);
        }
    }

    /// The driver reads what the guest has sent.
    pub(super) fn read_vif(&mut self) {
        while let Some(mut output) = self.primary.vif.pop_front() {
            let frame = &output.bytes[VNET_HEADER..];
            let packet = Packet::parse(frame).expect("the guest sends IP");
            if !self.carried_on(&packet) {
                continue;
            }
            if !self.primary.alone {
                let key = packet.key(Direction::FromGuest);
                let note = Note::of(frame, &packet, key, self.primary.offset);
                output.note = self.append(RecordKind::Note, Flags::NONE, note.as_wire());
                self.trace(|| format!("note {}: {}", output.note, super::describe(&output.bytes)));
                self.moment(Moment::Noted);
            }
            self.carried_out(&mut output.bytes);
            self.primary.held.push_back(output);
        }
        self.release();
    }

    /// Lets out what may leave.
    pub(super) fn release(&mut self) {
        let lease = self.plan.detect * 4 / 5;
        while let Some(output) = self.primary.held.front() {
            let known = output.note <= self.primary.acknowledged || self.options.release_at_once;
            let leased = self.now < self.primary.echo + lease || self.options.ignore_lease;
            if !(known && leased || self.primary.alone) {
                return;
            }
            let output = self.primary.held.pop_front().expect("there is one");
            if self.primary.alone {
                self.check.leaves(Copy::Primary, &output.bytes);
            } else {
                self.check.released(&output.bytes, output.inputs, output.note, self.backup.have);
            }
            self.send_to_client(output.bytes);
            self.moment(Moment::Released);
            if self.primary.dead {
                return;
            }
        }
    }

    pub(super) fn flush(&mut self, heartbeat: bool) {
        if heartbeat {
            self.at(self.now + HEARTBEAT, Event::Heartbeat);
        } else {
            self.primary.flushing = false;
        }
        if !self.primary.alone {
            let records = std::mem::take(&mut self.primary.chunk);
            self.send(Link::Log, Message::Log { records, sent: self.now });
        }
    }

    pub(super) fn on_ack(&mut self, have: u64, echo: Nanos) {
        self.primary.acknowledged = self.primary.acknowledged.max(have);
        self.primary.echo = self.primary.echo.max(echo);
        self.release();
    }

    pub(super) const fn on_committed(&mut self, epoch: u64) {
        self.primary.committed = epoch;
    }

    pub(super) fn suspend(&mut self) {
        self.at(self.now + self.plan.interval, Event::Suspend);
        let primary = &mut self.primary;
        if primary.suspended || primary.alone || primary.committed != primary.epoch {
            return;
        }
        primary.suspended = true;
        primary.epoch += 1;
        let snapshot = Snapshot {
            epoch: primary.epoch,
            steps: primary.guest.steps.len(),
            clock: self.now - primary.behind,
            acks: primary.guest.stack.nic.acks(),
        };
        self.trace(|| format!("suspended, epoch {}, {} steps", snapshot.epoch, snapshot.steps));
        let pause = self.rng.range(MS / 10, self.plan.pause);
        let written = self.now + self.rng.range(0, pause);
        self.at(written, Event::CheckpointWritten);
        self.at(self.now + pause, Event::Resume(Rc::new(snapshot)));
        self.moment(Moment::Suspended);
    }

    /// The record CHECKPOINT is in the stream: the guest is still suspended.
    pub(super) const fn checkpoint_written(&mut self) {
        self.primary.offset += 1000;
    }

    pub(super) fn resume(&mut self, snapshot: Rc<Snapshot>) {
        self.primary.suspended = false;
        let (epoch, limit) = (snapshot.epoch, self.primary.offset);
        self.wake_guest(Copy::Primary, self.now);
        let late = self.rng.range(0, self.plan.cut_late);
        self.at(self.now + late, Event::LogCut { epoch, limit });
        let of = self.plan.pieces;
        let mut at = self.now;
        for index in 0..of {
            at += self.rng.range(0, 4 * MS);
            self.at(at, Event::SendPiece(Message::Piece { snapshot: Rc::clone(&snapshot), index, of }));
        }
    }

    pub(super) fn log_cut(&mut self, epoch: u64, limit: u64) {
        if self.primary.alone {
            return;
        }
        let cut = Cut::new(epoch, limit);
        let lsn = self.append(RecordKind::Cut, Flags::NONE, cut.as_wire());
        self.trace(|| format!("cut {lsn}: epoch {epoch}, limit {limit}"));
        self.moment(Moment::CutLogged);
    }

    /// No backup is left, and the arbiter has said that the primary may go on.
    pub(super) fn go_on_alone(&mut self) {
        self.trace(|| "the primary goes on alone".into());
        self.primary.alone = true;
        self.release();
    }
}
