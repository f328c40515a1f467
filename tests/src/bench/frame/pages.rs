//! A page in a frame: header and checksum, at both ends.

use std::hint::black_box;
use std::rc::Rc;

use llm_core::frame::{HEADER, Header, Kind, Parser, encode_header, encode_header_with};
use llm_core::page::{Density, Encoder, MAX_RECORD, PAGE, Page};
use llm_dom0::checkpoint::width;
use llm_dom0::digest::digest;

use super::clock::{Subject, subject};

/// Frames between two looks at the clock.
pub(super) const PIECE: usize = 128;
/// Pieces: with `PIECE`, more memory than caches hold.
pub(super) const PIECES: usize = 96;
const FRAME: usize = HEADER + PAGE;

/// Frames of a page each, one behind the other.
pub(super) struct Frames {
    stream: Rc<Vec<u8>>,
    pages: Rc<Vec<[Page; 2]>>,
    /// Frames that are used again and again.
    frames: usize,
}

impl Frames {
    /// Of the new pages of these pairs; `frames` of them, so that they are in the cache or are not.
    pub(super) fn new(pairs: &[[Page; 2]], frames: usize) -> Self {
        let pages: Vec<[Page; 2]> = pairs.iter().cycle().take(frames).copied().collect();
        let mut stream = Vec::with_capacity(frames * FRAME);
        for (seq, [_, page]) in pages.iter().enumerate() {
            stream.extend(encode_header_with(digest, Kind::BATCH, 0, seq as u64, page));
            stream.extend(page);
        }
        Self { stream: stream.into(), pages: pages.into(), frames }
    }

    /// Whose header and page a piece looks at.
    fn each<F>(&self, mut look: F) -> impl FnMut(usize) -> usize + use<F>
    where
        F: FnMut(&[u8; HEADER], &Page) -> usize + 'static,
    {
        let (stream, count) = (Rc::clone(&self.stream), self.frames);
        move |piece| {
            let frames = stream.as_chunks::<FRAME>().0;
            let at = |i: usize| &frames[(piece * PIECE + i) % count];
            let both = (0..PIECE).filter_map(|i| at(i).split_first_chunk::<HEADER>());
            both.map(|(head, page)| look(head, page.first_chunk().expect("a page"))).sum()
        }
    }

    /// The roofs, ours, and other checksums.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        let mut subjects = vec![
            subject("memcpy", {
                let mut ring = vec![0; 256 << 10];
                let mut at = 0;
                self.each(move |_, page| {
                    at = if at + 2 * PAGE > ring.len() { 0 } else { at + PAGE };
                    ring[at..at + PAGE].copy_from_slice(black_box(page));
                    PAGE
                })
            }),
            subject("llm: header and checksum read", {
                self.each(|head, page| {
                    let header = Header::parse(head).expect("a header");
                    assert!(header.payload_digest == digest(page));
                    PAGE
                })
            }),
            subject("llm: header and checksum made", {
                self.each(|_, page| black_box(encode_header_with(digest, Kind::BATCH, 0, 7, page)).len())
            }),
            subject("llm: header and checksum made, portable", {
                self.each(|_, page| black_box(encode_header(Kind::BATCH, 0, 7, page)).len())
            }),
            subject(
                "llm: header alone",
                self.each(|head, _| Header::parse(black_box(head)).map_or(0, |h| h.len as usize)),
            ),
            subject("llm: parser, fed by copies", self.parser()),
            subject("crc32c", self.each(|_, page| black_box(crc32c::crc32c(page)) as usize & 1)),
            subject("twox-hash: XXH3, its best width", {
                self.each(|_, page| black_box(twox_hash::XxHash3_64::oneshot(page)) as usize & 1)
            }),
        ];
        for features in width::available().into_iter().chain([llm_core::page::Features::PORTABLE]) {
            let name = match features.name() {
                "avx512" => "llm: page encoded, avx512",
                "avx2" => "llm: page encoded, avx2",
                _ => "llm: page encoded, portable",
            };
            subjects.push(subject(name, {
                let (pages, count) = (Rc::clone(&self.pages), self.frames);
                let mut encoder = Box::new(Encoder::new(features, Density::Fast));
                let mut out = Box::new([0; MAX_RECORD]);
                move |piece| {
                    let at = |i: usize| &pages[(piece * PIECE + i) % count];
                    (0..PIECE)
                        .map(at)
                        .map(|[old, new]| encoder.encode(Some(old), new, None, &mut out).len)
                        .sum()
                }
            }));
        }
        subjects
    }

    /// The parser as a connection's reader uses it: a socket's copy, here by `push`, and then frames.
    fn parser(&self) -> impl FnMut(usize) -> usize + use<> {
        let (stream, count) = (Rc::clone(&self.stream), self.frames);
        let mut parser = Parser::new(vec![0; 128 << 10], PAGE).expect("large enough").checked_by(digest);
        move |piece| {
            // Whole pieces, wherever they begin.
            let mut bytes = 0;
            let mut left = PIECE;
            while left > 0 {
                let from = (piece * PIECE + PIECE - left) % count;
                let frames = left.min(count - from);
                let mut input = &stream[from * FRAME..(from + frames) * FRAME];
                left -= frames;
                while !input.is_empty() {
                    parser.push(&mut input);
                    while let Some(frame) = parser.next_frame().expect("good frames") {
                        bytes += black_box(frame.payload).len();
                    }
                }
            }
            bytes
        }
    }
}
