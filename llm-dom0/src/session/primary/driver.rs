//! The main thread of a primary: hands what happens to the machine, and does
//! what the machine says.

mod ending;
mod starting;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llm_core::replication::{
    CheckpointReason, ConnectionId, Mode, Path, PrimaryEvent, PrimaryPhase, Refusal, RefuseReason,
};
use llm_core::time::Instant;

use super::event::{Event, SessionEvent};
use super::log::{Budget, InputLog};
use super::network::{Marks, Network};
use super::pipe::PipeEvent;
use super::session::{Session, machine_config};
use super::squeeze::SecondStage;
use super::status::{Report, Stage};
use super::watcher::{Gone, Seen, Watch};
use super::{Outcome, PrimaryConfig, PrimaryError};
use crate::clock;
use crate::control::PrimaryStatus;
use crate::net::{NetEvent, Translations};

/// Longest sleep of the main thread: how stale a status can be.
const TICK: Duration = Duration::from_millis(100);
/// While the first copy runs, the log is cut this often.
const FIRST_CUTS: Duration = Duration::from_secs(1);

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
    /// Handed over by this host's `llm backup`, if that has taken the domain over.
    translations: Arc<Translations>,
    /// In modes with a log.
    log: Option<Arc<InputLog>>,
    cut_at: Instant,
    /// Joined from the first connection on, over all sessions.
    network: Option<Network>,
    watch: Arc<Watch>,
    report: Report,
    /// Over all sessions.
    second_stage: Arc<SecondStage>,
    /// Set once the stream is on its way out.
    next: Option<(Next, Instant)>,
    /// What a release is for.
    after_release: Option<Next>,
    release_reply: Vec<SyncSender<Result<String, String>>>,
    xl_failures: u32,
    /// The domain has powered off and nobody takes it away: the `xl` that watched it took the first
    /// checkpoint's suspension for its end, and has left.
    remains: bool,
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
        let budget = Budget { bytes: config.log_limit, records: config.log_records };
        let translations = Arc::<Translations>::default();
        let log = config.mode.has_log().then(|| Arc::new(InputLog::new(budget, Arc::clone(&translations))));
        let session = Session::new(&config, machine_config(&config)?, log.as_ref(), &events);
        let now = clock::now();
        Ok(Self {
            config,
            events,
            inbox,
            session,
            marks: Arc::default(),
            translations,
            log,
            cut_at: now,
            network: None,
            watch: Arc::default(),
            report: Report::new(status),
            second_stage: Arc::default(),
            next: None,
            after_release: None,
            release_reply: Vec::new(),
            xl_failures: 0,
            remains: false,
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
            let broken = self.translations.count();
            if rejoin && broken > 0 {
                tracing::warn!(
                    broken,
                    "nobody translates connections from before the take-over any more: they break"
                );
            }
            network.end(rejoin);
        }
        if let Some(domain) = &self.config.encoder {
            domain.destroy();
        }
        if matches!(result, Ok(Outcome::DomainEnded(_))) && self.remains {
            self.take_away();
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
        self.second_stage.log();
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
            Event::Release { reply, force } => {
                self.release_reply.push(reply);
                self.end_by_release(Next::End(Ok(Outcome::Released)), now);
                if force {
                    tracing::warn!("released by force: not waiting for the backup");
                    self.session.machine.go_on(now);
                }
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
            PipeEvent::Boundary { epoch, limit } => {
                self.session.boundary(epoch, limit);
                if let Some(log) = &self.log {
                    log.cut(epoch, limit);
                }
            }
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
            Seen::Pause(pause) => self.report.paused(pause),
            Seen::SuspendedWhileHeld if self.session.held => {
                tracing::debug!("xl was held a moment too late; its checkpoint goes on");
                self.session.go();
                self.watch.set_busy(true);
            }
            Seen::SuspendedWhileHeld => {}
            Seen::Gone(Gone { how, remains }) => {
                self.remains |= remains;
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
            PrimaryEvent::Connected { connection, version, features } => {
                self.session.features = features;
                if connection.path == Path::Bulk {
                    self.session.squeeze(self.config.compress, features, &self.second_stage);
                }
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
                let note = "the backup does not answer the release, so output is still held; bring it back, or make \
                            sure that it is dead and say `llm release --force`";
                tracing::warn!(note);
                self.report.note(note.into());
                for reply in self.release_reply.drain(..) {
                    // Whoever asked may have gone.
                    let _ = reply.send(Err(note.into()));
                }
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
        let error = PrimaryError::Refused { backup: self.config.backup.clone(), refusal: Box::new(refusal) };
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
            reason => {
                if reason == RefuseReason::Corrupt
                    && let Some(domain) = self.config.encoder.take()
                {
                    tracing::warn!(
                        "the encoder's domain may have damaged an epoch: from here on Dom0 encodes"
                    );
                    domain.destroy();
                }
                self.wind_up(Next::NewSession, now);
                Ok(())
            }
        }
    }

    fn resume(&mut self, connection: ConnectionId, next_seq: u64, now: Instant) {
        if !self.session.paths.resume(connection.path, next_seq) {
            tracing::warn!(next_seq, ?connection, "the backup asks for data that is gone: protecting anew");
            self.restart(now);
        }
    }

    fn update(&mut self, now: Instant) {
        let machine = &self.session.machine;
        if let Some(network) = &self.network
            && machine.holds_output()
            && !self.unprotected
            && self.next.is_none()
        {
            let paper = self.config.mode == Mode::LlmPaper;
            network.lease(if paper { Instant::from_nanos(u64::MAX) } else { machine.lease_until() });
        }
        self.tend_log(now);
        let releasing = self.next.is_some() || self.after_release.is_some();
        let stage = match (releasing, self.unprotected) {
            (true, _) => Stage::Releasing,
            (false, true) => Stage::Unprotected,
            (false, false) => Stage::Running,
        };
        self.report.update(&self.session, self.network.as_ref(), self.log.as_deref(), stage, now);
        self.report.compressed(self.second_stage.status());
    }

    /// Bounds the log: by a checkpoint, or, while there is none yet, by telling what the first one will hold anyway.
    fn tend_log(&mut self, now: Instant) {
        let Some(log) = &self.log else { return };
        let machine = &mut self.session.machine;
        if log.is_over_budget() && machine.checkpoint_requested().is_none() && machine.committed().is_some() {
            tracing::debug!("the input log nears its bound: early checkpoint");
            self.report.early += 1;
            machine.request_checkpoint(CheckpointReason::LogBudget);
        }
        if let Some(network) = &self.network
            && machine.closed().is_none()
            && now >= self.cut_at
        {
            // Up to there the stream was read, and the guest had not been suspended.
            log.cut(0, network.limit());
            self.cut_at = now + FIRST_CUTS;
        }
    }
}

/// An error with all its sources, joined by colons.
pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
