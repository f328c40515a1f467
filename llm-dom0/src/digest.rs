//! Digests of frames and of an epoch's bytes, as quick as this processor can make them.

use std::fmt;
use std::hash::Hasher as _;

use twox_hash::XxHash3_64;
use twox_hash::xxhash3_64::Hasher;

/// The value of [`llm_core::checksum::digest`], which is portable, but with AVX2 where there is that.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// [`digest`] of bytes that arrive in pieces. Either end goes over all of a stream with it.
pub(crate) struct Digest(Hasher);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(Hasher::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.finish()
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({:016x})", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_core() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
        for len in [0, 1, 16, 17, 128, 129, 240, 241, 256, 257, 4096, 4104, 20_000] {
            for piece in [1, 37, 256, 4096, 20_000] {
                let mut digest = Digest::new();
                bytes[..len].chunks(piece).for_each(|piece| digest.update(piece));
                assert_eq!(digest.value(), llm_core::checksum::digest(&bytes[..len]), "{len} by {piece}");
            }
            assert_eq!(digest(&bytes[..len]), llm_core::checksum::digest(&bytes[..len]), "{len}");
        }
    }
}
