//! Encoder and rebuilder together: what is rebuilt is what was fed.

use super::encode::{Encoder, EpochSummary, MAX_BATCH_LEN, Output};
use super::rebuild::{EpochCheck, RebuildError, Rebuilder};
use super::stream::{Guest, MarkKind, StreamWriter};
use llm_core::page::{Kind, PAGE, Page};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One epoch as data: pages with a seed (0 for zeros) and how many bytes of them differ.
type Epoch = Vec<(u64, u8, usize)>;

fn page(memory: &mut BTreeMap<u64, Page>, pfn: u64, seed: u8, changes: usize) -> Page {
    let page = memory.entry(pfn).or_insert([0; PAGE]);
    if seed == 0 {
        *page = [0; PAGE];
    }
    for i in 0..changes {
        page[(i * 37 + usize::from(seed) * 11) % PAGE] = seed.wrapping_add(i as u8);
    }
    *page
}

fn stream(epochs: &[Epoch]) -> Vec<u8> {
    let (mut w, mut memory) = (StreamWriter::new(), BTreeMap::new());
    w.start(br#"{"c_info":{}}"#, Guest::Hvm, 3);
    for epoch in epochs {
        for batch in epoch.chunks(5) {
            let pages: Vec<_> =
                batch.iter().map(|&(pfn, seed, n)| (pfn, page(&mut memory, pfn, seed, n))).collect();
            w.pages(pages.iter().map(|(pfn, page)| (*pfn, Some(page))));
        }
        w.epoch_end(&[3; 99], None);
    }
    w.take()
}

#[derive(Debug, Default)]
struct Encoded {
    /// Batches with, after the last of an epoch, its summary.
    batches: Vec<(Vec<u8>, Option<EpochSummary>)>,
    marks: Vec<(MarkKind, u64)>,
}

fn encode(stream: &[u8], piece: usize, shadow: u32) -> Encoded {
    let (mut encoder, mut encoded) = (Encoder::new(shadow), Encoded::default());
    for piece in stream.chunks(piece) {
        encoder
            .feed(piece, |output| match output {
                Output::Batch(batch) => encoded.batches.push((batch.to_vec(), None)),
                Output::Mark(mark) => encoded.marks.push((mark.kind, mark.end)),
                Output::Epoch(epoch) => encoded.batches.last_mut().unwrap().1 = Some(epoch.clone()),
            })
            .unwrap();
    }
    assert_eq!(encoder.offset(), stream.len() as u64);
    encoded
}

fn check(epoch: &EpochSummary) -> EpochCheck {
    EpochCheck { stream_bytes: epoch.stream_bytes, digest: epoch.digest, pages: epoch.pages }
}

fn rebuild(encoded: &Encoded, shadow: u32) -> Result<Vec<u8>, RebuildError> {
    let (mut rebuilder, mut out) = (Rebuilder::new(shadow), Vec::new());
    for (batch, epoch) in &encoded.batches {
        assert!(batch.len() <= MAX_BATCH_LEN);
        rebuilder.apply(batch, |bytes| out.extend_from_slice(bytes))?;
        if let Some(epoch) = epoch {
            rebuilder.finish_epoch(check(epoch))?;
            assert_eq!(out.len() as u64, epoch.end);
        }
    }
    Ok(out)
}

#[test]
fn small_changes_cost_little() {
    let first: Epoch = (0..200).map(|pfn| (pfn, 1 + pfn as u8 % 3, PAGE)).collect();
    let second: Epoch = (0..100).map(|pfn| (pfn, 7, if pfn % 2 == 0 { 0 } else { 8 })).collect();
    let stream = stream(&[first, second, vec![(3, 0, 0)]]);
    let encoded = encode(&stream, usize::MAX, 1000);
    let epochs: Vec<_> = encoded.batches.iter().filter_map(|(_, epoch)| epoch.clone()).collect();
    assert_eq!(epochs.iter().map(|epoch| epoch.pages).collect::<Vec<_>>(), [200, 100, 1]);
    assert_eq!(epochs.iter().map(|epoch| epoch.index).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(epochs[1].kinds[Kind::Unchanged as usize], 50);
    assert_eq!(epochs[1].kinds[Kind::Diff as usize], 50);
    assert_eq!(epochs[2].kinds[Kind::Zero as usize], 1);
    assert!(epochs[1].batch_bytes * 50 < epochs[1].stream_bytes, "{:?}", epochs[1]);
    assert_eq!(encoded.marks[1], (MarkKind::Checkpoint, epochs[0].checkpoint_end));
    assert_eq!(epochs[0].checkpoint_end + 8, epochs[0].end);
    assert!(epochs.iter().all(|epoch| !epoch.last));
    assert_eq!(rebuild(&encoded, 1000).unwrap(), stream);
}

#[test]
fn pages_beyond_the_limit_go_without_a_copy() {
    let epoch: Epoch = (0..20).map(|pfn| (pfn, 9, PAGE)).collect();
    let stream = stream(&[epoch.clone(), epoch]);
    let encoded = encode(&stream, 10_000, 12);
    let epochs: Vec<_> = encoded.batches.iter().filter_map(|(_, epoch)| epoch.clone()).collect();
    assert_eq!(epochs[1].kinds[Kind::Unchanged as usize], 12);
    assert_eq!(rebuild(&encoded, 12).unwrap(), stream);
    assert_eq!(rebuild(&encoded, 13).unwrap(), stream, "room for more does no harm");
    assert_eq!(rebuild(&encoded, 11), Err(RebuildError::Keep { pfn: 11 }));
}

#[test]
fn a_saved_stream_is_one_epoch() {
    let mut w = StreamWriter::new();
    w.start(&[], Guest::Pv, 2).pages([(1, Some(&[1; PAGE])), (2, None)]).end(&[1; 9]);
    let stream = w.take();
    let encoded = encode(&stream, 100, 10);
    assert!(encoded.batches.last().unwrap().1.as_ref().unwrap().last);
    assert_eq!(rebuild(&encoded, 10).unwrap(), stream);
}

#[test]
fn lost_and_repeated_batches_are_found() {
    let epoch: Epoch = (0..200).map(|pfn| (pfn, 9, 4000)).collect();
    let stream = stream(&[epoch.clone(), epoch]);
    for drop in [true, false] {
        let mut encoded = encode(&stream, 100_000, 1000);
        assert!(encoded.batches.len() > 6);
        for at in 0..encoded.batches.len() {
            if encoded.batches[at].1.is_some() {
                continue;
            }
            if drop {
                let batch = encoded.batches.remove(at);
                assert!(rebuild(&encoded, 1000).is_err(), "batch {at} lost");
                encoded.batches.insert(at, batch);
            } else {
                encoded.batches.insert(at, encoded.batches[at].clone());
                assert!(rebuild(&encoded, 1000).is_err(), "batch {at} twice");
                encoded.batches.remove(at);
            }
        }
        assert_eq!(rebuild(&encoded, 1000).unwrap(), stream);
    }
}

#[test]
fn an_epoch_that_differs_or_is_not_whole_is_refused() {
    let stream = stream(&[vec![(1, 1, 10)]]);
    let encoded = encode(&stream, usize::MAX, 10);
    let apply = |rebuilder: &mut Rebuilder| {
        for (batch, _) in &encoded.batches {
            rebuilder.apply(batch, |_| ()).unwrap();
        }
    };
    let epoch = encoded.batches.last().unwrap().1.clone().unwrap();
    let good = check(&epoch);
    for bad in [
        EpochCheck { digest: good.digest ^ 1, ..good },
        EpochCheck { pages: good.pages + 1, ..good },
        EpochCheck { stream_bytes: good.stream_bytes + 1, ..good },
    ] {
        let mut rebuilder = Rebuilder::new(10);
        apply(&mut rebuilder);
        assert_eq!(rebuilder.finish_epoch(bad), Err(RebuildError::Differs { got: good, expected: bad }));
        assert_eq!(rebuilder.finish_epoch(good), Err(RebuildError::Unusable));
    }
    // A peer that calls half an epoch whole, with the right digest of that half.
    let (mut rebuilder, mut half) = (Rebuilder::new(10), Vec::new());
    rebuilder.apply(&encoded.batches[0].0, |bytes| half.extend_from_slice(bytes)).unwrap();
    let lie =
        EpochCheck { stream_bytes: half.len() as u64, digest: llm_core::checksum::digest(&half), pages: 0 };
    assert_eq!(rebuilder.finish_epoch(lie), Err(RebuildError::NotWhole { offset: half.len() as u64 }));
}

fn epochs() -> impl Strategy<Value = Vec<Epoch>> {
    let page = (0_u64..40, 0_u8..4, prop_oneof![Just(0), 1_usize..20, Just(PAGE)]);
    prop::collection::vec(prop::collection::vec(page, 0..30), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn rebuilt_is_what_was_fed(epochs in epochs(), piece in 1_usize..200_000, shadow in 0_u32..50) {
        let stream = stream(&epochs);
        let encoded = encode(&stream, piece, shadow);
        let ends = encoded.batches.iter().filter(|(_, epoch)| epoch.is_some()).count();
        prop_assert_eq!(ends, epochs.len());
        prop_assert_eq!(rebuild(&encoded, shadow).unwrap(), stream);
    }

    #[test]
    fn damage_is_never_taken_for_an_epoch(
        epochs in epochs(), batch in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0_u8..8
    ) {
        let stream = stream(&epochs);
        let mut encoded = encode(&stream, 30_000, 30);
        let batch = batch.index(encoded.batches.len());
        let bytes = &mut encoded.batches[batch].0;
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // Some bits do not matter; then the result is the same.
        if let Ok(rebuilt) = rebuild(&encoded, 30) {
            prop_assert_eq!(rebuilt, stream);
        }
    }
}
