//! The main thread of a primary: hands what happens to the machine, and does
//! what the machine says.

use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llm_core::replication::{
    CheckpointReason, ConnectionId, Path, PrimaryEvent, PrimaryPhase, Refusal, RefuseReason,
};
use llm_core::time::Instant;

use super::event::{Event, SessionEvent};
use super::network::{Marks, Network};
use super::pipe::PipeEvent;
use super::session::{Session, machine_config};
use super::status::{Report, Stage};
use super::stream::{Stream, StreamConfig, StreamStartError};
use super::watcher::{self, Seen, Watch};
use super::{Outcome, PrimaryConfig, PrimaryError};
use crate::clock;
use crate::control::PrimaryStatus;
use crate::net::NetEvent;
use crate::xen::privcmd::Privcmd;
use crate::xen::toolstack::Xl;

/// Longest sleep of the main thread: how stale a status can be.
const TICK: Duration = Duration::from_millis(100);
/// How long `xl` may take to resume the guest and exit.
const XL_PATIENCE: Duration = Duration::from_secs(60);
/// How long a backup may be unreachable, or busy, at the start.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before the next session when one has failed.
const RETRY: Duration = Duration::from_secs(2);
/// Failures of `xl` in a row, without a commit between them, before we give in.
const XL_FAILURES_MAX: u32 = 3;
/// Time for a goodbye to reach the wire before the process ends.
const PARTING: Duration = Duration::from_millis(300);

/// What follows when the stream has ended.
#[derive(Debug)]
enum Next {
    /// Protection ends like this.
    End(Result<Outcome, PrimaryError>),
    /// A new session begins.
    NewSession,
}

#[derive(Debug)]
pub(super) struct Driver {
    config: PrimaryConfig,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    session: Session,
    marks: Arc<Marks>,
    /// Joined from the first connection on, over all sessions.
    network: Option<Network>,
    watch: Arc<Watch>,
    report: Report,
    /// Set once the stream is on its way out.
    next: Option<(Next, Instant)>,
    /// What a release is for.
    after_release: Option<Next>,
    release_reply: Vec<SyncSender<Result<String, String>>>,
    xl_failures: u32,
    /// By policy, output leaves without a backup until there is one again.
    unprotected: bool,
    started: Instant,
    /// Not before this may a new session dial.
    pause_until: Instant,
}

impl Driver {
    pub(super) fn new(
        config: PrimaryConfig,
        events: Sender<Event>,
        inbox: Receiver<Event>,
        status: Arc<Mutex<PrimaryStatus>>,
    ) -> Result<Self, PrimaryError> {
        let session = Session::new(&config, machine_config(&config)?, &events);
        let now = clock::now();
        Ok(Self {
            config,
            events,
            inbox,
            session,
            marks: Arc::default(),
            network: None,
            watch: Arc::default(),
            report: Report::new(status),
            next: None,
            after_release: None,
            release_reply: Vec::new(),
            xl_failures: 0,
            unprotected: false,
            started: now,
            pause_until: now,
        })
    }

    pub(super) fn run(mut self, on_protected: impl FnOnce()) -> Result<Outcome, PrimaryError> {
        let result = self.run_inner(on_protected);
        self.watch.stop();
        // Whatever happened: on its way out the guest is either back on its bridge or isolated.
        let rejoin = match &result {
            Ok(Outcome::Released) => true,
            Ok(Outcome::DomainEnded(_) | Outcome::TakenOver) | Err(PrimaryError::GivenUp { .. }) => false,
            Err(_) => true,
        };
        if let Some(mut network) = self.network.take() {
            network.end(rejoin);
        }
        let words = match &result {
            Ok(Outcome::Released) => Ok("released; the guest goes on here, unprotected".to_owned()),
            Ok(Outcome::DomainEnded(how)) => Ok(format!("the domain has ended: {how}")),
            Ok(Outcome::TakenOver) => Err("the backup has taken the domain over".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        for reply in self.release_reply.drain(..) {
            let _ = reply.send(words.clone());
        }
        self.session.paths.finish();
        result
    }

    fn run_inner(&mut self, on_protected: impl FnOnce()) -> Result<Outcome, PrimaryError> {
        let mut on_protected = Some(on_protected);
        loop {
            let now = clock::now();
            if now >= self.pause_until {
                self.session.machine.handle_timeout(now);
                self.obey(now)?;
            }
            if self.next.is_none() && self.session.go_if_due(now) {
                self.watch.set_busy(true);
            }
            if let Some(status) = self.session.stream.as_ref().and_then(|s| s.ended()) {
                self.xl_exited(status, now)?;
                self.obey(now)?;
            }
            if let Some(end) = self.proceed(now) {
                return end;
            }
            if self.report.committed > 0
                && let Some(ready) = on_protected.take()
            {
                ready();
            }
            self.update(now);
            match self.inbox.recv_timeout(self.sleep(clock::now())) {
                Ok(event) => self.handle(event)?,
                Err(RecvTimeoutError::Timeout) => {}
                // We hold a sender ourselves.
                Err(RecvTimeoutError::Disconnected) => unreachable!("the driver holds a sender"),
            }
        }
    }

    fn sleep(&self, now: Instant) -> Duration {
        let machine = &self.session.machine;
        let checkpoint = if self.session.held { machine.next_checkpoint_at() } else { None };
        let timer = if now < self.pause_until { Some(self.pause_until) } else { machine.poll_timeout() };
        [checkpoint, timer].into_iter().flatten().map(|at| at.since(now)).min().unwrap_or(TICK).min(TICK)
    }

    fn handle(&mut self, event: Event) -> Result<(), PrimaryError> {
        let now = clock::now();
        match event {
            Event::Session { session, event } if session == self.session.id => {
                self.handle_session(event, now)?;
            }
            Event::Session { .. } => {}
            Event::Net(event) => self.handle_net(&event)?,
            Event::Domain(seen) => self.handle_domain(seen, now),
            Event::Release(reply) => {
                self.release_reply.push(reply);
                self.end_by_release(Next::End(Ok(Outcome::Released)), now);
            }
            Event::Terminate => {
                tracing::info!("asked to end: releasing the domain");
                self.end_by_release(Next::End(Ok(Outcome::Released)), now);
            }
        }
        self.obey(now)
    }

    fn handle_session(&mut self, event: SessionEvent, now: Instant) -> Result<(), PrimaryError> {
        let session = &mut self.session;
        match event {
            SessionEvent::Dialled { connection, result: Ok(stream) } => {
                if session.machine.handle_connected(connection, now).is_ok()
                    && !session.paths.opened(connection, stream)
                {
                    session.machine.handle_disconnected(connection, now);
                }
            }
            SessionEvent::Dialled { connection, result: Err(error) } => {
                self.report.note(error_chain(&error));
                session.machine.handle_disconnected(connection, now);
                self.check_start(now, |config, reason| PrimaryError::NoBackup {
                    backup: config.backup.clone(),
                    reason,
                })?;
            }
            SessionEvent::Message { connection, message } => {
                // A stale connection is closed already.
                let _ = session.machine.handle_message(connection, &message, now);
            }
            SessionEvent::PathEnd { connection, end } => {
                if !end.is_plain() {
                    tracing::warn!(%end, path = ?connection.path, "connection given up");
                    self.report.note(end.to_string());
                }
                session.machine.handle_disconnected(connection, now);
                session.paths.close(connection);
            }
            SessionEvent::Started(started) => self.started(started, now),
            SessionEvent::Pipe(event) => self.handle_pipe(event, now)?,
            SessionEvent::Encoded(summary) => {
                self.report.encoded(&summary);
                if let Err(error) = session.encoded(&summary) {
                    tracing::debug!(%error, "an epoch ended after its session");
                }
            }
            SessionEvent::EncodeFailed(error) => self.stream_unusable(error.to_string(), now),
        }
        Ok(())
    }

    fn handle_pipe(&mut self, event: PipeEvent, now: Instant) -> Result<(), PrimaryError> {
        match event {
            PipeEvent::Boundary { epoch, limit } => self.session.boundary(epoch, limit),
            PipeEvent::Read { epoch, at, held } => {
                self.session.held = held;
                self.watch.set_busy(!held);
                self.report.read(at);
                if let Err(error) = self.session.machine.epoch_closed(epoch, at) {
                    tracing::error!(%error, "the checkpoints are out of order");
                    self.report.note(error.to_string());
                    self.restart(now);
                }
            }
            // The exit of `xl` follows, and decides.
            PipeEvent::Ended(Ok(())) => tracing::debug!("the checkpoint pipe has ended"),
            PipeEvent::Ended(Err(error)) if self.next.is_some() => tracing::debug!(%error, "pipe closed"),
            PipeEvent::Ended(Err(error)) => self.stream_unusable(error_chain(&error), now),
        }
        Ok(())
    }

    fn handle_net(&mut self, event: &NetEvent) -> Result<(), PrimaryError> {
        match event {
            NetEvent::Pressure { held } => {
                tracing::debug!(held, "output piles up: early checkpoint");
                self.report.early += 1;
                self.session.machine.request_checkpoint(CheckpointReason::EgressPressure);
            }
            NetEvent::AddressesChanged => {
                if let Some(addresses) = self.network.as_ref().and_then(Network::addresses) {
                    self.session.machine.set_addresses(addresses);
                }
            }
            NetEvent::Failed { reason } => {
                tracing::error!(%reason, "the packet path has failed; the guest is isolated");
                return Err(self.give_up(format!("its packet path failed: {reason}"), clock::now()));
            }
            other => tracing::info!(event = ?other, "packet path"),
        }
        Ok(())
    }

    fn handle_domain(&mut self, seen: Seen, now: Instant) {
        match seen {
            Seen::Pause(pause) => self.report.pauses.add(pause.as_secs_f64() * 1e3),
            Seen::SuspendedWhileHeld if self.session.held => {
                tracing::debug!("xl was held a moment too late; its checkpoint goes on");
                self.session.go();
                self.watch.set_busy(true);
            }
            Seen::SuspendedWhileHeld => {}
            Seen::Gone(how) => {
                if self.next.is_none() && self.session.machine.phase() != PrimaryPhase::TakenOver {
                    tracing::info!(%how, "the domain has ended");
                    self.after_release = Some(Next::End(Ok(Outcome::DomainEnded(how))));
                    self.session.machine.shutdown(now);
                }
            }
        }
    }

    /// Does all that the machine wants done.
    fn obey(&mut self, now: Instant) -> Result<(), PrimaryError> {
        self.session.transmit();
        while let Some(event) = self.session.machine.poll_event() {
            self.act(event, now)?;
            self.session.transmit();
        }
        Ok(())
    }

    fn act(&mut self, event: PrimaryEvent, now: Instant) -> Result<(), PrimaryError> {
        match event {
            PrimaryEvent::Connect { connection } => self.session.paths.dial(connection),
            PrimaryEvent::Connected { connection, version, .. } => {
                tracing::info!(path = ?connection.path, version, "connected with the backup");
                return self.connected();
            }
            PrimaryEvent::PathLost { connection, reason } => {
                tracing::info!(path = ?connection.path, ?reason, "connection lost");
                self.session.paths.close(connection);
            }
            PrimaryEvent::Resume { connection, next_seq } => self.resume(connection, next_seq, now),
            PrimaryEvent::Committed { epoch, latency } => {
                let count = self.session.committed(epoch);
                self.report.commit(count, latency, now);
                self.xl_failures = 0;
            }
            PrimaryEvent::Release { epoch } => {
                if let (Some(limit), Some(network)) = (self.session.released(epoch), &self.network) {
                    network.lease(self.session.machine.lease_until());
                    network.release(limit);
                }
            }
            PrimaryEvent::IntervalStretched { wanted, real } => {
                tracing::debug!(?wanted, ?real, "the interval grows: backup or link is behind");
                self.report.stretched += 1;
            }
            PrimaryEvent::BackupLost { .. } => {
                tracing::warn!(
                    policy = ?self.config.on_backup_loss,
                    "the backup is not heard any more: the guest's output is held"
                );
                self.report.losses += 1;
            }
            PrimaryEvent::BackupBack { after } => {
                tracing::info!(?after, "the backup is back: the guest's output flows again");
            }
            PrimaryEvent::BackupLeft => tracing::warn!("the backup ends and has dropped its copy"),
            PrimaryEvent::BackupRestarted => {
                tracing::warn!("the backup was restarted and holds nothing: protecting anew");
                self.wind_up(Next::NewSession, now);
            }
            PrimaryEvent::Refused { refusal, .. } => return self.refused(refusal, now),
            PrimaryEvent::GoneUnprotected => {
                tracing::warn!("the guest runs on UNPROTECTED, as the policy says");
                self.let_everything_out();
                self.unprotected = true;
                let next = self.after_release.take().unwrap_or(Next::NewSession);
                self.wind_up(next, now);
            }
            PrimaryEvent::ReleaseUnanswered => {
                let note = "the backup does not answer the release; output is still held";
                tracing::warn!(note);
                self.report.note(note.into());
                if matches!(self.after_release, Some(Next::End(Ok(Outcome::DomainEnded(_))))) {
                    // There is nothing left to hold.
                    let next = self.after_release.take().unwrap_or(Next::NewSession);
                    self.wind_up(next, now);
                }
            }
            PrimaryEvent::Released => {
                self.let_everything_out();
                let next = self.after_release.take().unwrap_or(Next::End(Ok(Outcome::Released)));
                self.wind_up(next, now);
            }
            PrimaryEvent::StopDomain => self.taken_over(now),
            other => tracing::warn!(event = ?other, "not understood"),
        }
        Ok(())
    }

    fn refused(&mut self, refusal: Refusal, now: Instant) -> Result<(), PrimaryError> {
        tracing::warn!(%refusal, "the backup refuses");
        self.report.note(format!("the backup refuses: {refusal}"));
        let reason = refusal.reason;
        let error = PrimaryError::Refused { backup: self.config.backup.clone(), refusal };
        match reason {
            // An epoch of ours was committed, so what runs there is our domain.
            RefuseReason::TakenOver if self.report.committed > 0 => {
                self.taken_over(now);
                Ok(())
            }
            RefuseReason::UnknownSession => {
                self.wind_up(Next::NewSession, now);
                Ok(())
            }
            reason if reason.may_pass() => self.check_start(now, |_, _| error),
            _ if self.network.is_none() => Err(error),
            // It may be mended: until then the policy holds.
            _ => {
                self.wind_up(Next::NewSession, now);
                Ok(())
            }
        }
    }

    fn taken_over(&mut self, now: Instant) {
        tracing::error!("the backup has taken the domain over: the copy here is stopped");
        self.stop_domain();
        self.wind_up(Next::End(Ok(Outcome::TakenOver)), now);
    }

    /// Both connections stand for the first time: takes over the network and starts the stream.
    fn connected(&mut self) -> Result<(), PrimaryError> {
        let up = |path| self.session.machine.is_connected(path);
        if !Path::ALL.into_iter().all(up) || self.session.has_stream() || self.next.is_some() {
            return Ok(());
        }
        let domain = self.config.domain.clone();
        if self.network.is_none() {
            let network = Network::join(
                &self.config.interfaces,
                self.config.egress_limit,
                &self.marks,
                &self.events,
            )
            .map_err(|source| PrimaryError::Net { domain: domain.clone(), source })?;
            self.network = Some(network);
            self.start_watcher(&domain)?;
        }
        let Some(network) = &self.network else { return Ok(()) };
        // The backup has nothing to take over with: output may pass until the first suspension.
        self.unprotected = false;
        network.lease(Instant::from_nanos(u64::MAX));
        network.hold_from(self.marks.end() + 1);
        let pass = network.limiter();
        let config = StreamConfig {
            session: self.session.id,
            domain: domain.clone(),
            // Short: while it is held the timer has long run out.
            xl_interval: (self.config.interval / 4).clamp(Duration::from_millis(20), Duration::from_millis(100)),
            shadow_pages: self.config.shadow_pages,
            buffer_limit: self.config.buffer_limit,
        };
        self.session
            .start_stream(config, &self.marks, pass, &self.events)
            .map_err(|e| PrimaryError::Xen { domain, source: e.into() })?;
        if let Some(addresses) = self.network.as_ref().and_then(Network::addresses) {
            self.session.machine.set_addresses(addresses);
        }
        tracing::info!("first copy of the domain is on its way");
        self.report.stream_started();
        Ok(())
    }

    /// `xl remus` runs, or could not be started.
    fn started(&mut self, started: Result<Box<Stream>, StreamStartError>, now: Instant) {
        self.session.starting = false;
        match started {
            Ok(stream) => {
                if self.next.is_some() {
                    stream.break_off();
                }
                self.session.stream = Some(stream);
            }
            Err(error) => {
                self.marks.end();
                tracing::warn!(error = error_chain(&error), "xl remus cannot be started");
                self.report.note(error_chain(&error));
                let domain = self.config.domain.clone();
                self.xl_failed(PrimaryError::Xen { domain, source: error.into() }, now);
            }
        }
    }

    fn start_watcher(&self, domain: &str) -> Result<(), PrimaryError> {
        let failed = |source| PrimaryError::Xen { domain: domain.into(), source };
        let mut privcmd = Privcmd::open().map_err(|e| failed(e.into()))?;
        let (watch, events, domid) = (Arc::clone(&self.watch), self.events.clone(), self.config.domid);
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                watcher::run(&mut privcmd, domid, &watch, |seen| {
                    let _ = events.send(Event::Domain(seen));
                });
            })
            .map_err(|e| failed(e.into()))?;
        Ok(())
    }

    fn resume(&mut self, connection: ConnectionId, next_seq: u64, now: Instant) {
        if !self.session.paths.resume(next_seq) {
            tracing::warn!(next_seq, ?connection, "the backup asks for data that is gone: protecting anew");
            self.restart(now);
        }
    }

    /// `xl` has ended. Asked to: fine. Otherwise the domain decides what is left to do.
    fn xl_exited(&mut self, status: ExitStatus, now: Instant) -> Result<(), PrimaryError> {
        let words = self.session.stream.take().map(|s| s.last_words()).unwrap_or_default();
        self.session.held = false;
        self.marks.end();
        if self.next.is_some() || self.after_release.is_some() {
            return Ok(());
        }
        tracing::warn!(%status, %words, "xl remus has ended by itself");
        self.report.note(format!("xl remus ended: {words}"));
        let domain = self.config.domain.clone();
        let protected = self.session.machine.committed().is_some();
        let look = match Privcmd::open() {
            Ok(mut privcmd) => watcher::look(&mut privcmd, self.config.domid),
            Err(error) => Err(error.to_string()),
        };
        match look {
            // The watcher says so too, and ends the protection.
            Err(_) => Ok(()),
            Ok(true) if protected => {
                Err(self.give_up(format!("xl remus ended and left it suspended: {words}"), now))
            }
            Ok(_) => {
                self.xl_failed(PrimaryError::Toolstack { domain, last_words: words }, now);
                Ok(())
            }
        }
    }

    /// Tries again with a new session, but not for ever: then protection ends with `error`.
    fn xl_failed(&mut self, error: PrimaryError, now: Instant) {
        if self.next.is_some() || self.after_release.is_some() {
            return;
        }
        self.xl_failures += 1;
        if self.xl_failures >= XL_FAILURES_MAX {
            self.end_by_release(Next::End(Err(error)), now);
        } else {
            self.restart(now);
        }
    }

    /// The stream cannot be understood: no new session would help.
    fn stream_unusable(&mut self, reason: String, now: Instant) {
        if self.next.is_some() || self.after_release.is_some() {
            return;
        }
        tracing::error!(%reason, "the checkpoint stream cannot be used");
        let error = PrimaryError::Toolstack { domain: self.config.domain.clone(), last_words: reason };
        self.end_by_release(Next::End(Err(error)), now);
    }

    /// Ends this session in agreement with the backup and begins a new one.
    fn restart(&mut self, now: Instant) {
        if self.next.is_none() && self.after_release.is_none() {
            self.after_release = Some(Next::NewSession);
            self.session.machine.release(now);
        }
    }

    /// Ends the protection in agreement with the backup.
    fn end_by_release(&mut self, next: Next, now: Instant) {
        match &mut self.next {
            // On its way to a new session, which now need not be.
            Some((waiting @ Next::NewSession, _)) => *waiting = next,
            Some(_) => {}
            None if self.network.is_none() => self.wind_up(next, now),
            None => {
                self.after_release = Some(next);
                self.session.machine.release(now);
            }
        }
    }

    /// Ends the stream; `next` follows once `xl` is gone.
    fn wind_up(&mut self, next: Next, now: Instant) {
        if self.next.is_some() {
            return;
        }
        self.watch.set_busy(true);
        if let Some(stream) = &self.session.stream {
            self.marks.end();
            stream.break_off();
        }
        self.next = Some((next, now + XL_PATIENCE));
    }

    /// Goes on with what follows the stream's end, once it has ended.
    fn proceed(&mut self, now: Instant) -> Option<Result<Outcome, PrimaryError>> {
        let deadline = self.next.as_ref()?.1;
        if let Some(stream) = &self.session.stream {
            if now >= deadline {
                tracing::error!(words = stream.last_words(), "xl does not end: killing it");
                stream.kill();
                self.next.as_mut()?.1 = now + XL_PATIENCE;
            }
            return None;
        }
        if self.session.starting {
            return None;
        }
        match self.next.take()?.0 {
            Next::End(end) => Some(end),
            Next::NewSession => {
                let machine = match machine_config(&self.config) {
                    Ok(machine) => machine,
                    Err(error) => return Some(Err(error)),
                };
                self.session.paths.finish();
                self.session = Session::new(&self.config, machine, &self.events);
                self.pause_until = now + RETRY;
                None
            }
        }
    }

    /// Tells the backup to take over, now, and stops the domain here. Only if the backup
    /// has something to take over with.
    fn give_up(&mut self, reason: String, now: Instant) -> PrimaryError {
        if self.session.machine.committed().is_none() {
            let domain = self.config.domain.clone();
            return PrimaryError::Toolstack { domain, last_words: reason };
        }
        self.session.machine.fail(now);
        self.session.transmit();
        self.stop_domain();
        self.session.paths.finish();
        std::thread::sleep(PARTING);
        PrimaryError::GivenUp { domain: self.config.domain.clone(), reason }
    }

    /// Isolates and destroys the domain here.
    fn stop_domain(&mut self) {
        if let Some(mut network) = self.network.take() {
            network.end(false);
        }
        if let Some(stream) = &self.session.stream {
            stream.kill();
        }
        self.watch.stop();
        if let Err(error) = Xl::default().destroy(&self.config.domid.to_string()) {
            tracing::error!(%error, "the copy of the domain here could not be destroyed; it is isolated");
        }
    }

    /// Protection is over: what waits may leave, and whatever comes.
    fn let_everything_out(&self) {
        if let Some(network) = &self.network {
            network.lease(Instant::from_nanos(u64::MAX));
            network.release(u64::MAX);
        }
    }

    /// At the start somebody waits for an answer: gives in after a while.
    fn check_start(
        &self,
        now: Instant,
        error: impl FnOnce(&PrimaryConfig, String) -> PrimaryError,
    ) -> Result<(), PrimaryError> {
        if self.network.is_none() && now.since(self.started) > START_PATIENCE {
            return Err(error(&self.config, self.report.last_note()));
        }
        Ok(())
    }

    fn update(&mut self, now: Instant) {
        let machine = &self.session.machine;
        if let Some(network) = &self.network
            && machine.holds_output()
            && !self.unprotected
            && self.next.is_none()
        {
            network.lease(machine.lease_until());
        }
        let releasing = self.next.is_some() || self.after_release.is_some();
        let stage = match (releasing, self.unprotected) {
            (true, _) => Stage::Releasing,
            (false, true) => Stage::Unprotected,
            (false, false) => Stage::Running,
        };
        self.report.update(&self.session, self.network.as_ref(), stage, now);
    }
}

/// An error with all its sources, joined by colons.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
