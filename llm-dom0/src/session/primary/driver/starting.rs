//! From the first connection to a running stream.

use std::sync::Arc;
use std::time::Duration;

use llm_core::replication::{Mode, PACKED_LOG, Path};
use llm_core::time::Instant;

use super::super::event::Event;
use super::super::network::Network;
use super::super::stream::{Stream, StreamConfig, StreamStartError};
use super::super::{PrimaryConfig, PrimaryError, watcher};
use super::{Driver, error_chain};

/// How long a backup may be unreachable, or busy, at the start.
const START_PATIENCE: Duration = Duration::from_secs(10);

impl Driver {
    /// Both connections stand for the first time: takes over the network and starts the stream.
    pub(super) fn connected(&mut self) -> Result<(), PrimaryError> {
        let up = |path| self.session.machine.is_connected(path);
        if !Path::ALL.into_iter().all(up) || self.session.has_stream() || self.next.is_some() {
            return Ok(());
        }
        let domain = self.config.domain.clone();
        if let Some(log) = &self.log {
            let packed = self.session.features & PACKED_LOG != 0;
            log.begin(self.session.id, self.session.paths.control(), packed);
        }
        if self.network.is_none() {
            let network = Network::join(
                &domain,
                &self.translations,
                &self.config.interfaces,
                self.config.egress_limit,
                &self.marks,
                self.log.as_ref().map(|log| (log, &self.config.policy)),
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
        // As published, nothing is held at all.
        let paper = self.config.mode == Mode::LlmPaper;
        network.hold_from(if paper { u64::MAX } else { self.marks.end() + 1 });
        let pass = network.limiter();
        let config = StreamConfig {
            session: self.session.id,
            domain: domain.clone(),
            // Short: while it is held the timer has long run out.
            xl_interval: (self.config.interval / 4)
                .clamp(Duration::from_millis(20), Duration::from_millis(100)),
            shadow_pages: self.config.shadow_pages,
            buffer_limit: self.config.buffer_limit,
            encoder: self.config.encoder.clone(),
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
    pub(super) fn started(&mut self, started: Result<Box<Stream>, StreamStartError>, now: Instant) {
        self.session.starting = false;
        match started {
            Ok(stream) => {
                if self.next.is_some() {
                    // The marks hold the pipe as well: `xl` must find it closed.
                    self.marks.end();
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

    pub(super) fn start_watcher(&self, domain: &str) -> Result<(), PrimaryError> {
        let failed = |source| PrimaryError::Xen { domain: domain.into(), source };
        let mut states = (self.config.states)().map_err(|e| failed(e.into()))?;
        let (watch, events, domid) = (Arc::clone(&self.watch), self.events.clone(), self.config.domid);
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                watcher::run(&mut *states, domid, &watch, |seen| {
                    let _ = events.send(Event::Domain(seen));
                });
            })
            .map_err(|e| failed(e.into()))?;
        Ok(())
    }

    /// At the start somebody waits for an answer: gives in after a while.
    pub(super) fn check_start(
        &self,
        now: Instant,
        error: impl FnOnce(&PrimaryConfig, String) -> PrimaryError,
    ) -> Result<(), PrimaryError> {
        if self.network.is_none() && now.since(self.started) > START_PATIENCE {
            return Err(error(&self.config, self.report.last_note()));
        }
        Ok(())
    }
}
