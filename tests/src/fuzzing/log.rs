//! The log reader on any bytes, and on logs that were damaged.

use std::io::Read as _;

use llm_core::log::{
    Carry, Cursor, Cut, Entry, Flags, HEADER, LogError, LogWriter, MAX_PACKET, Note, Record, RecordKind,
    records,
};
use llm_core::time::Instant;
use llm_dom0::keptlog::Reader;

use super::Input;

/// The vector `kept-log` of docs/wire-format.md.
const KEPT_HEADER: &[u8] = b"LLMK\x01\0\x04\0\x88\x77\x66\x55\x44\x33\x22\x11\x03\0\0\0\0\0\0\0\
    \x01\0\x2a\x36\xfe\x9c\x97\x17\x45\x93\x02\xb0\x0b\x7d\x09\x23web1";

static TOO_LONG: &[u8] = &[0; MAX_PACKET + 1];

/// An odd first byte: the rest is a log. An even one: it says how to build one.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.u8();
    let piece = 1 + usize::from(input.u16());
    if mode & 1 == 1 {
        check(input.0, piece);
    } else {
        built(&mut input, piece);
    }
}

/// Reading piece by piece finds what reading the whole finds.
fn check(log: &[u8], piece: usize) -> (Vec<Record<'_>>, Option<LogError>) {
    let (mut whole, mut error) = (Vec::new(), None);
    for record in records(log, None) {
        assert_eq!(error, None, "nothing comes after an error");
        match record {
            Ok(record) => {
                understood(record.entry.packet);
                whole.push(record);
            }
            Err(e) => error = Some(e),
        }
    }
    let lens = whole.iter().map(|record| HEADER + record.entry.packet.len());
    let len = lens.sum::<usize>();
    assert_eq!(error.is_none(), len == log.len());
    assert!(error.is_none_or(|error| error.offset == len as u64));
    for pair in whole.windows(2) {
        assert_eq!(pair[1].lsn, pair[0].lsn + 1);
        assert!(pair[1].entry.epoch >= pair[0].entry.epoch);
    }

    let mut cursor = Cursor::new(None);
    let (mut pieces, mut done, mut have) = (Vec::new(), 0, 0);
    let cut = 'read: loop {
        let mut rest = &log[done..have];
        loop {
            match cursor.take(&mut rest) {
                Ok(Some(record)) => pieces.push(record),
                Ok(None) => break,
                Err(error) => break 'read Some(error),
            }
        }
        done = have - rest.len();
        if have == log.len() {
            break cursor.finish(rest).err();
        }
        have = log.len().min(have + piece);
    };
    assert_eq!(pieces, whole);
    assert_eq!(cut, error);
    kept(log, &whole);
    (whole, error)
}

/// A kept log's reader finds at least as much: it lets numbers be missing.
fn kept(log: &[u8], whole: &[Record<'_>]) {
    let mut reader = Reader::new(KEPT_HEADER.chain(log)).expect("the documented header");
    let mut count = 0;
    while let Ok(Some(kept)) = reader.next_record() {
        if let Some(record) = whole.get(count) {
            assert_eq!((kept.record, kept.missing), (*record, 0));
        }
        count += 1;
    }
    assert!(count >= whole.len());
}

/// Whatever the record's kind says, its bytes are read as every kind: none is lost or made up.
fn understood(packet: &[u8]) {
    if let Ok(note) = Note::parse(packet) {
        let len = u32::try_from(note.digest().len()).expect("32 bits in a note");
        let taken = note.seq_end().wrapping_sub(note.seq()).wrapping_sub(len);
        assert!(taken <= 2, "SYN and FIN take a number each");
        assert_eq!(note.as_wire(), packet);
    }
    if let Ok(cut) = Cut::parse(packet) {
        assert_eq!(Cut::new(cut.epoch(), cut.limit()).as_wire(), packet);
    }
    if let Ok(carry) = Carry::parse(packet) {
        assert_eq!(Carry::new(*carry.key(), carry.translation()).as_wire(), packet);
    }
}

fn built(input: &mut Input<'_>, piece: usize) {
    let mut buf = [0; 64 * (HEADER + 31)];
    let first = input.u64() / 2;
    let mut writer = LogWriter::new(&mut buf, first);
    let (mut entries, mut epoch) = (Vec::new(), 0);
    let damage = input.u64();
    while !input.is_empty() && entries.len() < 64 {
        let op = input.u8();
        epoch += u64::from(op & 3);
        let flags = if op & 4 == 0 { Flags::NONE } else { Flags::VNET_HEADER };
        let packet = input.bytes((op >> 3).into());
        let time = Instant::from_nanos(input.u64());
        let kinds = [RecordKind::Input, RecordKind::Note, RecordKind::Cut, RecordKind::Carry];
        let kind = kinds[usize::from(op >> 6)];
        let entry = Entry { kind, epoch, time, vif: op.into(), flags, packet };
        assert_eq!(writer.append(&entry), Ok(first + entries.len() as u64));
        entries.push(entry);
    }
    let kind = RecordKind::Input;
    let entry = Entry { kind, epoch, time: Instant::ZERO, vif: 0, flags: Flags::NONE, packet: TOO_LONG };
    assert!(writer.append(&entry).is_err());
    let len = writer.finish();
    let log = &mut buf[..len];

    let (found, error) = check(log, piece);
    assert_eq!(error, None);
    assert!(found.iter().map(|record| record.entry).eq(entries.iter().copied()));
    if log.is_empty() {
        return;
    }
    // Whatever one flipped bit hits, all before its record is read, and nothing behind.
    let at = (damage >> 3) as usize % log.len();
    log[at] ^= 1 << (damage & 7);
    let mut ends = entries.iter().scan(0, |end, entry| {
        *end += HEADER + entry.packet.len();
        Some(*end)
    });
    let whole = ends.position(|end| end > at).expect("the record that was hit");
    let (found, error) = check(log, piece);
    assert!(error.is_some());
    assert!(found.iter().map(|record| record.entry).eq(entries[..whole].iter().copied()));
}
