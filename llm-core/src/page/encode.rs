//! Writes page records.

use super::scan::{Features, collect, finish, is_zero};
use super::sections::{Filled, Sections, update};
use super::{Density, Encoded, Kind, MAX_RECORD, Next, PAGE, Page, ZEROS};

/// Encodes pages one after the other.
///
/// Holds 12 KiB to work in and nothing between two pages: each record depends on its own page only.
#[derive(Clone, Debug)]
pub struct Encoder {
    features: Features,
    density: Density,
    sections: Sections,
}

impl Encoder {
    /// An encoder that uses these instructions, set to this density.
    #[must_use]
    pub const fn new(features: Features, density: Density) -> Self {
        Self { features, density, sections: Sections::NEW }
    }

    /// Encodes `new` into the front of `out`, against `old` if there is an old copy. `next`, if known, is fetched from
    /// memory meanwhile.
    ///
    /// The receiver must hold the same old copy. The record is never longer than
    /// the page and its kind byte; bytes of `out` behind it are left unspecified.
    pub fn encode(
        &mut self,
        old: Option<&Page>,
        new: &Page,
        next: Option<Next<'_>>,
        out: &mut [u8; MAX_RECORD],
    ) -> Encoded {
        self.record(old, new, next, out).0
    }

    /// As [`Self::encode`]; and `old` becomes equal to `new`, at less than the cost of a copy.
    pub fn encode_update(
        &mut self,
        old: &mut Page,
        new: &Page,
        next: Option<Next<'_>>,
        out: &mut [u8; MAX_RECORD],
    ) -> Encoded {
        let (encoded, filled) = self.record(Some(old), new, next, out);
        update(filled.lines, old, new);
        encoded
    }

    #[inline]
    fn record(
        &mut self,
        old: Option<&Page>,
        new: &Page,
        next: Option<Next<'_>>,
        out: &mut [u8; MAX_RECORD],
    ) -> (Encoded, Filled) {
        let kind = match (self.density, old) {
            (Density::Fast, Some(_)) => Kind::Diff,
            (Density::Fast, None) => Kind::Sparse,
            (Density::Dense, Some(_)) => Kind::Dense,
            (Density::Dense, None) => Kind::DenseSparse,
        };
        let base = old.unwrap_or(&ZEROS);
        let filled = match self.density {
            Density::Fast => collect::<false>(self.features, base, new, next, &mut self.sections),
            Density::Dense => collect::<true>(self.features, base, new, next, &mut self.sections),
        };
        let (kind, len) = if filled.lines == 0 {
            (if old.is_some() { Kind::Unchanged } else { Kind::Zero }, 1)
        } else if filled.word_codes + filled.literals == 0 && old.is_some() && is_zero(new) {
            (Kind::Zero, 1)
        } else if let Some(len) = finish(self.features, &filled, kind, new, next, &mut self.sections, out) {
            return (Encoded { kind, len }, filled);
        } else {
            out[1..].copy_from_slice(new);
            (Kind::Raw, 1 + PAGE)
        };
        out[0] = kind as u8;
        (Encoded { kind, len }, filled)
    }
}

/// Encodes one page as an [`Encoder`] with [`Features::PORTABLE`] and [`Density::Fast`] does. For many pages, keep an encoder.
pub fn encode(old: Option<&Page>, new: &Page, out: &mut [u8; MAX_RECORD]) -> Encoded {
    Encoder::new(Features::PORTABLE, Density::Fast).encode(old, new, None, out)
}
