//! Released bytes, served from the log where the guest would send others.
//!
//! A segment that was released may have been lost on its way. The guest sends it again, as it made it the second time; its
//! client, which may have what came behind it, gets what was released.

use super::flow::Flow;
use super::seq::{after, at_least};
use super::{LogSource, Replay};
use crate::flow::{Direction, FlowKey, Packet, Segment, flags, resum};
use crate::log::{Note, RecordKind};

impl<const N: usize> Replay<N> {
    /// Puts what was released into a segment of the guest's, as far as the log has the bytes.
    pub(super) fn serve(&self, log: &impl LogSource, frame: &mut [u8], packet: &Packet, partial: bool) {
        let key = packet.key(Direction::FromGuest);
        let Some(segment) = packet.segment() else { return };
        let Some(flow) = self.flows.get(&key).filter(|flow| flow.served) else { return };
        let first = payload_begins(flow, segment);
        if flow.released.is_none_or(|released| !after(released, first)) {
            return;
        }
        let mut changed = false;
        for lsn in flow.syn.max(self.first)..self.end {
            let Some(record) = log.record(lsn).filter(|r| r.entry.kind == RecordKind::Note) else { continue };
            let Some(payload) = frame.get_mut(segment.payload_range()) else { return };
            changed |= copy_released(record.entry.packet, &key, first, payload);
        }
        if changed && !partial {
            resum(frame, packet);
        }
    }
}

impl Flow {
    /// Its packets pass as they are.
    pub(super) const fn needs_nothing(&self) -> bool {
        self.shifted && self.translation.is_empty() && !self.served
    }

    /// What was released has all arrived: nothing is left to serve.
    pub(super) fn arrives(&mut self, ack: Option<u32>) {
        self.served &= match (self.released, ack) {
            (Some(released), Some(ack)) => !at_least(ack, released),
            _ => true,
        };
    }
}

/// The number of the first byte of the payload, as the log counts.
fn payload_begins(flow: &Flow, segment: &Segment) -> u32 {
    let seq = segment.seq.wrapping_add(flow.translation.seq).wrapping_sub(flow.carry.seq);
    seq.wrapping_add(u32::from(segment.has(flags::SYN)))
}

/// Copies what a note of that flow has of the bytes from number `first` on. False if it has none.
fn copy_released(record: &[u8], key: &FlowKey, first: u32, payload: &mut [u8]) -> bool {
    let Ok(note) = Note::parse(record) else { return false };
    let Some(bytes) = note.bytes(record).filter(|_| note.key() == key) else { return false };
    let begin = note.seq().wrapping_add(u32::from(note.has(flags::SYN)));
    // How far the one begins behind the other.
    let skip = first.wrapping_sub(begin).cast_signed();
    let (from, to) = match usize::try_from(skip) {
        Ok(skip) => (skip, 0),
        Err(_) => (0, skip.unsigned_abs() as usize),
    };
    let (Some(source), Some(target)) = (bytes.get(from..), payload.get_mut(to..)) else { return false };
    let len = source.len().min(target.len());
    let (Some(source), Some(target)) = (source.get(..len), target.get_mut(..len)) else { return false };
    target.copy_from_slice(source);
    len > 0
}
