//! The backup host: a toy driver and a toolstack that takes whole epochs.

use super::check::{Copy, Rule};
use super::context::{Context, State};
use super::net::{Body, Packet};
use super::primary_host::index;
use super::{Nanos, Side};
use llm_core::checksum::Digest;
use llm_core::replication::{
    Backup, BackupEvent, BackupPhase, Data, EpochEnd, EpochError, FEATURES, Hello, Holder, Message, Mode,
    ModeSet, Offer, Path, Refusal, TakeOverReason,
};
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct BackupHost {
    pub(super) state: State,
    pub(super) machine: Option<Backup>,
    pub(super) current: [Option<usize>; 2],
    /// Of the epoch under way: its first piece, and all of them.
    first: Option<u64>,
    content: Digest,
    bytes: u64,
    /// Whole epochs not yet handed over: the guest's state and the digest.
    whole: BTreeMap<u64, (u64, u64)>,
    /// Own clock when the last sign of life was handed in, and when this side last thawed.
    heard: Nanos,
    pub(super) thawed: Nanos,
}

impl BackupHost {
    pub(super) fn new() -> Self {
        Self {
            state: State::new(),
            machine: None,
            current: [None; 2],
            first: None,
            content: Digest::new(),
            bytes: 0,
            whole: BTreeMap::new(),
            heard: 0,
            thawed: 0,
        }
    }

    /// The service is gone, and with it the copy; a domain that was taken over runs on.
    pub(super) fn forget(&mut self, ctx: &mut Context) {
        self.machine = None;
        self.current = [None; 2];
        self.begin_epoch();
        self.whole.clear();
        ctx.check.discarded();
    }

    fn begin_epoch(&mut self) {
        self.first = None;
        self.content = Digest::new();
        self.bytes = 0;
    }

    pub(super) fn broken(&mut self, connection: usize, ctx: &mut Context) {
        ctx.net.close(connection, Side::Backup);
        if let (Some(machine), Some(id)) = (&mut self.machine, ctx.net.connections[connection].at_backup) {
            machine.handle_disconnected(id, ctx.clock(Side::Backup));
        }
    }

    pub(super) fn receive(&mut self, connection: usize, packet: &Packet, ctx: &mut Context) {
        match packet {
            Packet::Message(bytes) => {
                let message = Message::decode(bytes).expect("what was encoded");
                ctx.trace(Side::Backup, || format!("#{connection} {message:?}"));
                match &message {
                    Message::Hello(hello) => self.hello(connection, hello, ctx),
                    _ => self.message(connection, &message, ctx),
                }
            }
            Packet::Data { seq, body } => self.data(connection, *seq, *body, ctx),
        }
    }

    fn hello(&mut self, connection: usize, hello: &Hello, ctx: &mut Context) {
        if ctx.net.connections[connection].at_backup.is_some() || !ctx.net.is_open(connection, Side::Backup) {
            return;
        }
        let now = ctx.clock(Side::Backup);
        if self.machine.as_ref().is_none_or(|machine| machine.session() != hello.session) {
            let holder = match &self.machine {
                Some(machine) => Holder::Session(machine),
                None if ctx.check.runs() => Holder::Domain,
                None => Holder::Nobody,
            };
            let offer =
                Offer { modes: ModeSet::of(&[Mode::Remus]), shadow_pages_max: 16, features: FEATURES };
            match Backup::admit(hello, holder, &offer, ctx.rng.next(), now) {
                Ok(machine) => {
                    self.machine = Some(machine);
                    self.begin_epoch();
                    self.whole.clear();
                    for old in std::mem::take(&mut self.current).into_iter().flatten() {
                        ctx.close(old, Side::Backup);
                    }
                }
                Err(refusal) => return self.refuse(connection, refusal, ctx),
            }
        }
        let machine = self.machine.as_mut().expect("found or made");
        match machine.handle_hello(hello, now) {
            Ok(id) => {
                // The event that closes the one it replaces comes first.
                self.events(ctx);
                ctx.net.connections[connection].at_backup = Some(id);
                self.current[index(id.path)] = Some(connection);
                self.heard = now.as_nanos();
                self.transmit(ctx);
            }
            Err(refusal) => self.refuse(connection, refusal, ctx),
        }
    }

    fn refuse(&self, connection: usize, refusal: Refusal, ctx: &mut Context) {
        ctx.trace(Side::Backup, || format!("#{connection} refused: {refusal}"));
        send(connection, &Message::Refuse(refusal), ctx);
        ctx.close(connection, Side::Backup);
    }

    fn message(&mut self, connection: usize, message: &Message, ctx: &mut Context) {
        let now = ctx.clock(Side::Backup);
        let (Some(machine), Some(id)) = (&mut self.machine, ctx.net.connections[connection].at_backup) else {
            return;
        };
        if machine.handle_message(id, message, now).is_err() {
            ctx.check.summary.stale += 1;
            ctx.close(connection, Side::Backup);
        } else if self.current[index(id.path)] != Some(connection) {
            ctx.check.fail(Rule::Protocol, format!("{message:?} of an old connection was taken"));
        } else if matches!(message, Message::Heartbeat(_)) {
            self.heard = now.as_nanos();
        }
    }

    fn data(&mut self, connection: usize, seq: u64, body: Body, ctx: &mut Context) {
        let (Some(machine), Some(id)) = (&mut self.machine, ctx.net.connections[connection].at_backup) else {
            return;
        };
        match machine.data_received(id, seq) {
            Data::Accept => match body {
                Body::Piece(piece) => {
                    self.first.get_or_insert(piece);
                    self.content.update(&piece.to_le_bytes());
                    self.bytes += 8;
                }
                Body::End(end) => self.end_of_epoch(connection, &end, ctx),
            },
            Data::Duplicate => {}
            Data::Gap { expected } => {
                ctx.check.fail(Rule::Protocol, format!("frame {seq} came where {expected} was due"));
            }
            Data::Stale => {
                ctx.check.summary.stale += 1;
                ctx.close(connection, Side::Backup);
            }
        }
    }

    fn end_of_epoch(&mut self, connection: usize, end: &EpochEnd, ctx: &mut Context) {
        let digest = self.content.value();
        let state = self.first.expect("every epoch has a first piece");
        let same = digest == end.digest() && self.bytes == end.stream_bytes() || ctx.options.ignore_digest;
        self.begin_epoch();
        let machine = self.machine.as_mut().expect("it accepted the frame");
        let id = ctx.net.connections[connection].at_backup.expect("it accepted the frame");
        self.whole.insert(end.epoch(), (state, digest));
        match machine.epoch_complete(id, end, same, ctx.clock(Side::Backup)) {
            Ok(()) => {}
            Err(EpochError::Corrupt(refusal)) => {
                self.whole.remove(&end.epoch());
                self.current[index(Path::Bulk)] = None;
                self.refuse(connection, refusal, ctx);
            }
            Err(error) => ctx.check.fail(Rule::Protocol, format!("{error}")),
        }
    }

    /// What a driver does after every call into its machine.
    pub(super) fn settle(&mut self, ctx: &mut Context) {
        self.events(ctx);
        self.transmit(ctx);
    }

    fn events(&mut self, ctx: &mut Context) {
        while let Some(event) = self.machine.as_mut().and_then(Backup::poll_event) {
            ctx.trace(Side::Backup, || format!("{event:?}"));
            self.act(event, ctx);
        }
    }

    fn transmit(&mut self, ctx: &mut Context) {
        while let Some((id, message)) = self.machine.as_mut().and_then(Backup::poll_transmit) {
            match self.current[index(id.path)] {
                Some(connection) if ctx.net.connections[connection].at_backup == Some(id) => {
                    send(connection, &message, ctx);
                }
                _ => ctx.check.fail(Rule::Protocol, format!("{message:?} for {id:?}, which is not open")),
            }
        }
    }

    fn act(&mut self, event: BackupEvent, ctx: &mut Context) {
        match event {
            BackupEvent::PathLost { connection, .. } => {
                let current = &mut self.current[index(connection.path)];
                if let Some(made) = *current
                    && ctx.net.connections[made].at_backup == Some(connection)
                {
                    *current = None;
                    ctx.close(made, Side::Backup);
                }
            }
            BackupEvent::HandOver { epoch } => {
                let session = self.machine.as_ref().map_or(0, Backup::session);
                while let Some(entry) = self.whole.first_entry().filter(|entry| *entry.key() <= epoch) {
                    let (number, (mark, digest)) = entry.remove_entry();
                    ctx.check.handed_over(Copy { session, epoch: number, mark }, digest);
                }
            }
            BackupEvent::TakeOver { committed, reason } => {
                let wrong = self.moment_is_wrong(reason, ctx);
                self.whole.clear();
                ctx.check.taken_over(committed, wrong);
            }
            BackupEvent::Discard { .. } => {
                self.whole.clear();
                ctx.check.discarded();
            }
            _ => {}
        }
    }

    /// Neither before the detect time of silence, nor long after it and after a thaw.
    fn moment_is_wrong(&self, reason: TakeOverReason, ctx: &Context) -> Option<String> {
        let TakeOverReason::Silence { .. } = reason else { return None };
        let timing = self.machine.as_ref()?.timing();
        let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).expect("short");
        let now = ctx.clock(Side::Backup).as_nanos();
        let due = self.heard + nanos(timing.detect());
        // The driver is called up to 3 ms late, and its clock may be fast.
        let last = due.max(self.thawed) + nanos(timing.grace()) + 10 * super::MS;
        let wrong = now < due || now > last;
        wrong.then(|| format!("take-over at {now}, due between {due} and {last}"))
    }

    pub(super) fn set_backlog(&mut self, full: bool, ctx: &Context) {
        if let Some(machine) = &mut self.machine {
            machine.set_backlog(full, ctx.clock(Side::Backup));
        }
    }

    pub(super) fn leave(&mut self, ctx: &Context) {
        if let Some(machine) = &mut self.machine {
            machine.shutdown(ctx.clock(Side::Backup));
        }
    }

    pub(super) fn protects(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.phase() == BackupPhase::Protecting)
    }

    pub(super) fn wake_at(&self) -> Option<Nanos> {
        self.machine.as_ref()?.poll_timeout().map(|at| at.as_nanos())
    }

    pub(super) fn on_time(&mut self, ctx: &Context) {
        if let Some(machine) = &mut self.machine {
            machine.handle_timeout(ctx.clock(Side::Backup));
        }
    }
}

fn send(connection: usize, message: &Message, ctx: &mut Context) {
    let mut buf = [0; llm_core::replication::MESSAGE_MAX];
    let bytes = message.encode(&mut buf).expect("room for any").to_vec();
    ctx.send(connection, Side::Backup, Packet::Message(bytes));
}
