//! Replay of the input log into a guest that was restored from its last checkpoint.
//!
//! [`Retention`] says what the log must keep for it; [`Replay`] plays the peers towards the guest until the guest has
//! done again what its clients have seen, and then translates for the life of each connection. The machine has no
//! sockets, no clock and no memory of its own: the log is handed in with each call.
//!
//! ```text
//! base, records --> prepare -> Probing -> Walking -> CatchingUp -> Live
//!                                ^ guest's packets: from_guest      ^ and its peers': from_peer
//! ```
//! The steps, and what cannot be carried, are told in `docs/replay.md`.

mod carried;
mod flow;
mod live;
mod report;
mod retain;
mod seq;
mod serve;
mod walk;

#[cfg(test)]
mod tests;

pub use carried::{Carried, Fate, Handed};
pub use report::{Cause, Divergence, Fidelity, Report, SERVICES_MAX};
pub use retain::{Base, Retention, UNPROVEN_CUTS};

use crate::flow::build::{self, Says};
use crate::flow::{Direction, FlowKey, Packet, VNET_HEADER, flags, is_checksum_partial};
use crate::log::{Carry, Note, Record, RecordKind};
use crate::time::{Duration, Instant};
use core::net::IpAddr;
use flow::{Compared, Flow, State};
use heapless::Deque;
use heapless::index_map::FnvIndexMap;

/// Neighbours whose hardware addresses are known from the log, at most.
const NEIGHBOURS: usize = 256;
/// Events that wait for the driver, at most; the oldest goes.
const EVENTS: usize = 64;

/// How a replay is done.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Patience with one connection that makes no progress.
    pub stall: Duration,
    /// Most time for all of the replay.
    pub total: Duration,
    /// After this, what the guest has not acknowledged is given to it again.
    pub resend: Duration,
    /// What follows when a reply comes out otherwise than it was released.
    pub on_divergence: OnDivergence,
    /// All off, but in tests.
    pub faults: Faults,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(1),
            total: Duration::from_secs(10),
            resend: Duration::from_millis(300),
            on_divergence: OnDivergence::Reset,
            faults: Faults::default(),
        }
    }
}

/// What to do with a connection whose reply has changed. It is counted in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDivergence {
    /// Reset it: its client would go on with a contradiction.
    #[default]
    Reset,
    /// Tell of it, and let the connection go on. Where the log has the released bytes ([`Class::LlmBytes`](crate::flow::Class)),
    /// the client is never sent others in their place.
    Serve,
    /// Let the connection go on, and only count.
    Ignore,
}

/// Parts that are switched off, to see tests and checkers notice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Inputs do not wait for what their sender had seen.
    pub no_pacing: bool,
    /// Sequence numbers of connections opened again are not translated.
    pub no_translation: bool,
    /// Timestamps are not shifted.
    pub no_shift: bool,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Asking the guest where its connections stand.
    Probing,
    /// Giving it the log.
    Walking,
    /// Waiting for the rest of what clients have seen.
    CatchingUp,
    /// The guest talks with its peers.
    Live,
}

/// Something to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A reply came out otherwise.
    Diverged(Divergence),
    /// A connection is given up.
    Reset {
        /// Which.
        key: FlowKey,
        /// Why.
        cause: Cause,
    },
    /// A connection makes no progress: the replay goes on without waiting for it.
    Stalled {
        /// Which.
        key: FlowKey,
        /// At this record.
        lsn: u64,
    },
}

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give so many bytes of the buffer to the guest.
    ToGuest(usize),
    /// Send so many bytes of the buffer to the guest's peers.
    ToPeers(usize),
    /// Join guest and network, and announce it.
    GoLive,
    /// Tell.
    Event(Event),
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Nothing.
    Drop,
    /// It goes on, as it is now.
    Forward,
    /// So many bytes of the second buffer go back to the guest.
    Answer(usize),
}

/// Where the records are.
pub trait LogSource {
    /// The record of that number; `None` if it was dropped.
    fn record(&self, lsn: u64) -> Option<Record<'_>>;
}

/// The machine. `N` connections, a power of two; it is large, so keep it in a box or a static.
#[derive(Debug)]
pub struct Replay<const N: usize> {
    config: Config,
    phase: Phase,
    flows: FnvIndexMap<FlowKey, Flow, N>,
    neighbours: FnvIndexMap<IpAddr, [u8; 6], NEIGHBOURS>,
    events: Deque<Event, EVENTS>,
    /// Connections whose guest is to be told what is acknowledged.
    due: Deque<FlowKey, N>,
    /// Next record, and the one behind the last.
    next: u64,
    end: u64,
    /// The first one.
    first: u64,
    /// Since when the walk waits at `next`.
    blocked: Option<Instant>,
    started: Instant,
    phase_began: Instant,
    resend_at: Instant,
    report: Report,
}

impl<const N: usize> Replay<N> {
    /// A replay of nothing yet.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            phase: Phase::Probing,
            flows: FnvIndexMap::new(),
            neighbours: FnvIndexMap::new(),
            events: Deque::new(),
            due: Deque::new(),
            next: 0,
            end: 0,
            first: 0,
            blocked: None,
            started: now,
            phase_began: now,
            resend_at: now,
            report: Report::default(),
        }
    }

    /// A connection that the checkpoint holds. To be called for all, before any record.
    pub fn base(&mut self, key: &FlowKey, base: &Base) {
        let flow = Flow::from_base(base, self.started);
        self.neighbours.insert(key.peer(), base.link.peer).ok();
        if self.flows.insert(*key, flow).is_err() {
            self.report.reset(Cause::TooMany);
        }
    }

    /// A record that was kept. To be called for all, in order.
    pub fn prepare(&mut self, record: &Record<'_>) {
        if self.end == 0 {
            (self.next, self.first) = (record.lsn, record.lsn);
        }
        self.end = record.lsn.saturating_add(1);
        match record.entry.kind {
            RecordKind::Note => {
                if let Ok(note) = Note::parse(record.entry.packet)
                    && note.key().is_tcp()
                    && let Some(flow) = self.flow(note.key(), !(note.has(flags::SYN) || note.has(flags::RST)))
                {
                    flow.note(&note);
                }
            }
            RecordKind::Carry => {
                if let Ok(carry) = Carry::parse(record.entry.packet)
                    && carry.key().is_tcp()
                    && let Some(flow) = self.flow(carry.key(), !carry.translation().is_empty())
                {
                    flow.carry = carry.translation();
                }
            }
            RecordKind::Input => self.prepare_input(record),
            RecordKind::Cut => {}
        }
    }

    /// Begins. The guest must run, with its interface connected.
    pub fn start(&mut self, now: Instant) {
        (self.started, self.phase_began, self.resend_at) = (now, now, now);
        for (_, flow) in &mut self.flows {
            flow.progress = now;
        }
    }

    /// The next thing to do; to be called until there is none, after each call of another method and whenever
    /// [`Self::poll_timeout`] has come. `buf` takes a packet with its virtio-net header.
    pub fn poll(&mut self, log: &impl LogSource, buf: &mut [u8], now: Instant) -> Option<Action> {
        if let Some(event) = self.events.pop_front() {
            return Some(Action::Event(event));
        }
        if self.phase == Phase::Probing {
            if let Some(len) = self.probe(buf, now) {
                return Some(Action::ToGuest(len));
            }
            let waiting = self.flows.values().any(Flow::can_be_asked);
            if waiting && now.since(self.phase_began) < self.config.stall {
                return None;
            }
            self.report.probing = self.enter(Phase::Walking, now);
        }
        if self.phase == Phase::Live {
            return self.tell_of_resets(buf, now);
        }
        if let Some(len) = self.acknowledge(buf).or_else(|| self.resend(log, buf, now)) {
            return Some(Action::ToGuest(len));
        }
        if self.phase == Phase::Walking
            && let Some(len) = self.walk(log, buf, now).or_else(|| self.acknowledge(buf))
        {
            return Some(Action::ToGuest(len));
        }
        if let Some(event) = self.events.pop_front() {
            return Some(Action::Event(event));
        }
        if self.phase == Phase::CatchingUp && self.is_caught_up(now) {
            self.go_live(now);
            return Some(Action::GoLive);
        }
        None
    }

    /// When to poll again although nothing has happened. `None` once nothing is left to translate.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Live if self.flows.is_empty() => None,
            Phase::Live => Some(now + Duration::from_secs(1)),
            _ => Some(now + Duration::from_millis(20)),
        }
    }

    /// The guest has sent a packet, virtio-net header in front. `answer` takes one for the guest.
    pub fn from_guest(
        &mut self,
        log: &impl LogSource,
        packet: &mut [u8],
        answer: &mut [u8],
        now: Instant,
    ) -> Verdict {
        let Some((header, frame)) = packet.split_at_mut_checked(VNET_HEADER) else { return Verdict::Drop };
        let Some(parsed) = Packet::parse(frame) else { return Verdict::Drop };
        if self.phase == Phase::Live {
            if let Some(verdict) = self.refuse(&parsed, answer) {
                return verdict;
            }
            self.serve(log, frame, &parsed, is_checksum_partial(header));
            self.outgoing(frame, &parsed, is_checksum_partial(header), now);
            return Verdict::Forward;
        }
        let known = build::asks_for(frame, &parsed).and_then(|address| self.neighbours.get(&address));
        if let Some(mac) = known {
            return build::answer(answer, frame, &parsed, *mac).map_or(Verdict::Drop, Verdict::Answer);
        }
        if parsed.segment().is_some() {
            self.replayed(frame, &parsed, now);
        }
        Verdict::Drop
    }

    /// How far it is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Live, and nothing is left to translate: the machine is not needed any more.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Live && self.flows.is_empty()
    }

    /// What has been done.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// The connection, made if it is met for the first time: by its opening, or `late`, when it must be older than the
    /// checkpoint.
    fn flow(&mut self, key: &FlowKey, late: bool) -> Option<&mut Flow> {
        if !self.flows.contains_key(key) {
            let state = if late { State::Probing } else { State::Coming };
            let flow = Flow::new(state, build::Link::default(), self.started);
            if self.flows.insert(*key, flow).is_err() {
                self.report.reset(Cause::TooMany);
            }
        }
        self.flows.get_mut(key)
    }

    fn prepare_input(&mut self, record: &Record<'_>) {
        let Some((frame, packet, key)) = retain::input(record) else { return };
        let Some(link) = build::Link::of(frame, Direction::ToGuest) else { return };
        if packet.version != 0 {
            self.neighbours.insert(key.peer(), link.peer).ok();
        }
        let Some(segment) = packet.segment() else { return };
        let late = !(segment.has(flags::SYN) || segment.has(flags::RST));
        let Some(flow) = self.flow(&key, late) else { return };
        flow.link = link;
        flow.logged = true;
        if late {
            flow.is_spoken_to(segment);
        }
        if segment.has(flags::ACK) && !segment.has(flags::SYN) {
            seq::newer(&mut flow.peer_ack, segment.ack);
        }
    }

    fn event(&mut self, event: Event) {
        if self.events.is_full() {
            self.events.pop_front();
        }
        let _ = self.events.push_back(event);
    }

    /// Begins a phase; how long the one before took.
    fn enter(&mut self, phase: Phase, now: Instant) -> Duration {
        let took = now.since(self.phase_began);
        (self.phase, self.phase_began, self.blocked) = (phase, now, None);
        took
    }

    fn give_up(&mut self, key: &FlowKey, cause: Cause) {
        if let Some(flow) = self.flows.get_mut(key)
            && flow.is_live()
        {
            flow.state = State::Reset(cause);
            self.report.reset(cause);
            self.event(Event::Reset { key: *key, cause });
        }
    }

    /// Asks each connection of the checkpoint where it stands.
    fn probe(&mut self, buf: &mut [u8], now: Instant) -> Option<usize> {
        // The guest answers what is out of its window twice a second at most.
        let again = Duration::from_millis(550);
        let (key, flow) = self
            .flows
            .iter_mut()
            .find(|(_, flow)| flow.can_be_asked() && flow.probed.is_none_or(|at| now.since(at) >= again))?;
        flow.probed = Some(now);
        let timestamps = flow.peer_timestamp.map(|value| (value, flow.guest_timestamp.unwrap_or(0)));
        let ack = flow.probe_ack.unwrap_or(0);
        let says: Says = build::probe(flow.peer_next.unwrap_or(0), ack, flow.window, timestamps);
        build::segment(buf, &flow.link, key, Direction::ToGuest, &says)
    }

    /// A segment of the guest's while it does again what it has done.
    fn replayed(&mut self, frame: &[u8], packet: &Packet, now: Instant) {
        let key = packet.key(Direction::FromGuest);
        let (Some(segment), Some(flow)) = (packet.segment(), self.flows.get_mut(&key)) else { return };
        if !flow.is_walked() {
            return;
        }
        if flow.opened.is_some_and(|syn| flow.sent.is_none() && segment.ack != syn) {
            // Not the answer to the SYN: of the connection before this one.
            return;
        }
        if segment.has(flags::RST) {
            if flow.logged && flow.state != State::Probing && !flow.has_ended() {
                self.give_up(&key, Cause::Refused);
            } else {
                // It had ended before the checkpoint, or just then; what is in the log of it came late.
                flow.state = State::Over;
            }
            return;
        }
        if segment.has(flags::SYN) && flow.syn != 0 && !self.config.faults.no_translation {
            // One that the checkpoint holds keeps its number. Nobody has seen the first one if none was released: then the
            // new one counts.
            let seen = flow.opened.and_then(|syn| flow.opening(syn));
            flow.translation.seq = seen.map_or(0, |seen| seen.wrapping_sub(segment.seq));
        }
        if flow.is_live() {
            flow.state = State::Open;
        }
        let payload = frame.get(segment.payload_range()).unwrap_or_default();
        let (config, report, events) = (&self.config, &mut self.report, &mut self.events);
        let mut diverged = false;
        let got_on = flow.sent(&key, segment, payload, now, &mut |found: Compared| {
            if let Some(counters) = report.service(key.guest_port()) {
                found.count(counters);
            }
            if let Compared::Different(divergence) = found {
                diverged = true;
                if config.on_divergence != OnDivergence::Ignore && !events.is_full() {
                    let _ = events.push_back(Event::Diverged(divergence));
                }
            }
        });
        if got_on && flow.acked().is_some() && !flow.ack_due {
            flow.ack_due = true;
            // Each connection is in there once at most, so that it has room.
            let _ = self.due.push_back(key);
        }
        flow.served |= diverged && config.on_divergence == OnDivergence::Serve;
        if diverged && self.config.on_divergence == OnDivergence::Reset {
            self.give_up(&key, Cause::Diverged);
        }
    }
}
