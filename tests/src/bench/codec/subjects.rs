//! What is measured: roofs, ours, and what others use.

use std::hint::black_box;

use llm_core::page::{self, Density, Encoder, Features, MAX_RECORD, Next, PAGE, Page};
use llm_dom0::checkpoint::width;

use super::arena::{Aligned, Arena, Subject};
use super::xbzrle;

/// Bytes of the buffer that records go into, as large as a batch.
const RING: usize = 256 << 10;

/// Where records go: from the front again when it is full.
struct Ring {
    bytes: Box<[u8]>,
    at: usize,
}

impl Ring {
    fn new() -> Self {
        Self { bytes: vec![0; RING].into(), at: 0 }
    }

    fn room<const N: usize>(&mut self) -> &mut [u8; N] {
        if self.at + N > RING {
            self.at = 0;
        }
        self.bytes[self.at..].first_chunk_mut().expect("there is room")
    }
}

pub(super) fn subject(
    name: &'static str,
    width: &'static str,
    stride: usize,
    pass: impl FnMut(&mut Arena, &[u32]) -> usize + 'static,
) -> Subject {
    Subject { name, width, changes: false, stride, pass: Box::new(pass) }
}

/// A subject that takes one pair after the other and writes at most `N` bytes for each.
fn encoder<const N: usize>(
    name: &'static str,
    width: &'static str,
    stride: usize,
    mut encode: impl FnMut(&Page, &Page, &mut [u8; N]) -> usize + 'static,
) -> Subject {
    let mut ring = Ring::new();
    subject(name, width, stride, move |arena, at| {
        let mut bytes = 0;
        for &at in at {
            let at = at as usize;
            let len = encode(&arena.old[at].0, &arena.new[at].0, ring.room());
            ring.at += len;
            bytes += len;
        }
        bytes
    })
}

/// XBZRLE; a page that would grow goes as it is.
fn xbzrle(old: &Page, new: &Page, out: &mut [u8; PAGE]) -> usize {
    xbzrle::encode(old, new, out).unwrap_or_else(|| {
        *out = *new;
        PAGE
    })
}

pub(super) fn xor(old: &Page, new: &Page) -> Page {
    std::array::from_fn(|i| old[i] ^ new[i])
}

/// Of a page compressed by itself; one that would grow goes as it is.
fn shorter(compressed: usize) -> usize {
    compressed.min(PAGE)
}

pub(super) fn memcmp() -> Subject {
    subject("memcmp of equal pages", "", 1, |arena, at| {
        for &at in at {
            let at = at as usize;
            black_box(arena.old[at].0 == arena.same[at].0);
        }
        0
    })
}

/// XBZRLE of dirty pages.
pub(super) fn xbzrle_encoder() -> Subject {
    encoder("xbzrle", "", 1, xbzrle)
}

/// Encoders of dirty pages.
pub(super) fn encoders() -> Vec<Subject> {
    let mut subjects = vec![
        memcmp(),
        encoder("memcpy to a ring", "", 1, |_, new, out: &mut [u8; PAGE]| {
            *out = *new;
            PAGE
        }),
        xbzrle_encoder(),
    ];
    for features in widths() {
        subjects.push(ours("llm", features, Density::Fast, true, false));
        subjects.push(ours("llm, next known", features, Density::Fast, true, true));
        subjects.push(ours("llm, dense", features, Density::Dense, true, false));
    }
    subjects.extend(compressors());
    subjects
}

/// General compressors, of the page and of what changed in it.
fn compressors() -> Vec<Subject> {
    const ROOM: usize = 2 * PAGE;
    fn lz4() -> impl FnMut(&Page, &mut [u8; ROOM]) -> usize {
        let mut table = lz4_flex::block::CompressTable::default();
        move |page, out| {
            shorter(lz4_flex::block::compress_into_with_table(page, out, &mut table).unwrap_or(PAGE))
        }
    }
    fn zstd() -> impl FnMut(&Page, &mut [u8; ROOM]) -> usize {
        let mut level1 = zstd::bulk::Compressor::new(1).expect("level 1 exists");
        move |page, out| shorter(level1.compress_to_buffer(page, &mut out[..]).unwrap_or(PAGE))
    }
    let (mut raw_lz4, mut xor_lz4, mut raw_zstd, mut xor_zstd) = (lz4(), lz4(), zstd(), zstd());
    vec![
        encoder("lz4", "", 8, move |_, new, out| raw_lz4(new, out)),
        encoder("xor, lz4", "", 8, move |old, new, out| xor_lz4(&xor(old, new), out)),
        encoder("zstd -1", "", 16, move |_, new, out| raw_zstd(new, out)),
        encoder("xor, zstd -1", "", 16, move |old, new, out| xor_zstd(&xor(old, new), out)),
    ]
}

fn updater<const N: usize>(
    name: &'static str,
    width: &'static str,
    mut encode: impl FnMut(&mut Page, &Page, &mut [u8; N]) -> usize + 'static,
) -> Subject {
    let mut ring = Ring::new();
    let mut subject = subject(name, width, 1, move |arena, at| {
        let mut bytes = 0;
        for &at in at {
            let at = at as usize;
            let len = encode(&mut arena.old[at].0, &arena.new[at].0, ring.room());
            ring.at += len;
            bytes += len;
        }
        bytes
    });
    subject.changes = true;
    subject
}

/// Encoders that bring the old copy up to date.
pub(super) fn updaters() -> Vec<Subject> {
    vec![
        updater("memcpy to the old copy", "", |old, new, _: &mut [u8; 0]| {
            *old = *new;
            PAGE
        }),
        updater("xbzrle", "", |old, new, out| {
            let len = xbzrle(old, new, out);
            *old = *new;
            len
        }),
    ]
    .into_iter()
    .chain(widths().into_iter().map(our_updater))
    .collect()
}

/// What this machine can do, up to the widest.
fn widths() -> Vec<Features> {
    let mut widths = vec![Features::PORTABLE];
    widths.extend(width::available());
    widths
}

/// Panics unless every width makes the same records of these pairs.
pub(super) fn assert_widths_agree(pairs: &[[Page; 2]]) {
    for density in [Density::Fast, Density::Dense] {
        let mut encoders: Vec<_> = widths().into_iter().map(|f| Box::new(Encoder::new(f, density))).collect();
        for [old, new] in pairs {
            let records: Vec<Vec<u8>> = encoders
                .iter_mut()
                .map(|encoder| {
                    let mut record = [0; MAX_RECORD];
                    let len = encoder.encode(Some(old), new, None, &mut record).len;
                    record[..len].to_vec()
                })
                .collect();
            assert!(records.windows(2).all(|two| two[0] == two[1]), "widths make different records");
        }
    }
}

/// Our encoder, with or without old copies, and told of the next pair or not.
fn ours(name: &'static str, features: Features, density: Density, has_old: bool, next: bool) -> Subject {
    let mut encoder = Box::new(Encoder::new(features, density));
    let mut ring = Ring::new();
    subject(name, features.name(), 1, move |arena, places| {
        let mut bytes = 0;
        let pair = |at: &u32| {
            let at = *at as usize;
            Next { old: has_old.then_some(&arena.old[at].0), new: &arena.new[at].0 }
        };
        for (i, at) in places.iter().enumerate() {
            let next = if next { places.get(i + 1).map(pair) } else { None };
            let Next { old, new } = pair(at);
            let len = encoder.encode(old, new, next, ring.room()).len;
            ring.at += len;
            bytes += len;
        }
        bytes
    })
}

fn our_updater(features: Features) -> Subject {
    let mut encoder = Box::new(Encoder::new(features, Density::Fast));
    updater("llm", features.name(), move |old, new, out| encoder.encode_update(old, new, None, out).len)
}

/// A subject that decodes what `encode` made of every distinct pair.
fn decoder(
    name: &'static str,
    width: &'static str,
    mut encode: impl FnMut(&Page, &Page, &mut [u8; MAX_RECORD]) -> usize + 'static,
    mut decode: impl FnMut(&[u8], &mut Page) -> usize + 'static,
) -> Subject {
    let mut records: Vec<u8> = Vec::new();
    // By place: where in `records` the record starts and ends.
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let mut subject = subject(name, width, 1, move |arena, places| {
        if records.is_empty() {
            ranges.resize(arena.old.len(), (0, 0));
            for &at in &arena.at {
                let at = at as usize;
                let mut record = [0; MAX_RECORD];
                let len = encode(&arena.old[at].0, &arena.new[at].0, &mut record);
                ranges[at] = (records.len(), records.len() + len);
                records.extend_from_slice(&record[..len]);
                let mut page = arena.old[at].0;
                decode(&record[..len], &mut page);
                assert!(page == arena.new[at].0, "a page came out as another one");
            }
        }
        let mut bytes = 0;
        for &at in places {
            let Aligned(page) = &mut arena.old[at as usize];
            let (start, end) = ranges[at as usize];
            bytes += black_box(decode(&records[start..end], page));
        }
        bytes
    });
    subject.changes = true;
    subject
}

/// Decoders onto the old copy.
pub(super) fn decoders() -> Vec<Subject> {
    let mut subjects = vec![
        updater("memcpy to the old copy", "", |old, new, _: &mut [u8; 0]| {
            *old = *new;
            PAGE
        }),
        decoder(
            "xbzrle",
            "",
            |old, new, out| xbzrle(old, new, out.first_chunk_mut().expect("a page")),
            |record, page| {
                if let Some(raw) = record.first_chunk::<PAGE>() {
                    *page = *raw;
                } else {
                    assert!(xbzrle::decode(record, page));
                }
                record.len()
            },
        ),
    ];
    for (name, density) in [("llm", Density::Fast), ("llm, dense", Density::Dense)] {
        let wide = width::available().into_iter().filter(|features| features.name() == "avx512");
        let widths = [Features::PORTABLE].into_iter().chain(wide);
        subjects.extend(widths.map(|features| our_decoder(name, density, features)));
    }
    subjects
}

/// Of the widths that have a decoder of their own.
fn our_decoder(name: &'static str, density: Density, features: Features) -> Subject {
    let mut encoder = Box::new(Encoder::new(Features::PORTABLE, density));
    decoder(
        name,
        features.name(),
        move |old, new, out| encoder.encode(Some(old), new, None, out).len,
        move |record, page| page::decode_with(features, record, page, true).expect("our own record"),
    )
}

/// Encoders of pages without an old copy.
pub(super) fn fresh() -> Vec<Subject> {
    let mut subjects = vec![encoder("memcpy to a ring", "", 1, |_, new, out: &mut [u8; PAGE]| {
        *out = *new;
        PAGE
    })];
    subjects.extend(widths().into_iter().map(|features| ours("llm", features, Density::Fast, false, true)));
    subjects.extend(compressors().into_iter().filter(|s| !s.name.starts_with("xor")));
    subjects
}
