//! Checksums of frames and digests of pages and epochs: XXH3, one portable
//! implementation for every build (no CPU detection, equal results everywhere).
//!
//! They find accidents, not attackers: authenticity is the link's business.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// XXH3-64 of `bytes`, seed 0.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// XXH3-64 of a byte string that arrives in pieces; equal to [`digest`] of the whole.
#[derive(Clone, Default)]
pub struct Digest(Xxh3);

impl Digest {
    /// An empty digest.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything taken in so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.digest()
    }
}

impl core::fmt::Debug for Digest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Digest({:016x})", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_equal_the_whole() {
        let bytes: [u8; 1000] = core::array::from_fn(|i| (i * 7) as u8);
        let mut d = Digest::new();
        for piece in bytes.chunks(37) {
            d.update(piece);
        }
        assert_eq!(d.value(), digest(&bytes));
        assert_ne!(digest(&bytes[1..]), digest(&bytes));
    }
}
