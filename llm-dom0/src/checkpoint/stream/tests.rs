//! The parser against synthetic streams, cut and damaged in every way.

use super::*;
use proptest::prelude::*;

const CONFIG: &[u8] = br#"{"c_info":{"name":"g"}}"#;

fn page(byte: u8) -> Page {
    std::array::from_fn(|i| byte ^ (i % 251) as u8)
}

/// What a parser made of a stream: the bytes again, the pages with their offsets, the marks.
#[derive(Debug, Default, Eq, PartialEq)]
struct Seen {
    bytes: Vec<u8>,
    pages: Vec<(u64, usize)>,
    marks: Vec<Mark>,
}

impl Seen {
    fn take(&mut self, item: Item<'_>) {
        match item {
            Item::Bytes(bytes) => self.bytes.extend(bytes),
            Item::Page { pfn, page } => {
                self.pages.push((pfn, self.bytes.len()));
                self.bytes.extend(page);
            }
            Item::Mark(mark) => {
                assert_eq!(mark.end, self.bytes.len() as u64);
                self.marks.push(mark);
            }
        }
    }
}

fn parse(stream: &[u8], pieces: &[usize]) -> (Seen, Result<(), StreamError>) {
    let (mut parser, mut seen, mut rest) = (Parser::new(), Seen::default(), stream);
    let mut pieces = pieces.iter().cycle();
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(pieces.next().map_or(rest.len(), |&n| n.clamp(1, rest.len())));
        rest = tail;
        if let Err(error) = parser.feed(piece, |item| seen.take(item)) {
            assert_eq!(parser.feed(&[0; 9], |_| panic!("an item after an error")), Err(error));
            return (seen, Err(error));
        }
        assert!(parser.offset() >= seen.bytes.len() as u64);
    }
    (seen, Ok(()))
}

fn refused(stream: &[u8]) -> (Layer, Fault, u64) {
    let error = parse(stream, &[]).1.expect_err("the stream must be refused");
    assert!(error.to_string().starts_with("The "), "{error}");
    (error.layer, error.fault, error.offset)
}

fn remus() -> Vec<u8> {
    let mut w = StreamWriter::new();
    w.start(CONFIG, Guest::Hvm, 3);
    w.pages([(1, Some(&page(1))), (2, None), (0xf_efff, Some(&page(3)))]);
    w.pages([(9, None)]);
    w.libxc_record(libxc::LAST, &[5; 13]).epoch_end(&[7; 21], None);
    w.pages([(2, Some(&page(9)))]).epoch_end(&[8; 16], Some(&[4; 100]));
    w.take()
}

#[test]
fn a_remus_stream_gives_pages_and_marks() {
    let stream = remus();
    let (seen, result) = parse(&stream, &[]);
    assert_eq!(result, Ok(()));
    assert_eq!(seen.bytes, stream);
    let pfns: Vec<u64> = seen.pages.iter().map(|page| page.0).collect();
    assert_eq!(pfns, [1, 0xf_efff, 2]);
    assert_eq!(seen.pages[0].1 % 8, 3, "the preamble's data is not padded");
    let kinds: Vec<MarkKind> = seen.marks.iter().map(|mark| mark.kind).collect();
    use MarkKind::{Checkpoint, Epoch, Preamble};
    assert_eq!(kinds, [Preamble, Checkpoint, Epoch, Checkpoint, Epoch]);
    assert_eq!(seen.marks[0].end, 48 + 4 + CONFIG.len() as u64);
    // Without a device model CHECKPOINT_END is the next record.
    assert_eq!(seen.marks[2].end, seen.marks[1].end + 8);
    assert_eq!(seen.marks[4].end, seen.marks[3].end + 8 + 8 + 104 + 8);
    assert_eq!(seen.marks[4].end, stream.len() as u64);
}

#[test]
fn a_saved_stream_ends() {
    for (guest, version) in [(Guest::Pv, 2), (Guest::Hvm, 3)] {
        let mut w = StreamWriter::new();
        w.start(&[], guest, version).pages([(1, Some(&page(1)))]).end(&[1; 9]);
        let mut stream = w.take();
        let (seen, result) = parse(&stream, &[1]);
        assert_eq!((seen.bytes.len(), result), (stream.len(), Ok(())));
        assert_eq!(seen.marks.last().map(|mark| mark.kind), Some(MarkKind::Stream));
        stream.push(0);
        assert_eq!(refused(&stream).1, Fault::AfterEnd);
    }
}

#[test]
fn whole_pages_are_borrowed() {
    let stream = remus();
    let range = stream.as_ptr_range();
    Parser::new()
        .feed(&stream, |item| match item {
            Item::Page { page, .. } => assert!(range.contains(&page.as_ptr())),
            Item::Bytes(bytes) => assert!(range.contains(&bytes.as_ptr())),
            Item::Mark(_) => {}
        })
        .unwrap();
}

#[test]
fn knows_when_an_epoch_has_just_ended() {
    let stream = remus();
    let (seen, _) = parse(&stream, &[]);
    let ends: Vec<u64> = seen.marks.iter().filter(|m| m.kind == MarkKind::Epoch).map(|m| m.end).collect();
    let mut parser = Parser::new();
    for byte in stream.chunks(1) {
        parser.feed(byte, |_| ()).unwrap();
        assert_eq!(parser.at_epoch_end(), ends.contains(&parser.offset()), "{}", parser.offset());
    }
}

#[test]
fn optional_records_pass_and_mandatory_ones_do_not() {
    let start = |w: &mut StreamWriter| {
        w.start(CONFIG, Guest::Hvm, 3);
    };
    let mut w = StreamWriter::new();
    start(&mut w);
    w.libxc_record(0x8000_0042, &[1; 5]).libxc_record(0x8000_0043, &[]);
    w.libxc_record(libxc::CHECKPOINT, &[]);
    w.libxl_record(0x8000_0001, &[1; 5]).libxl_record(0x8000_0001, &[]);
    w.libxl_record(libxl::CHECKPOINT_END, &[]);
    let stream = w.take();
    let (seen, result) = parse(&stream, &[7]);
    assert_eq!((seen.bytes, result), (stream, Ok(())));

    start(&mut w);
    let at = w.clone().take().len() as u64 + 8;
    w.libxc_record(0x13, &[]);
    assert_eq!(refused(&w.take()), (Layer::Libxc, Fault::UnknownRecord(0x13), at));
    start(&mut w);
    w.libxc_record(libxc::CHECKPOINT, &[]).libxl_record(6, &[]);
    assert_eq!(refused(&w.take()), (Layer::Libxl, Fault::UnknownRecord(6), at + 8));
}

#[test]
fn records_out_of_place_are_refused() {
    use layout::{libxc, libxl};
    let refuses = |build: &dyn Fn(&mut StreamWriter), layer, record| {
        let mut w = StreamWriter::new();
        w.start(CONFIG, Guest::Hvm, 3);
        build(&mut w);
        let (got, fault, _) = refused(&w.take());
        assert_eq!((got, fault), (layer, Fault::MisplacedRecord(record)));
    };
    let checkpoint = |w: &mut StreamWriter, record| {
        w.libxc_record(libxc::CHECKPOINT, &[]).libxl_record(record, &[]);
    };
    refuses(&|w| checkpoint(w, libxl::END), Layer::Libxl, libxl::END);
    refuses(&|w| checkpoint(w, libxl::LIBXC_CONTEXT), Layer::Libxl, libxl::LIBXC_CONTEXT);
    refuses(&|w| checkpoint(w, libxl::CHECKPOINT_STATE), Layer::Libxl, libxl::CHECKPOINT_STATE);
    let after_end = |w: &mut StreamWriter| {
        w.libxc_record(libxc::END, &[]).libxl_record(libxl::CHECKPOINT_END, &[]);
    };
    refuses(&after_end, Layer::Libxl, libxl::CHECKPOINT_END);
    let colo = libxc::CHECKPOINT_DIRTY_PFN_LIST;
    refuses(&|w| _ = w.libxc_record(colo, &[]), Layer::Libxc, colo);
    let mut w = StreamWriter::new();
    w.preamble(&[]).libxl_header().libxl_record(libxl::END, &[]);
    assert_eq!(refused(&w.take()).1, Fault::MisplacedRecord(libxl::END));
}

#[test]
fn lengths_and_counts_are_limited() {
    let start = || {
        let mut w = StreamWriter::new();
        w.start(CONFIG, Guest::Hvm, 3);
        w.take()
    };
    let libxc = |words: &[u32]| {
        let mut stream = start();
        stream.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        refused(&stream).1
    };
    let too_long = MAX_RECORD + 1;
    let length = |record, length, min, max| Fault::Length { record, length, min, max };
    assert_eq!(libxc(&[9, too_long]), length(9, too_long, 0, MAX_RECORD));
    assert_eq!(libxc(&[0x8000_0001, u32::MAX]), length(0x8000_0001, u32::MAX, 0, MAX_RECORD));
    assert_eq!(libxc(&[1, 8]), length(1, 8, 16, MAX_RECORD));
    assert_eq!(libxc(&[0xe, 8]), length(0xe, 8, 0, 0));
    assert_eq!(libxc(&[1, 16, 0, 0]), Fault::PageCount(0));
    assert_eq!(libxc(&[1, 16, MAX_BATCH + 1, 0]), Fault::PageCount(MAX_BATCH + 1));
    // One page announced, but no room for its contents; and none announced, but room.
    assert_eq!(libxc(&[1, 16, 1, 0, 5, 0]), length(1, 16, 16 + 4096, 16 + 4096));
    assert_eq!(libxc(&[1, 16 + 4096, 1, 0, 5, 0xf << 28]), length(1, 16 + 4096, 16, 16));
    assert_eq!(libxc(&[1, 16 + 4096, 1, 0, 5, 6 << 28]), Fault::PageType { pfn: 5, kind: 6 });
    assert_eq!(libxc(&[0xe, 0, 3, 7]), length(3, 7, 8, MAX_RECORD));
    let mut stream = remus();
    stream[44..48].copy_from_slice(&(MAX_CONFIG + 1).to_le_bytes());
    assert_eq!(refused(&stream).1, length(0, MAX_CONFIG + 1, 0, MAX_CONFIG));
}

#[test]
fn headers_are_checked() {
    let base = 48 + 4 + CONFIG.len();
    let image = base + 16 + 8;
    let with = |at: usize, bytes: &[u8]| {
        let mut stream = remus();
        stream[at..at + bytes.len()].copy_from_slice(bytes);
        refused(&stream)
    };
    assert_eq!(with(0, b"x"), (Layer::Preamble, Fault::Identification, 48));
    assert_eq!(with(32, &[1, 2, 3, 4]).1, Fault::BigEndian);
    assert_eq!(with(36, &[7]).1, Fault::Flags(4));
    assert_eq!(with(36, &[1]).1, Fault::Legacy);
    assert_eq!(with(base, b"x").1, Fault::Identification);
    assert_eq!(with(base + 11, &[3]).1, Fault::Version { got: 3, min: 2, max: 2 });
    assert_eq!(with(base + 15, &[1]).1, Fault::BigEndian);
    assert_eq!(with(image, &[0]), (Layer::Libxc, Fault::Identification, image as u64 + 24));
    assert_eq!(with(image + 8, b"Y").1, Fault::Identification);
    assert_eq!(with(image + 15, &[4]).1, Fault::Version { got: 4, min: 2, max: 3 });
    assert_eq!(with(image + 17, &[1]).1, Fault::BigEndian);
    assert_eq!(with(image + 24, &[3]).1, Fault::GuestType(3));
    assert_eq!(with(image + 28, &[14]).1, Fault::PageShift(14));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pieces_do_not_matter(pieces in prop::collection::vec(1_usize..9000, 1..20)) {
        let stream = remus();
        let whole = parse(&stream, &[]);
        prop_assert_eq!(parse(&stream, &pieces), whole);
    }

    #[test]
    fn damage_is_refused_or_passed_on_but_never_altered(
        at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<prop::sample::Index>(),
        pieces in prop::collection::vec(1_usize..5000, 1..5)
    ) {
        let mut stream = remus();
        let at = at.index(stream.len());
        stream[at] ^= 1 << bit;
        stream.truncate(cut.index(stream.len()) + 1);
        let (seen, result) = parse(&stream, &pieces);
        prop_assert!(stream.starts_with(&seen.bytes));
        // A page cut off by the end is still inside the parser.
        prop_assert!(result.is_err() || stream.len() - seen.bytes.len() < PAGE);
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 48..200)) {
        prop_assert!(parse(&noise, &[3]).1.is_err());
    }
}
