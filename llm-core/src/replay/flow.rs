//! One connection in a replay. Numbers are as the log counts, that is, as the lost primary's guest did; what the
//! restored guest counts otherwise is [`Flow::translation`].

use super::report::{Cause, Divergence, Fidelity};
use super::retain::Base;
use super::seq::{after, at_least, earlier, later, newer};
use crate::flow::build::Link;
use crate::flow::{FlowKey, RangeDigest, Segment, Translation, flags};
use crate::log::Note;
use crate::time::Instant;
use heapless::Deque;

/// Ranges of released bytes that are compared apart; more are joined.
const RANGES: usize = 8;
/// Inputs given to the guest that it has not acknowledged yet, at most.
pub(super) const OUTSTANDING: usize = 16;
/// No window is larger (RFC 7323, 2.3): what is so far behind is behind all that the guest waits for, and is answered.
const WINDOW_MAX: u32 = 1 << 30;
/// Openings of the same connection in one log.
const OPENINGS: usize = 4;

/// Released bytes, up to `end`.
#[derive(Clone, Copy, Debug)]
struct Range {
    end: u32,
    /// Not known if some of the bytes were in no note of their own.
    digest: Option<RangeDigest>,
}

/// An input that was given to the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) lsn: u64,
    pub(super) seq: u32,
    pub(super) end: u32,
    pub(super) at: Instant,
}

/// A SYN of the guest's that was released.
#[derive(Clone, Copy, Debug)]
struct Opening {
    /// Its number.
    isn: u32,
    /// Behind the SYN of the peer's that it answers; `None` if it answers none.
    answers: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It exists at the checkpoint, and the guest has not said yet where it stands.
    Probing,
    /// In a log, its SYN yet to come.
    Coming,
    Open,
    /// Given up, and the peer still has to be told; then told, once or more.
    Reset(Cause),
    Told(Cause),
    /// Ended by one of its own sides.
    Over,
}

#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) state: State,
    pub(super) link: Link,
    pub(super) translation: Translation,
    pub(super) carry: Translation,
    /// Behind the last byte that the guest has sent, and what it has acknowledged; `None` until it has.
    pub(super) sent: Option<u32>,
    pub(super) guest_ack: Option<u32>,
    /// The guest's timestamp clock, as it counts itself.
    pub(super) guest_timestamp: Option<u32>,
    /// The guest was given a reset of the peer's: whatever it answers is no refusal.
    pub(super) peer_left: bool,
    /// Behind the guest's FIN.
    pub(super) fin: Option<u32>,
    /// Behind the last released byte; the newest released timestamp and acknowledgement.
    pub(super) released: Option<u32>,
    pub(super) released_timestamp: Option<u32>,
    pub(super) released_ack: Option<u32>,
    /// What the peer has acknowledged, in the whole log, of the last connection between these ports.
    pub(super) peer_ack: Option<u32>,
    /// What it has acknowledged up to where the walk is, and what of it the guest was told.
    pub(super) walked_ack: Option<u32>,
    pub(super) told_ack: Option<u32>,
    /// What the peer had acknowledged of what the guest had sent at the checkpoint: anything else would be refused by a
    /// connection that is about to be opened.
    pub(super) probe_ack: Option<u32>,
    /// As of the place in the log that the walk has reached, and the numbers that came with it.
    pub(super) window: u16,
    window_from: Option<(u32, u32)>,
    pub(super) peer_timestamp: Option<u32>,
    /// Behind the last byte of the peer's that was given to the guest.
    pub(super) peer_next: Option<u32>,
    pub(super) given: Deque<Given, OUTSTANDING>,
    openings: Deque<Opening, OPENINGS>,
    ranges: Deque<Range, RANGES>,
    /// Up to where ranges were made, and bytes compared.
    noted: Option<u32>,
    compared: Option<u32>,
    comparing: RangeDigest,
    /// The guest must be told what the peer has acknowledged: it is in the queue for that, once.
    pub(super) ack_due: bool,
    /// Nobody waits for it any more.
    pub(super) lagging: bool,
    pub(super) progress: Instant,
    pub(super) probed: Option<Instant>,
    /// Behind the SYN that opened it, as far as the walk has seen one.
    pub(super) opened: Option<u32>,
    /// The record of the SYN that opened it, 0 for one that is older than the checkpoint.
    pub(super) syn: u64,
    /// In the log behind the checkpoint.
    pub(super) logged: bool,
    /// After going live: both sides are told the same time.
    pub(super) shifted: bool,
    pub(super) fins: (bool, bool),
    pub(super) forget_at: Option<Instant>,
    /// It came out otherwise, and its peer may yet need what was released.
    pub(super) served: bool,
    /// How often the peer was told that it was given up.
    pub(super) told: u8,
    /// The guest was told so, too, for somebody else goes on with its connections.
    pub(super) parted: bool,
}

impl Flow {
    pub(super) fn new(state: State, link: Link, now: Instant) -> Self {
        Self {
            state,
            link,
            translation: Translation::default(),
            carry: Translation::default(),
            sent: None,
            guest_ack: None,
            guest_timestamp: None,
            peer_left: false,
            fin: None,
            released: None,
            released_timestamp: None,
            released_ack: None,
            peer_ack: None,
            walked_ack: None,
            told_ack: None,
            probe_ack: None,
            window: 0,
            window_from: None,
            peer_timestamp: None,
            peer_next: None,
            given: Deque::new(),
            openings: Deque::new(),
            ranges: Deque::new(),
            noted: None,
            compared: None,
            comparing: RangeDigest::EMPTY,
            ack_due: false,
            lagging: false,
            progress: now,
            probed: None,
            opened: None,
            syn: 0,
            logged: false,
            shifted: false,
            fins: (false, false),
            forget_at: None,
            served: false,
            told: 0,
            parted: false,
        }
    }

    pub(super) fn from_base(base: &Base, now: Instant) -> Self {
        Self {
            carry: base.carry,
            released: base.sent,
            released_timestamp: base.guest_timestamp,
            released_ack: base.guest_ack,
            guest_timestamp: base.guest_timestamp,
            peer_ack: base.peer_ack,
            walked_ack: base.peer_ack,
            probe_ack: base.sent.map(|sent| base.peer_ack.map_or(sent, |ack| earlier(ack, sent))),
            fin: base.guest_fin,
            window: base.window,
            peer_timestamp: base.peer_timestamp,
            peer_next: base.guest_ack,
            noted: base.sent,
            compared: base.sent,
            ..Self::new(State::Probing, base.link, now)
        }
    }

    /// Whether the walk has to do with it.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, State::Probing | State::Open)
    }

    /// Whether the guest is still given what its peer sent: also when the peer is to be reset for a reply that has
    /// changed, since others may have seen the effects.
    pub(super) fn is_walked(&self) -> bool {
        self.is_live() || self.state == State::Reset(Cause::Diverged)
    }

    /// The peer's window, unless the segment is older than the one that told it last (RFC 9293, 3.10.7.4). True if it
    /// has changed.
    pub(super) fn tell_window(&mut self, segment: &Segment) -> bool {
        let old = self.window_from.is_some_and(|(seq, ack)| {
            after(ack, segment.ack)
                || ack == segment.ack
                    && (after(seq, segment.seq) || seq == segment.seq && self.window > segment.window)
        });
        if old {
            return false;
        }
        self.window_from = Some((segment.seq, segment.ack));
        core::mem::replace(&mut self.window, segment.window) != segment.window
    }

    /// Whether a client has seen the guest open it, and the replay has not.
    pub(super) fn is_missed(&self) -> bool {
        self.state == State::Coming && !self.openings.is_empty() && self.released_ack.is_some()
    }

    /// Whether it was given up.
    pub(super) const fn is_given_up(&self) -> bool {
        matches!(self.state, State::Reset(_) | State::Told(_))
    }

    /// The peer goes on with a connection that was given up: it is to be told again, at the number that it waits for.
    pub(super) fn peer_wants(&mut self, segment: &Segment) {
        if let State::Told(cause) = self.state
            && !segment.has(flags::RST)
        {
            self.state = State::Reset(cause);
            if segment.has(flags::ACK) {
                self.peer_ack = Some(segment.ack.wrapping_sub(self.carry.seq));
                self.released = self.peer_ack;
            }
        }
    }

    /// Takes in what was released behind the checkpoint.
    pub(super) fn note(&mut self, note: &Note) {
        self.logged = true;
        let (seq, end) = (note.seq(), note.seq_end());
        if note.has(flags::RST) {
            return;
        }
        self.stands_at(note.ack(), if note.has(flags::SYN) { end } else { seq });
        if note.has(flags::SYN) && self.openings.back().is_none_or(|opening| opening.isn != seq) {
            if self.openings.is_full() {
                self.openings.pop_front();
            }
            let _ = self.openings.push_back(Opening { isn: seq, answers: note.ack() });
            self.ranges.clear();
            self.noted = Some(end);
            self.compared = Some(end);
            self.released = Some(end);
            // What the peer acknowledged of the connection before is of no use.
            self.peer_ack = None;
            self.released_timestamp = None;
            self.released_ack = None;
        }
        newer(&mut self.released, end);
        if let Some(ack) = note.ack() {
            newer(&mut self.released_ack, ack);
        }
        if let Some(timestamp) = note.timestamp() {
            newer(&mut self.released_timestamp, timestamp);
        }
        let behind = seq.wrapping_add(length(note.digest()));
        let noted = *self.noted.get_or_insert(seq);
        self.compared.get_or_insert(seq);
        if after(behind, noted) && !note.has(flags::SYN) {
            let digest = (seq == noted).then_some(note.digest());
            self.add(Range { end: behind, digest });
            self.noted = Some(behind);
        }
    }

    /// The number that the SYN-ACK had that was released for the SYN which ends at `behind_syn`. Such a SYN may stand behind
    /// its answer in the log, if it came twice.
    pub(super) fn opening(&self, behind_syn: u32) -> Option<u32> {
        self.openings.iter().find(|opening| opening.answers == Some(behind_syn)).map(|opening| opening.isn)
    }

    /// Whether a segment of the peer's is of an earlier connection between the same ports.
    pub(super) fn is_of_before(&self, segment: &Segment) -> bool {
        let Some(opened) = self.opened else { return false };
        // Later, the numbers have gone round too far to tell.
        let young = self.peer_next.is_none_or(|next| next.wrapping_sub(opened) < WINDOW_MAX);
        young && after(opened.wrapping_sub(1), segment.seq)
    }

    /// A SYN of the peer's begins the connection anew.
    pub(super) fn open(&mut self, lsn: u64, behind_syn: u32) {
        self.state = State::Open;
        self.syn = lsn;
        self.opened = Some(behind_syn);
        if self.opening(behind_syn).is_none() {
            // What is known to be acknowledged is of the connection before.
            self.peer_ack = None;
        }
        self.peer_next = None;
        self.window_from = None;
        self.walked_ack = None;
        self.told_ack = None;
        self.translation = Translation::default();
        self.sent = None;
        self.guest_ack = None;
        self.guest_timestamp = None;
        self.peer_left = false;
        self.fin = None;
        self.peer_timestamp = None;
        self.given.clear();
        self.comparing = RangeDigest::EMPTY;
        self.lagging = false;
    }

    fn add(&mut self, range: Range) {
        if self.ranges.is_full() {
            // The two oldest become one.
            if let (Some(first), Some(second)) = (self.ranges.pop_front(), self.ranges.pop_front()) {
                let digest = first.digest.zip(second.digest).map(|(a, b)| a.then(b));
                let _ = self.ranges.push_front(Range { end: second.end, digest });
            }
        }
        let _ = self.ranges.push_back(range);
    }

    /// The guest has sent a segment, which starts at `seq` as the log counts. Compares what was released
    /// before. True if the guest has got on.
    pub(super) fn sent(
        &mut self,
        key: &FlowKey,
        segment: &Segment,
        payload: &[u8],
        now: Instant,
        tell: &mut impl FnMut(Compared),
    ) -> bool {
        let seq = segment.seq.wrapping_add(self.translation.seq);
        let end = seq.wrapping_add(segment.seq_len());
        let mut got_on = self.sent.is_none_or(|sent| after(end, sent));
        newer(&mut self.sent, end);
        if segment.has(flags::FIN) {
            self.fin = Some(end);
        }
        if segment.has(flags::ACK) {
            got_on |= self.guest_ack.is_none_or(|ack| after(segment.ack, ack));
            newer(&mut self.guest_ack, segment.ack);
            // The checkpoint may hold more than was known: an acknowledgement at an older number would not be heeded.
            newer(&mut self.peer_next, segment.ack);
        }
        if let Some(timestamp) = segment.timestamp {
            newer(&mut self.guest_timestamp, timestamp.value);
        }
        let ack = self.guest_ack;
        // Not only from the front: behind a hole there is room for what comes then.
        for _ in 0..self.given.len() {
            let Some(given) = self.given.pop_front() else { break };
            if !ack.is_some_and(|ack| at_least(ack, given.end)) {
                let _ = self.given.push_back(given);
            }
        }
        let first = seq.wrapping_add(u32::from(segment.has(flags::SYN)));
        self.compare(key, first, payload, tell);
        if got_on {
            self.progress = now;
        }
        got_on
    }

    fn compare(&mut self, key: &FlowKey, first: u32, payload: &[u8], tell: &mut impl FnMut(Compared)) {
        let Some(compared) = self.compared else { return };
        let end = first.wrapping_add(len32(payload.len()));
        if !after(end, compared) {
            return;
        }
        if after(first, compared) {
            self.skip(first, tell);
        }
        let mut at = later(first, compared);
        let mut rest = payload.get(at.wrapping_sub(first) as usize..).unwrap_or_default();
        while let Some(range) = self.ranges.front().copied() {
            let part = range.end.wrapping_sub(at) as usize;
            let (now, behind) = rest.split_at(part.min(rest.len()));
            self.comparing.update(now);
            at = at.wrapping_add(len32(now.len()));
            rest = behind;
            if at != range.end {
                break;
            }
            let regenerated = core::mem::take(&mut self.comparing);
            let from = at.wrapping_sub(length(regenerated));
            match range.digest {
                Some(released) if released == regenerated => tell(Compared::Identical(released.len())),
                Some(released) => {
                    tell(Compared::Different(Divergence { key: *key, from, to: at, released, regenerated }));
                }
                None => tell(Compared::Unknown(length(regenerated))),
            }
            self.ranges.pop_front();
        }
        // Behind the last range nothing was released that could be compared.
        self.compared = Some(at);
    }

    /// Bytes before `to` were not seen: what they are a part of cannot be judged.
    fn skip(&mut self, to: u32, tell: &mut impl FnMut(Compared)) {
        let from = self.compared.unwrap_or(to).wrapping_sub(length(self.comparing));
        self.comparing = RangeDigest::EMPTY;
        let mut unknown = from;
        while let Some(range) = self.ranges.front().copied().filter(|range| !after(range.end, to)) {
            unknown = range.end;
            self.ranges.pop_front();
        }
        if let Some(range) = self.ranges.front_mut() {
            range.digest = None;
            unknown = to;
        }
        if unknown != from {
            tell(Compared::Unknown(unknown.wrapping_sub(from)));
        }
    }

    /// Whether the guest has ended it and its peer knows, or the peer has reset it.
    pub(super) fn has_ended(&self) -> bool {
        self.peer_left || self.acked().zip(self.fin).is_some_and(|(ack, fin)| at_least(ack, fin))
    }

    /// What the peer is known to have acknowledged. Of a connection that another one follows in the log, between the same
    /// ports, that is only what the walk has passed.
    pub(super) fn acked(&self) -> Option<u32> {
        let last = self
            .openings
            .back()
            .is_none_or(|newest| newest.answers.is_none() || newest.answers == self.opened);
        match (self.peer_ack.filter(|_| last), self.walked_ack) {
            (Some(all), Some(walked)) => Some(later(all, walked)),
            (all, walked) => all.or(walked),
        }
    }

    /// The number that the guest waits for, once it has taken in what it was given.
    pub(super) fn expected(&self) -> Option<u32> {
        let Some(mut next) = self.guest_ack else { return self.peer_next };
        while let Some(given) =
            self.given.iter().find(|given| at_least(next, given.seq) && after(given.end, next))
        {
            next = given.end;
        }
        Some(next)
    }

    /// What the guest can be told to be acknowledged.
    pub(super) fn ack_for_guest(&self) -> Option<u32> {
        Some(earlier(self.sent?, self.acked()?))
    }

    /// As [`Self::ack_for_guest`], as the guest counts.
    pub(super) fn to_guest(&self, number: u32) -> u32 {
        number.wrapping_sub(self.translation.seq)
    }

    /// Whether this SYN of the guest's, once it is live, is the one that the peer has seen, sent again.
    pub(super) fn is_opened_by(&mut self, segment: &Segment) -> bool {
        let seen = segment.seq_end().wrapping_add(self.translation.seq).wrapping_sub(self.carry.seq);
        if self.released.is_none() {
            // Silent since an earlier take-over: old or new, nobody can tell. To a new one a difference does no harm.
            self.released = Some(seen);
            (self.fins, self.forget_at) = ((false, false), None);
        }
        self.released == Some(seen)
    }

    /// Behind the SYN that the peer has seen, as the guest counts.
    pub(super) fn opened_as_the_guest_counts(&self) -> Option<u32> {
        self.released.map(|seen| seen.wrapping_add(self.carry.seq).wrapping_sub(self.translation.seq))
    }

    /// The translation with which the guest's clock, which stands at `now`, goes on behind what was `released`.
    pub(super) const fn shift_from(&self, released: u32, now: u32) -> Translation {
        let shift = Translation::clock(released, now).wrapping_add(self.carry.timestamp);
        Translation { seq: self.translation.seq, timestamp: shift }
    }

    /// The translation, for good: if the guest has sent nothing since it is live, its clock is where it was last seen, or
    /// further on.
    pub(super) fn settled(&self) -> Translation {
        match (self.released_timestamp, self.guest_timestamp) {
            (Some(released), Some(seen)) if !self.shifted => self.shift_from(released, seen),
            _ => self.translation,
        }
    }

    /// Whether the guest can be asked where it stands.
    pub(super) fn can_be_asked(&self) -> bool {
        self.state == State::Probing && self.peer_next.is_some() && self.link != Link::default()
    }

    /// It is older than the checkpoint, which does not tell where it stands: what comes first in the log must do.
    pub(super) fn stands_at(&mut self, peer_next: Option<u32>, sent: u32) {
        if self.state == State::Probing && self.peer_next.is_none() && peer_next.is_some() {
            self.peer_next = peer_next;
            self.probe_ack = Some(sent);
        }
    }

    /// As [`Self::stands_at`], by what its peer has sent, which may be ahead of what the guest has got.
    pub(super) fn is_spoken_to(&mut self, segment: &Segment) {
        if self.state != State::Probing {
            return;
        }
        if self.peer_next.is_none() {
            self.stands_at(Some(segment.seq.wrapping_sub(WINDOW_MAX)), segment.ack);
            self.window = segment.window;
        }
        if self.peer_timestamp.is_none() {
            self.peer_timestamp = segment.timestamp.map(|timestamp| timestamp.value);
        }
    }

    /// Everything a client has seen of it has come again.
    pub(super) fn is_caught_up(&self) -> bool {
        match (self.released, self.sent) {
            (None, _) => true,
            (Some(released), Some(sent)) => at_least(sent, released),
            (Some(_), None) => false,
        }
    }

    /// Everything the guest had acknowledged, it has again.
    pub(super) fn has_taken_all(&self) -> bool {
        match (self.released_ack, self.guest_ack) {
            (Some(released), Some(ack)) => at_least(ack, released),
            _ => true,
        }
    }
}

/// What a comparison found.
pub(super) enum Compared {
    Identical(u64),
    Unknown(u32),
    Different(Divergence),
}

impl Compared {
    pub(super) fn count(&self, counters: &mut Fidelity) {
        match self {
            Self::Identical(bytes) => counters.identical += bytes,
            Self::Unknown(bytes) => counters.unknown += u64::from(*bytes),
            Self::Different(divergence) => counters.different += divergence.released.len(),
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the length of a packet")]
const fn len32(len: usize) -> u32 {
    len as u32
}

#[allow(clippy::cast_possible_truncation, reason = "a note tells 32 bits of length")]
const fn length(digest: RangeDigest) -> u32 {
    digest.len() as u32
}
