//! The primary under hostile calls, and the rules it is held against.

use super::super::Input;
use super::{Said, hostile, index, number, path, round_trip, step};
use llm_core::replication::{
    Addresses, CheckpointReason, ConnectionId, FEATURES, Message, Mode, OnBackupLoss, Path, Primary,
    PrimaryConfig, PrimaryEvent, PrimaryPhase, Timing,
};
use llm_core::time::Instant;

pub(super) struct PrimaryHost {
    machine: Primary,
    timing: Timing,
    now: u64,
    /// Newest time handed in: what an older one counts as.
    newest: u64,
    dialled: [Option<ConnectionId>; 2],
    open: [Option<ConnectionId>; 2],
    old: Vec<ConnectionId>,
    pub(super) said: Said,
    newest_stamp: u64,
    committed: u64,
    released: u64,
    epoch: u64,
    never_again: bool,
}

impl PrimaryHost {
    pub(super) fn new(timing: Timing, on_backup_loss: OnBackupLoss) -> Self {
        let config = PrimaryConfig {
            session: 7,
            domain: "web".try_into().expect("short"),
            mode: Mode::Remus,
            timing,
            shadow_pages: 16,
            on_backup_loss,
            features: FEATURES,
            max_open_epochs: 1,
        };
        Self {
            machine: Primary::new(config, Instant::ZERO),
            timing,
            now: 0,
            newest: 0,
            dialled: [None; 2],
            open: [None; 2],
            old: Vec::new(),
            said: Vec::new(),
            newest_stamp: 0,
            committed: 0,
            released: 0,
            epoch: 0,
            never_again: false,
        }
    }

    fn time(&mut self) -> Instant {
        self.newest = self.newest.max(self.now);
        Instant::from_nanos(self.now)
    }

    fn some_connection(&self, input: &mut Input<'_>) -> Option<ConnectionId> {
        let byte = input.u8();
        match byte >> 1 {
            0 => self.dialled[index(path(byte))],
            at @ 1..=9 if !self.old.is_empty() => Some(self.old[usize::from(at) % self.old.len()]),
            _ => self.open[index(path(byte))],
        }
    }

    pub(super) fn operate(&mut self, op: u8, input: &mut Input<'_>) {
        step(&mut self.now, input);
        match op % 16 {
            0..=2 => {
                let now = self.time();
                self.machine.handle_timeout(now);
                let newest = Instant::from_nanos(self.newest);
                let idle =
                    self.machine.poll_timeout().is_none_or(|at| at > newest || self.newest > u64::MAX / 2);
                assert!(idle, "a handled time-out must be in the future");
            }
            3 | 4 => {
                let path = path(input.u8());
                if let Some(connection) = self.dialled[index(path)]
                    && let now = self.time()
                    && self.machine.handle_connected(connection, now).is_ok()
                {
                    self.dialled[index(path)] = None;
                    self.open[index(path)] = Some(connection);
                }
            }
            5 => {
                if let Some(connection) = self.some_connection(input) {
                    let now = self.time();
                    self.machine.handle_disconnected(connection, now);
                }
            }
            6..=9 => {
                let near = if op & 1 == 0 { self.epoch } else { self.committed };
                let message = hostile(input, self.newest_stamp, near, (20, 100, 10));
                if let Some(connection) = self.some_connection(input) {
                    let now = self.time();
                    let taken = self.machine.handle_message(connection, &message, now).is_ok();
                    assert!(!taken || self.open.contains(&Some(connection)), "a stale message was taken");
                }
            }
            10 | 11 => {
                let epoch = number(self.epoch + 1, input);
                let now = self.time();
                if self.machine.epoch_closed(epoch, now).is_ok() {
                    assert_eq!(epoch, self.epoch + 1);
                    self.epoch = epoch;
                }
            }
            12 => self.machine.request_checkpoint(CheckpointReason::Command),
            13 => self.machine.set_addresses(Addresses { mac: [2; 6], ips: Default::default() }),
            14 => {
                let end = [Primary::fail, Primary::release, Primary::shutdown, Primary::go_on];
                if let Some(end) = end.get(usize::from(input.u8())) {
                    let now = self.time();
                    end(&mut self.machine, now);
                }
            }
            _ => {
                let now = Instant::from_nanos(self.now);
                let due = self.machine.next_checkpoint_at().is_some_and(|at| now >= at);
                assert_eq!(self.machine.may_checkpoint(now), due);
            }
        }
    }

    pub(super) fn hear(&mut self, path: Path, message: &Message) {
        if let Some(connection) = self.open[index(path)] {
            let now = self.time();
            let _ = self.machine.handle_message(connection, message, now);
        }
    }

    /// Drains the machine and holds what it says against the rules.
    pub(super) fn check(&mut self) {
        let newest = Instant::from_nanos(self.newest);
        let mut events = 0;
        while let Some(event) = self.machine.poll_event() {
            events += 1;
            assert!(events < 32, "events without end");
            self.event(&event, newest);
        }
        let mut messages = 0;
        while let Some((connection, message)) = self.machine.poll_transmit() {
            messages += 1;
            assert!(messages < 16, "messages without end");
            assert!(self.open.contains(&Some(connection)), "a message for a connection that is not open");
            round_trip(&message);
            match &message {
                Message::Hello(hello) => self.newest_stamp = self.newest_stamp.max(hello.sent),
                Message::Heartbeat(beat) => self.newest_stamp = self.newest_stamp.max(beat.sent),
                Message::Goodbye(_) | Message::Addresses(_) => {}
                other => panic!("a primary does not say {other:?}"),
            }
            assert!(self.newest_stamp <= self.newest, "a stamp from the future");
            if self.said.len() < 64 {
                self.said.push((connection.path, message));
            }
        }
        let lease_end = Instant::from_nanos(self.newest_stamp) + self.timing.lease();
        match self.machine.phase() {
            PrimaryPhase::Active | PrimaryPhase::Releasing => {
                assert!(self.machine.lease_until() <= lease_end, "a lease without a heartbeat");
                assert!(!self.never_again);
            }
            PrimaryPhase::Unprotected | PrimaryPhase::Released => {
                assert!(self.machine.may_release(newest) || self.newest == u64::MAX);
            }
            _ => {
                self.never_again = true;
                assert!(!self.machine.may_release(Instant::ZERO) && self.machine.holds_output());
            }
        }
    }

    fn event(&mut self, event: &PrimaryEvent, newest: Instant) {
        match *event {
            PrimaryEvent::Connect { connection } => {
                self.dialled[index(connection.path)] = Some(connection);
            }
            PrimaryEvent::PathLost { connection, .. } => {
                let at = index(connection.path);
                for slot in [&mut self.open[at], &mut self.dialled[at]] {
                    if *slot == Some(connection) {
                        *slot = None;
                    }
                }
                if self.old.len() < 16 {
                    self.old.push(connection);
                }
            }
            PrimaryEvent::Connected { connection, .. } | PrimaryEvent::Resume { connection, .. } => {
                assert!(self.open.contains(&Some(connection)));
            }
            PrimaryEvent::Committed { epoch, .. } => {
                assert!(self.committed < epoch && epoch <= self.epoch, "commit {epoch} of {}", self.epoch);
                self.committed = epoch;
            }
            PrimaryEvent::Release { epoch } => {
                assert!(self.released < epoch && epoch <= self.committed, "release {epoch} uncommitted");
                assert!(self.machine.may_release(newest), "release {epoch} without a lease");
                assert!(!self.never_again);
                self.released = epoch;
            }
            _ => {}
        }
    }
}
