use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::checksum::digest;
use crate::page::vectors;

fn frame(kind: u8, seq: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER + payload.len()];
    let mut out = &mut bytes[..];
    write_frame(&mut out, Kind(kind), 0, seq, payload).expect("room for the frame");
    assert!(out.is_empty());
    bytes
}

#[derive(Debug, PartialEq)]
enum Seen {
    Frame { offset: u64, kind: u8, seq: u64, payload: Vec<u8> },
    Error(FrameError),
}

/// Feeds a stream in pieces of the given sizes, and checks what holds for any stream.
fn parse(stream: &[u8], pieces: &[usize], buffer: usize, limit: usize) -> (Vec<Seen>, Parser<Vec<u8>>) {
    let mut parser = Parser::new(vec![0; buffer], limit).expect("a large enough buffer");
    let mut seen = Vec::new();
    let mut good = 0;
    let mut sizes = pieces.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let (mut piece, later) = rest.split_at((*sizes.next().expect("a size")).clamp(1, rest.len()));
        rest = later;
        while !piece.is_empty() {
            let before = piece.len();
            parser.push(&mut piece);
            assert!(piece.len() < before, "there must be room after Ok(None)");
            loop {
                match parser.next_frame() {
                    Ok(None) => break,
                    Ok(Some(f)) => {
                        good += HEADER + f.payload.len();
                        let payload = f.payload.to_vec();
                        seen.push(Seen::Frame { offset: f.offset, kind: f.kind.0, seq: f.seq, payload });
                    }
                    Err(error) => seen.push(Seen::Error(error)),
                }
            }
        }
    }
    // Every byte is in a frame, skipped or pending.
    assert_eq!(good as u64 + parser.skipped(), parser.offset());
    assert_eq!(parser.offset() + parser.pending() as u64, stream.len() as u64);
    (seen, parser)
}

fn good(offset: u64, kind: u8, seq: u64, payload: &[u8]) -> Seen {
    Seen::Frame { offset, kind, seq, payload: payload.to_vec() }
}

fn bad(offset: u64, reason: FrameReason, skipped: u64) -> Seen {
    Seen::Error(FrameError { offset, reason, skipped })
}

#[test]
fn documented_frames() {
    assert_eq!(frame(1, 7, b"hello"), vectors::hex("frame-message"));
    let mut bytes = [0; HEADER];
    write_frame(&mut &mut bytes[..], Kind::EPOCH_END, 0x8001, 0x0102_0304_0506_0708, b"").unwrap();
    assert_eq!(bytes[..], vectors::hex("frame-empty"));
    let mut parser = Parser::new([0; 64], 64).unwrap();
    parser.push(&mut &bytes[..]);
    let want =
        Frame { offset: 0, kind: Kind::EPOCH_END, flags: 0x8001, seq: 0x0102_0304_0506_0708, payload: &[] };
    assert_eq!(parser.next_frame(), Ok(Some(want)));
    assert_eq!(parser.next_frame(), Ok(None));
}

#[test]
fn layout_byte_by_byte() {
    let bytes = encode_header(Kind::LOG, 0x0203, 0x1122_3344_5566_7788, b"abc");
    assert_eq!(bytes[..16], *b"LLMF\x01\x04\x03\x02\x88\x77\x66\x55\x44\x33\x22\x11");
    assert_eq!(bytes[16..24], digest(b"abc").to_le_bytes());
    assert_eq!(bytes[24..28], [3, 0, 0, 0]);
    assert_eq!(bytes[28..], digest(&bytes[..28]).to_le_bytes()[..4]);
}

#[test]
fn any_flipped_bit_of_a_header_is_noticed() {
    let bytes = frame(2, 1, b"payload");
    for bit in 0..8 * HEADER {
        let mut stream = bytes.clone();
        stream[bit / 8] ^= 1 << (bit % 8);
        let reason = if bit < 32 { FrameReason::Magic } else { FrameReason::HeaderChecksum };
        stream.extend(frame(1, 2, b""));
        let (seen, _) = parse(&stream, &[usize::MAX], 1024, 512);
        assert_eq!(seen, [bad(0, reason, 39), good(39, 1, 2, b"")], "bit {bit}");
    }
}

#[test]
fn a_bad_payload_does_not_cost_the_next_frame() {
    let mut stream = frame(2, 1, b"payload");
    stream[HEADER] ^= 1;
    stream.extend(frame(2, 2, b"next"));
    let reason = FrameReason::PayloadChecksum { kind: 2, seq: 1 };
    let (seen, parser) = parse(&stream, &[1], 1024, 512);
    assert!(matches!(seen[0], Seen::Error(FrameError { offset: 0, reason: r, .. }) if r == reason));
    assert_eq!(seen[1..], [good(39, 2, 2, b"next")]);
    assert_eq!(parser.skipped(), 39);
}

#[test]
fn bytes_missing_from_a_payload_do_not_cost_the_next_frame() {
    let mut stream = frame(2, 1, &[9; 300]);
    stream.truncate(100);
    stream.extend(frame(2, 2, &[8; 300]));
    let (seen, _) = parse(&stream, &[7, 64], 1024, 512);
    assert_eq!(seen[1..], [good(100, 2, 2, &[8; 300])]);
}

#[test]
fn another_version_is_named() {
    let mut header = Header::parse(&encode_header(Kind::BATCH, 0, 5, b"xy")).unwrap();
    header.version = 2;
    let mut stream = header.to_bytes().to_vec();
    stream.extend(b"xy");
    stream.extend(frame(1, 6, b"ok"));
    let (seen, _) = parse(&stream, &[usize::MAX], 1024, 512);
    let reason = FrameReason::Version { got: 2, supported: VERSION };
    assert_eq!(seen, [bad(0, reason, 34), good(34, 1, 6, b"ok")]);
    let text = std::format!("{}", FrameError { offset: 9, reason, skipped: 0 });
    assert_eq!(
        text,
        "Bad frame at byte 9 of the stream: frame version 2, but version 1 is the one understood"
    );
}

#[test]
fn limits() {
    assert_eq!(Parser::new([0; HEADER - 1], 1).err(), Some(TooSmall { size: HEADER - 1 }));
    assert_eq!(Parser::new([0; HEADER + 9], 512).unwrap().max_payload(), 9);
    assert_eq!(Parser::new(vec![0; 3 << 20], usize::MAX).unwrap().max_payload(), MAX_PAYLOAD);
    for (buffer, limit) in [(1024, 99), (HEADER + 99, 512)] {
        let mut stream = frame(1, 1, &[5; 99]);
        stream.extend(frame(1, 2, &[5; 100]));
        stream.extend(frame(1, 3, &[5; 99]));
        let (seen, _) = parse(&stream, &[50], buffer, limit);
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[0], good(0, 1, 1, &[5; 99]));
        let reason = FrameReason::TooLong { len: 100, max: 99 };
        assert!(matches!(seen[1], Seen::Error(FrameError { offset: 131, reason: r, .. }) if r == reason));
        assert_eq!(seen[2], good(263, 1, 3, &[5; 99]));
    }
}

#[test]
fn garbage_is_one_error_however_it_arrives() {
    let mut stream = vec![0x4c; 5000];
    stream.extend(b"LLMFLLMLLMFF");
    stream.extend(frame(1, 1, b"found"));
    for pieces in [&[1][..], &[3, 100], &[usize::MAX]] {
        let (seen, parser) = parse(&stream, pieces, 200, 100);
        assert!(matches!(seen[0], Seen::Error(FrameError { offset: 0, reason: FrameReason::Magic, .. })));
        assert_eq!(seen[1..], [good(5012, 1, 1, b"found")]);
        assert_eq!(parser.skipped(), 5012);
    }
}

#[test]
fn nested_headers_are_not_checked_for_ever() {
    // Each header announces a payload that reaches over all that follow, with a wrong checksum.
    let header = Header { version: VERSION, kind: Kind::BATCH, flags: 0, seq: 0, len: 0, payload_digest: 1 };
    let count = 4000;
    let mut stream = Vec::new();
    for i in 0..count {
        let len = (HEADER * (count - 1 - i)) as u32;
        stream.extend(Header { len, seq: i as u64, ..header }.to_bytes());
    }
    let (seen, parser) = parse(&stream, &[usize::MAX], 1 << 20, MAX_PAYLOAD);
    assert_eq!(seen.len(), 17);
    assert_eq!((parser.pending(), parser.skipped()), (0, stream.len() as u64));
}

#[test]
fn space_and_advance_are_bounded() {
    let mut parser = Parser::new([0; 40], 8).unwrap();
    assert_eq!(parser.space().len(), 40);
    parser.advance(usize::MAX);
    assert_eq!(parser.pending(), 40);
    assert!(parser.next_frame().is_err());
    assert_eq!(parser.next_frame(), Ok(None));
    assert_eq!(parser.space().len(), 40);
}

#[derive(Clone, Debug)]
enum Part {
    Frame(u8, u64, Vec<u8>),
    Garbage(Vec<u8>),
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        3 => (any::<u8>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(kind, seq, payload)| Part::Frame(kind, seq, payload)),
        // Garbage that looks like a frame for as long as it can.
        1 => prop::collection::vec(prop::sample::select(b"LLMF\x01\x00".to_vec()), 1..80).prop_map(Part::Garbage),
        1 => prop::collection::vec(any::<u8>(), 1..200).prop_map(Part::Garbage),
    ]
}

proptest! {
    #[test]
    fn good_frames_survive_any_garbage_between_them_and_any_cutting(
        parts in prop::collection::vec(part(), 0..20),
        pieces in prop::collection::vec(1..400_usize, 1..8),
        buffer in 332..1000_usize,
    ) {
        let (mut stream, mut want, mut garbage) = (Vec::new(), Vec::new(), 0);
        for part in parts {
            match part {
                Part::Frame(kind, seq, payload) => {
                    want.push(good(stream.len() as u64, kind, seq, &payload));
                    stream.extend(frame(kind, seq, &payload));
                }
                Part::Garbage(bytes) => { garbage += bytes.len(); stream.extend(bytes); }
            }
        }
        let (seen, parser) = parse(&stream, &pieces, buffer, 300);
        let frames: Vec<_> = seen.into_iter().filter(|s| matches!(s, Seen::Frame { .. })).collect();
        prop_assert_eq!(frames, want);
        prop_assert_eq!(parser.skipped() + parser.pending() as u64, garbage as u64);
    }

    #[test]
    fn what_is_found_does_not_depend_on_the_cutting(
        parts in prop::collection::vec(part(), 0..12),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        pieces in prop::collection::vec(1..100_usize, 1..8),
    ) {
        let mut stream = Vec::new();
        for part in parts {
            match part {
                Part::Frame(kind, seq, payload) => stream.extend(frame(kind, seq, &payload)),
                Part::Garbage(bytes) => stream.extend(bytes),
            }
        }
        for (at, value) in hits {
            if !stream.is_empty() {
                let at = at.index(stream.len());
                stream[at] = value;
            }
        }
        let strip = |seen: Vec<Seen>| -> Vec<Seen> {
            seen.into_iter().map(|s| match s {
                Seen::Error(e) => Seen::Error(FrameError { skipped: 0, ..e }),
                frame => frame,
            }).collect()
        };
        let (a, _) = parse(&stream, &pieces, 400, 300);
        let (b, _) = parse(&stream, &[usize::MAX], 1 << 16, 300);
        prop_assert_eq!(strip(a), strip(b));
    }
}

#[test]
fn payloads_are_checked_by_what_the_caller_gives() {
    let other = |payload: &[u8]| digest(payload).reverse_bits();
    let header = encode_header_with(other, Kind::MESSAGE, 0, 7, b"abc");
    assert_eq!(header[16..24], other(b"abc").to_le_bytes());
    let stream = [&header[..], b"abc"].concat();
    let next = |mut parser: Parser<[u8; 128]>| {
        parser.push(&mut &stream[..]);
        parser.next_frame().map(|frame| frame.map(|frame| frame.payload.to_vec()))
    };
    let parser = || Parser::new([0; 128], 16).unwrap();
    assert_eq!(next(parser().checked_by(other)), Ok(Some(b"abc".to_vec())));
    assert!(
        matches!(next(parser()), Err(e) if matches!(e.reason, FrameReason::PayloadChecksum { seq: 7, .. }))
    );
}
