//! What the log must keep (guarantee: no lost effect).
//!
//! "Delivered" is no proof that a checkpoint holds an input: what is in the ring at the suspension is lost when the copy
//! reconnects. "Served" is none either. For TCP the proof is the guest's own acknowledgement, sent before the suspension.

use super::seq::{at_least, newer};
use crate::flow::build::Link;
use crate::flow::{Direction, FlowKey, Packet, Translation, VNET_HEADER, flags};
use crate::log::{Carry, Cut, Flags, Note, Record, RecordKind};
use heapless::Deque;
use heapless::index_map::FnvIndexMap;

/// Checkpoints that an input of TCP is kept for without an acknowledgement. Whoever sent it has long sent it again,
/// under a new number, if it still wants it to arrive.
pub const UNPROVEN_CUTS: usize = 16;

/// Where a connection stood at the checkpoint that is committed, as the log counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Hardware addresses.
    pub link: Link,
    /// Behind the last byte that the guest is known to have sent.
    pub sent: Option<u32>,
    /// What the guest has acknowledged.
    pub guest_ack: Option<u32>,
    /// Newest timestamp of the guest's.
    pub guest_timestamp: Option<u32>,
    /// What the peer has acknowledged.
    pub peer_ack: Option<u32>,
    /// The peer's window, not scaled.
    pub window: u16,
    /// Newest timestamp of the peer's.
    pub peer_timestamp: Option<u32>,
    /// What is translated already, from an earlier take-over.
    pub carry: Translation,
    /// Behind the FIN of either side.
    pub(super) guest_fin: Option<u32>,
    peer_fin: Option<u32>,
    over: bool,
    /// Checkpoints since then.
    over_for: u8,
    /// The note of the guest's SYN: inputs before it are of another connection between the same ports.
    since: u64,
}

/// Checkpoints for which a connection that is over is remembered: then all its records are older than the margin.
const OVER_CUTS: u8 = 2;

/// The rule, and what it knows. `N` connections, a power of two.
#[derive(Debug)]
pub struct Retention<const N: usize> {
    flows: FnvIndexMap<FlowKey, Base, N>,
    /// Numbers of the cuts of the newest committed epochs.
    cuts: Deque<u64, UNPROVEN_CUTS>,
    overflowed: bool,
}

impl<const N: usize> Default for Retention<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Retention<N> {
    /// Knows nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { flows: FnvIndexMap::new(), cuts: Deque::new(), overflowed: false }
    }

    /// An epoch is committed whose cut is record `lsn`: first, [`Self::fold`] is to be called for every record kept, in
    /// order, with that `limit`; then [`Self::settle`]; then what [`Self::keeps`] denies may go.
    pub fn fold(&mut self, record: &Record<'_>, cut: &Cut, lsn: u64) {
        match record.entry.kind {
            RecordKind::Note => {
                if let Ok(note) = Note::parse(record.entry.packet)
                    && note.mark() < cut.limit()
                {
                    self.note(record.lsn, &note);
                }
            }
            RecordKind::Input if record.lsn < lsn => self.input(record),
            RecordKind::Carry if record.lsn < lsn => {
                if let Ok(carry) = Carry::parse(record.entry.packet) {
                    self.carry(&carry);
                }
            }
            RecordKind::Input | RecordKind::Carry | RecordKind::Cut => {}
        }
    }

    /// All records are folded: `lsn` is that of the epoch's cut. `again` says that it replaces the one
    /// before, of the same epoch (while the first copy runs).
    pub fn settle(&mut self, lsn: u64, again: bool) {
        if again {
            self.cuts.pop_back();
        } else if self.cuts.is_full() {
            self.cuts.pop_front();
        }
        let _ = self.cuts.push_back(lsn);
        self.flows.retain(|_, base| {
            base.over_for += u8::from(base.over && !again);
            // What it has done is proven by its own acknowledgements as long as there are records of it.
            base.over_for <= OVER_CUTS
        });
    }

    /// Whether the record must stay in the log.
    #[must_use]
    pub fn keeps(&self, record: &Record<'_>, cut: &Cut) -> bool {
        let Some(&newest) = self.cuts.back() else { return true };
        if record.lsn >= newest {
            return true;
        }
        // One whole epoch in which the guest has had time to take it out of the ring.
        let margin = self.cuts.iter().rev().nth(1).copied().unwrap_or(0);
        match record.entry.kind {
            RecordKind::Note => Note::parse(record.entry.packet).is_ok_and(|note| note.mark() >= cut.limit()),
            RecordKind::Cut | RecordKind::Carry => false,
            RecordKind::Input => {
                let Some((_, packet, key)) = input(record) else { return record.lsn >= margin };
                let Some(segment) = packet.segment().filter(|s| s.seq_len() > 0) else {
                    return record.lsn >= margin;
                };
                match self.flows.get(&key) {
                    Some(base) => {
                        let proven = base.guest_ack.is_some_and(|ack| at_least(ack, segment.seq_end()));
                        !proven && record.lsn >= self.oldest()
                    }
                    // Nothing of it was answered, its connection is over, or the table is full.
                    None if self.overflowed => record.lsn >= self.oldest(),
                    None => record.lsn >= margin,
                }
            }
        }
    }

    /// The connections at the committed checkpoint.
    pub fn flows(&self) -> impl Iterator<Item = (&FlowKey, &Base)> {
        self.flows.iter()
    }

    /// Whether there were more connections than can be remembered: those are not carried over a take-over.
    #[must_use]
    pub const fn overflowed(&self) -> bool {
        self.overflowed
    }

    fn oldest(&self) -> u64 {
        if self.cuts.is_full() { self.cuts.front().copied().unwrap_or(0) } else { 0 }
    }

    fn base(&mut self, key: &FlowKey) -> Option<&mut Base> {
        if !self.flows.contains_key(key) && self.flows.insert(*key, Base::default()).is_err() {
            self.overflowed = true;
        }
        self.flows.get_mut(key)
    }

    fn carry(&mut self, carry: &Carry) {
        if !carry.key().is_tcp() {
            return;
        }
        if !carry.translation().is_empty() {
            if let Some(base) = self.base(carry.key()) {
                base.carry = carry.translation();
            }
        } else if let Some(base) = self.flows.get_mut(carry.key()) {
            base.carry = Translation::default();
            if base.sent.is_none() {
                self.flows.swap_remove(carry.key());
            }
        }
    }

    fn note(&mut self, lsn: u64, note: &Note) {
        if !note.key().is_tcp() {
            return;
        }
        let Some(base) = self.base(note.key()) else { return };
        if note.has(flags::SYN) {
            *base = Base {
                link: base.link,
                peer_timestamp: base.peer_timestamp,
                window: base.window,
                // An answer to a SYN may come again. Before one that opens another connection, the log says so.
                carry: base.carry,
                since: lsn,
                ..Base::default()
            };
        }
        base.over |= note.has(flags::RST);
        newer(&mut base.sent, note.seq_end());
        if let Some(ack) = note.ack() {
            newer(&mut base.guest_ack, ack);
        }
        if let Some(timestamp) = note.timestamp() {
            newer(&mut base.guest_timestamp, timestamp);
        }
        if note.has(flags::FIN) {
            base.guest_fin = Some(note.seq_end());
        }
        base.close();
    }

    fn input(&mut self, record: &Record<'_>) {
        let Some((frame, packet, key)) = input(record) else { return };
        let (Some(segment), Some(link)) = (packet.segment(), Link::of(frame, Direction::ToGuest)) else {
            return;
        };
        // Made by the guest's answer only: whoever floods with SYNs fills no table.
        let Some(base) = self.flows.get_mut(&key) else { return };
        base.link = link;
        if record.lsn < base.since {
            return;
        }
        // At another number it is a late one, and ends nothing.
        base.over |= segment.has(flags::RST) && base.guest_ack == Some(segment.seq);
        if segment.has(flags::RST) {
            // It has no window, and whatever else it says nobody heeds.
            return;
        }
        base.window = segment.window;
        if segment.has(flags::ACK) {
            newer(&mut base.peer_ack, segment.ack);
        }
        if let Some(timestamp) = segment.timestamp {
            newer(&mut base.peer_timestamp, timestamp.value);
        }
        if segment.has(flags::FIN) {
            base.peer_fin = Some(segment.seq_end());
        }
        base.close();
    }
}

impl Base {
    /// Both sides have ended it, or one has reset it. The checkpoint may hold it all the same.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Over once both sides have ended it and know so.
    fn close(&mut self) {
        let acked =
            |ack: Option<u32>, fin: Option<u32>| matches!((ack, fin), (Some(a), Some(f)) if at_least(a, f));
        self.over |= acked(self.guest_ack, self.peer_fin) && acked(self.peer_ack, self.guest_fin);
    }
}

/// The frame of an input, what it holds, and its flow.
pub(super) fn input<'a>(record: &Record<'a>) -> Option<(&'a [u8], Packet, FlowKey)> {
    let bytes = record.entry.packet;
    let skip = if record.entry.flags.contains(Flags::VNET_HEADER) { VNET_HEADER } else { 0 };
    let frame = bytes.get(skip..)?;
    let packet = Packet::parse(frame)?;
    let key = packet.key(Direction::ToGuest);
    Some((frame, packet, key))
}
