//! One protected domain on its backup.

mod compressed;
mod logged;

use std::io;
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use llm_core::frame::Kind;
use llm_core::replay::OnDivergence;
use llm_core::replication::{
    Addresses, Backup, BackupEvent, BackupPhase, ConnectionId, Data, DiscardReason, EpochEnd, EpochError,
    FIRST_EPOCH, Hello, MESSAGE_MAX, Message, Refusal, RefuseReason, TakeOverReason,
};

use super::feeder::{Fed, FeedError, Feeder, TakeOverTimes};
use super::intake::{Intake, IntakeError};
use super::log::LogStore;
use super::replay::Replaying;
use super::taken_over::TakenOver;
use super::{BackupConfig, slot};
use crate::clock;
use crate::control::{SessionStatus, TakeoverStatus};
use crate::link::{Connection, Incoming, Outbox};
use crate::net::{Announcement, Learnt, announce_repeatedly, bridge_of, prepare_isolation};
use crate::xen::toolstack::Xl;

/// A session: its machine, its connections, and the way of its data.
#[derive(Debug)]
pub(super) struct Session {
    me: Weak<Self>,
    id: u64,
    domain: String,
    buffer_limit: u64,
    core: Mutex<Core>,
    /// The machine's next timeout may have changed.
    changed: Condvar,
    outboxes: [Arc<Outbox>; 2],
    /// Locked before `core` where both are.
    intake: Mutex<Intake>,
    feeder: Feeder,
    /// In modes with a log. Locked before `core` where both are.
    log: Option<Mutex<LogStore>>,
    replaying: Replaying,
    on_divergence: OnDivergence,
    /// Where the log is kept after a take-over.
    kept_log: Option<PathBuf>,
    taken_over: Arc<TakenOver>,
    /// Another session has taken the domain's name.
    retired: AtomicBool,
}

#[derive(Debug)]
struct Core {
    machine: Backup,
    connections: [Option<(ConnectionId, Connection)>; 2],
    primary: String,
    /// Overrides what the machine's phase says.
    state: Option<&'static str>,
    note: String,
    takeover: Option<TakeoverStatus>,
    /// When the take-over was decided.
    decided: Option<Instant>,
    /// When the timer looks at the machine again.
    timer_at: llm_core::time::Instant,
}

impl Session {
    /// Starts the threads of a session.
    pub(super) fn start(
        machine: Backup,
        config: &BackupConfig,
        xl: Xl,
        taken_over: Arc<TakenOver>,
    ) -> io::Result<Arc<Self>> {
        let has_log = machine.mode().has_log();
        let kept_log = config.keep_log.then(|| config.state_dir.join(format!("{}.llmlog", machine.domain())));
        let shadow_pages = u32::try_from(machine.shadow_pages()).unwrap_or(u32::MAX);
        let session = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            id: machine.session(),
            domain: machine.domain().to_owned(),
            buffer_limit: config.buffer_limit,
            core: Mutex::new(Core {
                machine,
                connections: [None, None],
                primary: String::new(),
                state: None,
                note: String::new(),
                takeover: None,
                decided: None,
                timer_at: clock::now(),
            }),
            changed: Condvar::new(),
            outboxes: [Arc::new(Outbox::new(0)), Arc::new(Outbox::new(0))],
            intake: Mutex::new(Intake::new(shadow_pages, FIRST_EPOCH)),
            feeder: Feeder::new(config.buffer_limit, has_log),
            log: has_log.then(|| Mutex::new(LogStore::new())),
            replaying: Replaying::default(),
            on_divergence: config.on_divergence,
            kept_log,
            taken_over,
            retired: AtomicBool::new(false),
        });
        let timer = Arc::clone(&session);
        std::thread::Builder::new().name("timer".into()).spawn(move || timer.run_timer())?;
        let feeder = Arc::clone(&session);
        std::thread::Builder::new().name("feeder".into()).spawn(move || feeder.run_feeder(&xl))?;
        Ok(session)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    /// Looks at the machine.
    pub(super) fn with_machine<T>(&self, look: impl FnOnce(&Backup) -> T) -> T {
        look(&self.lock().machine)
    }

    /// Ends the session's thread: another session has taken its place.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Whether this session took its domain over, and `xl` has done its part.
    pub(super) fn has_taken_over(&self) -> bool {
        self.lock().machine.phase() == BackupPhase::TakenOver && self.feeder.wait(Duration::ZERO)
    }

    /// Waits until `xl` is gone, or runs the domain.
    pub(super) fn wait_for_feeder(&self, timeout: Duration) {
        if !self.feeder.wait(timeout) {
            tracing::warn!(domain = self.domain, "xl has not ended in time");
        }
    }

    /// A connection says that it is this session's.
    pub(super) fn hello(&self, hello: &Hello, stream: &TcpStream) -> Result<ConnectionId, Refusal> {
        let trouble = |e: io::Error| Refusal::new(RefuseReason::Full, format_args!("{e}"));
        let stream = stream.try_clone().map_err(trouble)?;
        // So that a newer connection does not overtake a frame that is being applied.
        let intake = self.intake();
        let mut core = self.lock();
        let connection = core.machine.handle_hello(hello, clock::now())?;
        let at = slot(connection.path);
        if let Some((_, old)) = core.connections[at].take() {
            old.shutdown();
        }
        let link = Connection::start(stream, &self.outboxes[at], "backup").map_err(trouble)?;
        core.primary = link.peer.ip().to_string();
        core.connections[at] = Some((connection, link));
        drop(intake);
        self.drive(core);
        Ok(connection)
    }

    /// A frame has come in on a connection of this session.
    pub(super) fn handle_frame(&self, connection: ConnectionId, frame: &Incoming<'_>) -> ControlFlow<()> {
        match frame.kind {
            Kind::MESSAGE => self.handle_message(connection, frame.payload),
            Kind::BATCH | Kind::EPOCH_END => self.handle_data(connection, frame),
            Kind::COMPRESSED => self.handle_compressed(connection, frame),
            Kind::LOG | Kind::PACKED_LOG => self.handle_log(connection, frame),
            kind => {
                tracing::warn!(domain = self.domain, ?kind, "a frame of a kind that is not expected");
                ControlFlow::Break(())
            }
        }
    }

    /// A connection has ended.
    pub(super) fn disconnected(&self, connection: ConnectionId) {
        let mut core = self.lock();
        core.machine.handle_disconnected(connection, clock::now());
        core.close(connection, &self.outboxes);
        self.drive(core);
    }

    /// This service ends.
    pub(super) fn shut_down(&self) {
        let mut core = self.lock();
        core.machine.shutdown(clock::now());
        self.drive(core);
        for outbox in &self.outboxes {
            outbox.close();
        }
        self.replaying.stop();
    }

    pub(super) fn status(&self) -> SessionStatus {
        // Not while a frame is being applied: a status can be a little old.
        let shadow_bytes = self.intake.try_lock().map_or(0, |i| i.shadow_bytes());
        let (log_records, log_bytes) = self.log().map_or((0, 0), |log| log.fill());
        let core = self.lock();
        let machine = &core.machine;
        let state = core.state.unwrap_or_else(|| match machine.phase() {
            BackupPhase::TakenOver => "taking-over",
            BackupPhase::Discarded(_) => "discarded",
            BackupPhase::Protecting if machine.committed().is_some() => "protected",
            BackupPhase::Protecting => "first-copy",
            _ => "unknown",
        });
        let silence = clock::now().since(machine.last_heard());
        SessionStatus {
            domain: self.domain.clone(),
            primary: core.primary.clone(),
            state: state.into(),
            note: core.note.clone(),
            epochs_committed: machine.committed().map_or(0, |e| e + 1 - FIRST_EPOCH),
            silence_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
            backlog_bytes: self.feeder.queue.fill().0,
            shadow_bytes,
            log_records,
            log_bytes,
            takeover: core.takeover.clone(),
        }
    }

    fn handle_message(&self, connection: ConnectionId, payload: &[u8]) -> ControlFlow<()> {
        let message = match Message::decode(payload) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(domain = self.domain, %error, "the primary sent an unreadable message");
                return ControlFlow::Break(());
            }
        };
        let mut core = self.lock();
        let result = core.machine.handle_message(connection, &message, clock::now());
        self.drive(core);
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn handle_data(&self, connection: ConnectionId, frame: &Incoming<'_>) -> ControlFlow<()> {
        // Held to the end: what the machine has counted as received must be applied.
        let mut intake = self.intake();
        let mut core = self.lock();
        match core.machine.data_received(connection, frame.seq) {
            Data::Accept => {}
            Data::Duplicate => return ControlFlow::Continue(()),
            Data::Gap { expected } => {
                tracing::warn!(domain = self.domain, expected, got = frame.seq, "data is missing");
                return ControlFlow::Break(());
            }
            Data::Stale => return ControlFlow::Break(()),
        }
        if frame.kind == Kind::EPOCH_END {
            return self.handle_epoch_end(connection, intake, core, frame.payload);
        }
        let first = core.machine.committed().is_none();
        drop(core);
        let applied = intake.batch(frame.payload, || self.feeder.queue.buffer());
        self.applied(connection, intake, applied.map_err(IntakeError::from), first)
    }

    /// What came of data that the machine has counted.
    fn applied(
        &self,
        connection: ConnectionId,
        mut intake: MutexGuard<'_, Intake>,
        applied: Result<(), IntakeError>,
        first: bool,
    ) -> ControlFlow<()> {
        if let Err(error) = applied {
            let core = self.lock();
            return self.corrupt(connection, intake, core, &error.to_string());
        }
        if first {
            for chunk in intake.pass() {
                // False once the copy is lost, which the feeder reports.
                let _ = self.feeder.queue.push(chunk);
            }
        }
        ControlFlow::Continue(())
    }

    fn handle_epoch_end(
        &self,
        connection: ConnectionId,
        mut intake: MutexGuard<'_, Intake>,
        mut core: MutexGuard<'_, Core>,
        payload: &[u8],
    ) -> ControlFlow<()> {
        let end = match EpochEnd::parse(payload) {
            Ok(end) => end,
            Err(error) => return self.corrupt(connection, intake, core, &error.to_string()),
        };
        if let Err(error) = intake.end(&end) {
            return self.corrupt(connection, intake, core, &error.to_string());
        }
        let result = core.machine.epoch_complete(connection, &end, true, clock::now());
        drop(intake);
        self.epoch_judged(connection, core, result, None)
    }

    /// The data cannot be used: as an epoch with a wrong digest.
    fn corrupt(
        &self,
        connection: ConnectionId,
        intake: MutexGuard<'_, Intake>,
        mut core: MutexGuard<'_, Core>,
        error: &str,
    ) -> ControlFlow<()> {
        drop(intake);
        tracing::error!(domain = self.domain, error, "the data of the primary cannot be used");
        let next = core.machine.committed().map_or(FIRST_EPOCH, |e| e + 1);
        let end = EpochEnd::new(next, 0, 0, 0);
        let result = core.machine.epoch_complete(connection, &end, false, clock::now());
        self.epoch_judged(connection, core, result, Some(error))
    }

    fn epoch_judged(
        &self,
        connection: ConnectionId,
        mut core: MutexGuard<'_, Core>,
        result: Result<(), EpochError>,
        error: Option<&str>,
    ) -> ControlFlow<()> {
        let flow = match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(EpochError::Corrupt(refusal)) => {
                core.note = format!("{refusal}: {}", error.unwrap_or_default());
                core.say(&self.outboxes, connection, &Message::Refuse(refusal));
                ControlFlow::Break(())
            }
            Err(error) => {
                tracing::debug!(domain = self.domain, %error, "an epoch came too late");
                ControlFlow::Break(())
            }
        };
        self.drive(core);
        flow
    }

    /// Does all that the machine wants done, and lets go of it.
    fn drive(&self, mut core: MutexGuard<'_, Core>) {
        let mut hand_over = None;
        loop {
            while let Some((connection, message)) = core.machine.poll_transmit() {
                core.say(&self.outboxes, connection, &message);
            }
            let Some(event) = core.machine.poll_event() else { break };
            match event {
                BackupEvent::PathLost { connection, reason } => {
                    tracing::info!(domain = self.domain, path = ?connection.path, ?reason, "connection lost");
                    core.close(connection, &self.outboxes);
                }
                BackupEvent::HandOver { epoch } => hand_over = Some(epoch),
                BackupEvent::TakeOver { committed, reason } => self.take_over(&mut core, committed, reason),
                BackupEvent::Discard { reason } => self.discard(&mut core, reason),
                other => tracing::warn!(event = ?other, "not understood"),
            }
        }
        // Most messages only put the next look off: those need not wake the timer.
        if core.machine.poll_timeout().is_some_and(|at| at < core.timer_at) {
            self.changed.notify_all();
        }
        drop(core);
        if let Some(epoch) = hand_over {
            self.hand_over(epoch);
        }
    }

    fn hand_over(&self, epoch: u64) {
        if let Some(mut log) = self.log() {
            log.committed(epoch);
        }
        for chunk in self.intake().committed(epoch) {
            let _ = self.feeder.queue.push_over(chunk);
        }
        self.judge_backlog();
    }

    /// Lets the machine know when committed epochs pile up before `xl`.
    fn judge_backlog(&self) {
        let (bytes, _) = self.feeder.queue.fill();
        let mut core = self.lock();
        core.machine.set_backlog(bytes > self.buffer_limit, clock::now());
        self.drive(core);
    }

    fn take_over(&self, core: &mut Core, committed: u64, reason: TakeOverReason) {
        let detect = match reason {
            TakeOverReason::Silence { lasted } => lasted,
            _ => clock::now().since(core.machine.last_heard()),
        };
        tracing::warn!(domain = self.domain, committed, ?reason, "TAKING OVER");
        core.decided = Some(Instant::now());
        core.state = Some("taking-over");
        core.note = match reason {
            TakeOverReason::Failing => "the primary has given the domain up".into(),
            _ => format!("the primary was silent for {} ms", detect.as_millis()),
        };
        let at_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        core.takeover = Some(TakeoverStatus {
            at_unix_ms: u64::try_from(at_unix.as_millis()).unwrap_or(u64::MAX),
            detect_ms: detect.as_secs_f64() * 1e3,
            ..TakeoverStatus::default()
        });
        self.taken_over.insert(self.id, &self.domain);
        if self.log.is_some()
            && let Err(error) = prepare_isolation()
        {
            tracing::error!(domain = self.domain, %error, "the guest cannot be kept off its network");
        }
        self.feeder.take_over();
        if self.log.is_some() {
            self.replay(core, committed);
        }
    }

    fn discard(&self, core: &mut Core, reason: DiscardReason) {
        tracing::info!(domain = self.domain, ?reason, "dropping the copy");
        core.note = match reason {
            DiscardReason::Released => "the primary ended the protection".into(),
            DiscardReason::DomainEnded => "the domain has ended on the primary".into(),
            DiscardReason::NeverCommitted => "the primary was lost before the first copy was whole".into(),
            DiscardReason::ShuttingDown => "this service ends".into(),
            other => format!("{other:?}"),
        };
        self.feeder.abort();
    }

    fn run_timer(&self) {
        let mut core = self.lock();
        while !self.retired.load(Ordering::Relaxed) {
            let now = clock::now();
            let wait = core.machine.poll_timeout().map_or(Duration::from_secs(1), |at| at.since(now));
            if wait.is_zero() {
                core.machine.handle_timeout(now);
                self.drive(core);
                core = self.lock();
                // A machine that is due again at once must not starve the others.
                if core.machine.poll_timeout().is_none_or(|at| at > now) {
                    continue;
                }
            }
            let wait = wait.max(Duration::from_millis(1));
            core.timer_at = now + wait;
            let (next, _) = self.changed.wait_timeout(core, wait).unwrap_or_else(PoisonError::into_inner);
            core = next;
        }
    }

    fn run_feeder(&self, xl: &Xl) {
        let result = self.feeder.run(&self.domain, xl, || self.judge_backlog());
        self.intake().discard();
        match result {
            Ok(Fed::Aborted) => {}
            Ok(Fed::TakenOver(times)) => self.taken_over(xl, times),
            Err(error) => self.feed_failed(&error),
        }
    }

    /// The copy is lost: the primary must know that it is alone.
    fn feed_failed(&self, error: &FeedError) {
        tracing::error!(domain = self.domain, %error, "the copy of the domain is lost");
        let mut core = self.lock();
        core.machine.shutdown(clock::now());
        self.drive(core);
        let mut core = self.lock();
        core.state = Some("failed");
        core.note = error.to_string();
    }

    /// The domain runs here: announces it.
    fn taken_over(&self, xl: &Xl, times: TakeOverTimes) {
        let (addresses, decided) = {
            let core = self.lock();
            (core.machine.addresses().cloned(), core.decided.unwrap_or(times.handed_over))
        };
        tracing::warn!(domain = self.domain, after = ?(times.running - decided), "the domain runs here");
        if self.log.is_none()
            && let Some(addresses) = addresses
            && let Err(error) = self.announce(xl, &addresses)
        {
            tracing::warn!(domain = self.domain, %error, "the domain could not be announced; it will do so itself");
        }
        let ms = |at: Instant| (at - decided).as_secs_f64() * 1e3;
        let mut core = self.lock();
        // With a log, the replay says when.
        if self.log.is_none() {
            core.state = Some("running-here");
        }
        if let Some(takeover) = &mut core.takeover {
            takeover.handover_ms = ms(times.handed_over);
            takeover.running_ms = ms(times.running);
            if self.log.is_none() {
                takeover.announced_ms = ms(Instant::now());
            }
        }
    }

    fn announce(&self, xl: &Xl, addresses: &Addresses) -> Result<(), Box<dyn std::error::Error>> {
        let domain = xl.domain(&self.domain)?;
        let Some(vif) = domain.config.nics.first().map(|nic| nic.device(domain.domid)) else {
            return Ok(());
        };
        let bridge = bridge_of(&vif)?.ok_or_else(|| format!("{vif} is on no bridge"))?;
        let learnt = |&addr| Learnt { addr, vlan: None, claimed: true, router: false };
        let addresses_to_tell = addresses.ips.iter().map(learnt).collect();
        announce_repeatedly(Announcement { vif, bridge, mac: addresses.mac, addresses: addresses_to_tell })?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Queues a message, if the connection is still the path's.
    fn say(&self, outboxes: &[Arc<Outbox>; 2], connection: ConnectionId, message: &Message) {
        let at = slot(connection.path);
        if self.connections[at].as_ref().is_none_or(|(id, _)| *id != connection) {
            return;
        }
        let mut buffer = [0; MESSAGE_MAX];
        match message.encode(&mut buffer) {
            Ok(bytes) => outboxes[at].message(bytes.to_vec()),
            Err(error) => tracing::error!(%error, ?message, "message does not fit"),
        }
    }

    /// Closes the connection, if it is still the path's.
    fn close(&mut self, connection: ConnectionId, outboxes: &[Arc<Outbox>; 2]) {
        let at = slot(connection.path);
        if self.connections[at].as_ref().is_some_and(|(id, _)| *id == connection)
            && let Some((_, link)) = self.connections[at].take()
        {
            outboxes[at].disconnect(link.generation);
            link.shutdown();
        }
    }
}
