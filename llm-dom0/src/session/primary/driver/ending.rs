//! How a stream, a session or the protection ends, and what follows.

use std::process::ExitStatus;
use std::time::Duration;

use llm_core::time::Instant;

use super::super::session::{Session, machine_config};
use super::super::{Outcome, PrimaryError, watcher};
use super::{Driver, Next};
use crate::xen::toolstack::Xl;

/// How long `xl` may take to resume the guest and exit.
const XL_PATIENCE: Duration = Duration::from_secs(60);
/// Pause before the next session when one has failed.
const RETRY: Duration = Duration::from_secs(2);
/// Failures of `xl` in a row, without a commit between them, before we give in.
const XL_FAILURES_MAX: u32 = 3;
/// Time for a goodbye to reach the wire before the process ends.
const PARTING: Duration = Duration::from_millis(300);

impl Driver {
    pub(super) fn taken_over(&mut self, now: Instant) {
        tracing::error!("the backup has taken the domain over: the copy here is stopped");
        self.stop_domain();
        self.wind_up(Next::End(Ok(Outcome::TakenOver)), now);
    }

    /// `xl` has ended. Asked to: fine. Otherwise the domain decides what is left to do.
    pub(super) fn xl_exited(&mut self, status: ExitStatus, now: Instant) -> Result<(), PrimaryError> {
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
        let look = match (self.config.states)() {
            Ok(mut states) => watcher::look(&mut *states, self.config.domid).ok(),
            Err(_) => None,
        };
        match look {
            // The watcher says so too, and ends the protection.
            None => Ok(()),
            Some(true) if protected => {
                Err(self.give_up(format!("xl remus ended and left it suspended: {words}"), now))
            }
            Some(_) => {
                self.xl_failed(PrimaryError::Toolstack { domain, last_words: words }, now);
                Ok(())
            }
        }
    }

    /// Tries again with a new session, but not for ever: then protection ends with `error`.
    pub(super) fn xl_failed(&mut self, error: PrimaryError, now: Instant) {
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
    pub(super) fn stream_unusable(&mut self, reason: String, now: Instant) {
        if self.next.is_some() || self.after_release.is_some() {
            return;
        }
        tracing::error!(%reason, "the checkpoint stream cannot be used");
        let error = PrimaryError::Toolstack { domain: self.config.domain.clone(), last_words: reason };
        self.end_by_release(Next::End(Err(error)), now);
    }

    /// Ends this session in agreement with the backup and begins a new one.
    pub(super) fn restart(&mut self, now: Instant) {
        if self.next.is_none() && self.after_release.is_none() {
            self.after_release = Some(Next::NewSession);
            self.session.machine.release(now);
        }
    }

    /// Ends the protection in agreement with the backup.
    pub(super) fn end_by_release(&mut self, next: Next, now: Instant) {
        match &mut self.next {
            // On its way to a new session, which now need not be.
            Some((waiting @ Next::NewSession, _)) => *waiting = next,
            Some(_) => {}
            None if self.network.is_none() => self.wind_up(next, now),
            // Output flows already, and nobody has a copy: there is nothing to agree upon.
            None if self.unprotected => self.wind_up(next, now),
            None => {
                self.after_release = Some(next);
                self.session.machine.release(now);
            }
        }
    }

    /// Ends the stream; `next` follows once `xl` is gone.
    pub(super) fn wind_up(&mut self, next: Next, now: Instant) {
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
    pub(super) fn proceed(&mut self, now: Instant) -> Option<Result<Outcome, PrimaryError>> {
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
                self.session = Session::new(&self.config, machine, self.log.as_ref(), &self.events);
                self.pause_until = now + RETRY;
                None
            }
        }
    }

    /// Tells the backup to take over, now, and stops the domain here. Only if the backup
    /// has something to take over with.
    pub(super) fn give_up(&mut self, reason: String, now: Instant) -> PrimaryError {
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
    pub(super) fn stop_domain(&mut self) {
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

    /// Destroys a domain that has powered off, unless its configuration wants it kept.
    pub(super) fn take_away(&self) {
        let xl = Xl::default();
        let number = self.config.domid.to_string();
        let result = xl.domain(&self.config.domain).and_then(|domain| {
            let kept = domain.config.on_poweroff.is_some_and(|action| action != "destroy");
            if kept || domain.domid != u32::from(self.config.domid) { Ok(()) } else { xl.destroy(&number) }
        });
        if let Err(error) = result {
            tracing::debug!(%error, "the domain that has powered off is gone already, or stays");
        }
    }

    /// Protection is over: what waits may leave, and whatever comes.
    pub(super) fn let_everything_out(&self) {
        if let Some(log) = &self.log {
            log.end();
        }
        if let Some(network) = &self.network {
            network.lease(Instant::from_nanos(u64::MAX));
            network.release(u64::MAX);
        }
    }
}
