//! A client at work: its threads, its counters, and what each connection has found so far.

use std::sync::Arc;

use super::{
    Broken, Cause, ClientError, ClientKind, Limits, Outcome, Progress, Sample,
    conn::Conn,
    now_ns,
    pool::{Crew, Crewed, Watch},
};

/// A running client of one kind. Dropping it stops its threads without waiting for them.
#[derive(Debug)]
pub struct Running {
    crew: Crew,
    crewed: Option<Crewed<Outcome>>,
    progress: Arc<Progress>,
}

impl Running {
    /// Connects all and lets each connection work; an error of `work` is a broken connection.
    pub(crate) fn start(
        crew: Crew,
        work: impl Fn(&mut Worker, &Crew, Conn) -> Result<(), Cause> + Clone + Send + 'static,
    ) -> Result<Self, ClientError> {
        let progress = Arc::new(Progress::default());
        let (work_crew, shared) = (crew.clone(), Arc::clone(&progress));
        let crewed = crew.start(move |connection, conn| {
            let outcome = Outcome::new(work_crew.kind, work_crew.connections);
            let mut worker = Worker { outcome, progress: Arc::clone(&shared), connection };
            if let Err(cause) = work(&mut worker, &work_crew, conn) {
                worker.broke(cause);
            }
            worker.outcome
        })?;
        Ok(Self { crew, crewed: Some(crewed), progress })
    }

    /// Which client it is.
    #[must_use]
    pub fn kind(&self) -> ClientKind {
        self.crew.kind
    }

    /// Live counters.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Whether all connections have ended by themselves: broken, or at a limit.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.crewed.as_ref().is_none_or(Crewed::is_done)
    }

    /// Asks for the end without waiting for it.
    pub fn raise_stop(&self) {
        self.crew.stop.raise();
    }

    /// Asks no more, waits for outstanding replies (at most [`Limits::drain`] without one).
    ///
    /// # Errors
    /// [`ClientError::Panicked`].
    pub fn stop(mut self) -> Result<Outcome, ClientError> {
        self.crew.stop.raise();
        let mut all = Outcome::new(self.crew.kind, self.crew.connections);
        let ended = self.crewed.take().map_or_else(|| Ok(Vec::new()), Crewed::join)?;
        ended.into_iter().for_each(|one| all.merge(one));
        Ok(all)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.crew.stop.raise();
    }
}

/// One connection's part of an outcome.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) outcome: Outcome,
    pub(crate) progress: Arc<Progress>,
    pub(crate) connection: u16,
}

impl Worker {
    /// Notes a reply that came now.
    pub(crate) fn reply(&mut self, sent_ns: u64, ok: bool) {
        let t_ns = now_ns();
        let latency_ns = t_ns.saturating_sub(sent_ns);
        let sample = Sample { t_ns, latency_ns, ok, kind: self.outcome.kind, connection: self.connection };
        self.progress.reply(&sample);
        self.outcome.samples.push(sample);
    }

    /// Notes a write that was acknowledged.
    pub(crate) fn acked(&mut self) {
        self.outcome.acked_writes += 1;
        self.progress.acked();
    }

    /// Counts acknowledged writes that are gone.
    pub(crate) fn lost(&mut self, n: u64, about: &str) {
        self.outcome.lost_acked_writes += n;
        self.progress.suspect(n);
        self.find(about);
    }

    /// Counts values that are not what they must be.
    pub(crate) fn wrong(&mut self, n: u64, about: &str) {
        self.outcome.wrong_values += n;
        self.progress.suspect(n);
        self.find(about);
    }

    /// Notes a connection that did not go on.
    pub(crate) fn broke(&mut self, cause: Cause) {
        self.progress.broke();
        let broken = Broken { kind: self.outcome.kind, connection: self.connection, t_ns: now_ns(), cause };
        self.outcome.find(broken.to_string());
        self.outcome.broken.push(broken);
    }

    /// A finding in words, under the connection's name.
    pub(crate) fn find(&mut self, what: &str) {
        self.outcome.find(format!("{} connection {}: {what}", self.outcome.kind, self.connection));
    }

    /// Whether no sample fits in beside `open` requests still without a reply; says so if it is time to end.
    pub(crate) fn is_full(&mut self, open: usize, limits: &Limits) -> bool {
        let full = self.outcome.samples.len() + open >= limits.samples;
        if full && open == 0 {
            self.find(&format!("ended early, its {} samples are used up", limits.samples));
        }
        full
    }

    /// Opens a connection in place of one that has ended in order, as often as it takes; `None` at the end of
    /// the run. One that was never established breaks no promise.
    pub(crate) fn reopen(&mut self, crew: &Crew, watch: &mut Watch) -> Option<Conn> {
        const RETRY: std::time::Duration = std::time::Duration::from_millis(100);
        while !watch.is_ending() {
            match crew.open() {
                Ok(conn) => return Some(conn),
                Err(_) if crew.stop.is_raised() => break,
                Err(cause) => {
                    self.outcome.not_opened += 1;
                    self.find(&format!("not opened, tried again: {cause}"));
                    crew.stop.sleep(RETRY);
                }
            }
        }
        None
    }
}
