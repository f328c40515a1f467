//! The two connections to the backup, as the primary keeps them.

use std::net::TcpStream;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use llm_core::frame::Kind;
use llm_core::replication::{ConnectionId, MESSAGE_MAX, Message, Path};

use super::PrimaryConfig;
use super::event::{Event, PathEnd, SessionEvent};
use super::log::InputLog;
use crate::link::{Connection, Incoming, LinkError, Outbox, dial, read_loop};

/// Dials, reads and writes for one session.
#[derive(Debug)]
pub(crate) struct Paths {
    session: u64,
    backup: String,
    outboxes: [Arc<Outbox>; 2],
    open: [Option<(ConnectionId, Connection)>; 2],
    events: Sender<Event>,
    /// In modes with a log.
    log: Option<Arc<InputLog>>,
}

impl Paths {
    /// No connection yet. Bulk data that is not committed, and log frames that are not acknowledged, are bounded in bytes.
    pub(crate) fn new(
        session: u64,
        config: &PrimaryConfig,
        log: Option<(Arc<InputLog>, u64)>,
        events: Sender<Event>,
    ) -> Self {
        let (log, log_limit) = log.map_or((None, 0), |(log, limit)| (Some(log), limit));
        let outboxes = [Arc::new(Outbox::new(log_limit)), Arc::new(Outbox::new(config.buffer_limit))];
        let backup = config.backup.clone();
        Self { session, backup, outboxes, open: [None, None], events, log }
    }

    /// Where log frames go.
    pub(crate) fn control(&self) -> &Arc<Outbox> {
        &self.outboxes[slot(Path::Control)]
    }

    /// Where bulk data goes.
    pub(crate) fn bulk(&self) -> &Arc<Outbox> {
        &self.outboxes[slot(Path::Bulk)]
    }

    /// Dials in a thread of its own; the result comes as an event.
    pub(crate) fn dial(&self, connection: ConnectionId) {
        let (backup, events, session) = (self.backup.clone(), self.events.clone(), self.session);
        std::thread::spawn(move || {
            let result = dial(&backup);
            let event = SessionEvent::Dialled { connection, result };
            // Without a receiver the process is ending.
            let _ = events.send(Event::Session { session, event });
        });
    }

    /// Starts writing to and reading from a fresh connection. Says whether that could be done.
    pub(crate) fn opened(&mut self, connection: ConnectionId, stream: TcpStream) -> bool {
        let name = match connection.path {
            Path::Control => "control",
            Path::Bulk => "bulk",
        };
        let at = slot(connection.path);
        let started = Connection::start(stream, &self.outboxes[at], name).and_then(|link| {
            let (events, session) = (self.events.clone(), self.session);
            let log = self.log.clone().filter(|_| connection.path == Path::Control);
            let (stream, peer) = (link.stream(), link.peer);
            std::thread::Builder::new().name(format!("{name}-rx")).spawn(move || {
                let send = |event| {
                    let _ = events.send(Event::Session { session, event });
                };
                let ended = read_loop(&stream, peer, |frame| match read_message(&frame) {
                    // Packets wait for it: it does not take the way over the main thread.
                    Ok(Message::LogAck(ack)) if log.is_some() => {
                        if let Some(log) = &log {
                            log.acknowledged(session, ack.next_seq);
                        }
                        ControlFlow::Continue(())
                    }
                    Ok(message) => {
                        send(SessionEvent::Message { connection, message: Box::new(message) });
                        ControlFlow::Continue(())
                    }
                    Err(end) => {
                        send(SessionEvent::PathEnd { connection, end });
                        ControlFlow::Break(())
                    }
                });
                if let Err(error) = ended {
                    send(SessionEvent::PathEnd { connection, end: PathEnd::Link(error) });
                }
            })?;
            Ok(link)
        });
        match started {
            Ok(link) => {
                self.open[at] = Some((connection, link));
                true
            }
            Err(error) => {
                tracing::warn!(%error, path = name, "cannot use a fresh connection");
                false
            }
        }
    }

    /// Queues a message, if the connection is still the path's.
    pub(crate) fn send(&self, connection: ConnectionId, message: &Message) {
        let at = slot(connection.path);
        if self.open[at].as_ref().is_none_or(|(id, _)| *id != connection) {
            return;
        }
        let mut buffer = [0; MESSAGE_MAX];
        match message.encode(&mut buffer) {
            Ok(bytes) => self.outboxes[at].message(bytes.to_vec()),
            Err(error) => tracing::error!(%error, ?message, "message does not fit"),
        }
    }

    /// Lets data flow on that path from `next_seq` on. False if that is not kept any more.
    #[must_use]
    pub(crate) fn resume(&self, path: Path, next_seq: u64) -> bool {
        self.outboxes[slot(path)].resume(next_seq)
    }

    /// Closes the connection, if it is still the path's.
    pub(crate) fn close(&mut self, connection: ConnectionId) {
        let at = slot(connection.path);
        if self.open[at].as_ref().is_some_and(|(id, _)| *id == connection)
            && let Some((_, link)) = self.open[at].take()
        {
            self.outboxes[at].disconnect(link.generation);
            link.shutdown();
        }
    }

    /// Ends the session's sending. Messages that are queued (the goodbye) are still
    /// written, after which the writers close their side.
    pub(crate) fn finish(&mut self) {
        for outbox in &self.outboxes {
            outbox.close();
        }
        self.open = [None, None];
    }
}

fn read_message(frame: &Incoming<'_>) -> Result<Message, PathEnd> {
    if frame.kind != Kind::MESSAGE {
        return Err(PathEnd::Kind(frame.kind));
    }
    Message::decode(frame.payload).map_err(PathEnd::Message)
}

const fn slot(path: Path) -> usize {
    match path {
        Path::Control => 0,
        Path::Bulk => 1,
    }
}

impl PathEnd {
    /// Whether the peer is merely gone, which the log need not shout about.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Link(LinkError::Closed { .. } | LinkError::Io { .. }))
    }
}
