//! Work in pieces, and the clock.

use std::time::Instant;

/// What is measured.
pub(super) struct Subject {
    /// Ours begin with `llm`.
    pub(super) name: &'static str,
    /// Does a piece, by its number, and returns the bytes that came out.
    pub(super) piece: Box<dyn FnMut(usize) -> usize>,
}

/// A subject of this name.
pub(super) fn subject(name: &'static str, piece: impl FnMut(usize) -> usize + 'static) -> Subject {
    Subject { name, piece: Box::new(piece) }
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    /// Nanoseconds of all pieces, each at its best.
    pub(super) ns: f64,
    /// Bytes that came out of all pieces.
    pub(super) out: f64,
}

/// Runs all subjects in turn, `rounds` times, and keeps the best time of each for every piece: what disturbs the machine then
/// spoils few of them.
pub(super) fn measure(subjects: &mut [Subject], pieces: usize, rounds: usize) -> Vec<Figure> {
    let mut best = vec![vec![f64::MAX; pieces]; subjects.len()];
    let mut out = vec![0; subjects.len()];
    for _ in 0..rounds.max(1) {
        for ((subject, best), out) in subjects.iter_mut().zip(&mut best).zip(&mut out) {
            *out = 0;
            for (number, best) in best.iter_mut().enumerate() {
                let begin = Instant::now();
                *out += (subject.piece)(number);
                *best = best.min(begin.elapsed().as_secs_f64() * 1e9);
            }
        }
    }
    let figures = best.iter().zip(&out).map(|(best, out)| Figure { ns: best.iter().sum(), out: *out as f64 });
    figures.collect()
}
