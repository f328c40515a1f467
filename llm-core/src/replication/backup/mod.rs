//! The machine beside the domain's copy.

mod admit;
mod data;
mod event;
#[cfg(test)]
mod tests;

pub use admit::{Holder, ModeSet, Offer};
pub use event::{BackupEvent, BackupPhase, Data, DiscardReason, EpochError, TakeOverReason};

use super::events::Events;
use super::message::{
    Addresses, Commit, DOMAIN_MAX, Goodbye, GoodbyeReason, Heartbeat, Hello, LogAck, Message, Mode, Refusal,
    RefuseReason, Welcome,
};
use super::{ConnectionId, FIRST_DATA_SEQ, FIRST_EPOCH, LostReason, Path, StaleConnection, Timing};
use crate::time::Instant;
use admit::Terms;
use heapless::String;

/// Messages that wait for the driver.
#[derive(Clone, Copy, Debug, Default)]
struct Due {
    welcome: bool,
    taken_over: bool,
    goodbye: bool,
    commit: bool,
    log_ack: bool,
    heartbeat: bool,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    connection: ConnectionId,
    /// Clock value of its Hello, by which two Hellos are told apart.
    hello_sent: u64,
    heard: Instant,
    beat_at: Instant,
    due: Due,
}

/// The backup of one session.
///
/// | the driver | calls |
/// |---|---|
/// | reads a Hello of a session it has no machine for | [`admit`](Self::admit), then [`handle_hello`](Self::handle_hello) |
/// | reads a Hello of this session | [`handle_hello`](Self::handle_hello) |
/// | has read another message | [`handle_message`](Self::handle_message) |
/// | has read a bulk data frame, before applying it | [`data_received`](Self::data_received) |
/// | has read a log frame, before keeping it | [`log_received`](Self::log_received) |
/// | has kept a log record that ends an epoch | [`cut_received`](Self::cut_received) |
/// | has applied an epoch's end and checked the digest | [`epoch_complete`](Self::epoch_complete) |
/// | has no room for another epoch, or has again | [`set_backlog`](Self::set_backlog) |
/// | has lost a connection | [`handle_disconnected`](Self::handle_disconnected) |
/// | reaches [`poll_timeout`](Self::poll_timeout) | [`handle_timeout`](Self::handle_timeout) |
///
/// and after each of them drains [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event). `data_received` and applying the frame belong under
/// one lock: a newer connection may take over the stream at any moment between two frames.
///
/// A machine whose session is over is kept until another session takes the name, so
/// that a primary which comes late gets its answer.
#[derive(Clone, Debug)]
pub struct Backup {
    session: u64,
    domain: String<DOMAIN_MAX>,
    incarnation: u64,
    terms: Terms,
    /// Abilities that both have.
    features: u64,
    phase: BackupPhase,
    /// Newest time seen.
    now: Instant,
    links: [Option<Link>; 2],
    connections: u32,
    events: Events<BackupEvent, { BackupEvent::SLOTS }>,
    /// Newest clock value of the primary, and when the last sign of life came.
    newest_sent: u64,
    heard: Instant,
    /// This side did not run for a while: no judgement before this time.
    not_before: Option<Instant>,
    next_seq: u64,
    /// First log frame not yet received.
    next_log: u64,
    /// Newest epoch that the log has the end of.
    cut: u64,
    /// Newest whole epoch and newest committed one.
    complete: u64,
    committed: u64,
    backlog: bool,
    corrupt: bool,
    addresses: Option<Addresses>,
}

impl Backup {
    /// Decides about a Hello whose session has no machine here, and makes one. The caller
    /// looks up who holds [`Hello::domain`] and draws `incarnation` at random. The machine
    /// does not know the connection yet: call [`handle_hello`](Self::handle_hello) next.
    ///
    /// # Errors
    /// The refusal to send before closing the connection.
    pub fn admit(
        hello: &Hello,
        holder: Holder<'_>,
        offer: &Offer,
        incarnation: u64,
        now: Instant,
    ) -> Result<Self, Refusal> {
        let terms = admit::check(hello, holder, offer)?;
        Ok(Self {
            session: hello.session,
            domain: hello.domain.clone(),
            incarnation,
            features: terms.features & offer.features,
            terms,
            phase: BackupPhase::Protecting,
            now,
            links: [None; 2],
            connections: 0,
            events: Events::new(),
            newest_sent: hello.sent,
            heard: now,
            not_before: None,
            next_seq: FIRST_DATA_SEQ,
            next_log: FIRST_DATA_SEQ,
            cut: FIRST_EPOCH - 1,
            complete: FIRST_EPOCH - 1,
            committed: FIRST_EPOCH - 1,
            backlog: false,
            corrupt: false,
            addresses: None,
        })
    }

    /// A connection opened with a Hello of this session. It replaces the one the path had.
    ///
    /// # Errors
    /// The refusal to send before closing the connection.
    pub fn handle_hello(&mut self, hello: &Hello, now: Instant) -> Result<ConnectionId, Refusal> {
        self.tick(now);
        let path = hello.path;
        if self.phase == BackupPhase::Protecting {
            self.check_again(hello)?;
            self.hear(hello.sent);
        } else if let BackupPhase::Discarded(DiscardReason::NeverCommitted) = self.phase {
            return Err(self.refusal(RefuseReason::UnknownSession));
        }
        if let Some(old) = self.links[path.index()].take() {
            let (connection, reason) = (old.connection, LostReason::Superseded);
            self.events.push(BackupEvent::PathLost { connection, reason });
        }
        self.connections = self.connections.wrapping_add(1);
        let connection = ConnectionId { session: self.session, path, number: self.connections };
        self.links[path.index()] = Some(Link {
            connection,
            hello_sent: hello.sent,
            heard: self.now,
            beat_at: self.now + self.terms.timing.heartbeat(),
            due: self.answer(),
        });
        Ok(connection)
    }

    /// The connection has ended.
    pub fn handle_disconnected(&mut self, connection: ConnectionId, now: Instant) {
        self.tick(now);
        if self.current(connection) {
            self.drop_link(connection.path, LostReason::Closed);
        }
    }

    /// A message other than a Hello came in.
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
        let answer = self.answer();
        let live = self.phase == BackupPhase::Protecting;
        let Some(link) = self.links[connection.path.index()].as_mut() else { return Err(StaleConnection) };
        if link.connection != connection {
            return Err(StaleConnection);
        }
        link.heard = self.now;
        match message {
            Message::Heartbeat(heartbeat) if live => self.hear(heartbeat.sent),
            Message::Goodbye(goodbye) if live => self.goodbye(*goodbye),
            Message::Addresses(addresses) => self.addresses = Some(addresses.clone()),
            // Whatever it hopes for, the primary learns how the session ended.
            Message::Heartbeat(_) | Message::Goodbye(_) => link.due = answer,
            _ => self.drop_link(connection.path, LostReason::Violation),
        }
        Ok(())
    }

    /// Lets time pass. Calling too often does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        let timing = self.terms.timing;
        for path in Path::ALL {
            let Some(link) = &mut self.links[path.index()] else { continue };
            if self.now >= link.heard + timing.idle() {
                self.drop_link(path, LostReason::Silent);
            } else if self.now >= link.beat_at {
                link.beat_at = self.now + timing.heartbeat();
                link.due.heartbeat = self.phase == BackupPhase::Protecting;
            }
        }
        if self.verdict_at().is_some_and(|at| self.now >= at) {
            self.act(TakeOverReason::Silence { lasted: self.now.since(self.heard) });
        }
    }

    /// Abilities that both sides have, of [`FEATURES`](super::FEATURES).
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let idle = self.terms.timing.idle();
        let links = self.links.iter().flatten().map(|link| link.beat_at.min(link.heard + idle));
        links.chain(self.verdict_at()).min()
    }

    /// The next message to write, and where. Order within a connection counts.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<(ConnectionId, Message)> {
        let echo = self.newest_sent;
        let committed = self.committed();
        let next = [self.next_log, self.next_seq];
        for link in self.links.iter_mut().flatten() {
            let (connection, due) = (link.connection, &mut link.due);
            if core::mem::take(&mut due.welcome) {
                let welcome = Welcome {
                    version: self.terms.version,
                    features: self.features,
                    incarnation: self.incarnation,
                    next_seq: next[connection.path.index()],
                    committed,
                    echo,
                };
                return Some((connection, Message::Welcome(welcome)));
            }
            if core::mem::take(&mut due.taken_over) {
                return Some((connection, Message::TakenOver));
            }
            if core::mem::take(&mut due.goodbye)
                && let Some(reason) = farewell(self.phase)
            {
                return Some((connection, Message::Goodbye(Goodbye { reason })));
            }
            if core::mem::take(&mut due.log_ack) {
                return Some((connection, Message::LogAck(LogAck { next_seq: self.next_log })));
            }
            if core::mem::take(&mut due.commit)
                && let Some(epoch) = committed
            {
                return Some((connection, Message::Commit(Commit { epoch, echo })));
            }
            if core::mem::take(&mut due.heartbeat) {
                let heartbeat = Heartbeat { sent: self.now.as_nanos(), echo };
                return Some((connection, Message::Heartbeat(heartbeat)));
            }
        }
        None
    }

    /// The next thing for the driver to do or report.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<BackupEvent> {
        self.events.pop()
    }

    /// This service ends and drops its copy: the primary is told.
    pub fn shutdown(&mut self, now: Instant) {
        self.tick(now);
        if self.phase == BackupPhase::Protecting {
            self.discard(DiscardReason::ShuttingDown);
        }
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> u64 {
        self.session
    }

    /// The domain's name on the primary.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// How output waits.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.terms.mode
    }

    /// The times of the session.
    #[must_use]
    pub const fn timing(&self) -> &Timing {
        &self.terms.timing
    }

    /// Pages of the shadow copy that both ends keep.
    #[must_use]
    pub const fn shadow_pages(&self) -> u64 {
        self.terms.shadow_pages
    }

    /// Where the session stands.
    #[must_use]
    pub const fn phase(&self) -> BackupPhase {
        self.phase
    }

    /// Newest committed epoch.
    #[must_use]
    pub const fn committed(&self) -> Option<u64> {
        if self.committed < FIRST_EPOCH { None } else { Some(self.committed) }
    }

    /// What the guest answers to, as far as the primary has told.
    #[must_use]
    pub const fn addresses(&self) -> Option<&Addresses> {
        self.addresses.as_ref()
    }

    /// Whether the path has a connection.
    #[must_use]
    pub const fn is_connected(&self, path: Path) -> bool {
        self.links[path.index()].is_some()
    }

    /// When the last sign of life came.
    #[must_use]
    pub const fn last_heard(&self) -> Instant {
        self.heard
    }

    fn current(&self, connection: ConnectionId) -> bool {
        self.links[connection.path.index()].is_some_and(|link| link.connection == connection)
    }

    /// When silence is judged: no earlier than the primary's lease can have ended.
    fn verdict_at(&self) -> Option<Instant> {
        let timing = &self.terms.timing;
        // Nothing hangs on a copy that cannot take over yet, but the copy is dear.
        let patience =
            if self.committed().is_some() { timing.detect() } else { timing.first_copy_patience() };
        let at = self.heard + patience;
        (self.phase == BackupPhase::Protecting).then(|| self.not_before.map_or(at, |grace| at.max(grace)))
    }

    /// Takes in the time. Called late, this side was frozen or starved, and the primary's
    /// heartbeats may wait in the sockets: once per silence they get time to be read.
    fn tick(&mut self, now: Instant) {
        let wanted = self.poll_timeout();
        self.now = self.now.max(now);
        let grace = self.terms.timing.grace();
        if self.not_before.is_none() && wanted.is_some_and(|at| self.now > at + grace) {
            self.not_before = Some(self.now + grace);
            for link in self.links.iter_mut().flatten() {
                link.heard = self.now;
            }
        }
    }

    fn hear(&mut self, sent: u64) {
        self.newest_sent = self.newest_sent.max(sent);
        self.heard = self.now;
        self.not_before = None;
    }

    /// A further Hello of a session must say what the first one said.
    fn check_again(&self, hello: &Hello) -> Result<(), Refusal> {
        let terms = Terms::of(hello)?;
        if hello.session != self.session || hello.domain != self.domain || terms != self.terms {
            return Err(self.refusal(RefuseReason::Mismatch));
        }
        if hello.resume.is_some_and(|incarnation| incarnation != self.incarnation) {
            return Err(self.refusal(RefuseReason::UnknownSession));
        }
        if self.links[hello.path.index()].is_some_and(|link| hello.sent < link.hello_sent) {
            return Err(self.refusal(RefuseReason::Stale));
        }
        if self.corrupt && hello.path == Path::Bulk {
            return Err(self.refusal(RefuseReason::Corrupt));
        }
        Ok(())
    }

    fn refusal(&self, reason: RefuseReason) -> Refusal {
        Refusal::new(reason, format_args!("session {:016x} of {}", self.session, self.domain))
    }

    /// What a primary is told that comes, or comes again.
    fn answer(&self) -> Due {
        Due {
            welcome: self.phase == BackupPhase::Protecting,
            taken_over: self.phase == BackupPhase::TakenOver,
            goodbye: farewell(self.phase).is_some(),
            ..Due::default()
        }
    }

    fn goodbye(&mut self, goodbye: Goodbye) {
        match goodbye.reason {
            GoodbyeReason::Failing => self.act(TakeOverReason::Failing),
            GoodbyeReason::Released => self.discard(DiscardReason::Released),
            GoodbyeReason::ShuttingDown => self.discard(DiscardReason::DomainEnded),
        }
    }

    fn act(&mut self, reason: TakeOverReason) {
        match self.committed() {
            Some(committed) => {
                self.phase = BackupPhase::TakenOver;
                self.events.push(BackupEvent::TakeOver { committed, reason });
                self.tell();
            }
            None => self.discard(DiscardReason::NeverCommitted),
        }
    }

    fn discard(&mut self, reason: DiscardReason) {
        self.phase = BackupPhase::Discarded(reason);
        self.events.push(BackupEvent::Discard { reason });
        self.tell();
    }

    /// The session has ended: that, and nothing else, is said on every connection.
    fn tell(&mut self) {
        let answer = self.answer();
        for link in self.links.iter_mut().flatten() {
            link.due = answer;
        }
    }

    fn drop_link(&mut self, path: Path, reason: LostReason) {
        if let Some(Link { connection, .. }) = self.links[path.index()].take() {
            self.events.push(BackupEvent::PathLost { connection, reason });
        }
    }
}

/// What a backup without a copy answers.
const fn farewell(phase: BackupPhase) -> Option<GoodbyeReason> {
    match phase {
        BackupPhase::Discarded(DiscardReason::Released) => Some(GoodbyeReason::Released),
        BackupPhase::Discarded(DiscardReason::DomainEnded | DiscardReason::ShuttingDown) => {
            Some(GoodbyeReason::ShuttingDown)
        }
        BackupPhase::Discarded(DiscardReason::NeverCommitted)
        | BackupPhase::Protecting
        | BackupPhase::TakenOver => None,
    }
}
