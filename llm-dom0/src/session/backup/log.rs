//! The input log of a domain on its backup.

use std::collections::VecDeque;

use llm_core::log::{Cursor, Cut, LogError, Record, RecordKind};
use llm_core::replay::{LogSource, Replay, Retention};

/// Connections that can be carried over a take-over.
pub(super) const FLOWS: usize = 4096;

/// The records since the committed checkpoint, and what of the older ones no checkpoint provably holds.
#[derive(Debug)]
pub(super) struct LogStore {
    records: VecDeque<Stored>,
    bytes: u64,
    cursor: Cursor,
    retention: Box<Retention<FLOWS>>,
    /// Ends of epochs that are not committed yet, with their numbers.
    cuts: VecDeque<(u64, Cut)>,
    committed: u64,
}

#[derive(Debug)]
struct Stored {
    lsn: u64,
    bytes: Box<[u8]>,
}

impl LogStore {
    pub(super) fn new() -> Self {
        Self {
            records: VecDeque::new(),
            bytes: 0,
            cursor: Cursor::new(None),
            retention: Box::new(Retention::new()),
            cuts: VecDeque::new(),
            committed: 0,
        }
    }

    /// Takes in a log frame. The newest epoch that it ends, if any.
    pub(super) fn append(&mut self, mut frame: &[u8]) -> Result<Option<u64>, LogError> {
        let mut ended = None;
        loop {
            let before = frame;
            let Some(record) = self.cursor.take(&mut frame)? else { break };
            let bytes = before.get(..before.len() - frame.len()).unwrap_or_default();
            self.records.push_back(Stored { lsn: record.lsn, bytes: bytes.into() });
            self.bytes += bytes.len() as u64;
            if record.entry.kind == RecordKind::Cut
                && let Ok(cut) = Cut::parse(record.entry.packet)
            {
                if cut.epoch() == 0 {
                    // No checkpoint is there yet, and any that comes will hold this.
                    self.fold(record.lsn, cut);
                } else {
                    self.cuts.push_back((record.lsn, cut));
                    ended = Some(cut.epoch());
                }
            }
        }
        self.cursor.finish(frame)?;
        Ok(ended)
    }

    /// That epoch is committed: what its checkpoint provably holds goes.
    pub(super) fn committed(&mut self, epoch: u64) {
        self.committed = epoch;
        let mut newest = None;
        while let Some(cut) = self.cuts.pop_front_if(|(_, cut)| cut.epoch() <= epoch) {
            newest = Some(cut);
        }
        if let Some((lsn, cut)) = newest {
            self.fold(lsn, cut);
        }
    }

    /// Records and bytes that are kept.
    pub(super) fn fill(&self) -> (u64, u64) {
        (self.records.len() as u64, self.bytes)
    }

    /// All that are kept, byte for byte.
    pub(super) fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.records.iter().map(|stored| &*stored.bytes)
    }

    /// Tells a replay of all that it has to know beforehand.
    pub(super) fn prepare(&self, replay: &mut Replay<FLOWS>) {
        for (key, base) in self.retention.flows() {
            replay.base(key, base);
        }
        for record in self.records.iter().filter_map(Stored::record) {
            replay.prepare(&record);
        }
    }

    fn fold(&mut self, lsn: u64, cut: Cut) {
        for record in self.records.iter().filter_map(Stored::record) {
            self.retention.fold(&record, &cut, lsn);
        }
        self.retention.settle(lsn, false);
        let (retention, bytes) = (&self.retention, &mut self.bytes);
        self.records.retain(|stored| {
            let keep = stored.record().is_some_and(|record| retention.keeps(&record, &cut));
            if !keep {
                *bytes -= stored.bytes.len() as u64;
            }
            keep
        });
    }
}

impl LogSource for LogStore {
    fn record(&self, lsn: u64) -> Option<Record<'_>> {
        let at = self.records.binary_search_by_key(&lsn, |stored| stored.lsn).ok()?;
        self.records.get(at)?.record()
    }
}

impl Stored {
    /// It was read before, so it can be read again.
    fn record(&self) -> Option<Record<'_>> {
        Cursor::new(None).take(&mut &*self.bytes).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_core::flow::build::{self, BUILT_MAX, Link, Says};
    use llm_core::flow::{Direction, FlowKey, NO_VLAN, Packet, TCP, VNET_HEADER, flags};
    use llm_core::log::{Entry, Flags, HEADER, LogWriter, Note};
    use llm_core::time::Instant;

    fn key() -> FlowKey {
        FlowKey::new(6, TCP, NO_VLAN, ([1; 16], 80), ([2; 16], 4000))
    }

    fn packet(direction: Direction, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
        let mut buf = [0; BUILT_MAX];
        let says = Says { seq, ack, flags, window: 100, timestamps: None };
        let len = build::segment(&mut buf, &Link::default(), &key(), direction, &says).expect("room");
        buf[..len].to_vec()
    }

    /// A frame of records, from number `first` on.
    fn frame(first: u64, epoch: u64, entries: &[(RecordKind, Vec<u8>)]) -> Vec<u8> {
        let mut buf = vec![0; entries.iter().map(|(_, bytes)| HEADER + bytes.len()).sum()];
        let mut writer = LogWriter::new(&mut buf, first);
        for (kind, bytes) in entries {
            let flags = if *kind == RecordKind::Input { Flags::VNET_HEADER } else { Flags::NONE };
            let time = Instant::from_nanos(1);
            writer.append(&Entry { kind: *kind, epoch, time, vif: 0, flags, packet: bytes }).expect("room");
        }
        buf
    }

    fn input(seq: u32, ack: u32, flags: u8) -> (RecordKind, Vec<u8>) {
        (RecordKind::Input, packet(Direction::ToGuest, seq, ack, flags))
    }

    fn note(seq: u32, ack: u32, flags: u8, mark: u64) -> (RecordKind, Vec<u8>) {
        let bytes = packet(Direction::FromGuest, seq, ack, flags);
        let parsed = Packet::parse(&bytes[VNET_HEADER..]).expect("a packet");
        let note = Note::of(&bytes[VNET_HEADER..], &parsed, parsed.key(Direction::FromGuest), mark);
        (RecordKind::Note, note.as_wire().to_vec())
    }

    fn cut(epoch: u64, limit: u64) -> (RecordKind, Vec<u8>) {
        (RecordKind::Cut, Cut::new(epoch, limit).as_wire().to_vec())
    }

    #[test]
    fn what_a_committed_checkpoint_holds_goes_and_the_rest_stays() {
        let mut store = LogStore::new();
        let first = frame(
            1,
            1,
            &[
                input(10, 0, flags::SYN),
                note(500, 11, flags::SYN | flags::ACK, 5),
                cut(1, 9),
                // Sent after the suspension: not in the checkpoint.
                input(11, 501, flags::ACK | flags::FIN),
                note(501, 12, flags::ACK, 9),
            ],
        );
        assert_eq!(store.append(&first), Ok(Some(1)));
        assert_eq!(store.fill().0, 5);
        store.committed(1);
        let kept: Vec<u64> = store.records.iter().map(|stored| stored.lsn).collect();
        assert_eq!(kept, [3, 4, 5], "the cut itself goes with the next one");
        assert!(store.record(1).is_none() && store.record(4).is_some());
        assert_eq!(store.bytes, store.records.iter().map(|s| s.bytes.len() as u64).sum::<u64>());
    }

    #[test]
    fn while_the_first_copy_runs_the_log_is_cut_without_a_commit() {
        let mut store = LogStore::new();
        let records = [input(10, 0, flags::SYN), note(500, 11, flags::SYN | flags::ACK, 5), cut(0, 9)];
        assert_eq!(store.append(&frame(1, 1, &records)), Ok(None));
        assert_eq!(store.records.iter().map(|stored| stored.lsn).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_hole_or_damage_is_an_error() {
        let mut store = LogStore::new();
        assert_eq!(store.append(&frame(5, 1, &[cut(1, 9)])), Ok(Some(1)));
        assert!(store.append(&frame(7, 1, &[cut(2, 9)])).is_err(), "6 is missing");
        let mut bad = frame(6, 1, &[cut(2, 9)]);
        bad.pop();
        assert!(store.append(&bad).is_err());
    }
}
