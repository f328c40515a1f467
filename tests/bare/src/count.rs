//! Instructions that a width takes for a page, by a counter of an emulator.

use core::fmt;
use llm_core::page::{Density, Encoder, Features, MAX_RECORD, decode_with};

use crate::pairs::of_guests;

/// What one kind of work took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    width: &'static str,
    work: &'static str,
    /// Over all pairs of guests.
    instructions: u64,
    pairs: u64,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.instructions / self.pairs.max(1);
        write!(f, "instructions {each} a page, {}, {}", self.work, self.width)
    }
}

/// Encodes the committed pages of guests, decodes the records, and counts both.
pub fn all(features: Features, counter: fn() -> u64) -> impl Iterator<Item = Counted> {
    encoded(features, counter).into_iter().chain([decoded(features, counter)])
}

fn decoded(features: Features, counter: fn() -> u64) -> Counted {
    let mut encoder = Encoder::new(Features::PORTABLE, Density::Fast);
    let (mut record, mut instructions) = ([0; MAX_RECORD], 0);
    for [old, new] in of_guests() {
        let mut page = *old;
        encoder.encode(Some(old), new, None, &mut record);
        let start = counter();
        let _ = decode_with(features, &record, &mut page, true);
        instructions += counter().wrapping_sub(start);
    }
    Counted { width: features.name(), work: "decoded", instructions, pairs: of_guests().len() as u64 }
}

fn encoded(features: Features, counter: fn() -> u64) -> [Counted; 4] {
    let works = [
        ("fast", Density::Fast, true),
        ("dense", Density::Dense, true),
        ("fresh", Density::Fast, false),
        ("fresh, dense", Density::Dense, false),
    ];
    works.map(|(work, density, has_old)| {
        let mut encoder = Encoder::new(features, density);
        let mut out = [0; MAX_RECORD];
        let start = counter();
        for [old, new] in of_guests() {
            encoder.encode(has_old.then_some(old), new, None, &mut out);
        }
        let instructions = counter().wrapping_sub(start);
        Counted { width: features.name(), work, instructions, pairs: of_guests().len() as u64 }
    })
}
