use std::boxed::Box;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::log::{AppendError, Cursor, LogReason, LogWriter, MAX_PACKET, Record};
use crate::page::vectors;
use crate::time::Instant;

fn record(lsn: u64, time: u64, packet: &[u8]) -> Record<'_> {
    let time = Instant::from_nanos(time);
    let (kind, flags) = (RecordKind::Input, Flags::VNET_HEADER);
    Record { lsn, entry: Entry { kind, epoch: 3, time, vif: 2, flags, packet } }
}

fn seal(packer: &Packer) -> Vec<u8> {
    let mut out = vec![0; SEAL];
    assert_eq!(packer.seal(&mut out), Ok(SEAL));
    out
}

fn pack(packer: &mut Packer, record: &Record<'_>) -> Vec<u8> {
    let mut out = vec![0; Packer::room(record.entry.packet.len())];
    let len = packer.pack(record, &mut out).expect("room");
    out.truncate(len);
    out
}

fn pack_all(records: &[Record<'_>]) -> Vec<Vec<u8>> {
    let mut packer = Box::new(Packer::new());
    records.iter().map(|record| pack(&mut packer, record)).collect()
}

/// The reason for which the last of these is refused, or a seal of the good ones and `other` behind it.
fn refused_by(good: &[Vec<u8>], bad: &[u8], seal: &[u8]) -> LogReason {
    let mut unpacker = Box::new(Unpacker::new());
    let all = [&good.concat(), bad, seal].concat();
    let mut rest = all.as_slice();
    loop {
        match unpacker.take(&mut rest) {
            Ok(record) => assert!(record.is_some(), "all was taken"),
            Err(error) => return error.reason,
        }
    }
}

/// The reason for which the last of these is refused.
fn refused(good: &[Vec<u8>], bad: &[u8]) -> LogReason {
    let mut unpacker = Box::new(Unpacker::new());
    for bytes in good {
        assert!(unpacker.take(&mut &bytes[..]).expect("good").is_some());
    }
    let offset = unpacker.offset();
    let error = unpacker.take(&mut &bad[..]).expect_err("bad");
    assert_eq!(error.offset, offset);
    error.reason
}

/// Those of the vector: 64 bytes 00 to 3f; then byte 32 is ff, and 9 bytes more behind the last one.
fn documented() -> [Vec<u8>; 2] {
    let first: Vec<u8> = (0..64).collect();
    let mut second = first.clone();
    second[32] = 0xff;
    second.extend(0xa0..=0xa8);
    [first, second]
}

#[test]
fn documented_records() {
    let [first, second] = documented();
    let packed = pack_all(&[record(9, 1000, &first), record(10, 1500, &second)]);
    let mut packer = Box::new(Packer::new());
    packer.pack(&record(9, 1000, &first), &mut [0; MAX_SMALL]).expect("room");
    packer.pack(&record(10, 1500, &second), &mut [0; MAX_SMALL]).expect("room");
    let bytes = [&packed[0][..], &packed[1], &seal(&packer)].concat();
    assert_eq!(bytes, vectors::hex("packed-records"), "{bytes:02x?}");
    let mut unpacker = Box::new(Unpacker::new());
    let mut rest = bytes.as_slice();
    assert_eq!(unpacker.take(&mut rest), Ok(Some(Unpacked::Record(record(9, 1000, &first)))));
    assert_eq!(unpacker.take(&mut rest), Ok(Some(Unpacked::Record(record(10, 1500, &second)))));
    assert_eq!(unpacker.take(&mut rest), Ok(Some(Unpacked::Seal)));
    assert_eq!(unpacker.take(&mut rest), Ok(None));
    assert_eq!(unpacker.offset(), bytes.len() as u64);
}

#[test]
fn what_a_difference_cannot_say_goes_whole() {
    let packet = [5; 70];
    let first = record(7, 100, &packet);
    let mut others = [first; 9];
    others[0].lsn = 8;
    others[0].entry.epoch = 4;
    others[1].lsn = 8;
    others[1].entry.vif = 1;
    others[2].lsn = 8;
    others[2].entry.flags = Flags::NONE;
    others[3].lsn = 8;
    others[3].entry.kind = RecordKind::Note;
    others[4].lsn = 8;
    others[4].entry.time = Instant::from_nanos(99);
    others[5].lsn = 8;
    others[5].entry.time = Instant::from_nanos(101 + u64::from(u32::MAX));
    others[6].lsn = 8;
    others[6].entry.packet = &packet[..63];
    let long = [5; 129];
    others[7].lsn = 8;
    others[7].entry.packet = &long;
    others[8].lsn = 9;
    for other in others {
        let packed = pack_all(&[first, other]);
        assert_eq!((packed[1][0], packed[1].len()), (WHOLE, 42 + other.entry.packet.len()), "{other:?}");
    }
    let mut other = first;
    other.lsn = 8;
    assert_eq!(pack_all(&[first, other])[1].len(), DIFFERENCE_HEAD + mask_bytes(70));
}

#[test]
fn notes_are_differences_to_notes() {
    let (mut packet, mut note) = ([5; 76], [6; 76]);
    let (mut packer, mut unpacker) = (Box::new(Packer::new()), Box::new(Unpacker::new()));
    for lsn in 1..20 {
        (packet[70], note[70]) = (lsn as u8, lsn as u8 + 100);
        let mut record = record(lsn, 100 * lsn, &packet);
        if lsn % 2 == 0 {
            (record.entry.kind, record.entry.flags) = (RecordKind::Note, Flags::NONE);
            record.entry.packet = &note;
        }
        let packed = pack(&mut packer, &record);
        assert_eq!(packed.len(), if lsn <= 2 { 118 } else { DIFFERENCE_HEAD + mask_bytes(76) + LANE });
        assert_eq!(unpacker.take(&mut &packed[..]), Ok(Some(Unpacked::Record(record))));
    }
    assert_eq!(unpacker.take(&mut &seal(&packer)[..]), Ok(Some(Unpacked::Seal)));
}

#[test]
fn packed_records_go_on_behind_others() {
    let packet = [5; 70];
    let mut plain = [0; HEADER + 70];
    LogWriter::new(&mut plain, 7).append(&record(7, 1, &packet).entry).expect("room");
    let mut cursor = Cursor::new(None);
    assert!(cursor.take(&mut &plain[..]).is_ok());
    for (lsn, want) in [(8, None), (9, Some(LogReason::Lsn { want: 8, got: 9 }))] {
        let packed = pack(&mut Box::new(Packer::new()), &record(lsn, 2, &packet));
        let mut unpacker = Box::new(Unpacker::behind(cursor));
        assert_eq!(unpacker.take(&mut &packed[..]).err().map(|error| error.reason), want);
    }
}

#[test]
fn without_room_nothing_is_remembered() {
    let mut packer = Box::new(Packer::new());
    let (first, second) = ([5; 128], [6; 128]);
    assert_eq!(packer.pack(&record(1, 1, &first), &mut [0; MAX_SMALL - 1]), Err(AppendError::Full));
    let mut packed = vec![pack(&mut packer, &record(1, 1, &first))];
    assert_eq!(packer.pack(&record(2, 2, &second), &mut [0; MAX_SMALL - 1]), Err(AppendError::Full));
    packed.push(pack(&mut packer, &record(2, 2, &second)));
    assert_eq!(packed, pack_all(&[record(1, 1, &first), record(2, 2, &second)]));
    let long = vec![0; MAX_PACKET + 1];
    let too_long = packer.pack(&record(3, 3, &long), &mut vec![0; 2 * MAX_PACKET]);
    assert_eq!(too_long, Err(AppendError::TooLong { len: MAX_PACKET + 1 }));
    assert_eq!(packer.pack(&record(3, 3, &[0; 300]), &mut [0; 341]), Err(AppendError::Full));
}

#[test]
fn what_is_malformed_is_refused() {
    let [first, second] = documented();
    let packed = pack_all(&[record(9, 1000, &first), record(10, 1500, &second)]);
    let (good, difference) = (&packed[..1], &packed[1]);
    let with = |at: usize, byte: u8| {
        let mut bytes = difference.clone();
        bytes[at] = byte;
        // More comes behind it: it is not only cut short.
        bytes.extend([0; 16]);
        bytes
    };
    for len in [2, 63, 129, 255] {
        assert_eq!(refused(good, &with(0, len)), LogReason::Difference);
    }
    // A lane that a packet of 72 bytes has no part in.
    let mut beyond = with(0, 72);
    beyond[10] = 0x1f;
    assert_eq!(refused(good, &beyond), LogReason::Difference);
    let mut packer = Box::new(Packer::new());
    for record in [record(9, 1000, &first), record(10, 1500, &second)] {
        packer.pack(&record, &mut [0; MAX_SMALL]).expect("room");
    }
    let sealed = seal(&packer);
    assert_eq!(sealed.len(), SEAL);
    // Another length, slot, time, lane, data.
    for (at, byte) in [(0, 74), (1, 1), (2, 0), (8, 2), (11, 1)] {
        let mut bytes = difference.clone();
        assert_ne!(bytes[at], byte);
        bytes[at] = byte;
        assert_eq!(
            refused_by(good, &bytes, &[&[0; 16][..], &sealed].concat()[16..]),
            LogReason::Checksum,
            "{at}"
        );
    }
    // The same once more, one less, and another order.
    assert_eq!(refused_by(&packed, difference, &sealed), LogReason::Checksum);
    assert_eq!(refused_by(&[], &packed[0], &sealed), LogReason::Checksum);
    // Nothing came before it.
    assert_eq!(refused(&[], difference), LogReason::Difference);
    let mut whole = packed[0].clone();
    whole[20] ^= 1;
    assert_eq!(refused(&[], &whole), LogReason::Checksum);
    // What is not small has no slot.
    let mut large = pack_all(&[record(1, 1, &[0; 200])]).remove(0);
    large[1] = 1;
    assert_eq!(refused(&[], &large), LogReason::Difference);
}

#[test]
fn a_part_of_one_is_none_yet() {
    let [first, second] = documented();
    for bytes in pack_all(&[record(9, 1000, &first)]) {
        for len in 0..bytes.len() {
            let mut unpacker = Box::new(Unpacker::new());
            assert_eq!(unpacker.take(&mut &bytes[..len]), Ok(None));
        }
    }
    let packed = pack_all(&[record(9, 1000, &first), record(10, 1500, &second)]);
    let mut unpacker = Box::new(Unpacker::new());
    assert!(unpacker.take(&mut &packed[0][..]).is_ok_and(|r| r.is_some()));
    for len in 0..packed[1].len() {
        assert_eq!(unpacker.take(&mut &packed[1][..len]), Ok(None));
    }
    assert!(unpacker.take(&mut &packed[1][..]).is_ok_and(|r| r.is_some()));
    let mut packer = Box::new(Packer::new());
    for record in [record(9, 1000, &first), record(10, 1500, &second)] {
        packer.pack(&record, &mut [0; MAX_SMALL]).expect("room");
    }
    let sealed = seal(&packer);
    for len in 0..SEAL {
        assert_eq!(unpacker.take(&mut &sealed[..len]), Ok(None));
    }
    assert_eq!(unpacker.take(&mut &sealed[..]), Ok(Some(Unpacked::Seal)));
}

#[test]
fn a_wrong_time_is_found_though_a_whole_record_tells_the_next() {
    // Found by fuzzing: only the last record's time was in the check.
    let (packet, long) = ([5; 70], [5; 300]);
    let records = [record(1, 100, &packet), record(2, 200, &packet), record(3, 300, &long)];
    let mut packer = Box::new(Packer::new());
    let mut packed: Vec<_> = records.iter().map(|record| pack(&mut packer, record)).collect();
    packed[1][2] ^= 1;
    let (good, bad) = packed.split_at(1);
    assert_eq!(refused_by(good, &bad.concat(), &seal(&packer)), LogReason::Checksum);
}

#[test]
fn one_wrong_bit_of_a_lane_is_found() {
    // Found by fuzzing: in the highest bits of a word, what it changed in two sums was the same.
    let (first, mut second) = ([5; 128], [5; 128]);
    for byte in &mut second[48..] {
        *byte = 6;
    }
    let packed = pack_all(&[record(1, 1, &first), record(2, 2, &second)]);
    let mut packer = Box::new(Packer::new());
    packer.pack(&record(1, 1, &first), &mut [0; MAX_SMALL]).expect("room");
    packer.pack(&record(2, 2, &second), &mut [0; MAX_SMALL]).expect("room");
    let (good, bad) = packed.split_at(1);
    let lanes = DIFFERENCE_HEAD + mask_bytes(128);
    for at in 8 * lanes..8 * bad[0].len() {
        let mut bad = bad[0].clone();
        bad[at / 8] ^= 1 << (at % 8);
        assert_eq!(refused_by(good, &bad, &seal(&packer)), LogReason::Checksum, "bit {at}");
    }
}

#[test]
fn a_bit_for_each_changed_lane() {
    let (first, mut second) = ([5; 128], [5; 128]);
    // What is ahead of them chooses the slot.
    for at in 48..128 {
        second[at] ^= 0x80 >> (at % 8);
        let packed = pack_all(&[record(1, 1, &first), record(2, 2, &second)]);
        let bits = packed[1][DIFFERENCE_HEAD..].first_chunk().map(|bits| u64::from_le_bytes(*bits));
        assert_eq!(bits, Some(u64::MAX >> (63 - at / LANE) >> 24 << 24), "{at}");
    }
}

prop_compose! {
    /// Packets of few kinds, of any length, with some bytes of their own.
    fn packets()(
        made in prop::collection::vec(
            (0_u8..4, prop_oneof![64_usize..129, 0_usize..300], any::<[u8; 6]>(), 0_usize..300, 0_u64..1 << 33, 0_u8..12),
            1..60,
        ),
    ) -> Vec<(Vec<u8>, u64, u8)> {
        let packet = |(flow, len, noise, at, passed, odd): (u8, usize, [u8; 6], usize, u64, u8)| {
            let mut packet = vec![flow; len];
            for (to, byte) in packet.iter_mut().skip(at % 128).zip(noise) {
                *to = byte;
            }
            (packet, passed, odd)
        };
        made.into_iter().map(packet).collect()
    }
}

proptest! {
    #[test]
    fn what_was_packed_comes_out(packets in packets(), first in any::<u32>()) {
        let (mut packer, mut unpacker) = (Box::new(Packer::new()), Box::new(Unpacker::new()));
        let (mut time, mut epoch) = (0, 0);
        for (lsn, (packet, passed, odd)) in (u64::from(first)..).zip(&packets) {
            time = if *odd == 0 { 0 } else { time + passed };
            epoch += u64::from(*odd == 1);
            let mut record = record(lsn, time, packet);
            record.entry.epoch = epoch;
            record.entry.vif = u16::from(*odd == 2);
            if *odd == 3 {
                record.entry.kind = RecordKind::Note;
            }
            let mut bytes = pack(&mut packer, &record);
            if *odd > 8 {
                bytes.extend(seal(&packer));
            }
            let mut rest = bytes.as_slice();
            prop_assert_eq!(unpacker.take(&mut rest), Ok(Some(Unpacked::Record(record))));
            if *odd > 8 {
                prop_assert_eq!(unpacker.take(&mut rest), Ok(Some(Unpacked::Seal)));
            }
            prop_assert!(rest.is_empty());
        }
    }
}
