//! The machine beside the running domain.

mod epochs;
mod event;
mod lease;
mod link;
mod receive;
#[cfg(test)]
mod tests;

pub use event::{CheckpointReason, OnBackupLoss, PrimaryEvent, PrimaryPhase, SequenceError};

use super::events::Events;
use super::message::{Addresses, DOMAIN_MAX, Goodbye, GoodbyeReason, Heartbeat, Hello, Message, Mode};
use super::{ConnectionId, FEATURES, LostReason, PROTOCOL_MAX, PROTOCOL_MIN, Path, StaleConnection, Timing};
use crate::time::Instant;
use epochs::Epochs;
use heapless::String;
use lease::Lease;
use link::{Link, State};

/// What a session is begun with.
#[derive(Clone, Debug)]
pub struct PrimaryConfig {
    /// Random, not 0, never used before.
    pub session: u64,
    /// Name of the domain; see [`Hello::domain_is_valid`].
    pub domain: String<DOMAIN_MAX>,
    /// How output waits.
    pub mode: Mode,
    /// Times.
    pub timing: Timing,
    /// Pages of the shadow copy that both ends keep.
    pub shadow_pages: u64,
    /// Abilities offered, of [`FEATURES`](super::FEATURES).
    pub features: u64,
    /// What to do without a backup.
    pub on_backup_loss: OnBackupLoss,
    /// Closed epochs that may wait for their commit when the next checkpoint is due,
    /// 1 to [`super::MAX_OPEN_EPOCHS`].
    pub max_open_epochs: usize,
}

/// The primary of one session.
///
/// | the driver | calls |
/// |---|---|
/// | has dialled as told | [`handle_connected`](Self::handle_connected) or [`handle_disconnected`](Self::handle_disconnected) |
/// | has read a message | [`handle_message`](Self::handle_message) |
/// | has lost a connection | [`handle_disconnected`](Self::handle_disconnected) |
/// | has read an epoch to its end and queued its frames | [`epoch_closed`](Self::epoch_closed) |
/// | reaches [`poll_timeout`](Self::poll_timeout) | [`handle_timeout`](Self::handle_timeout) |
/// | paces checkpoints | [`next_checkpoint_at`](Self::next_checkpoint_at), [`may_checkpoint`](Self::may_checkpoint) |
/// | is about to let a packet out | [`holds_output`](Self::holds_output), [`may_release`](Self::may_release) |
///
/// and after each of them drains [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event).
#[derive(Clone, Debug)]
pub struct Primary {
    config: PrimaryConfig,
    phase: PrimaryPhase,
    /// Newest time seen.
    now: Instant,
    links: [Link; 2],
    connections: u32,
    events: Events<PrimaryEvent, { PrimaryEvent::SLOTS }>,
    lease: Lease,
    lost: Option<Instant>,
    epochs: Epochs,
    /// Of the backup that welcomed this session.
    incarnation: Option<u64>,
    /// Newest clock value of the backup.
    peer_sent: u64,
    /// Bulk data the backup said to have, as the first number it lacks.
    next_seq: u64,
    addresses: Option<Addresses>,
    goodbye: Option<GoodbyeReason>,
    release_warn_at: Option<Instant>,
}

impl Primary {
    /// A session that has yet to find its backup: both paths ask to be dialled.
    #[must_use]
    pub fn new(config: PrimaryConfig, now: Instant) -> Self {
        let timing = config.timing;
        let mut primary = Self {
            phase: PrimaryPhase::Active,
            now,
            links: [Link::new(&timing, now), Link::new(&timing, now)],
            connections: 0,
            events: Events::new(),
            lease: Lease::new(timing.lease()),
            lost: None,
            epochs: Epochs::new(timing.interval(), config.max_open_epochs, now),
            incarnation: None,
            peer_sent: 0,
            next_seq: super::FIRST_DATA_SEQ,
            addresses: None,
            goodbye: None,
            release_warn_at: None,
            config,
        };
        primary.handle_timeout(now);
        primary
    }

    /// The connection asked for stands.
    ///
    /// # Errors
    /// It is no longer wanted: close it.
    pub fn handle_connected(
        &mut self,
        connection: ConnectionId,
        now: Instant,
    ) -> Result<(), StaleConnection> {
        self.tick(now);
        let link = &mut self.links[connection.path.index()];
        if link.state != (State::Dialling { connection }) {
            return Err(StaleConnection);
        }
        link.opened(connection, self.now);
        Ok(())
    }

    /// The connection could not be made, or has ended.
    pub fn handle_disconnected(&mut self, connection: ConnectionId, now: Instant) {
        self.tick(now);
        if self.links[connection.path.index()].connection() == Some(connection) {
            self.lose(connection.path, LostReason::Closed);
        }
    }

    /// Lets time pass. Calling too often does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        if !self.is_running() {
            return;
        }
        let timing = self.config.timing;
        self.judge_lease();
        if !self.is_running() {
            return;
        }
        if self.release_warn_at.is_some_and(|at| self.now >= at) {
            self.release_warn_at = None;
            if self.config.on_backup_loss == OnBackupLoss::GoOn && self.incarnation.is_some() {
                return self.go_unprotected();
            }
            self.events.push(PrimaryEvent::ReleaseUnanswered);
        }
        for path in Path::ALL {
            if self.links[path.index()].is_silent(&timing, self.now) {
                self.lose(path, LostReason::Silent);
            }
            let link = &mut self.links[path.index()];
            link.beat(&timing, self.now);
            if let State::Down { retry_at } = link.state
                && self.now >= retry_at
            {
                self.connections = self.connections.wrapping_add(1);
                let connection =
                    ConnectionId { session: self.config.session, path, number: self.connections };
                link.state = State::Dialling { connection };
                self.events.push(PrimaryEvent::Connect { connection });
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do. Checkpoints are
    /// not among it: see [`next_checkpoint_at`](Self::next_checkpoint_at).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_running() {
            return None;
        }
        let timing = &self.config.timing;
        let lease = match (self.lease.until(), self.lost) {
            (until, None) => until,
            (Some(until), Some(_)) if self.goes_on() => Some(until + timing.detect()),
            _ => None,
        };
        let links = self.links.iter().filter_map(|link| link.timeout(timing));
        links.chain(lease).chain(self.release_warn_at).min()
    }

    /// The next message to write, and where. Order within a connection counts.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<(ConnectionId, Message)> {
        for path in Path::ALL {
            let link = &mut self.links[path.index()];
            let State::Open { connection, .. } = link.state else { continue };
            let due = &mut link.due;
            if core::mem::take(&mut due.hello) {
                return Some((connection, Message::Hello(self.hello(path))));
            }
            if core::mem::take(&mut due.goodbye)
                && let Some(reason) = self.goodbye
            {
                return Some((connection, Message::Goodbye(Goodbye { reason })));
            }
            if core::mem::take(&mut due.addresses)
                && let Some(addresses) = &self.addresses
            {
                return Some((connection, Message::Addresses(addresses.clone())));
            }
            if core::mem::take(&mut due.heartbeat) {
                let heartbeat = Heartbeat { sent: self.lease.stamp(self.now), echo: self.peer_sent };
                return Some((connection, Message::Heartbeat(heartbeat)));
            }
        }
        None
    }

    /// The next thing for the driver to do or report.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<PrimaryEvent> {
        self.events.pop()
    }

    /// All of this epoch's stream has been read and its frames are queued. Epochs count
    /// from [`super::FIRST_EPOCH`], the first being the whole of the memory.
    ///
    /// # Errors
    /// Not the next number, or more open ones than can be.
    pub fn epoch_closed(&mut self, epoch: u64, now: Instant) -> Result<(), SequenceError> {
        self.tick(now);
        if let Some(real) = self.epochs.close(epoch, self.now)? {
            let wanted = self.config.timing.interval();
            self.events.push(PrimaryEvent::IntervalStretched { wanted, real });
        }
        Ok(())
    }

    /// Whether the next checkpoint may be taken at `now`.
    #[must_use]
    pub fn may_checkpoint(&self, now: Instant) -> bool {
        self.next_checkpoint_at().is_some_and(|at| now >= at)
    }

    /// When the next checkpoint may be taken: a past time if at once, `None` while
    /// earlier epochs wait for their commit or when the session ends.
    #[must_use]
    pub fn next_checkpoint_at(&self) -> Option<Instant> {
        if self.phase == PrimaryPhase::Active { self.epochs.next_at() } else { None }
    }

    /// Asks for the next checkpoint before its time. Forgotten when an epoch closes.
    pub fn request_checkpoint(&mut self, reason: CheckpointReason) {
        self.epochs.request(reason);
    }

    /// Why the next checkpoint is wanted before its time, if it is.
    #[must_use]
    pub const fn checkpoint_requested(&self) -> Option<CheckpointReason> {
        self.epochs.early()
    }

    /// Whether output has to wait at all. It need not while the first epoch is under way
    /// (the backup, known to be there, has nothing to take over with), nor when protection
    /// has ended. The driver holds from *before* the suspend that ends the first epoch.
    #[must_use]
    pub const fn holds_output(&self) -> bool {
        match self.phase {
            PrimaryPhase::Active | PrimaryPhase::Releasing => {
                self.incarnation.is_none() || self.epochs.closed().is_some()
            }
            PrimaryPhase::Failed | PrimaryPhase::TakenOver | PrimaryPhase::Restarted => true,
            PrimaryPhase::Unprotected | PrimaryPhase::Released => false,
        }
    }

    /// Whether output of epochs named by [`PrimaryEvent::Release`] may leave at `now`.
    #[must_use]
    pub fn may_release(&self, now: Instant) -> bool {
        now < self.lease_until()
    }

    /// First instant at which nothing more may leave: [`Instant::ZERO`] when nothing may,
    /// the end of time when protection has ended. For packet paths that check by themselves.
    #[must_use]
    pub fn lease_until(&self) -> Instant {
        match self.phase {
            PrimaryPhase::Active | PrimaryPhase::Releasing => self.lease.until().unwrap_or(Instant::ZERO),
            PrimaryPhase::Failed | PrimaryPhase::TakenOver | PrimaryPhase::Restarted => Instant::ZERO,
            PrimaryPhase::Unprotected | PrimaryPhase::Released => Instant::from_nanos(u64::MAX),
        }
    }

    /// Tells the backup what the guest answers to, now and on every new connection.
    pub fn set_addresses(&mut self, addresses: Addresses) {
        self.addresses = Some(addresses);
        for link in self.links.iter_mut().filter(|link| link.is_up()) {
            link.due.addresses = true;
        }
    }

    /// Ends protection; the domain goes on. Output waits until the backup has agreed
    /// ([`PrimaryEvent::Released`]).
    pub fn release(&mut self, now: Instant) {
        self.part(GoodbyeReason::Released, now);
    }

    /// Ends protection because the domain has ended; the backup must not revive it.
    /// Answered like a release.
    pub fn shutdown(&mut self, now: Instant) {
        self.part(GoodbyeReason::ShuttingDown, now);
    }

    /// Gives the domain up, at once and for ever: nothing is released from now on, and the
    /// backup takes over. Stop the domain, send what `poll_transmit` still has, and close.
    pub fn fail(&mut self, now: Instant) {
        self.tick(now);
        if !self.is_running() {
            return;
        }
        self.phase = PrimaryPhase::Failed;
        self.say_goodbye(GoodbyeReason::Failing);
    }

    /// Somebody made sure that the backup is dead, or takes the risk: run unprotected.
    pub fn go_on(&mut self, now: Instant) {
        self.tick(now);
        if self.is_running() {
            self.go_unprotected();
        }
    }

    /// Where the session stands.
    #[must_use]
    pub const fn phase(&self) -> PrimaryPhase {
        self.phase
    }

    /// What the session was begun with.
    #[must_use]
    pub const fn config(&self) -> &PrimaryConfig {
        &self.config
    }

    /// Newest closed epoch.
    #[must_use]
    pub const fn closed(&self) -> Option<u64> {
        self.epochs.closed()
    }

    /// Newest epoch known to be committed.
    #[must_use]
    pub const fn committed(&self) -> Option<u64> {
        self.epochs.committed()
    }

    /// Whether the backup has welcomed the path's connection.
    #[must_use]
    pub const fn is_connected(&self, path: Path) -> bool {
        self.links[path.index()].is_up()
    }

    /// When the lease ended, while the backup is lost.
    #[must_use]
    pub const fn backup_lost(&self) -> Option<Instant> {
        self.lost
    }

    const fn is_running(&self) -> bool {
        matches!(self.phase, PrimaryPhase::Active | PrimaryPhase::Releasing)
    }

    fn goes_on(&self) -> bool {
        self.phase == PrimaryPhase::Active && self.config.on_backup_loss == OnBackupLoss::GoOn
    }

    /// Takes in the time. Called late, this side was frozen or starved; what the backup
    /// sent meanwhile waits in the sockets. The lease knows no such excuse.
    fn tick(&mut self, now: Instant) {
        let wanted = self.poll_timeout();
        self.now = self.now.max(now);
        if wanted.is_some_and(|at| self.now > at + self.config.timing.grace()) {
            for link in &mut self.links {
                link.excuse(self.now);
            }
        }
    }

    /// Follows the lease from held to lost and back, and lets waiting epochs go.
    fn judge_lease(&mut self) {
        let Some(until) = self.lease.until() else { return };
        if self.now < until {
            if let Some(since) = self.lost.take() {
                self.events.push(PrimaryEvent::BackupBack { after: self.now.since(since) });
            }
            if let Some(epoch) = self.epochs.release() {
                self.events.push(PrimaryEvent::Release { epoch });
            }
        } else {
            if self.lost.is_none() {
                self.lost = Some(until);
                self.events.push(PrimaryEvent::BackupLost { since: until });
            }
            if self.goes_on() && self.now >= until + self.config.timing.detect() {
                self.go_unprotected();
            }
        }
    }

    fn hello(&mut self, path: Path) -> Hello {
        let config = &self.config;
        let (interval_ms, detect_ms, heartbeat_ms) = config.timing.millis();
        Hello {
            min: PROTOCOL_MIN,
            max: PROTOCOL_MAX,
            features: config.features & FEATURES,
            session: config.session,
            resume: self.incarnation,
            path,
            mode: config.mode,
            domain: config.domain.clone(),
            interval_ms,
            detect_ms,
            heartbeat_ms,
            shadow_pages: config.shadow_pages,
            sent: self.lease.stamp(self.now),
        }
    }

    fn lose(&mut self, path: Path, reason: LostReason) {
        let link = &mut self.links[path.index()];
        let Some(connection) = link.connection() else { return };
        let running = matches!(self.phase, PrimaryPhase::Active | PrimaryPhase::Releasing);
        if running {
            link.down(&self.config.timing, self.now);
        } else {
            link.bar();
        }
        self.events.remove(PrimaryEvent::connected_slot(path));
        self.events.remove(PrimaryEvent::resume_slot(path));
        self.events.push(PrimaryEvent::PathLost { connection, reason });
    }

    /// Ends the session and every connection.
    fn end(&mut self, phase: PrimaryPhase, event: PrimaryEvent) {
        self.phase = phase;
        for path in Path::ALL {
            self.lose(path, LostReason::Ended);
            self.links[path.index()].bar();
        }
        self.events.push(event);
    }

    fn go_unprotected(&mut self) {
        self.end(PrimaryPhase::Unprotected, PrimaryEvent::GoneUnprotected);
    }

    fn part(&mut self, reason: GoodbyeReason, now: Instant) {
        self.tick(now);
        if self.phase != PrimaryPhase::Active {
            return;
        }
        if self.incarnation.is_some() && self.epochs.closed().is_none() {
            // The backup has nothing it could take over with: no need to wait for it. Without
            // a Welcome it might have another session's copy.
            self.phase = PrimaryPhase::Released;
            self.say_goodbye(reason);
            self.events.push(PrimaryEvent::Released);
        } else {
            self.phase = PrimaryPhase::Releasing;
            self.say_goodbye(reason);
            self.release_warn_at = Some(self.now + self.config.timing.release_wait());
        }
    }

    /// Queues the goodbye. Unless an answer is awaited, nothing may bring the session back
    /// to the backup's ears after it: no heartbeat, no new Hello.
    fn say_goodbye(&mut self, reason: GoodbyeReason) {
        self.goodbye = Some(reason);
        let last_word = !self.is_running();
        for path in Path::ALL {
            let link = &mut self.links[path.index()];
            if link.is_up() {
                link.due.goodbye = true;
                link.due.heartbeat &= !last_word;
            } else if last_word {
                self.lose(path, LostReason::Ended);
                self.links[path.index()].bar();
            }
        }
    }
}
