//! The input log of a domain on its backup.

use std::collections::VecDeque;

use llm_core::log::{
    Cursor, Cut, HEADER, LogError, LogReason, LogWriter, Record, RecordKind, Unpacked, Unpacker,
};
use llm_core::replay::{LogSource, Replay, Retention};

/// Connections that can be carried over a take-over.
pub(super) const FLOWS: usize = 4096;

/// The records since the committed checkpoint, and what of the older ones no checkpoint provably holds.
#[derive(Debug)]
pub(super) struct LogStore {
    records: VecDeque<Stored>,
    bytes: u64,
    cursor: Cursor,
    /// From the first packed record on, and then for all.
    unpacker: Option<Box<Unpacker>>,
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
            unpacker: None,
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
            let stored = Stored { lsn: record.lsn, bytes: bytes.into() };
            ended = self.keep(stored, cut_of(&record)).or(ended);
        }
        self.cursor.finish(frame)?;
        Ok(ended)
    }

    /// Takes in a frame of packed records, which count only with the seal behind them. The newest epoch that it ends, if any.
    pub(super) fn unpack(&mut self, mut frame: &[u8]) -> Result<Option<u64>, LogError> {
        let cursor = self.cursor;
        let unpacker = self.unpacker.get_or_insert_with(|| Box::new(Unpacker::behind(cursor)));
        let (mut taken, mut ended, mut sealed) = (Vec::new(), None, false);
        loop {
            let (offset, before) = (unpacker.offset(), frame);
            match unpacker.take(&mut frame)? {
                Some(Unpacked::Record(record)) => {
                    let bytes = before.get(..before.len() - frame.len()).unwrap_or_default();
                    let stored = match Unpacker::whole_in(bytes) {
                        Some(bytes) => Ok(Stored { lsn: record.lsn, bytes: bytes.into() }),
                        None => Stored::of(&record).map_err(|reason| LogError { offset, reason }),
                    };
                    taken.push((stored?, cut_of(&record)));
                    sealed = false;
                }
                Some(Unpacked::Seal) => sealed = true,
                None => break,
            }
        }
        if !sealed || !frame.is_empty() {
            let reason = LogReason::Truncated { have: frame.len() };
            return Err(LogError { offset: unpacker.offset(), reason });
        }
        for (stored, cut) in taken {
            ended = self.keep(stored, cut).or(ended);
        }
        Ok(ended)
    }

    /// The epoch that the record ends.
    fn keep(&mut self, stored: Stored, cut: Option<Cut>) -> Option<u64> {
        let lsn = stored.lsn;
        self.bytes += stored.bytes.len() as u64;
        self.records.push_back(stored);
        let cut = cut?;
        if cut.epoch() == 0 {
            // No checkpoint is there yet, and any that comes will hold this.
            self.fold(lsn, cut);
            return None;
        }
        self.cuts.push_back((lsn, cut));
        Some(cut.epoch())
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

fn cut_of(record: &Record<'_>) -> Option<Cut> {
    if record.entry.kind == RecordKind::Cut { Cut::parse(record.entry.packet).ok() } else { None }
}

impl Stored {
    /// The record as one that is not packed.
    fn of(record: &Record<'_>) -> Result<Self, LogReason> {
        let len = record.entry.packet.len();
        let mut bytes = vec![0; HEADER + len].into_boxed_slice();
        let written = LogWriter::new(&mut bytes, record.lsn).append(&record.entry);
        let too_long = LogReason::TooLong { len: u32::try_from(len).unwrap_or(u32::MAX) };
        written.map_or(Err(too_long), |lsn| Ok(Self { lsn, bytes }))
    }

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
    use llm_core::log::{Entry, Flags, Note, Packer, SEAL, records};
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

    /// A frame as [`frame`] makes it, packed, with a seal behind.
    fn packed(packer: &mut Packer, first: u64, epoch: u64, entries: &[(RecordKind, Vec<u8>)]) -> Vec<u8> {
        let mut all = Vec::new();
        for record in records(&frame(first, epoch, entries), None) {
            let record = record.expect("sound");
            let mut out = vec![0; Packer::room(record.entry.packet.len())];
            let len = packer.pack(&record, &mut out).expect("room");
            all.extend(&out[..len]);
        }
        let mut seal = [0; SEAL];
        assert_eq!(packer.seal(&mut seal), Ok(SEAL));
        all.extend(seal);
        all
    }

    #[test]
    fn packed_records_are_kept_as_others_are() {
        let (mut store, mut other, mut packer) = (LogStore::new(), LogStore::new(), Packer::new());
        let frames = [
            vec![input(10, 0, flags::SYN), note(500, 11, flags::SYN | flags::ACK, 5), cut(1, 9)],
            vec![input(11, 501, flags::ACK), note(501, 12, flags::ACK, 9)],
            vec![cut(2, 20), input(12, 501, flags::ACK), cut(3, 30)],
        ];
        let mut first = 1;
        for entries in frames {
            let plain = frame(first, 1, &entries);
            let ended = store.unpack(&packed(&mut packer, first, 1, &entries));
            assert_eq!(ended, other.append(&plain));
            first += entries.len() as u64;
        }
        assert_eq!(store.fill(), other.fill());
        assert!(store.records().eq(other.records()));
        store.committed(1);
        other.committed(1);
        assert!(store.records().eq(other.records()));
    }

    #[test]
    fn a_packed_frame_without_its_seal_counts_for_nothing() {
        let entries = [input(10, 0, flags::SYN), cut(1, 9)];
        let good = packed(&mut Packer::new(), 1, 1, &entries);
        let unsealed = &good[..good.len() - SEAL];
        let mut wrong = good.clone();
        *wrong.last_mut().expect("a seal") ^= 1;
        let behind = [&good[..], unsealed].concat();
        for bad in [unsealed, &good[..good.len() - 1], &wrong, &behind, &[]] {
            let mut store = LogStore::new();
            assert!(store.unpack(bad).is_err(), "{bad:x?}");
            assert_eq!((store.fill(), store.cuts.len()), ((0, 0), 0));
        }
        let mut store = LogStore::new();
        assert_eq!(store.append(&frame(1, 1, &entries)), Ok(Some(1)));
        assert!(store.unpack(&packed(&mut Packer::new(), 4, 1, &entries)).is_err(), "3 is missing");
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
