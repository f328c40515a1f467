//! The end of a replay, and what follows for the life of each connection.

use super::carried::Handed;
use super::flow::{Flow, State};
use super::{Action, Cause, Event, Phase, Replay, Verdict};
use crate::flow::build::{self, Says};
use crate::flow::{
    Direction, FlowKey, Packet, Segment, Translation, VNET_HEADER, flags, is_checksum_partial,
};
use crate::time::{Duration, Instant};

/// How long a connection that both sides have ended is still translated.
pub(super) const LINGER: Duration = Duration::from_secs(60);

/// A reset is sent so often, and again after so long.
const TELLS: u8 = 5;
const TELL_AGAIN: Duration = Duration::from_secs(1);

impl<const N: usize> Replay<N> {
    /// Whether every client's connection is where its client knows it to be, or given up.
    pub(super) fn is_caught_up(&mut self, now: Instant) -> bool {
        let late = now.since(self.started) >= self.config.total;
        let patience = self.config.stall;
        let began = self.phase_began;
        while let Some((key, cause)) = self.flows.iter().find_map(|(key, flow)| {
            let stalled = late || now.since(flow.progress.max(began)) >= patience;
            let cause = cause(flow)?;
            stalled.then_some((*key, cause))
        }) {
            self.give_up(&key, cause);
        }
        // What others may have seen the effects of is done, although its own client is reset.
        let works = |flow: &Flow| {
            let waits = flow.is_walked() && !flow.has_taken_all();
            waits && !late && now.since(flow.progress.max(began)) < patience
        };
        self.flows.values().all(|flow| cause(flow).is_none() && !works(flow))
    }

    pub(super) fn go_live(&mut self, now: Instant) {
        self.report.catching_up = self.enter(Phase::Live, now);
        // The walk ended, for want of time, before it came to them: their clients must be told.
        while let Some((&key, flow)) = self.flows.iter_mut().find(|(_, flow)| flow.is_missed()) {
            flow.state = State::Reset(Cause::NotRegenerated);
            self.report.reset(Cause::NotRegenerated);
            self.event(Event::Reset { key, cause: Cause::NotRegenerated });
        }
        self.flows.retain(|_, flow| match flow.state {
            State::Reset(_) | State::Told(_) => true,
            State::Coming => false,
            // The guest may still speak before it comes to its peer's reset.
            State::Over => flow.peer_left,
            State::Probing | State::Open => true,
        });
        for flow in self.flows.values_mut().filter(|flow| !flow.is_given_up()) {
            if flow.state == State::Over {
                flow.forget_at = Some(now + LINGER);
            } else {
                self.report.carried += 1;
            }
            flow.translation = flow.translation.then(Translation { timestamp: 0, ..flow.carry });
            flow.shifted = flow.released_timestamp.is_none() || self.config.faults.no_shift;
            if flow.shifted {
                flow.translation.timestamp = flow.carry.timestamp;
            }
        }
        for flow in self.flows.values_mut() {
            flow.arrives(flow.peer_ack);
        }
        self.flows.retain(|_, flow| flow.is_given_up() || !flow.needs_nothing());
    }

    /// A reset for the peer of each connection that was given up.
    pub(super) fn tell_of_resets(&mut self, buf: &mut [u8], now: Instant) -> Option<Action> {
        loop {
            let (key, flow) = self.flows.iter_mut().find(|(_, flow)| match flow.state {
                State::Reset(_) => true,
                State::Told(_) => flow.told < TELLS && now.since(flow.progress) >= TELL_AGAIN,
                _ => false,
            })?;
            if let State::Reset(cause) | State::Told(cause) = flow.state {
                flow.state = State::Told(cause);
            }
            // The reset may be lost, and its peer may wait and say nothing.
            (flow.told, flow.progress) = (flow.told.saturating_add(1), now);
            flow.forget_at = Some(now + LINGER);
            // Nothing but the number that the peer waits for counts: behind what was released, if it all arrived, or else
            // what is known to have arrived.
            let (all, known) = (flow.released.or(flow.peer_ack), flow.peer_ack.or(flow.released));
            let seq = if flow.told % 2 == 1 { all } else { known };
            let seq = seq.map(|seq| seq.wrapping_add(flow.carry.seq));
            let made = seq.and_then(|seq| {
                let ack = flow.released_ack.or(flow.peer_next).unwrap_or(0);
                let says = Says { seq, ack, flags: flags::RST | flags::ACK, ..Says::default() };
                build::segment(buf, &flow.link, key, Direction::FromGuest, &says)
            });
            if let Some(len) = made {
                return Some(Action::ToPeers(len));
            }
        }
    }

    /// What becomes of a segment of the guest's on a connection that was given up: the guest is told.
    pub(super) fn refuse(&mut self, packet: &Packet, answer: &mut [u8]) -> Option<Verdict> {
        let key = packet.key(Direction::FromGuest);
        let segment = packet.segment()?;
        let flow = self.flows.get(&key).filter(|flow| flow.is_given_up())?;
        if segment.has(flags::SYN) {
            // Another connection between the same ports; or else it is refused with what follows.
            self.flows.swap_remove(&key);
            return None;
        }
        if segment.has(flags::RST) {
            return Some(Verdict::Drop);
        }
        let says = Says { seq: segment.ack, flags: flags::RST, ..Says::default() };
        let len = build::segment(answer, &flow.link, &key, Direction::ToGuest, &says);
        Some(len.map_or(Verdict::Drop, Verdict::Answer))
    }

    /// A packet for the guest has come from the network, virtio-net header in front. Until the guest is live it is
    /// dropped: its sender will repeat it.
    pub fn from_peer(&mut self, packet: &mut [u8], now: Instant) -> Verdict {
        if self.phase != Phase::Live {
            return Verdict::Drop;
        }
        let Some((header, frame)) = packet.split_at_mut_checked(VNET_HEADER) else { return Verdict::Drop };
        if let Some(parsed) = Packet::parse(frame)
            && let Some(segment) = parsed.segment()
        {
            let key = parsed.key(Direction::ToGuest);
            // A SYN alone changes nothing: anybody could send it.
            if let Some(flow) = self.flows.get_mut(&key) {
                if flow.is_given_up() && !segment.has(flags::SYN) {
                    flow.peer_wants(segment);
                    return Verdict::Drop;
                }
                let as_logged = segment.ack.wrapping_sub(flow.carry.seq);
                flow.arrives(segment.has(flags::ACK).then_some(as_logged));
                flow.translation.incoming(frame, &parsed, is_checksum_partial(header));
                ends(flow, segment, false, now);
            }
        }
        Verdict::Forward
    }

    /// Makes a packet of the guest's fit for its peer.
    pub(super) fn outgoing(&mut self, frame: &mut [u8], packet: &Packet, partial: bool, now: Instant) {
        let key: FlowKey = packet.key(Direction::FromGuest);
        let opens =
            |segment: &Segment, flow: &mut Flow| segment.has(flags::SYN) && !flow.is_opened_by(segment);
        if self.flows.get_mut(&key).zip(packet.segment()).is_some_and(|(flow, segment)| opens(segment, flow))
        {
            // The guest opens a new connection between the same ports: nobody has seen another number of it.
            self.flows.swap_remove(&key);
        }
        let (Some(segment), Some(flow)) = (packet.segment(), self.flows.get_mut(&key)) else { return };
        if let (Some(timestamp), Some(released), false) =
            (segment.timestamp, flow.released_timestamp, flow.shifted)
        {
            flow.shifted = true;
            flow.translation = flow.shift_from(released, timestamp.value);
        }
        flow.translation.outgoing(frame, packet, partial);
        ends(flow, segment, true, now);
        if flow.needs_nothing() {
            self.flows.swap_remove(&key);
        }
    }

    /// Forgets connections that have ended. To be called now and then.
    pub fn forget(&mut self, now: Instant) {
        if self.phase == Phase::Live {
            self.flows.retain(|_, flow| flow.forget_at.is_none_or(|at| now < at));
        }
    }

    /// What another one needs to go on with in place of this machine, which is done then. Before, [`Self::part`] is to be
    /// called until it makes no packet.
    pub fn handed(&self) -> impl Iterator<Item = Handed> {
        let live = self.phase == Phase::Live;
        let handed = move |(key, flow): (&FlowKey, &Flow)| Handed {
            key: *key,
            translation: flow.settled(),
            opened: flow.opened_as_the_guest_counts(),
            closed: flow.is_given_up(),
        };
        self.flows.iter().filter(move |_| live).map(handed).filter(|h| h.closed || !h.translation.is_empty())
    }

    /// A reset for the guest, of a connection that was given up: who comes next cannot tell it where the guest stands.
    pub fn part(&mut self, buf: &mut [u8]) -> Option<usize> {
        let gone = |flow: &Flow| flow.is_given_up() && !flow.parted && flow.guest_ack.is_some();
        let (key, flow) = self.flows.iter_mut().find(|(_, flow)| gone(flow))?;
        flow.parted = true;
        let says = Says { seq: flow.guest_ack?, flags: flags::RST, ..Says::default() };
        build::segment(buf, &flow.link, key, Direction::ToGuest, &says)
    }
}

/// What stands between a connection and its client, if anything.
fn cause(flow: &Flow) -> Option<Cause> {
    if !flow.is_live() || !flow.logged {
        None
    } else if !flow.is_caught_up() {
        Some(Cause::NotRegenerated)
    } else if !flow.has_taken_all() {
        Some(Cause::NotTaken)
    } else {
        None
    }
}

fn ends(flow: &mut Flow, segment: &Segment, by_guest: bool, now: Instant) {
    if segment.has(flags::FIN) {
        if by_guest { flow.fins.0 = true } else { flow.fins.1 = true }
    }
    if flow.fins == (true, true) || segment.has(flags::RST) {
        flow.forget_at.get_or_insert(now + LINGER);
    }
}
