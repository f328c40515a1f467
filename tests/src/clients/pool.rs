//! One thread a connection, and the bounds on its waits.

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    Cause, ClientError, ClientKind, Limits, Setup, Stop,
    conn::{Conn, millis},
    now_ns,
};

/// What all threads of a client share.
#[derive(Debug, Clone)]
pub(crate) struct Crew {
    pub(crate) kind: ClientKind,
    pub(crate) addr: SocketAddr,
    pub(crate) connections: u16,
    pub(crate) limits: Limits,
    pub(crate) setup: Setup,
    pub(crate) stop: Stop,
    /// Bytes the kernel keeps for a slow reader; its own choice if `None`.
    pub(crate) buffer: Option<usize>,
}

impl Crew {
    pub(crate) fn new(
        kind: ClientKind,
        addr: SocketAddr,
        connections: u16,
        limits: Limits,
        setup: &Setup,
    ) -> Self {
        Self { kind, addr, connections, limits, setup: setup.clone(), stop: Stop::default(), buffer: None }
    }

    /// Opens one more connection to the server.
    pub(crate) fn open(&self) -> Result<Conn, Cause> {
        Conn::open(self.addr, self.limits.connect, self.limits.reply, self.buffer, &self.stop)
    }

    /// Starts the threads and returns once each has its connection; if one fails, ends the others.
    ///
    /// # Errors
    /// The first thread that could not be started, prepared or connected.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        body: impl Fn(u16, Conn) -> T + Clone + Send + 'static,
    ) -> Result<Crewed<T>, ClientError> {
        let (report, reports) = mpsc::channel();
        let mut threads = Vec::new();
        let mut failed = None;
        for connection in 0..self.connections {
            let (crew, report, body) = (self.clone(), report.clone(), body.clone());
            let run = move || {
                let conn = crew.prepare(connection);
                let (conn, told) = match conn {
                    Ok(conn) => (Some(conn), Ok(())),
                    Err(e) => (None, Err(e)),
                };
                // The receiver may be gone after another connection's failure.
                let _ = report.send(told);
                // `start` listens until the last sender is gone.
                drop(report);
                conn.map(|conn| body(connection, conn))
            };
            match thread::Builder::new().name(format!("{}-{connection}", self.kind)).spawn(run) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    failed = Some(ClientError::Thread { kind: self.kind, source });
                    break;
                }
            }
        }
        drop(report);
        let started = failed.map_or_else(|| reports.iter().collect::<Result<Vec<()>, _>>(), Err);
        if let Err(e) = started {
            self.stop.raise();
            threads.into_iter().for_each(|thread| drop(thread.join()));
            return Err(e);
        }
        Ok(Crewed { kind: self.kind, threads })
    }

    fn prepare(&self, connection: u16) -> Result<Conn, ClientError> {
        self.setup.run().map_err(|source| ClientError::Thread { kind: self.kind, source })?;
        self.open().map_err(|cause| ClientError::Start {
            kind: self.kind,
            connection,
            addr: self.addr,
            cause,
        })
    }
}

/// The running threads of a [`Crew`].
#[derive(Debug)]
pub(crate) struct Crewed<T> {
    kind: ClientKind,
    threads: Vec<JoinHandle<Option<T>>>,
}

impl<T> Crewed<T> {
    /// Whether every thread has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for all threads; [`Stop`] should have been raised.
    pub(crate) fn join(self) -> Result<Vec<T>, ClientError> {
        let kind = self.kind;
        let ended = self.threads.into_iter().map(|thread| thread.join().ok().flatten());
        ended.map(|result| result.ok_or(ClientError::Panicked(kind))).collect()
    }
}

/// Decides when a connection's thread ends and when a reply is overdue.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Stop,
    limits: Limits,
    began_ns: u64,
    stopping_since: Option<u64>,
}

impl Watch {
    pub(crate) fn new(crew: &Crew) -> Self {
        Self { stop: crew.stop.clone(), limits: crew.limits, began_ns: now_ns(), stopping_since: None }
    }

    /// Whether no further request should be sent.
    pub(crate) fn is_ending(&mut self) -> bool {
        if self.stopping_since.is_none() {
            let now = now_ns();
            if self.stop.is_raised() || since(self.began_ns, now) >= self.limits.run {
                self.stopping_since = Some(now);
            }
        }
        self.stopping_since.is_some()
    }

    /// Fails if a reply due since `sent_ns` is overdue.
    pub(crate) fn overdue(&mut self, sent_ns: u64) -> Result<(), Cause> {
        self.is_ending();
        let now = now_ns();
        let drained = self.stopping_since.is_some_and(|t| since(t.max(sent_ns), now) >= self.limits.drain);
        let waited = since(sent_ns, now);
        if drained || waited >= self.limits.reply {
            return Err(Cause::Timeout { waited_ms: millis(waited) });
        }
        Ok(())
    }
}

fn since(then: u64, now: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(then))
}
