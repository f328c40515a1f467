//! The input log of a session, and its replay.

use std::ops::ControlFlow;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use llm_core::frame::Kind;
use llm_core::replay::Handed;
use llm_core::replication::{BackupPhase, ConnectionId, Data};

use super::super::log::LogStore;
use super::super::replay::{Job, Stage};
use super::{Core, Session};
use crate::clock;
use crate::control::ReplayStatus;
use crate::keptlog::Header;
use crate::link::Incoming;

impl Session {
    pub(super) fn handle_log(&self, connection: ConnectionId, frame: &Incoming<'_>) -> ControlFlow<()> {
        let log = self.log();
        let mut core = self.lock();
        match core.machine.log_received(connection, frame.seq) {
            Data::Accept => {}
            Data::Duplicate => {
                drop(log);
                self.drive(core);
                return ControlFlow::Continue(());
            }
            Data::Gap { expected } => {
                tracing::warn!(
                    domain = self.domain,
                    expected,
                    got = frame.seq,
                    "a part of the log is missing"
                );
                return ControlFlow::Break(());
            }
            Data::Stale => return ControlFlow::Break(()),
        }
        let kept = log.map_or(Ok(None), |mut log| match frame.kind {
            Kind::PACKED_LOG => log.unpack(frame.payload),
            _ => log.append(frame.payload),
        });
        let flow = match kept {
            Ok(ended) => {
                if let Some(epoch) = ended {
                    core.machine.cut_received(epoch, clock::now());
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                // It was acknowledged by number: without it the copy is worth nothing.
                tracing::error!(domain = self.domain, %error, "the input log cannot be read");
                core.note = error.to_string();
                core.machine.shutdown(clock::now());
                ControlFlow::Break(())
            }
        };
        self.drive(core);
        flow
    }

    /// Starts the replay, which waits for the guest.
    pub(super) fn replay(&self, core: &Core, committed: u64) {
        let Some(session) = self.me.upgrade() else { return };
        let decided = core.decided.unwrap_or_else(Instant::now);
        let addresses = core.machine.addresses().cloned();
        let (domain, on_divergence) = (self.domain.clone(), self.on_divergence);
        // Its own thread, since the log may be locked by somebody who waits for `core`.
        let spawned = std::thread::Builder::new().name("replay-start".into()).spawn(move || {
            let Some(mut log) = session.log().map(|mut log| std::mem::replace(&mut *log, LogStore::new()))
            else {
                return;
            };
            log.committed(committed);
            let (records, bytes) = log.fill();
            tracing::info!(domain, records, bytes, "replaying the input log");
            let keep = session.kept_log.clone().map(|path| {
                let (session, domain, kept) = (session.id, domain.clone(), SystemTime::now());
                (path, Header { session, domain, committed, kept })
            });
            let job = Job { domain, log, addresses, on_divergence, decided, keep };
            let told = Arc::clone(&session);
            if let Err(error) =
                session.replaying.start(job, move |status, stage| told.replayed(status, stage))
            {
                tracing::error!(domain = session.domain, %error, "no thread for the replay");
            }
        });
        if let Err(error) = spawned {
            tracing::error!(domain = self.domain, %error, "no thread for the replay");
        }
    }

    fn replayed(&self, status: ReplayStatus, stage: Stage) {
        let mut core = self.lock();
        match &stage {
            Stage::Begun => core.state = Some("replaying"),
            Stage::Live => {
                tracing::warn!(
                    domain = self.domain,
                    carried = status.carried,
                    resets = ?status.resets,
                    after_ms = status.live_ms,
                    "the replay is done: the guest talks with its clients"
                );
                core.state = Some("running-here");
            }
            Stage::Ended => {
                tracing::info!(domain = self.domain, "no connection needs a translation any more");
            }
            Stage::HandedOver(count) => {
                tracing::info!(
                    domain = self.domain,
                    count,
                    "llm protect translates its connections from now on"
                );
                core.note = "protected again from here".into();
            }
            Stage::Failed(error) => {
                tracing::error!(domain = self.domain, %error, "the input log could not be replayed");
                core.note = format!("the input log could not be replayed: {error}");
                core.state = Some("running-here");
            }
        }
        if let Some(takeover) = &mut core.takeover {
            takeover.announced_ms = takeover.announced_ms.max(status.live_ms);
            takeover.replay = Some(status);
        }
    }

    /// This host's `llm protect` is to go on with what this session does for its domain after a take-over. None if it does
    /// nothing.
    pub(in super::super) fn let_go(&self) -> Result<Option<Vec<Handed>>, String> {
        let (phase, state) = {
            let core = self.lock();
            (core.machine.phase(), core.state)
        };
        if phase != BackupPhase::TakenOver || self.log.is_none() {
            return Ok(None);
        }
        if state != Some("running-here") {
            return Err(format!(
                "the input log of {} is still being replayed: try again in a moment",
                self.domain
            ));
        }
        self.replaying.hand_over().map_err(|_| format!("the replay of {} does not answer", self.domain))
    }

    pub(super) fn log(&self) -> Option<MutexGuard<'_, LogStore>> {
        self.log.as_ref().map(|log| log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
