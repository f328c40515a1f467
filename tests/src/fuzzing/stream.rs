//! Checkpoint streams and batches of them: hostile ones, and round trips.

use llm_dom0::checkpoint::encode::{Encoder, EpochSummary, Output};
use llm_dom0::checkpoint::rebuild::{EpochCheck, Rebuilder};
use llm_dom0::checkpoint::stream::{Guest, Item, Mark, Parser, StreamError, StreamWriter};

use super::Input;

/// Few enough that the rule for pages that are not kept is used.
const SHADOW_PAGES: u32 = 3;
/// Operations of a built stream: a page is 4 KiB of stream from two bytes of input.
const MAX_OPS: u32 = 12;

/// The first byte says how the others are understood.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 4 {
        0 => _ = any_stream(input.u8(), input.0),
        1 => behind_headers(&mut input),
        2 => hostile_batches(&mut input),
        _ => built_stream(&mut input),
    }
}

/// Records of any kind, where libxc's records begin.
fn behind_headers(input: &mut Input<'_>) {
    let piece = input.u8();
    let mut stream = StreamWriter::new().start(b"{}", Guest::Hvm, 3).take();
    stream.extend_from_slice(input.0);
    _ = any_stream(piece, &stream);
}

/// A stream that a toolstack might write: it must be taken, whole.
fn built_stream(input: &mut Input<'_>) {
    let piece = input.u8();
    let mut writer = StreamWriter::new();
    writer.start(b"{}", Guest::Pv, 2);
    for _ in 0..MAX_OPS {
        let op = input.u8();
        let page = [input.u8(); 4096];
        let pfn = u64::from(input.u8() % 8) << (op >> 3);
        match op % 4 {
            0 => _ = writer.pages([(pfn, Some(&page))]),
            1 => _ = writer.pages([(pfn, None), (pfn + 1, Some(&page)), (pfn, None)]),
            2 => _ = writer.libxc_record(0x8000_0000 | u32::from(op), input.bytes(op.into())),
            _ => _ = writer.epoch_end(input.bytes(op.into()), (op > 127).then_some(&[1, 2, 3])),
        }
    }
    writer.epoch_end(&[], None);
    let stream = writer.take();
    assert_eq!(any_stream(piece, &stream), Ok(()));
}

/// A stream is given back byte for byte up to the fault, however it is cut, and rebuilt from its batches.
fn any_stream(piece: u8, stream: &[u8]) -> Result<(), StreamError> {
    let whole = parse(stream, usize::MAX);
    let cut = parse(stream, usize::from(piece) * 17 + 1);
    assert_eq!(whole.marks, cut.marks);
    assert_eq!(whole.result, cut.result);
    assert!(stream.starts_with(&whole.bytes) && stream.starts_with(&cut.bytes));
    assert!(whole.result.is_err() || stream.len() - whole.bytes.len() < 4096);
    round_trip(stream, usize::from(piece) * 17 + 1);
    whole.result
}

struct Parsed {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
    result: Result<(), StreamError>,
}

fn parse(stream: &[u8], piece: usize) -> Parsed {
    let (mut parser, mut bytes, mut marks) = (Parser::new(), Vec::new(), Vec::new());
    let result = stream.chunks(piece).try_for_each(|piece| {
        parser.feed(piece, |item| match item {
            Item::Bytes(more) => bytes.extend_from_slice(more),
            Item::Page { page, .. } => bytes.extend_from_slice(page),
            Item::Mark(mark) => {
                assert_eq!(mark.end, bytes.len() as u64);
                marks.push(mark);
            }
        })
    });
    Parsed { bytes, marks, result }
}

fn round_trip(stream: &[u8], piece: usize) {
    let mut encoder = Encoder::new(SHADOW_PAGES);
    let mut rebuilder = Rebuilder::new(SHADOW_PAGES);
    let (mut rebuilt, mut checked) = (Vec::new(), 0);
    for piece in stream.chunks(piece) {
        let fed = encoder.feed(piece, |output| match output {
            Output::Batch(batch) => {
                rebuilder.apply(batch, |bytes| rebuilt.extend_from_slice(bytes)).expect("our own batch");
            }
            Output::Epoch(epoch) => {
                rebuilder.finish_epoch(check(epoch)).expect("our own epoch");
                assert_eq!(rebuilt.len() as u64, epoch.end);
            }
            Output::Mark(mark) => assert_eq!(rebuilt.len() as u64, mark.end),
        });
        assert_eq!(stream.get(checked..rebuilt.len()), rebuilt.get(checked..));
        checked = rebuilt.len();
        if fed.is_err() {
            return;
        }
    }
    assert_eq!(encoder.shadow().held(), rebuilder.shadow().held());
    assert!(encoder.shadow().held() <= SHADOW_PAGES);
}

fn check(epoch: &EpochSummary) -> EpochCheck {
    EpochCheck { stream_bytes: epoch.stream_bytes, digest: epoch.digest, pages: epoch.pages }
}

/// Batches from a primary that lies, behind a good start: no panic, and no epoch out of nothing.
fn hostile_batches(input: &mut Input<'_>) {
    let mut rebuilder = Rebuilder::new(SHADOW_PAGES);
    let mut encoder = Encoder::new(SHADOW_PAGES);
    let start = StreamWriter::new().start(b"{}", Guest::Hvm, 3).take();
    let mut rebuilt = 0_u64;
    let fed = encoder.feed(&start, |output| {
        if let Output::Batch(batch) = output {
            rebuilder.apply(batch, |bytes| rebuilt += bytes.len() as u64).expect("our own batch");
        }
    });
    fed.expect("our own start");
    while !input.is_empty() {
        let length = usize::from(input.u16());
        let applied = rebuilder.apply(input.bytes(length), |bytes| rebuilt += bytes.len() as u64);
        assert!(applied.is_err() || rebuilder.offset() == rebuilt);
        assert!(rebuilder.shadow().held() <= SHADOW_PAGES);
    }
    let lie = EpochCheck { stream_bytes: rebuilt, digest: input.u64(), pages: 0 };
    assert!(rebuilder.finish_epoch(lie).is_err());
    assert!(rebuilder.apply(&[], |_| ()).is_err(), "a rebuilder that has failed stays so");
}
