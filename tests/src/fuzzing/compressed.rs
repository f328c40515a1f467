//! Compressed batches: hostile frames, and round trips.

use llm_core::frame::{BATCH_LEN, CONTENT_MAX, CompressedHead};
use llm_dom0::checkpoint::second::Level;
use llm_dom0::checkpoint::second::pack::Packer;
use llm_dom0::checkpoint::second::unpack::Unpacker;

use super::Input;

/// The first byte says how the others are understood.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 3 {
        0 => hostile(input.0),
        1 => hostile_content(&mut input),
        _ => round_trip(&mut input),
    }
}

/// Any payload is refused, or its batches have the bytes that its head says.
fn hostile(payload: &[u8]) {
    let mut unpacker = Unpacker::default();
    let Ok((head, _)) = CompressedHead::parse(payload) else {
        assert!(unpacker.unpack(payload, u64::MAX).is_err());
        return;
    };
    assert!(head.content as usize <= CONTENT_MAX);
    assert!(unpacker.unpack(payload, !head.method.feature()).is_err(), "not agreed on");
    if let Ok(batches) = unpacker.unpack(payload, head.method.feature()) {
        let (count, bytes) = batches.fold((0, 0), |(count, bytes), batch| (count + 1, bytes + batch.len()));
        assert_eq!(count, usize::from(head.batches));
        assert_eq!(bytes + count * BATCH_LEN, head.content as usize);
    }
    // What was refused leaves nothing behind that would spoil a good one.
    let good = pack(Level::Zstd1, &[&[5; 300]]).expect("shorter");
    assert!(unpacker.unpack(&good, u64::MAX).is_ok_and(|mut batches| batches.next() == Some(&[5; 300])));
}

/// A sound compressor's output with a head of any numbers.
fn hostile_content(input: &mut Input<'_>) {
    let level = Level::ALL[usize::from(input.u8()) % Level::ALL.len()];
    let (batches, content) = (input.u16() % 70, u32::from(input.u16()));
    let Some(payload) = pack(level, &[input.0, &[0; 200]]) else { return };
    let head = CompressedHead { method: level.method(), batches, content };
    hostile(&[&head.to_bytes(), &payload[CompressedHead::SIZE..]].concat());
}

fn round_trip(input: &mut Input<'_>) {
    let level = Level::ALL[usize::from(input.u8()) % Level::ALL.len()];
    let mut batches: Vec<Vec<u8>> = Vec::new();
    while !input.is_empty() && batches.len() < 70 {
        let op = input.u8();
        batches.push(match op % 3 {
            0 => input.bytes(op.into()).to_vec(),
            1 => vec![op; usize::from(input.u16())],
            _ => input.bytes(7).iter().copied().cycle().take(op.into()).collect(),
        });
    }
    let slices: Vec<&[u8]> = batches.iter().map(Vec::as_slice).collect();
    let Some(payload) = pack(level, &slices) else { return };
    assert!(payload.len() < batches.iter().map(Vec::len).sum());
    let mut unpacker = Unpacker::default();
    let back: Vec<&[u8]> = unpacker.unpack(&payload, u64::MAX).expect("our own").collect();
    assert_eq!(back, slices);
}

fn pack(level: Level, batches: &[&[u8]]) -> Option<Vec<u8>> {
    Packer::new().expect("memory").pack(level, batches.iter().copied())
}
