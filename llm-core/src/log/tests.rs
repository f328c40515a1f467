use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::checksum::digest;
use crate::page::vectors;

fn entry(epoch: u64, packet: &[u8]) -> Entry<'_> {
    let time = Instant::from_nanos(1_000_000_001);
    Entry { kind: RecordKind::Input, epoch, time, vif: 2, flags: Flags::VNET_HEADER, packet }
}

fn log(first_lsn: u64, entries: &[Entry<'_>]) -> Vec<u8> {
    let mut buf = vec![0; entries.iter().map(|e| HEADER + e.packet.len()).sum()];
    let mut writer = LogWriter::new(&mut buf, first_lsn);
    for entry in entries {
        writer.append(entry).expect("room for the record");
    }
    assert_eq!(writer.finish(), buf.len());
    buf
}

/// Puts the right checksum on a record that was changed.
fn seal(record: &mut [u8]) {
    let check = digest(&record[8..]).to_le_bytes();
    record[..8].copy_from_slice(&check);
}

fn first_error(log: &[u8], first_lsn: Option<u64>) -> LogError {
    records(log, first_lsn).find_map(Result::err).expect("an error")
}

#[test]
fn documented_record() {
    let packet: Vec<u8> = (0..16).collect();
    let bytes = log(0x1122_3344_5566_7788, &[entry(3, &packet)]);
    assert_eq!(bytes, vectors::hex("log-record"), "{bytes:02x?}");
    let want = Record { lsn: 0x1122_3344_5566_7788, entry: entry(3, &packet) };
    assert_eq!(records(&bytes, None).collect::<Vec<_>>(), [Ok(want)]);
}

#[test]
fn layout_byte_by_byte() {
    let bytes = log(5, &[entry(3, b"ab")]);
    assert_eq!(bytes[..8], digest(&bytes[8..]).to_le_bytes());
    assert_eq!(bytes[8..24], [5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[24..40], [1, 0xca, 0x9a, 0x3b, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 1, 0]);
    assert_eq!(bytes[40..], *b"ab");
}

#[test]
fn numbers_must_follow_each_other() {
    let mut bytes = log(5, &[entry(3, b"a"), entry(3, b"b")]);
    bytes.extend(log(8, &[entry(3, b"c")]));
    let reason = LogReason::Lsn { want: 7, got: 8 };
    assert_eq!(first_error(&bytes, Some(5)), LogError { offset: 82, reason });
    let reason = LogReason::Lsn { want: 4, got: 5 };
    assert_eq!(first_error(&bytes, Some(4)), LogError { offset: 0, reason });
    assert_eq!(records(&bytes, None).filter(Result::is_ok).count(), 2);
    // A record that comes twice is no continuation either.
    let one = log(5, &[entry(3, b"a")]);
    let reason = LogReason::Lsn { want: 6, got: 5 };
    assert_eq!(first_error(&[&one[..], &one[..]].concat(), None), LogError { offset: 41, reason });
}

#[test]
fn numbers_end() {
    let mut buf = [0; 200];
    let mut writer = LogWriter::new(&mut buf, u64::MAX);
    assert_eq!(writer.append(&entry(1, b"")), Ok(u64::MAX));
    assert_eq!(writer.next_lsn(), None);
    assert_eq!(writer.append(&entry(1, b"")), Err(AppendError::LsnExhausted));
    let mut bytes = buf[..40].to_vec();
    bytes.extend(log(0, &[entry(1, b"")]));
    assert_eq!(first_error(&bytes, None), LogError { offset: 40, reason: LogReason::LsnExhausted });
}

#[test]
fn epochs_never_go_back() {
    let bytes = log(1, &[entry(3, b"a"), entry(3, b"b"), entry(2, b"c")]);
    assert_eq!(
        first_error(&bytes, None),
        LogError { offset: 82, reason: LogReason::Epoch { last: 3, got: 2 } }
    );
}

#[test]
fn damage_ends_the_log() {
    let whole = log(1, &[entry(3, b"abc"), entry(3, b"def")]);
    for bit in 0..8 * 43 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut records = records(&bytes, Some(1));
        let error = records.next().expect("something").expect_err("a bad record");
        assert_eq!(error.offset, 0);
        assert_eq!(records.next(), None);
    }
    let mut bytes = whole.clone();
    bytes[38] = 2;
    seal(&mut bytes[..43]);
    assert_eq!(first_error(&bytes, None).reason, LogReason::Flags(2));
    let mut bytes = whole.clone();
    bytes[32..36].copy_from_slice(&65_601_u32.to_le_bytes());
    assert_eq!(first_error(&bytes, None).reason, LogReason::TooLong { len: 65_601 });
    for len in 44..86 {
        let reason = LogReason::Truncated { have: len - 43 };
        assert_eq!(first_error(&whole[..len], None), LogError { offset: 43, reason });
    }
    let text = std::format!("{}", first_error(&whole[..50], None));
    assert_eq!(text, "Bad record at byte 43 of the log: ends after 7 bytes");
}

#[test]
fn an_append_that_fails_changes_nothing() {
    let mut buf = [0; 100];
    let mut writer = LogWriter::new(&mut buf, 1);
    assert_eq!(writer.append(&entry(1, &[7; 60])), Ok(1));
    assert_eq!(writer.append(&entry(1, b"")), Err(AppendError::Full));
    assert_eq!((writer.len(), writer.next_lsn()), (100, Some(2)));
    let long = vec![0; MAX_PACKET + 1];
    assert_eq!(writer.append(&entry(1, &long)), Err(AppendError::TooLong { len: MAX_PACKET + 1 }));
    let mut buf = vec![0; MAX_RECORD];
    let mut writer = LogWriter::new(&mut buf, 1);
    assert_eq!(writer.append(&entry(1, &long[..MAX_PACKET])), Ok(1));
    assert_eq!(records(&buf, Some(1)).filter(Result::is_ok).count(), 1);
}

fn packets() -> impl Strategy<Value = Vec<(u64, u64, u16, bool, Vec<u8>)>> {
    let packet = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        (0..=MAX_PACKET, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ];
    prop::collection::vec((0..3_u64, any::<u64>(), any::<u16>(), any::<bool>(), packet), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip_in_any_pieces(
        packets in packets(),
        first in any::<u64>().prop_map(|lsn| lsn / 2),
        pieces in prop::collection::vec(1..20_000_usize, 1..5),
    ) {
        let mut epoch = 0;
        let entries: Vec<_> = packets.iter().map(|(step, time, vif, vnet, packet)| {
            epoch += step;
            let flags = if *vnet { Flags::VNET_HEADER } else { Flags::NONE };
            let kind = [RecordKind::Input, RecordKind::Note, RecordKind::Cut, RecordKind::Carry][usize::from(*vif % 4)];
            Entry { kind, epoch, time: Instant::from_nanos(*time), vif: *vif, flags, packet }
        }).collect();
        let bytes = log(first, &entries);
        let mut cursor = Cursor::new(Some(first));
        let (mut done, mut have) = (0, 0);
        let mut sizes = pieces.iter().cycle();
        let mut got = Vec::new();
        while have < bytes.len() {
            have = bytes.len().min(have + sizes.next().unwrap());
            let mut rest = &bytes[done..have];
            while let Some(record) = cursor.take(&mut rest).unwrap() {
                got.push(record);
            }
            done = have - rest.len();
            prop_assert_eq!(cursor.offset(), done as u64);
        }
        prop_assert_eq!(cursor.finish(&bytes[done..]), Ok(()));
        let want: Vec<_> =
            entries.iter().zip(first..).map(|(&entry, lsn)| Record { lsn, entry }).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..300), sealed: bool) {
        let mut bytes = bytes;
        if sealed && bytes.len() >= HEADER {
            let len = (bytes.len() - HEADER) as u32;
            bytes[32..36].copy_from_slice(&len.to_le_bytes());
            seal(&mut bytes);
        }
        prop_assert!(records(&bytes, None).count() <= bytes.len() / HEADER + 1);
    }
}

#[test]
fn a_cleared_log_goes_on_and_a_restarted_one_does_not() {
    let mut buf = [0; 128];
    let mut writer = LogWriter::new(&mut buf, 5);
    assert_eq!(writer.append(&entry(1, b"a")), Ok(5));
    writer.clear();
    assert_eq!(writer.append(&entry(1, b"b")), Ok(6));
    assert_eq!(writer.written(), log(6, &[entry(1, b"b")]));
    writer.restart(9);
    assert_eq!(writer.append(&entry(1, b"c")), Ok(9));
    assert_eq!(writer.written(), log(9, &[entry(1, b"c")]));
}
