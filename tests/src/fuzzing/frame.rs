//! The frame parser on any stream, and on streams of good and damaged frames.

use llm_core::frame::{FrameError, HEADER, Kind, Parser, encode_header};

use super::Input;

/// Limit of the parsers' payloads.
const LIMIT: usize = 600;
/// Most frames that are damaged. With the frames inside their payloads, there are
/// then fewer bad payloads in a row than the parser searches for frames.
const MAX_DAMAGED: usize = 7;

/// An odd first byte: the rest is a stream. An even one: it says how to build a stream.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.u8();
    let (small, large) = (1 + usize::from(input.u8()), 1 + usize::from(input.u16()));
    if mode & 1 == 1 {
        check(input.0, small, large, &[]);
    } else {
        let (stream, good) = build(&mut input);
        check(&stream, small, large, &good);
    }
}

#[derive(Debug, PartialEq)]
struct Found {
    offset: u64,
    kind: u8,
    seq: u64,
    payload: Vec<u8>,
}

/// A stream and the frames in it that nothing happened to.
fn build(input: &mut Input<'_>) -> (Vec<u8>, Vec<Found>) {
    let (mut stream, mut good, mut damaged) = (Vec::new(), Vec::new(), 0);
    while !input.is_empty() && stream.len() < 1 << 16 {
        let op = input.u8();
        let seq = good.len() as u64;
        let payload = match op >> 6 {
            0 => vec![op; usize::from(input.u16()) % (LIMIT + 1)],
            1 => input.bytes((op & 63).into()).to_vec(),
            // A frame as payload, with bytes before and behind.
            2 => [&[op][..], &frame(2, seq, &[op; 20]), b"LLMF"].concat(),
            _ => Vec::new(),
        };
        let mut bytes = frame(op, seq, &payload);
        match op & 7 {
            0 if damaged < MAX_DAMAGED => {
                let at = usize::from(input.u16()) % bytes.len();
                bytes[at] ^= 1 << (input.u8() & 7);
                damaged += 1;
            }
            1 if damaged < MAX_DAMAGED => {
                let at = usize::from(input.u16()) % bytes.len();
                // What is cut off must not be what the next frame starts with.
                if bytes[at..].contains(&b'L') {
                    bytes[at] ^= 1;
                } else {
                    bytes.truncate(at);
                }
                damaged += 1;
            }
            2 => bytes.clone_from(&input.bytes((op >> 3).into()).to_vec()),
            _ => good.push(Found { offset: stream.len() as u64, kind: op, seq, payload }),
        }
        stream.extend(bytes);
    }
    // A frame that was cut short takes what follows for its payload until that is complete.
    stream.resize(stream.len() + LIMIT, 0);
    (stream, good)
}

fn frame(kind: u8, seq: u64, payload: &[u8]) -> Vec<u8> {
    [&encode_header(Kind(kind), 0, seq, payload)[..], payload].concat()
}

fn check(stream: &[u8], small: usize, large: usize, good: &[Found]) {
    let (frames, errors) = parse(stream, small, HEADER + LIMIT);
    let mut seen = frames.iter();
    for want in good {
        assert!(seen.any(|found| found == want), "lost: {want:?}");
    }
    assert_eq!((frames, errors), parse(stream, large, 1 << 16), "cutting must not matter");
}

fn parse(stream: &[u8], piece: usize, buffer: usize) -> (Vec<Found>, Vec<FrameError>) {
    let mut parser = Parser::new(vec![0; buffer], LIMIT).expect("a large enough buffer");
    let (mut frames, mut errors, mut framed) = (Vec::new(), Vec::new(), 0);
    for mut piece in stream.chunks(piece) {
        while !piece.is_empty() {
            let before = piece.len();
            parser.push(&mut piece);
            assert!(piece.len() < before, "no room although the parser asked for more");
            loop {
                match parser.next_frame() {
                    Ok(None) => break,
                    Ok(Some(f)) => {
                        framed += (HEADER + f.payload.len()) as u64;
                        let payload = f.payload.to_vec();
                        frames.push(Found { offset: f.offset, kind: f.kind.0, seq: f.seq, payload });
                    }
                    // How much was dropped at once depends on the cutting; the sum is checked below.
                    Err(error) => errors.push(FrameError { skipped: 0, ..error }),
                }
            }
        }
    }
    assert_eq!(framed + parser.skipped(), parser.offset());
    assert_eq!(parser.offset() + parser.pending() as u64, stream.len() as u64);
    (frames, errors)
}
