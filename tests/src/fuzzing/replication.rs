//! Both replication machines under any sequence of calls: a peer that lies, a clock that
//! jumps, and a driver that mixes up its connections.

use super::Input;
use llm_core::replication::{
    Addresses, Backup, BackupEvent, BackupPhase, CheckpointReason, Commit, ConnectionId, Data, EpochEnd,
    Goodbye, GoodbyeReason, Heartbeat, Hello, Holder, MESSAGE_MAX, Message, Mode, ModeSet, Offer,
    OnBackupLoss, Path, Primary, PrimaryConfig, PrimaryEvent, PrimaryPhase, Refusal, RefuseReason,
    TakeOverReason, Timing, Welcome,
};
use llm_core::time::Instant;

/// Interprets `data` as operations on a primary and a backup of the same session.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let policy = if input.u8() & 1 == 0 { OnBackupLoss::Stop } else { OnBackupLoss::GoOn };
    let timing = Timing::from_millis(20, 100, 10).expect("good times");
    let mut primary = PrimaryHost::new(timing, policy);
    let mut backup = BackupHost::new(timing);
    while !input.is_empty() {
        let op = input.u8();
        match op & 3 {
            0 => primary.operate(op >> 2, &mut input),
            1 => backup.operate(op >> 2, &mut input),
            // What one machine says reaches the other, or its hello does.
            2 => {
                if let Some((path, message)) = take(&mut primary.said, input.u8()) {
                    backup.hear(path, &message);
                }
            }
            _ => {
                if let Some((path, message)) = take(&mut backup.said, input.u8()) {
                    primary.hear(path, &message);
                }
            }
        }
        primary.check();
        backup.check();
    }
}

type Said = Vec<(Path, Message)>;

fn take(said: &mut Said, at: u8) -> Option<(Path, Message)> {
    if said.is_empty() { None } else { Some(said.remove(usize::from(at) % said.len())) }
}

fn path(byte: u8) -> Path {
    Path::ALL[usize::from(byte & 1)]
}

const fn index(path: Path) -> usize {
    match path {
        Path::Control => 0,
        Path::Bulk => 1,
    }
}

/// Mostly small steps forward; now and then anywhere.
fn step(now: &mut u64, input: &mut Input<'_>) {
    *now = match input.u8() {
        255 => input.u64(),
        254 => now.saturating_sub(input.u64() >> 32),
        ms => now.saturating_add(u64::from(ms) * 1_000_000),
    };
}

/// A number near `near`, or any.
fn number(near: u64, input: &mut Input<'_>) -> u64 {
    match input.u8() {
        255 => input.u64(),
        byte => near.wrapping_add(u64::from(byte & 3)).wrapping_sub(1),
    }
}

fn round_trip(message: &Message) {
    let mut buf = [0; MESSAGE_MAX];
    let bytes = message.encode(&mut buf).expect("room for any message");
    assert_eq!(Message::decode(bytes).as_ref(), Ok(message));
}

fn hostile(input: &mut Input<'_>, sent: u64, epoch: u64, timing: (u32, u32, u32)) -> Message {
    let echo = number(sent, input);
    let reasons = [GoodbyeReason::Released, GoodbyeReason::Failing, GoodbyeReason::ShuttingDown];
    let refusals = [
        RefuseReason::Version,
        RefuseReason::DomainBusy,
        RefuseReason::TakenOver,
        RefuseReason::UnknownSession,
        RefuseReason::Corrupt,
    ];
    match input.u8() % 10 {
        0 => Message::Hello(hello(input, sent, timing)),
        1 => Message::Welcome(Welcome {
            version: u16::from(input.u8() % 3),
            features: input.u64(),
            incarnation: u64::from(input.u8() % 3),
            next_seq: number(1, input),
            committed: (input.u8() & 1 == 0).then(|| number(epoch, input)),
            echo,
        }),
        2 => {
            let reason = refusals[usize::from(input.u8()) % refusals.len()];
            Message::Refuse(Refusal::new(reason, format_args!("{echo}")))
        }
        3 | 4 => Message::Heartbeat(Heartbeat { sent: number(sent, input), echo }),
        5 | 6 => Message::Commit(Commit { epoch: number(epoch, input), echo }),
        7 => Message::Addresses(Addresses { mac: [2; 6], ips: [[10, 0, 0, 1].into()].into_iter().collect() }),
        8 => Message::Goodbye(Goodbye { reason: reasons[usize::from(input.u8()) % reasons.len()] }),
        // Ends most runs, so it is rare.
        _ if input.u8() == 0 => Message::TakenOver,
        _ => Message::decode(input.bytes(9)).unwrap_or(Message::Heartbeat(Heartbeat { sent, echo })),
    }
}

fn hello(input: &mut Input<'_>, sent: u64, (interval_ms, detect_ms, heartbeat_ms): (u32, u32, u32)) -> Hello {
    let odd = input.u8();
    Hello {
        min: u16::from(odd == 1) * 2,
        max: 2,
        features: input.u64(),
        session: if odd == 2 { 8 } else { 7 },
        resume: (odd & 16 != 0).then(|| u64::from(input.u8() % 3)),
        path: path(odd >> 3),
        mode: if odd == 4 { Mode::Llm } else { Mode::Remus },
        domain: "web".try_into().expect("short"),
        interval_ms: if odd == 5 { 0 } else { interval_ms },
        detect_ms,
        heartbeat_ms,
        shadow_pages: if odd == 6 { u64::MAX } else { 16 },
        sent: number(sent, input),
    }
}

struct PrimaryHost {
    machine: Primary,
    timing: Timing,
    now: u64,
    /// Newest time handed in: what an older one counts as.
    newest: u64,
    dialled: [Option<ConnectionId>; 2],
    open: [Option<ConnectionId>; 2],
    old: Vec<ConnectionId>,
    said: Said,
    newest_stamp: u64,
    committed: u64,
    released: u64,
    epoch: u64,
    never_again: bool,
}

impl PrimaryHost {
    fn new(timing: Timing, on_backup_loss: OnBackupLoss) -> Self {
        let config = PrimaryConfig {
            session: 7,
            domain: "web".try_into().expect("short"),
            mode: Mode::Remus,
            timing,
            shadow_pages: 16,
            on_backup_loss,
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

    fn operate(&mut self, op: u8, input: &mut Input<'_>) {
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

    fn hear(&mut self, path: Path, message: &Message) {
        if let Some(connection) = self.open[index(path)] {
            let now = self.time();
            let _ = self.machine.handle_message(connection, message, now);
        }
    }

    /// Drains the machine and holds what it says against the rules.
    fn check(&mut self) {
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

struct BackupHost {
    machine: Option<Backup>,
    timing: Timing,
    now: u64,
    newest: u64,
    open: [Option<ConnectionId>; 2],
    old: Vec<ConnectionId>,
    said: Said,
    /// Newest time at which a sign of life was taken.
    heard: u64,
    next_seq: u64,
    complete: u64,
    committed: u64,
    ended: Option<BackupPhase>,
}

impl BackupHost {
    fn new(timing: Timing) -> Self {
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
        let offer = Offer { modes: ModeSet::of(&[Mode::Remus]), shadow_pages_max: 16 };
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

    fn operate(&mut self, op: u8, input: &mut Input<'_>) {
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
                        Err(llm_core::replication::EpochError::Corrupt(refusal)) => {
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

    fn hear(&mut self, path: Path, message: &Message) {
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
    fn check(&mut self) {
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
                    assert_eq!((committed.unwrap_or(0), *next_seq), (self.committed, self.next_seq));
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
