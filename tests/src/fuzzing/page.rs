//! Page records and batches: hostile ones, and round trips.

use llm_core::page::batch::{BatchReader, BatchWriter, MAX_PAGE_HEAD, Op};
use llm_core::page::{
    Density, Encoder, Features, Kind, MAX_RECORD, PAGE, Page, decode, decode_with, record_len,
};
use llm_dom0::checkpoint::width::{available, features};

use super::Input;

/// The first byte says how the others are understood.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 4 {
        0 => hostile_record(&mut input),
        1 => hostile_batch(input.0),
        2 => any_record(input.0),
        _ => round_trip(&mut input),
    }
}

/// A body of any bytes, with a head that fits it, against an old copy.
fn hostile_record(input: &mut Input<'_>) {
    let kind = match input.u8() % 8 {
        0 | 4 => Kind::Sparse,
        1..=3 => Kind::Diff,
        5 | 6 => Kind::Dense,
        _ => Kind::DenseSparse,
    };
    let body = input.bytes(PAGE);
    let mut record = vec![kind as u8, (body.len() & 0x7f) as u8];
    if body.len() > 0x7f {
        record[1] |= 0x80;
        record.push((body.len() >> 7) as u8);
    }
    record.extend_from_slice(body);
    any_record(&record);
}

/// A record is refused and changes nothing, or it is decoded and the result can be encoded again.
fn any_record(record: &[u8]) {
    for old in [Some(old_page()), None] {
        let before = old.unwrap_or([0xa5; PAGE]);
        let mut page = before;
        let decoded = decode(record, &mut page, old.is_some());
        for features in available() {
            let mut again = before;
            assert_eq!(decode_with(features, record, &mut again, old.is_some()), decoded);
            assert!(again == page, "{} makes another page", features.name());
        }
        match decoded {
            Ok(len) => {
                assert!(len <= record.len() && len <= MAX_RECORD);
                assert_eq!(record_len(record), Ok(len));
                assert_eq!(decode(&record[..len], &mut page, old.is_some()), Ok(len));
                check_round_trip(old.as_ref(), &page);
            }
            Err(error) => {
                assert!(page == before, "a refused record must not touch the page");
                assert!(error.offset <= record.len());
            }
        }
    }
}

fn hostile_batch(batch: &[u8]) {
    let mut reader = BatchReader::new(batch);
    let mut kept = std::collections::BTreeMap::<u64, Page>::new();
    let mut last = 0;
    while let Some(op) = reader.next() {
        match op {
            Ok(Op::Bytes(bytes)) => assert!(bytes.len() <= batch.len()),
            Ok(Op::Page { pfn, keep, record }) => {
                assert_eq!(record_len(record), Ok(record.len()));
                let old = kept.get(&pfn);
                let mut page = *old.unwrap_or(&[0; PAGE]);
                if decode(record, &mut page, old.is_some()).is_ok() && keep && kept.len() < 16 {
                    kept.insert(pfn, page);
                }
            }
            Err(error) => {
                assert!(error.offset <= batch.len());
                assert_eq!(reader.next(), None, "nothing comes after an error");
                return;
            }
        }
        assert!(reader.offset() > last, "each operation must take bytes");
        last = reader.offset();
    }
    assert_eq!(last, batch.len());
}

/// Pages made by edits, through encoder, batch and decoder.
fn round_trip(input: &mut Input<'_>) {
    let old = old_page();
    let mut new = if input.u8() & 1 == 0 { old } else { [input.u8(); PAGE] };
    while !input.is_empty() {
        let at = usize::from(input.u16()) % PAGE;
        let op = input.u8();
        let end = PAGE.min(at + 1 + usize::from(input.u8()));
        match op % 4 {
            0 => new[at] = op,
            1 => new[at..end].fill(op),
            2 => new[at..end].fill(0),
            _ => {
                let bytes = input.bytes((op >> 2).into());
                let len = bytes.len().min(PAGE - at);
                new[at..at + len].copy_from_slice(&bytes[..len]);
            }
        }
    }
    check_round_trip(Some(&old), &new);
    check_round_trip(None, &new);
}

fn check_round_trip(old: Option<&Page>, new: &Page) {
    for density in [Density::Fast, Density::Dense] {
        check_density(density, old, new);
    }
}

fn check_density(density: Density, old: Option<&Page>, new: &Page) {
    let mut encoder = Encoder::new(Features::PORTABLE, density);
    let mut record = [0; MAX_RECORD];
    let encoded = encoder.encode(old, new, None, &mut record);
    let mut wide = [0; MAX_RECORD];
    let mut copy = *old.unwrap_or(&[0; PAGE]);
    let mut wide_encoder = Encoder::new(features(), density);
    let again = match old {
        Some(_) => wide_encoder.encode_update(&mut copy, new, None, &mut wide),
        None => wide_encoder.encode(None, new, None, &mut wide),
    };
    assert_eq!((again, &wide[..again.len]), (encoded, &record[..encoded.len]));
    assert!(old.is_none() || copy == *new);
    let mut page = *old.unwrap_or(&[0x5a; PAGE]);
    assert_eq!(decode(&record[..encoded.len], &mut page, old.is_some()), Ok(encoded.len));
    assert!(page == *new);
    assert!(old.is_some() || !encoded.kind.needs_old());

    let mut buf = [0; MAX_RECORD + MAX_PAGE_HEAD];
    let mut batch = BatchWriter::new(&mut buf);
    assert_eq!(batch.encode_page(&mut encoder, u64::MAX, true, old, new), Ok(encoded));
    let len = batch.finish();
    let mut ops = BatchReader::new(&buf[..len]);
    let want = Op::Page { pfn: u64::MAX, keep: true, record: &record[..encoded.len] };
    assert_eq!(ops.next(), Some(Ok(want)));
    assert_eq!(ops.next(), None);
}

fn old_page() -> Page {
    std::array::from_fn(|i| if i / 512 % 2 == 0 { 0 } else { (i * 7 % 251) as u8 })
}
