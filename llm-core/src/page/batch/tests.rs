use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::page::{Density, Features, PAGE, PageReason, decode, encode, vectors};

fn ops(batch: &[u8]) -> Vec<Op<'_>> {
    BatchReader::new(batch).map(|op| op.expect("a good batch")).collect()
}

#[test]
fn literal_bytes() {
    let mut buf = [0xaa; 64];
    let mut w = BatchWriter::new(&mut buf);
    assert_eq!(w.bytes(b"head"), 4);
    w.page(0x100, true, &[0]).unwrap();
    w.page(0x101, true, &[1]).unwrap();
    w.page(0x100, false, &[1]).unwrap();
    w.page(0x101, false, &[0]).unwrap();
    let len = w.finish();
    assert_eq!(buf[..len], [0, 4, b'h', b'e', b'a', b'd', 1, 0x80, 0x04, 0, 2, 1, 3, 1, 1, 4, 0],);
    assert_eq!(buf[..len], vectors::hex("batch")[..]);
    assert_eq!(
        ops(&buf[..len]),
        [
            Op::Bytes(b"head"),
            Op::Page { pfn: 0x100, keep: true, record: &[0] },
            Op::Page { pfn: 0x101, keep: true, record: &[1] },
            Op::Page { pfn: 0x100, keep: false, record: &[1] },
            Op::Page { pfn: 0x101, keep: false, record: &[0] },
        ]
    );
}

#[test]
fn bytes_take_what_fits_and_nothing_more() {
    let data = [7; 20_000];
    for room in (0..300).chain(16_380..16_400) {
        let mut buf = vec![0; room];
        let mut w = BatchWriter::new(&mut buf);
        let taken = w.bytes(&data);
        let len = w.finish();
        assert_eq!(
            taken,
            ops(&buf[..len]).iter().map(|op| if let Op::Bytes(b) = op { b.len() } else { 0 }).sum()
        );
        // One byte more of room must be of use, except where the length itself grows.
        assert!(len >= room.saturating_sub(1) || room < 3, "{len} of {room}");
    }
}

#[test]
fn a_full_batch_stays_as_it_was() {
    let mut buf = [0; 8];
    let mut w = BatchWriter::new(&mut buf);
    w.page(5, true, &[0]).unwrap();
    assert_eq!(w.page(5, true, &[3; MAX_RECORD]), Err(Full));
    assert_eq!(w.encode_page(&mut encoder(), 6, true, None, &[1; PAGE]), Err(Full));
    w.page(6, true, &[1]).unwrap();
    let len = w.finish();
    assert_eq!(buf[..len], [1, 10, 0, 2, 1]);
}

#[test]
fn encode_page_equals_page_of_an_encoded_record() {
    let (old, mut new) = ([3; PAGE], [3; PAGE]);
    new[77] = 9;
    for (old, keep) in [(None, true), (Some(&old), false)] {
        let (mut a, mut b) = ([0; 8192], [0; 8192]);
        let mut direct = BatchWriter::new(&mut a);
        let encoded = direct.encode_page(&mut encoder(), 9, keep, old, &new).unwrap();
        let mut record = [0; MAX_RECORD];
        assert_eq!(encode(old, &new, &mut record), encoded);
        let mut copied = BatchWriter::new(&mut b);
        copied.page(9, keep, &record[..encoded.len]).unwrap();
        let len = direct.finish();
        assert_eq!(copied.finish(), len);
        assert_eq!(a[..len], b[..len]);
    }
}

#[test]
fn errors_name_offset_and_reason() {
    let error = |batch: &[u8]| BatchReader::new(batch).find_map(Result::err).expect("an error");
    assert_eq!(error(&[0, 1, 9, 5]), BatchError { offset: 3, reason: BatchReason::UnknownOp(5) });
    assert_eq!(error(&[0]), BatchError { offset: 1, reason: BatchReason::Truncated { need: 1, have: 0 } });
    assert_eq!(
        error(&[0, 3, 1]),
        BatchError { offset: 2, reason: BatchReason::Truncated { need: 3, have: 1 } }
    );
    assert_eq!(error(&[1, 0x80, 0, 0]), BatchError { offset: 1, reason: BatchReason::BadNumber });
    let page = PageError { offset: 0, reason: PageReason::UnknownKind(9) };
    assert_eq!(error(&[1, 2, 9]), BatchError { offset: 2, reason: BatchReason::Page(page) });
    let mut reader = BatchReader::new(&[9, 0, 0]);
    assert!(reader.next().is_some_and(|op| op.is_err()));
    assert_eq!(reader.next(), None);
}

proptest! {
    #[test]
    fn round_trip(steps in prop::collection::vec(
        (any::<u64>(), 0..4_u8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..50)), 0..40)
    ) {
        let mut buf = vec![0; 400_000];
        let mut w = BatchWriter::new(&mut buf);
        type Step = (Option<(u64, bool)>, Vec<u8>);
        let mut want: Vec<Step> = Vec::new();
        let mut pfn = 0_u64;
        for (number, kind, keep, data) in steps {
            pfn = match kind { 0 => number, 1 => pfn.wrapping_add(1), _ => pfn.wrapping_add(number % 100) };
            if kind == 3 {
                prop_assert_eq!(w.bytes(&data), data.len());
                if !data.is_empty() {
                    want.push((None, data));
                }
            } else {
                let mut page = [0; PAGE];
                page[..data.len()].copy_from_slice(&data);
                w.encode_page(&mut encoder(), pfn, keep, None, &page).unwrap();
                want.push((Some((pfn, keep)), page.to_vec()));
            }
        }
        let len = w.finish();
        let got: Vec<_> = ops(&buf[..len]).into_iter().map(|op| match op {
            Op::Bytes(bytes) => (None, bytes.to_vec()),
            Op::Page { pfn, keep, record } => {
                let mut page = [1; PAGE];
                assert_eq!(decode(record, &mut page, false), Ok(record.len()));
                (Some((pfn, keep)), page.to_vec())
            }
        }).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut reader = BatchReader::new(&bytes);
        let mut seen = 0;
        while let Some(op) = reader.next() {
            seen += 1;
            if op.is_ok() { prop_assert!(reader.offset() <= bytes.len()); }
        }
        prop_assert!(seen <= bytes.len() + 1);
    }
}

fn encoder() -> Encoder {
    Encoder::new(Features::PORTABLE, Density::Fast)
}

#[test]
fn a_cleared_batch_stands_alone() {
    let mut buf = [0; 64];
    let mut w = BatchWriter::new(&mut buf);
    w.page(0x100, true, &[0]).unwrap();
    assert_eq!(w.written(), [1, 0x80, 0x04, 0]);
    w.clear();
    assert!(w.is_empty() && w.written().is_empty());
    w.page(0x101, true, &[0]).unwrap();
    assert_eq!(ops(w.written()), [Op::Page { pfn: 0x101, keep: true, record: &[0] }]);
}
