//! The log, given to the guest in order.
//!
//! A record waits for what its sender had seen. An input waits until the guest has sent what it acknowledges, since Linux
//! drops a segment whole that acknowledges what was never sent. A note waits until the guest has sent it again: so
//! nothing that a client did *after* it saw a reply, on whatever connection, comes before the work behind that reply.

use super::flow::{Flow, Given, State};
use super::retain::input;
use super::seq::{at_least, earlier, later, newer};
use super::{Cause, Event, LogSource, Phase, Replay};
use crate::flow::build::{self, Says};
use crate::flow::{Direction, FlowKey, Packet, Segment, VNET_HEADER, flags, is_checksum_partial, readdress};
use crate::log::{Flags, Note, Record, RecordKind};
use crate::time::{Duration, Instant};

/// What became of a record.
enum Step {
    /// Go on with the next one.
    Done,
    /// So many bytes of the buffer are for the guest; then the next one.
    Give(usize),
    /// So many bytes of the buffer are for the guest; then this one again.
    First(usize),
    /// It has to wait for that connection.
    Wait(FlowKey),
}

impl<const N: usize> Replay<N> {
    /// Goes on until a packet is made, or the walk has to wait.
    pub(super) fn walk(&mut self, log: &impl LogSource, buf: &mut [u8], now: Instant) -> Option<usize> {
        while self.next < self.end && now.since(self.started) < self.config.total {
            let step = match log.record(self.next) {
                Some(record) => self.step(&record, buf, now),
                None => Step::Done,
            };
            match step {
                Step::Done => {}
                Step::Give(len) => {
                    self.pass();
                    self.report.fed += 1;
                    return Some(len);
                }
                Step::First(len) => {
                    self.report.fed += 1;
                    return Some(len);
                }
                Step::Wait(key) => {
                    if !self.has_stalled(&key, now) {
                        return None;
                    }
                    // Once more: nobody waits for that connection now.
                    continue;
                }
            }
            self.pass();
        }
        self.report.walking = self.enter(Phase::CatchingUp, now);
        None
    }

    fn pass(&mut self) {
        self.next += 1;
        self.blocked = None;
        self.report.records += 1;
    }

    fn has_stalled(&mut self, key: &FlowKey, now: Instant) -> bool {
        let since = *self.blocked.get_or_insert(now);
        let Some(flow) = self.flows.get_mut(key) else { return true };
        if now.since(since.max(flow.progress)) < self.config.stall {
            return false;
        }
        flow.lagging = true;
        self.report.stalls += 1;
        let lsn = self.next;
        self.event(Event::Stalled { key: *key, lsn });
        true
    }

    fn step(&mut self, record: &Record<'_>, buf: &mut [u8], now: Instant) -> Step {
        match record.entry.kind {
            RecordKind::Note => self.barrier(record),
            RecordKind::Input => match input(record) {
                Some((frame, packet, key)) if packet.segment().is_some() => {
                    self.segment(record, frame, &packet, key, buf, now)
                }
                // Whatever it is, the guest has had it before.
                _ => copy(record, buf).map_or(Step::Done, Step::Give),
            },
            RecordKind::Cut | RecordKind::Carry => Step::Done,
        }
    }

    fn barrier(&self, record: &Record<'_>) -> Step {
        let Ok(note) = Note::parse(record.entry.packet) else { return Step::Done };
        let Some(flow) = self.flows.get(note.key()) else { return Step::Done };
        let waits = flow.is_walked() && !flow.lagging && !self.config.faults.no_pacing;
        // What takes no numbers does not come again in the same way.
        if !waits || note.seq_end() == note.seq() || note.has(flags::RST) {
            return Step::Done;
        }
        if flow.sent.is_some_and(|sent| at_least(sent, note.seq_end())) {
            Step::Done
        } else {
            Step::Wait(*note.key())
        }
    }

    fn segment(
        &mut self,
        record: &Record<'_>,
        frame: &[u8],
        packet: &Packet,
        key: FlowKey,
        buf: &mut [u8],
        now: Instant,
    ) -> Step {
        let (Some(segment), Some(flow)) = (packet.segment(), self.flows.get_mut(&key)) else {
            return Step::Done;
        };
        if segment.has(flags::SYN) && !segment.has(flags::ACK) {
            // The same SYN may come twice, and late. One that the guest did not answer, busy with the connection before,
            // comes again by itself.
            let unanswered = flow.state == State::Open && flow.opening(segment.seq_end()).is_none();
            if flow.opened == Some(segment.seq_end()) || unanswered {
                return Step::Done;
            }
            if let Some(len) = part(flow, &key, buf) {
                return Step::First(len);
            }
            flow.open(record.lsn, segment.seq_end());
            flow.progress = now;
        } else if !flow.is_walked() {
            return Step::Done;
        }
        if flow.is_of_before(segment) {
            // It tells nothing of this one. A reset may be what rids the guest of the one before.
            let needed = if segment.has(flags::RST) { copy(record, buf) } else { None };
            return needed.map_or(Step::Done, Step::Give);
        }
        let known = flow.acked();
        if segment.has(flags::ACK) && !segment.has(flags::RST) {
            newer(&mut flow.walked_ack, segment.ack);
        }
        // A reset has no window.
        let tells = !segment.has(flags::RST) && flow.tell_window(segment) || flow.acked() != known;
        if tells && flow.ack_for_guest().is_some() && !flow.ack_due {
            // It may be what the guest waits for.
            flow.ack_due = true;
            let _ = self.due.push_back(key);
        }
        if flow.guest_ack.is_some_and(|ack| at_least(ack, segment.seq_end())) && !segment.has(flags::RST) {
            return Step::Done;
        }
        if segment.seq_len() == 0 && !segment.has(flags::RST) {
            // An acknowledgement: the guest gets one when it has sent what it is for.
            return Step::Done;
        }
        if is_handshake(flow, segment, frame) {
            self.give_up(&key, Cause::TlsHandshake);
            return Step::Done;
        }
        let paced = !self.config.faults.no_pacing && segment.has(flags::ACK);
        if paced && !flow.lagging && !flow.sent.is_some_and(|sent| at_least(sent, segment.ack)) {
            return Step::Wait(key);
        }
        // Sent again by the peer, it need not be given again twice.
        let known = flow.given.iter().any(|given| (given.seq, given.end) == (segment.seq, segment.seq_end()));
        if flow.given.is_full() && !known {
            if flow.lagging {
                self.give_up(&key, Cause::NotTaken);
                return Step::Done;
            }
            return Step::Wait(key);
        }
        if let Some(timestamp) = segment.timestamp {
            newer(&mut flow.peer_timestamp, timestamp.value);
        }
        if segment.has(flags::RST) {
            flow.peer_left = true;
            // At another number it ends nothing (RFC 5961, 3): it is late, or something before it was lost.
            if flow.expected() == Some(segment.seq) {
                flow.state = State::Over;
            }
        } else {
            newer(&mut flow.peer_next, segment.seq_end());
            let (lsn, seq, end) = (record.lsn, segment.seq, segment.seq_end());
            if !known {
                let _ = flow.given.push_back(Given { lsn, seq, end, at: now });
            }
        }
        let pacing = !self.config.faults.no_pacing;
        give(flow, record, packet, segment, pacing, buf).map_or(Step::Done, Step::Give)
    }

    /// Tells the guest what its peer is known to have.
    pub(super) fn acknowledge(&mut self, buf: &mut [u8]) -> Option<usize> {
        while let Some(key) = self.due.pop_front() {
            let Some(flow) = self.flows.get_mut(&key) else { continue };
            flow.ack_due = false;
            if !flow.is_walked() || flow.state == State::Probing {
                continue;
            }
            let (Some(ack), Some(seq)) = (flow.ack_for_guest(), flow.peer_next) else { continue };
            newer(&mut flow.told_ack, ack);
            let timestamps = flow.peer_timestamp.map(|value| (value, flow.guest_timestamp.unwrap_or(0)));
            let says =
                Says { seq, ack: flow.to_guest(ack), flags: flags::ACK, window: flow.window, timestamps };
            if let Some(len) = build::segment(buf, &flow.link, &key, Direction::ToGuest, &says) {
                self.report.fed += 1;
                return Some(len);
            }
        }
        None
    }

    /// Gives again what the guest has not acknowledged in time.
    pub(super) fn resend(&mut self, log: &impl LogSource, buf: &mut [u8], now: Instant) -> Option<usize> {
        if now < self.resend_at {
            return None;
        }
        let patience = self.config.resend;
        let overdue =
            |flow: &Flow| flow.is_walked() && flow.given.front().is_some_and(|g| now.since(g.at) >= patience);
        for flow in self.flows.values_mut().filter(|flow| overdue(flow)) {
            let Some(given) = flow.given.front_mut() else { continue };
            given.at = now;
            let Some(record) = log.record(given.lsn) else { continue };
            let Some((_, packet, _)) = input(&record) else { continue };
            let Some(segment) = packet.segment() else { continue };
            let pacing = !self.config.faults.no_pacing;
            if let Some(len) = give(flow, &record, &packet, segment, pacing, buf) {
                self.report.fed_again += 1;
                return Some(len);
            }
        }
        self.resend_at = now + Duration::from_millis(20);
        None
    }
}

/// The last acknowledgement of a connection whose ports are used again: without it the guest, which waits for it, refuses
/// the new one. It is for all that the guest has sent: its reply may have come out longer than the one that ended the
/// connection for its client.
fn part(flow: &mut Flow, key: &FlowKey, buf: &mut [u8]) -> Option<usize> {
    let (ack, seq) = (flow.sent?, flow.peer_next?);
    if flow.state != State::Open || flow.told_ack.is_some_and(|told| at_least(told, ack)) {
        return None;
    }
    newer(&mut flow.told_ack, ack);
    let timestamps = flow.peer_timestamp.map(|value| (value, flow.guest_timestamp.unwrap_or(0)));
    let says = Says { seq, ack: flow.to_guest(ack), flags: flags::ACK, window: flow.window, timestamps };
    build::segment(buf, &flow.link, key, Direction::ToGuest, &says)
}

/// The beginning of a TLS handshake whose answer a client has seen.
fn is_handshake(flow: &Flow, segment: &Segment, frame: &[u8]) -> bool {
    let first = flow.syn != 0
        && flow.peer_next == Some(segment.seq)
        && flow
            .opened
            .and_then(|syn| flow.opening(syn))
            .is_some_and(|isn| flow.released.is_some_and(|released| released != isn.wrapping_add(1)))
        && flow.guest_ack == Some(segment.seq);
    first && frame.get(segment.payload_range()).is_some_and(|payload| payload.starts_with(&[0x16, 0x03]))
}

/// Writes a logged segment as the guest can take it now.
fn give(
    flow: &mut Flow,
    record: &Record<'_>,
    packet: &Packet,
    segment: &Segment,
    pacing: bool,
    buf: &mut [u8],
) -> Option<usize> {
    let len = copy(record, buf)?;
    let (header, frame) = buf.get_mut(..len)?.split_at_mut_checked(VNET_HEADER)?;
    let acked = flow.acked().map_or(segment.ack, |newest| later(segment.ack, newest));
    let ack = match flow.sent {
        Some(sent) if pacing => earlier(acked, sent),
        _ => segment.ack,
    };
    if segment.has(flags::ACK) {
        newer(&mut flow.told_ack, ack);
    }
    let timestamps = flow.peer_timestamp.map(|value| (value, flow.guest_timestamp.unwrap_or(0)));
    readdress(frame, packet, flow.to_guest(ack), timestamps, is_checksum_partial(header));
    Some(len)
}

/// The packet of a record, with a virtio-net header in any case.
fn copy(record: &Record<'_>, buf: &mut [u8]) -> Option<usize> {
    let packet = record.entry.packet;
    let skip = if record.entry.flags.contains(Flags::VNET_HEADER) { 0 } else { VNET_HEADER };
    let len = skip + packet.len();
    let to = buf.get_mut(..len)?;
    let (header, to) = to.split_at_mut_checked(skip)?;
    header.fill(0);
    to.copy_from_slice(packet);
    Some(len)
}
