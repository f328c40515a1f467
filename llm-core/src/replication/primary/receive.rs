//! What the backup says to the primary.

use super::super::message::{Commit, Goodbye, Heartbeat, Message, Refusal, RefuseReason, Welcome};
use super::super::{ConnectionId, LostReason, PROTOCOL_MAX, PROTOCOL_MIN, Path, StaleConnection};
use super::event::{OnBackupLoss, PrimaryEvent, PrimaryPhase};
use super::link::State;
use super::{Instant, Primary};

/// The backup said what it may not say: the connection is given up.
struct Violation;

impl From<super::lease::FalseEcho> for Violation {
    fn from(_: super::lease::FalseEcho) -> Self {
        Self
    }
}

impl From<super::epochs::FalseCommit> for Violation {
    fn from(_: super::epochs::FalseCommit) -> Self {
        Self
    }
}

impl Primary {
    /// A message came in.
    ///
    /// # Errors
    /// The connection is no longer in use: drop the message and close it.
    pub fn handle_message(
        &mut self,
        connection: ConnectionId,
        message: &Message,
        now: Instant,
    ) -> Result<(), StaleConnection> {
        self.tick(now);
        let link = &mut self.links[connection.path.index()];
        let State::Open { connection: current, up, .. } = link.state else { return Err(StaleConnection) };
        if current != connection {
            return Err(StaleConnection);
        }
        link.heard(self.now);
        let outcome = match message {
            Message::TakenOver => {
                self.stop_domain();
                Ok(())
            }
            // Having given the domain up, nothing else matters.
            _ if !self.is_running() => Ok(()),
            Message::Refuse(refusal) => {
                self.refused(connection, refusal);
                Ok(())
            }
            Message::Goodbye(goodbye) => {
                self.left(*goodbye);
                Ok(())
            }
            Message::Welcome(welcome) if !up => self.welcomed(connection, welcome),
            Message::Heartbeat(heartbeat) if up => self.heartbeat(*heartbeat),
            Message::Commit(commit) if up => self.commit(*commit),
            // Which frames may go and what may leave is for the keeper of the log.
            Message::LogAck(_) if up && connection.path == Path::Control && self.config.mode.has_log() => {
                Ok(())
            }
            _ => Err(Violation),
        };
        if outcome.is_err() {
            self.lose(connection.path, LostReason::Violation);
        }
        if self.is_running() {
            self.judge_lease();
        }
        Ok(())
    }

    fn welcomed(&mut self, connection: ConnectionId, welcome: &Welcome) -> Result<(), Violation> {
        let path = connection.path;
        if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&welcome.version) {
            return Err(Violation);
        }
        if self.incarnation.is_some_and(|known| known != welcome.incarnation) {
            self.end(PrimaryPhase::Restarted, PrimaryEvent::BackupRestarted);
            return Ok(());
        }
        // `committed` may be behind: a commit on the other path can overtake a Welcome.
        if path == Path::Bulk && welcome.next_seq < self.next_seq {
            return Err(Violation);
        }
        self.lease.renew(welcome.echo)?;
        let latency = match welcome.committed {
            Some(epoch) => self.epochs.commit(epoch, self.now)?.map(|latency| (epoch, latency)),
            None => None,
        };
        self.incarnation = Some(welcome.incarnation);
        let link = &mut self.links[path.index()];
        link.welcomed(&self.config.timing, self.now);
        link.due.addresses = self.addresses.is_some();
        link.due.goodbye = self.goodbye.is_some();
        let (version, features) = (welcome.version, welcome.features & self.config.features);
        self.events.push(PrimaryEvent::Connected { connection, version, features });
        if let Some((epoch, latency)) = latency {
            self.events.push(PrimaryEvent::Committed { epoch, latency });
        }
        if path == Path::Bulk {
            self.next_seq = welcome.next_seq;
        }
        if path == Path::Bulk || self.config.mode.has_log() {
            self.events.push(PrimaryEvent::Resume { connection, next_seq: welcome.next_seq });
        }
        Ok(())
    }

    fn heartbeat(&mut self, heartbeat: Heartbeat) -> Result<(), Violation> {
        self.peer_sent = self.peer_sent.max(heartbeat.sent);
        Ok(self.lease.renew(heartbeat.echo)?)
    }

    fn commit(&mut self, commit: Commit) -> Result<(), Violation> {
        self.lease.renew(commit.echo)?;
        if let Some(latency) = self.epochs.commit(commit.epoch, self.now)? {
            self.events.push(PrimaryEvent::Committed { epoch: commit.epoch, latency });
        }
        Ok(())
    }

    /// Once this session was welcomed, only its own copy can be what the backup runs.
    fn stop_domain(&mut self) {
        if self.phase != PrimaryPhase::TakenOver {
            self.end(PrimaryPhase::TakenOver, PrimaryEvent::StopDomain);
        }
    }

    fn refused(&mut self, connection: ConnectionId, refusal: &Refusal) {
        let known = self.incarnation.is_some();
        match refusal.reason {
            RefuseReason::TakenOver if known => return self.stop_domain(),
            // Nothing is left there to take over with, which is what a release asks for.
            RefuseReason::UnknownSession if self.phase == PrimaryPhase::Releasing => {
                return self.end(PrimaryPhase::Released, PrimaryEvent::Released);
            }
            RefuseReason::UnknownSession if known => {
                return self.end(PrimaryPhase::Restarted, PrimaryEvent::BackupRestarted);
            }
            _ => {}
        }
        self.lose(connection.path, LostReason::Refused);
        if !refusal.reason.may_pass() {
            self.links[connection.path.index()].bar();
        }
        self.events.push(PrimaryEvent::Refused { connection, refusal: refusal.clone() });
    }

    /// Whatever its reason, a backup that says goodbye has dropped its copy for good.
    fn left(&mut self, _: Goodbye) {
        if self.phase == PrimaryPhase::Releasing {
            self.end(PrimaryPhase::Released, PrimaryEvent::Released);
        } else if self.config.on_backup_loss == OnBackupLoss::GoOn {
            self.events.push(PrimaryEvent::BackupLeft);
            self.go_unprotected();
        } else {
            self.events.push(PrimaryEvent::BackupLeft);
        }
    }
}
