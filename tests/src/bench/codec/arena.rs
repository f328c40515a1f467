//! Page pairs in more memory than the caches hold, and the clock.

use std::time::Instant;

use llm_core::page::{PAGE, Page};

use crate::bench::corpus::Workload;

/// A page where a guest has it: at a multiple of its size.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
pub(super) struct Aligned(pub(super) Page);

/// Old and new pages of one workload, the same ones again and again.
#[derive(Debug)]
pub(super) struct Arena {
    /// The old copies. A pass that changes them has it said by [`Subject::changes`].
    pub(super) old: Vec<Aligned>,
    /// The new pages.
    pub(super) new: Vec<Aligned>,
    /// The old copies once more, to compare with.
    pub(super) same: Vec<Aligned>,
    /// Where in the three each pair is.
    pub(super) at: Vec<u32>,
}

impl Arena {
    /// `pages` pairs of a workload; with `gaps`, a third of the memory between them is used.
    #[must_use]
    pub(super) fn new(pairs: &[[Page; 2]], pages: usize, gaps: bool) -> Self {
        let mut state = 1_u32;
        let mut end = 0;
        let at: Vec<u32> = (0..pages)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = end + if gaps { state >> 16 } else { 0 } % 5;
                end = at + 1;
                at
            })
            .collect();
        let mut new = vec![Aligned([0; PAGE]); end as usize];
        let mut old = new.clone();
        for (at, [was, is]) in at.iter().zip(pairs.iter().cycle()) {
            old[*at as usize].0 = *was;
            new[*at as usize].0 = *is;
        }
        Self { same: old.clone(), old, new, at }
    }

    /// Puts the old copies back.
    pub(super) fn restore(&mut self) {
        self.old.copy_from_slice(&self.same);
    }
}

/// What is measured: an encoder, a decoder, a roof.
pub(super) struct Subject {
    /// Ours begin with `llm`.
    pub(super) name: &'static str,
    /// Registers used: `portable`, `avx2`, or empty if the subject chooses itself.
    pub(super) width: &'static str,
    /// Whether a pass changes the old copies.
    pub(super) changes: bool,
    /// Every how many pieces one is taken: more than 1 for what is slow.
    pub(super) stride: usize,
    /// Handles the pages at these places, and returns the bytes that came out.
    #[expect(clippy::type_complexity, reason = "it is said here what it is")]
    pub(super) pass: Box<dyn FnMut(&mut Arena, &[u32]) -> usize>,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    /// Of the quickest pass.
    pub(super) ns_per_page: f64,
    /// Bytes out for each byte in.
    pub(super) out_per_in: f64,
}

/// Pages between two looks at the clock: what disturbs the machine then spoils few of them.
pub(super) const PIECE: usize = 128;

/// Runs all subjects in turn, `rounds` times, and keeps the best time of each for every `piece_len` pages.
pub(super) fn measure(
    arena: &mut Arena,
    subjects: &mut [Subject],
    rounds: usize,
    piece_len: usize,
) -> Vec<Figure> {
    let places = arena.at.clone();
    let mut best: Vec<Vec<f64>> =
        subjects.iter().map(|s| vec![f64::MAX; places.len().div_ceil(piece_len * s.stride)]).collect();
    let mut figures = vec![Figure { ns_per_page: 0.0, out_per_in: 0.0 }; subjects.len()];
    for _ in 0..rounds.max(1) {
        for ((subject, best), figure) in subjects.iter_mut().zip(&mut best).zip(&mut figures) {
            let (mut bytes, mut pages, mut ns) = (0, 0, 0.0);
            // Slow subjects take some of the pieces only.
            for (piece, best) in places.chunks(piece_len).step_by(subject.stride).zip(best) {
                let begin = Instant::now();
                bytes += (subject.pass)(arena, piece);
                *best = best.min(begin.elapsed().as_secs_f64() * 1e9);
                ns += *best;
                pages += piece.len();
            }
            if subject.changes {
                arena.restore();
            }
            figure.ns_per_page = ns / pages as f64;
            figure.out_per_in = bytes as f64 / (pages * PAGE) as f64;
        }
    }
    figures
}

/// Pages of the workload's first copy that are not zero, against a page of zeros.
#[must_use]
pub(super) fn fresh(workload: &Workload, zero: bool) -> Vec<[Page; 2]> {
    let is_zero = |page: &&Page| page.iter().all(|b| *b == 0) == zero;
    workload.fresh.iter().filter(is_zero).map(|page| [[0; PAGE], *page]).collect()
}
