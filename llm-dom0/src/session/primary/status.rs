//! What `llm status` tells of a primary.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llm_core::replication::{Path, PrimaryPhase};
use llm_core::time::Instant;

use super::super::samples::Samples;
use super::PrimaryConfig;
use super::log::InputLog;
use super::network::Network;
use super::session::Session;
use crate::checkpoint::encode::EpochSummary;
use crate::control::{PauseSpan, PrimaryStatus, SecondStageStatus};

/// Before anything has happened.
pub(crate) fn initial(config: &PrimaryConfig) -> PrimaryStatus {
    PrimaryStatus {
        domain: config.domain.clone(),
        domid: u32::from(config.domid),
        pid: std::process::id(),
        mode: config.mode.to_string(),
        backup: config.backup.clone(),
        state: "connecting".into(),
        interval_ms: u64::try_from(config.interval.as_millis()).unwrap_or(u64::MAX),
        ..PrimaryStatus::default()
    }
}

/// Suspensions that the status tells one by one.
const PAUSES_TOLD: usize = 64;

/// Where the driver is, beyond what the machine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Protecting, or on the way there.
    Running,
    /// A stream is on its way out.
    Releasing,
    /// Output leaves without a backup.
    Unprotected,
}

/// Counts over all sessions, and the status made of them.
#[derive(Debug)]
pub(crate) struct Report {
    shared: Arc<Mutex<PrimaryStatus>>,
    pauses: Samples,
    newest_pauses: VecDeque<PauseSpan>,
    pub(crate) early: u64,
    pub(crate) stretched: u64,
    pub(crate) losses: u64,
    pub(crate) committed: u64,
    pages: u64,
    bytes_raw: u64,
    bytes_sent: u64,
    commit_ms: f64,
    last_commit: Option<Instant>,
    last_read: Option<Instant>,
    real_interval: Duration,
    note: String,
}

impl Report {
    pub(crate) fn new(shared: Arc<Mutex<PrimaryStatus>>) -> Self {
        Self {
            shared,
            pauses: Samples::default(),
            newest_pauses: VecDeque::new(),
            early: 0,
            stretched: 0,
            losses: 0,
            committed: 0,
            pages: 0,
            bytes_raw: 0,
            bytes_sent: 0,
            commit_ms: 0.0,
            last_commit: None,
            last_read: None,
            real_interval: Duration::ZERO,
            note: String::new(),
        }
    }

    /// Something worth telling in words.
    pub(crate) fn note(&mut self, note: String) {
        self.note = note;
    }

    pub(crate) fn last_note(&self) -> String {
        self.note.clone()
    }

    /// A first copy begins.
    pub(crate) fn stream_started(&mut self) {
        self.note.clear();
        self.last_read = None;
        self.last_commit = None;
    }

    /// An epoch has been read to its end.
    pub(crate) fn read(&mut self, at: Instant) {
        if let Some(last) = self.last_read.replace(at) {
            self.real_interval = at.since(last);
        }
    }

    pub(crate) fn encoded(&mut self, summary: &EpochSummary) {
        self.pages += u64::from(summary.pages);
        self.bytes_raw += summary.stream_bytes;
        self.bytes_sent += summary.batch_bytes;
    }

    /// `count` epochs were committed, the newest `latency` after its end.
    pub(crate) fn commit(&mut self, count: u64, latency: Duration, now: Instant) {
        self.committed += count;
        self.commit_ms = latency.as_secs_f64() * 1e3;
        self.last_commit = Some(now);
    }

    /// The guest was suspended.
    pub(crate) fn paused(&mut self, pause: PauseSpan) {
        self.pauses.add(pause.length_ns as f64 / 1e6);
        if self.newest_pauses.len() == PAUSES_TOLD {
            self.newest_pauses.pop_front();
        }
        self.newest_pauses.push_back(pause);
    }

    /// Writes it all where the control socket reads it.
    pub(crate) fn update(
        &self,
        session: &Session,
        network: Option<&Network>,
        log: Option<&InputLog>,
        stage: Stage,
        now: Instant,
    ) {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let machine = &session.machine;
        let state = match (machine.phase(), stage) {
            (PrimaryPhase::TakenOver, _) => "taken-over",
            (_, Stage::Unprotected) => "unprotected",
            (_, Stage::Releasing) => "releasing",
            _ if session.stream.is_none() => "connecting",
            _ if machine.backup_lost().is_some() => "backup-lost",
            _ if machine.committed().is_none() => "first-copy",
            _ => "protected",
        };
        let fill = session.paths.bulk().fill();
        let (queued, waits) = session.stream.as_ref().map_or((0, 0), |s| s.fill());
        let egress = network.map(Network::status).unwrap_or_default();
        let mut status = self.lock();
        state.clone_into(&mut status.state);
        status.note.clone_from(&self.note);
        status.control_up = machine.is_connected(Path::Control);
        status.bulk_up = machine.is_connected(Path::Bulk);
        status.epochs_committed = self.committed;
        status.last_commit_ms = self.last_commit.map(|at| ms(now.since(at)));
        status.real_interval_ms = ms(self.real_interval);
        status.stretched = self.stretched;
        status.early = self.early;
        status.commit_ms = self.commit_ms;
        status.pages_sent = self.pages;
        status.bytes_raw = self.bytes_raw;
        status.bytes_sent = self.bytes_sent;
        status.buffered = fill.bytes + queued;
        status.buffer_waits = fill.waits + waits;
        status.encoder = session.stream.as_ref().map(|s| s.encoder()).unwrap_or_default();
        status.shadow_bytes = session.stream.as_ref().map_or(0, |s| s.shadow_bytes());
        status.pause = self.pauses.to_status();
        status.pauses.clear();
        status.pauses.extend(&self.newest_pauses);
        status.egress = egress;
        status.log = log.map(InputLog::status);
        status.backup_losses = self.losses;
    }

    /// What the second stage has done.
    pub(crate) fn compressed(&self, second_stage: SecondStageStatus) {
        self.lock().second_stage = second_stage;
    }

    fn lock(&self) -> MutexGuard<'_, PrimaryStatus> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_pauses_are_told_and_all_count() {
        let mut report = Report::new(Arc::default());
        for i in 0..100 {
            report.paused(PauseSpan { began_ns: i, length_ns: 2_000_000 });
        }
        assert_eq!(report.newest_pauses.len(), PAUSES_TOLD);
        assert_eq!(report.newest_pauses.front().map(|p| p.began_ns), Some(36));
        assert_eq!((report.pauses.to_status().count, report.pauses.percentile(0.5)), (100, 2.0));
    }
}
