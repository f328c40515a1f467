//! The primary host: a guest that produces numbered output, and a toy driver.

use super::check::Rule;
use super::context::{Context, State};
use super::net::{Body, Packet};
use super::rng::mix;
use super::{MS, Nanos, Side};
use llm_core::checksum::Digest;
use llm_core::replication::{
    ConnectionId, EpochEnd, FEATURES, GoodbyeReason, Message, Mode, Path, Primary, PrimaryConfig,
    PrimaryEvent, PrimaryPhase, RefuseReason, StaleConnection,
};
use std::collections::VecDeque;

/// Bulk data that is kept until its epoch is committed.
#[derive(Debug)]
struct Frame {
    seq: u64,
    epoch: u64,
    body: Body,
}

/// An epoch that is being read.
#[derive(Debug)]
struct Reading {
    epoch: u64,
    pieces_left: u64,
    content: Digest,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct PrimaryHost {
    pub(super) state: State,
    pub(super) machine: Primary,
    config: PrimaryConfig,
    /// The session asked to end so that a new one can begin.
    renew: bool,
    pub(super) corrupt_next: bool,
    /// The newest connection of each path, as an index into the network.
    pub(super) current: [Option<usize>; 2],
    /// The bulk connection that takes new frames.
    resumed: Option<usize>,
    next_seq: u64,
    kept: VecDeque<Frame>,
    reading: Option<Reading>,
    /// Newest epoch whose checkpoint was begun.
    begun: u64,
    domain_runs: bool,
    produced: u64,
    held: VecDeque<(u64, u64)>,
    releasable: u64,
    slow_egress: bool,
}

impl PrimaryHost {
    pub(super) fn new(config: PrimaryConfig, slow_egress: bool, ctx: &Context) -> Self {
        Self {
            state: State::new(),
            machine: Primary::new(config.clone(), ctx.clock(Side::Primary)),
            config,
            renew: false,
            corrupt_next: false,
            current: [None; 2],
            resumed: None,
            next_seq: 1,
            kept: VecDeque::new(),
            reading: None,
            begun: 0,
            domain_runs: true,
            produced: 0,
            held: VecDeque::new(),
            releasable: 0,
            slow_egress,
        }
    }

    pub(super) fn config(session: u64, timing: llm_core::replication::Timing) -> PrimaryConfig {
        PrimaryConfig {
            session,
            domain: "web".try_into().expect("short"),
            mode: Mode::Remus,
            timing,
            shadow_pages: 16,
            on_backup_loss: llm_core::replication::OnBackupLoss::Stop,
            features: FEATURES,
            max_open_epochs: 1,
        }
    }

    pub(super) const fn domain_runs(&self) -> bool {
        self.domain_runs
    }

    /// A new session: after the old one has ended, or in a service that was restarted.
    pub(super) fn begin_session(&mut self, ctx: &mut Context) {
        self.config.session = ctx.rng.next() | 1;
        ctx.trace(Side::Primary, || format!("new session {:x}", self.config.session));
        ctx.check.summary.new_sessions += 1;
        for connection in std::mem::take(&mut self.current).into_iter().flatten() {
            ctx.close(connection, Side::Primary);
        }
        self.machine = Primary::new(self.config.clone(), ctx.clock(Side::Primary));
        self.renew = false;
        self.resumed = None;
        self.next_seq = 1;
        self.kept.clear();
        self.reading = None;
        self.begun = 0;
        self.releasable = 0;
        // What was held belongs to the first checkpoint of the new session, if it waits for one.
        self.held.iter_mut().for_each(|(_, epoch)| *epoch = 1);
    }

    /// The service is gone: what it held is lost, and the guest's output goes nowhere.
    pub(super) fn forget(&mut self) {
        self.current = [None; 2];
        self.resumed = None;
        self.held.clear();
        self.reading = None;
    }

    pub(super) fn guest(&mut self, service_runs: bool) {
        if self.domain_runs {
            self.produced += 1;
            if service_runs {
                self.held.push_back((self.produced, self.begun + 1));
            }
        }
    }

    pub(super) fn dialled(&mut self, connection: ConnectionId, backup_is_there: bool, ctx: &mut Context) {
        let made = ctx.net.connect(connection, backup_is_there);
        match self.machine.handle_connected(connection, ctx.clock(Side::Primary)) {
            Ok(()) => self.current[index(connection.path)] = Some(made),
            Err(StaleConnection) => ctx.close(made, Side::Primary),
        }
    }

    pub(super) fn dial_failed(&mut self, connection: ConnectionId, ctx: &Context) {
        self.machine.handle_disconnected(connection, ctx.clock(Side::Primary));
    }

    pub(super) fn broken(&mut self, connection: usize, ctx: &mut Context) {
        ctx.net.close(connection, Side::Primary);
        let id = ctx.net.connections[connection].at_primary;
        self.machine.handle_disconnected(id, ctx.clock(Side::Primary));
    }

    pub(super) fn receive(&mut self, connection: usize, packet: &Packet, ctx: &mut Context) {
        let Packet::Message(bytes) = packet else { unreachable!("the backup sends messages only") };
        let message = Message::decode(bytes).expect("what was encoded");
        ctx.trace(Side::Primary, || format!("#{connection} {message:?}"));
        let id = ctx.net.connections[connection].at_primary;
        let current = self.current[index(id.path)] == Some(connection);
        let outcome = self.machine.handle_message(id, &message, ctx.clock(Side::Primary));
        if outcome.is_err() {
            ctx.check.summary.stale += 1;
            ctx.close(connection, Side::Primary);
        } else if !current {
            ctx.check.fail(Rule::Protocol, format!("{message:?} of an old connection was taken"));
        }
    }

    /// One more piece of the epoch that is being read.
    pub(super) fn read_on(&mut self, ctx: &mut Context) {
        let Some(mut reading) = self.reading.take() else { return };
        if reading.pieces_left > 0 {
            reading.pieces_left -= 1;
            let piece = mix(reading.epoch << 32 ^ reading.pieces_left ^ self.config.session);
            self.piece(&mut reading, piece, ctx);
            ctx.stream_soon();
            self.reading = Some(reading);
            return;
        }
        let digest = reading.content.value();
        let end = EpochEnd::new(reading.epoch, reading.bytes, digest, 0);
        self.queue(reading.epoch, Body::End(end), ctx);
        ctx.trace(Side::Primary, || format!("epoch {} closed", reading.epoch));
        if let Err(error) = self.machine.epoch_closed(reading.epoch, ctx.clock(Side::Primary)) {
            ctx.check.fail(Rule::Protocol, format!("{error}"));
        }
        if ctx.options.ignore_commit {
            self.releasable = reading.epoch;
        }
        ctx.check.closed(self.config.session, reading.epoch, digest);
    }

    fn piece(&mut self, reading: &mut Reading, piece: u64, ctx: &mut Context) {
        reading.content.update(&piece.to_le_bytes());
        reading.bytes += 8;
        self.queue(reading.epoch, Body::Piece(piece), ctx);
    }

    fn queue(&mut self, epoch: u64, body: Body, ctx: &mut Context) {
        let frame = Frame { seq: self.next_seq, epoch, body };
        self.next_seq += 1;
        if let Some(connection) = self.resumed {
            let mut body = frame.body;
            if let Body::Piece(piece) = &mut body
                && std::mem::take(&mut self.corrupt_next)
            {
                *piece ^= 1;
            }
            ctx.send(connection, Side::Primary, Packet::Data { seq: frame.seq, body });
        }
        self.kept.push_back(frame);
    }

    /// Suspends the guest and begins to read its checkpoint, if one may be taken now.
    fn checkpoint(&mut self, ctx: &mut Context) {
        if self.reading.is_some()
            || !self.domain_runs
            || !self.machine.is_connected(Path::Bulk) && self.begun == 0
            || !self.machine.may_checkpoint(ctx.clock(Side::Primary))
        {
            return;
        }
        self.begun += 1;
        let mut reading =
            Reading { epoch: self.begun, pieces_left: ctx.rng.range(0, 4), content: Digest::new(), bytes: 0 };
        // The first piece is the guest's state: what it has produced so far.
        let state = self.produced;
        self.piece(&mut reading, state, ctx);
        self.reading = Some(reading);
        ctx.stream_soon();
    }

    /// Lets out what may leave now.
    fn let_out(&mut self, ctx: &mut Context) {
        let now = ctx.clock(Side::Primary);
        let ended = matches!(self.machine.phase(), PrimaryPhase::Unprotected | PrimaryPhase::Released);
        let holds = self.machine.holds_output() || (self.begun > 0 && !ended);
        let may = self.machine.may_release(now) || ctx.options.ignore_lease;
        while let Some(&(output, epoch)) = self.held.front() {
            if !self.domain_runs || (holds && !(epoch <= self.releasable && may)) {
                break;
            }
            self.held.pop_front();
            let protected = !ended && self.machine.closed().is_some();
            ctx.check.output(output, protected.then_some(self.config.session));
            if self.slow_egress {
                break;
            }
        }
    }

    /// What a driver does after every call into its machine.
    pub(super) fn settle(&mut self, ctx: &mut Context) {
        loop {
            let mut idle = true;
            while let Some(event) = self.machine.poll_event() {
                idle = false;
                ctx.trace(Side::Primary, || format!("{event:?}"));
                self.act(event, ctx);
            }
            while let Some((id, message)) = self.machine.poll_transmit() {
                idle = false;
                let mut buf = [0; llm_core::replication::MESSAGE_MAX];
                let bytes = message.encode(&mut buf).expect("room for any").to_vec();
                match self.current[index(id.path)] {
                    Some(connection) if ctx.net.connections[connection].at_primary == id => {
                        ctx.send(connection, Side::Primary, Packet::Message(bytes));
                    }
                    _ => ctx.check.fail(Rule::Protocol, format!("{message:?} for {id:?}, which is not open")),
                }
            }
            if idle {
                break;
            }
        }
        self.checkpoint(ctx);
        self.let_out(ctx);
    }

    fn act(&mut self, event: PrimaryEvent, ctx: &mut Context) {
        match event {
            PrimaryEvent::Connect { connection } => ctx.dial(connection, self.config.timing.detect() / 2),
            PrimaryEvent::PathLost { connection, .. } => {
                let current = &mut self.current[index(connection.path)];
                if let Some(made) = *current
                    && ctx.net.connections[made].at_primary == connection
                {
                    *current = None;
                    ctx.close(made, Side::Primary);
                    if connection.path == Path::Bulk {
                        self.resumed = None;
                    }
                }
            }
            PrimaryEvent::Resume { connection, next_seq } => self.resume(connection, next_seq, ctx),
            PrimaryEvent::Committed { epoch, .. } => {
                self.kept.retain(|frame| frame.epoch > epoch);
                if ctx.options.ignore_lease {
                    self.releasable = epoch;
                }
            }
            PrimaryEvent::Release { epoch } => self.releasable = self.releasable.max(epoch),
            PrimaryEvent::BackupBack { .. } => ctx.check.summary.lease_gaps += 1,
            PrimaryEvent::BackupRestarted => {
                ctx.check.restarted(self.config.session);
                self.begin_session(ctx);
            }
            PrimaryEvent::Released => {
                ctx.check.summary.agreed_releases += 1;
                if self.renew {
                    self.begin_session(ctx);
                }
            }
            PrimaryEvent::GoneUnprotected => ctx.check.summary.unprotected += 1,
            PrimaryEvent::StopDomain => self.stop_domain(ctx),
            PrimaryEvent::Refused { refusal, .. } => match refusal.reason {
                RefuseReason::TakenOver => self.stop_domain(ctx),
                RefuseReason::Corrupt => {
                    self.renew = true;
                    self.machine.release(ctx.clock(Side::Primary));
                }
                reason if reason.may_pass() => {}
                reason => ctx.check.fail(Rule::Protocol, format!("refused: {reason}")),
            },
            _ => {}
        }
    }

    fn stop_domain(&mut self, ctx: &mut Context) {
        if std::mem::take(&mut self.domain_runs) {
            ctx.check.summary.stops += 1;
        }
    }

    fn resume(&mut self, id: ConnectionId, next_seq: u64, ctx: &mut Context) {
        let Some(connection) = self.current[index(Path::Bulk)] else { return };
        let oldest = self.kept.front().map_or(self.next_seq, |frame| frame.seq);
        if ctx.net.connections[connection].at_primary != id || !(oldest..=self.next_seq).contains(&next_seq) {
            let text = format!("resume at {next_seq}, kept {oldest} to {}", self.next_seq);
            return ctx.check.fail(Rule::Protocol, text);
        }
        ctx.check.summary.resumes += u64::from(next_seq > 1);
        for frame in self.kept.iter().filter(|frame| frame.seq >= next_seq) {
            ctx.send(connection, Side::Primary, Packet::Data { seq: frame.seq, body: frame.body });
        }
        self.resumed = Some(connection);
    }

    pub(super) fn release(&mut self, ctx: &Context) {
        self.machine.release(ctx.clock(Side::Primary));
    }

    pub(super) fn fail(&mut self, ctx: &mut Context) {
        self.machine.fail(ctx.clock(Side::Primary));
        if self.machine.phase() == PrimaryPhase::Failed {
            ctx.trace(Side::Primary, || format!("says {:?}", GoodbyeReason::Failing));
            self.domain_runs = false;
        }
    }

    /// When the driver wants to be called, on its own clock.
    pub(super) fn wake_at(&self) -> Option<Nanos> {
        let checkpoint =
            self.machine.next_checkpoint_at().filter(|_| self.reading.is_none() && self.domain_runs);
        let first_waits = self.begun == 0 && !self.machine.is_connected(Path::Bulk);
        let checkpoint = checkpoint.filter(|_| !first_waits);
        self.machine.poll_timeout().into_iter().chain(checkpoint).min().map(|at| at.as_nanos())
    }

    pub(super) fn on_time(&mut self, ctx: &Context) {
        self.machine.handle_timeout(ctx.clock(Side::Primary));
    }
}

pub(super) const fn index(path: Path) -> usize {
    match path {
        Path::Control => 0,
        Path::Bulk => 1,
    }
}

/// How often the guest produces output, at most.
pub(super) const OUTPUT_GAP: Nanos = 12 * MS;
