//! The backup under hostile calls, and the rules it is held against.

use super::super::Input;
use super::{Said, hello, hostile, index, number, path, round_trip, step};
use llm_core::replication::{
    Backup, BackupEvent, BackupPhase, ConnectionId, Data, EpochEnd, EpochError, FEATURES, Hello, Holder,
    Message, Mode, ModeSet, Offer, Path, TakeOverReason, Timing, Welcome,
};
use llm_core::time::Instant;

pub(super) struct BackupHost {
    machine: Option<Backup>,
    timing: Timing,
    now: u64,
    newest: u64,
    open: [Option<ConnectionId>; 2],
    old: Vec<ConnectionId>,
    pub(super) said: Said,
    /// Newest time at which a sign of life was taken.
    heard: u64,
    next_seq: u64,
    complete: u64,
    committed: u64,
    ended: Option<BackupPhase>,
}

impl BackupHost {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            machine: None,
            timing,
            now: 0,
            newest: 0,
            open: [None; 2],
            old: Vec::new(),
            said: Vec::new(),
            heard: 0,
            next_seq: 1,
            complete: 0,
            committed: 0,
            ended: None,
        }
    }

    fn time(&mut self) -> Instant {
        self.newest = self.newest.max(self.now);
        Instant::from_nanos(self.now)
    }

    fn hello(&mut self, hello: &Hello) {
        let now = Instant::from_nanos(self.now);
        let offer = Offer { modes: ModeSet::of(&[Mode::Remus]), shadow_pages_max: 16, features: FEATURES };
        let Some(machine) = &mut self.machine else {
            self.machine = Backup::admit(hello, Holder::Nobody, &offer, 1, now).ok();
            if self.machine.is_some() {
                // The machine's time begins here.
                self.newest = self.now;
                self.heard = self.now;
                self.hello(hello);
            }
            return;
        };
        assert!(Backup::admit(hello, Holder::Domain, &offer, 1, now).is_err());
        let other = Backup::admit(hello, Holder::Session(machine), &offer, 1, now);
        assert!(other.is_err() || matches!(machine.phase(), BackupPhase::Discarded(_)));
        if machine.session() != hello.session {
            return;
        }
        self.newest = self.newest.max(self.now);
        let protects = machine.phase() == BackupPhase::Protecting;
        match machine.handle_hello(hello, now) {
            Ok(connection) => {
                assert_eq!((connection.path, connection.session), (hello.path, hello.session));
                if let Some(old) = self.open[index(hello.path)].replace(connection)
                    && self.old.len() < 16
                {
                    self.old.push(old);
                }
                if protects {
                    self.heard = self.newest;
                }
            }
            Err(refusal) => round_trip(&Message::Refuse(refusal)),
        }
    }

    pub(super) fn operate(&mut self, op: u8, input: &mut Input<'_>) {
        step(&mut self.now, input);
        if op.is_multiple_of(16) || self.machine.is_none() {
            let mut hello = hello(input, self.now, (20, 100, 10));
            if self.machine.is_none() {
                hello.session = 7;
            }
            return self.hello(&hello);
        }
        let byte = input.u8();
        let connection = match byte >> 1 {
            at @ 0..=9 if !self.old.is_empty() => Some(self.old[usize::from(at) % self.old.len()]),
            _ => self.open[index(path(byte))],
        };
        let handed_in = self.newest.max(self.now);
        let now = Instant::from_nanos(self.now);
        let Some(machine) = &mut self.machine else { return };
        match op % 16 {
            0 => {
                if let Some(connection) = connection {
                    let seq = number(1, input);
                    assert_eq!(
                        machine.log_received(connection, seq),
                        Data::Stale,
                        "a log without a mode for it"
                    );
                }
                self.newest = handed_in;
                machine.cut_received(u64::from(byte), now);
            }
            1..=3 => {
                self.newest = handed_in;
                machine.handle_timeout(now);
                let newest = Instant::from_nanos(self.newest);
                let idle = machine.poll_timeout().is_none_or(|at| at > newest || self.newest > u64::MAX / 2);
                assert!(idle, "a handled time-out must be in the future");
            }
            4 => {
                if let Some(connection) = connection {
                    self.newest = handed_in;
                    machine.handle_disconnected(connection, now);
                }
            }
            5..=8 => {
                let message = hostile(input, self.now, self.committed, (20, 100, 10));
                if let Some(connection) = connection {
                    self.newest = handed_in;
                    self.message(connection, &message, now);
                }
            }
            9..=11 => {
                let seq = number(self.next_seq, input);
                if let Some(connection) = connection {
                    match machine.data_received(connection, seq) {
                        Data::Accept => {
                            assert_eq!((seq, connection.path), (self.next_seq, Path::Bulk));
                            assert!(self.open.contains(&Some(connection)));
                            self.next_seq += 1;
                        }
                        Data::Duplicate => assert!(seq < self.next_seq),
                        Data::Gap { expected } => {
                            assert!(seq > expected);
                            self.open[1] = None;
                        }
                        Data::Stale => {}
                    }
                }
            }
            12 | 13 => {
                let end = EpochEnd::new(number(self.complete + 1, input), 0, 0, 0);
                let same = input.u8() != 0;
                if let Some(connection) = connection {
                    self.newest = handed_in;
                    match machine.epoch_complete(connection, &end, same, now) {
                        Ok(()) => {
                            assert!(same && end.epoch() == self.complete + 1);
                            self.complete += 1;
                        }
                        Err(EpochError::Corrupt(refusal)) => {
                            round_trip(&Message::Refuse(refusal));
                            self.open[1] = None;
                        }
                        Err(_) => {}
                    }
                }
            }
            14 => {
                self.newest = handed_in;
                machine.set_backlog(byte & 1 == 0, now);
            }
            _ if byte == 7 => {
                self.newest = handed_in;
                machine.shutdown(now);
            }
            _ => {}
        }
    }

    pub(super) fn hear(&mut self, path: Path, message: &Message) {
        if let Message::Hello(hello) = message {
            return self.hello(hello);
        }
        if let Some(connection) = self.open[index(path)] {
            let now = self.time();
            self.message(connection, message, now);
        }
    }

    fn message(&mut self, connection: ConnectionId, message: &Message, now: Instant) {
        let Some(machine) = &mut self.machine else { return };
        let protects = machine.phase() == BackupPhase::Protecting;
        let taken = machine.handle_message(connection, message, now).is_ok();
        assert!(!taken || self.open.contains(&Some(connection)), "a stale message was taken");
        if taken && protects && matches!(message, Message::Heartbeat(_)) {
            self.heard = self.newest;
        }
    }

    /// Drains the machine and holds what it says against the rules.
    pub(super) fn check(&mut self) {
        let Some(machine) = &mut self.machine else { return };
        let mut events = 0;
        while let Some(event) = machine.poll_event() {
            events += 1;
            assert!(events < 8, "events without end");
            match event {
                BackupEvent::PathLost { connection, .. } => {
                    let slot = &mut self.open[index(connection.path)];
                    if *slot == Some(connection) {
                        *slot = None;
                    }
                }
                BackupEvent::HandOver { epoch } => {
                    assert!(self.ended.is_none() && self.committed < epoch && epoch <= self.complete);
                    self.committed = epoch;
                }
                BackupEvent::TakeOver { committed, reason } => {
                    assert!(self.ended.is_none() && committed == self.committed && committed > 0);
                    if matches!(reason, TakeOverReason::Silence { .. }) {
                        let due = Instant::from_nanos(self.heard) + self.timing.detect();
                        assert!(Instant::from_nanos(self.newest) >= due, "take-over before the detect time");
                    }
                    self.ended = Some(BackupPhase::TakenOver);
                }
                BackupEvent::Discard { reason } => {
                    assert!(self.ended.is_none());
                    self.ended = Some(BackupPhase::Discarded(reason));
                }
                other => panic!("{other:?} is not known here"),
            }
        }
        let mut messages = 0;
        while let Some((connection, message)) = machine.poll_transmit() {
            messages += 1;
            assert!(messages < 16, "messages without end");
            assert!(self.open.contains(&Some(connection)), "a message for a connection that is not open");
            round_trip(&message);
            match &message {
                Message::Welcome(Welcome { committed, next_seq, .. }) => {
                    // On the control path it is the log's, of which this mode has none.
                    let next = if connection.path == Path::Bulk { self.next_seq } else { 1 };
                    assert_eq!((committed.unwrap_or(0), *next_seq), (self.committed, next));
                    assert!(self.ended.is_none());
                }
                Message::Commit(commit) => assert!(commit.epoch == self.committed && self.ended.is_none()),
                Message::Heartbeat(_) => assert!(self.ended.is_none()),
                Message::TakenOver => assert_eq!(self.ended, Some(BackupPhase::TakenOver)),
                Message::Goodbye(_) => assert!(matches!(self.ended, Some(BackupPhase::Discarded(_)))),
                other => panic!("a backup does not say {other:?}"),
            }
            if self.said.len() < 64 {
                self.said.push((connection.path, message));
            }
        }
        assert_eq!(machine.phase(), self.ended.unwrap_or(BackupPhase::Protecting));
        assert_eq!(machine.committed().unwrap_or(0), self.committed);
    }
}
