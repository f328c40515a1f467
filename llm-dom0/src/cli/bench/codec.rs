//! What the work on pages costs here.

use std::hint::black_box;
use std::time::Instant;

use llm_core::page::{self, Density, Encoder, Features, MAX_RECORD, PAGE, Page};
use serde::Serialize;

use crate::checkpoint::width;
use crate::digest::digest;

/// Times that each measure is taken; the best counts.
const ROUNDS: usize = 5;

/// Times of one page, in nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Codec {
    /// Pages that were measured with.
    pub(super) pages: usize,
    /// Bytes of a page's record.
    pub(super) bytes_per_page: f64,
    /// Copying the page.
    pub(super) copy_ns: f64,
    /// The checksum of its 4096 bytes.
    pub(super) checksum_ns: f64,
    /// Decoding onto the old copy.
    pub(super) decode_ns: f64,
    /// Encoding, by each width that this processor has.
    pub(super) encode: Vec<Width>,
}

/// Encoding with one kind of registers.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Width {
    /// `portable` or `avx2`.
    pub(super) name: &'static str,
    /// A page's time.
    pub(super) ns: f64,
    /// Whether `llm protect` takes this one here.
    pub(super) used: bool,
}

impl Codec {
    /// Encoding as `llm protect` does it here.
    pub(super) fn encode_ns(&self) -> f64 {
        self.encode.iter().find(|width| width.used).map_or(f64::INFINITY, |width| width.ns)
    }
}

/// Measures with so many old and as many new pages, made here.
pub(super) fn measure(pages: usize) -> Codec {
    let (old, new) = pairs(pages);
    let mut copy = old.clone();
    let mut record = Box::new([0; MAX_RECORD]);
    let per_page = |seconds: f64| seconds * 1e9 / pages as f64;
    let copy_ns = per_page(best(|| copy.copy_from_slice(black_box(&new))));
    let checksum_ns = per_page(best(|| {
        for page in &new {
            black_box(digest(page));
        }
    }));
    let used = width::features();
    let widths = [Features::PORTABLE].into_iter().chain(width::available());
    let encode = widths
        .map(|features| {
            let mut encoder = Box::new(Encoder::new(features, Density::Fast));
            let seconds = best(|| {
                for (old, new) in old.iter().zip(&new) {
                    black_box(encoder.encode(Some(old), new, None, &mut record));
                }
            });
            Width { name: features.name(), ns: per_page(seconds), used: features == used }
        })
        .collect();
    let mut encoder = Box::new(Encoder::new(used, Density::Fast));
    let (mut records, mut ends) = (Vec::new(), Vec::with_capacity(pages));
    for (old, new) in old.iter().zip(&new) {
        let len = encoder.encode(Some(old), new, None, &mut record).len;
        records.extend_from_slice(record.get(..len).unwrap_or_default());
        ends.push(records.len());
    }
    let decode_ns = per_page(best(|| {
        let mut start = 0;
        for (page, end) in copy.iter_mut().zip(&ends) {
            let _ =
                black_box(page::decode_with(used, records.get(start..*end).unwrap_or_default(), page, true));
            start = *end;
        }
    }));
    let bytes_per_page = records.len() as f64 / pages as f64;
    Codec { pages, bytes_per_page, copy_ns, checksum_ns, decode_ns, encode }
}

/// Seconds of the quickest run.
fn best(mut run: impl FnMut()) -> f64 {
    let times = (0..ROUNDS).map(|_| {
        let begin = Instant::now();
        run();
        begin.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// Pages as a busy guest changes them: most in few places, some in many, some not at all, some filled anew.
fn pairs(pages: usize) -> (Vec<Page>, Vec<Page>) {
    let mut state = 1_u64;
    let mut chance = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let (mut old, mut new) = (Vec::with_capacity(pages), Vec::with_capacity(pages));
    for number in 0..pages {
        let mut page = [0; PAGE];
        for word in page.as_chunks_mut::<8>().0 {
            let value = match chance(4) {
                0 => 0,
                1 => chance(1000),
                _ => 0xffff_8880_0000_0000 | chance(1 << 30),
            };
            *word = value.to_le_bytes();
        }
        old.push(page);
        let changes = match number % 10 {
            0 => 0,
            1..=6 => 1 + chance(6),
            7 | 8 => 60 + chance(120),
            _ => 512,
        };
        for _ in 0..changes {
            let words = page.as_chunks_mut::<8>().0;
            if let Some(word) = words.get_mut(chance(512) as usize) {
                *word = chance(1 << 30).to_le_bytes();
            }
        }
        new.push(page);
    }
    (old, new)
}
