//! What the ring asks of memory.

use core::sync::atomic::Ordering;

/// A number of eight bytes in the header page. Each is written by one end alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Field {
    /// Magic and version; by the end that made the ring.
    Identity,
    /// Bytes of the data area; by the end that made the ring.
    DataLen,
    /// Position up to which records are published; by the producer.
    ProducerIndex,
    /// Consumer's index of which the producer wants to be notified; by the producer.
    ProducerWant,
    /// Whether the producer goes on; by the producer.
    ProducerState,
    /// Position up to which records are released; by the consumer.
    ConsumerIndex,
    /// Producer's index of which the consumer wants to be notified; by the consumer.
    ConsumerWant,
    /// Whether the consumer goes on; by the consumer.
    ConsumerState,
}

impl Field {
    /// All fields.
    pub const ALL: [Self; 8] = [
        Self::Identity,
        Self::DataLen,
        Self::ProducerIndex,
        Self::ProducerWant,
        Self::ProducerState,
        Self::ConsumerIndex,
        Self::ConsumerWant,
        Self::ConsumerState,
    ];
}

/// Memory that two ends share: a header page and a data area that wraps.
///
/// [`Mapped`](super::Mapped) is the one for use. Others serve tests: one that tries all interleavings
/// and stale reads, one that changes under the reader.
///
/// Whatever `load`, `load_word` and `read` return is taken for the peer's doing. An `at` is always less
/// than the data area's size, that of a word a multiple of eight.
pub trait Memory {
    /// Bytes of the data area: always the same, and known from elsewhere than this memory.
    fn data_len(&self) -> usize;

    /// Reads a field, once.
    fn load(&self, field: Field, order: Ordering) -> u64;

    /// Writes a field.
    fn store(&self, field: Field, value: u64, order: Ordering);

    /// A sequentially consistent fence.
    fn fence(&self);

    /// Reads the little-endian word at `at` in the data area, once.
    fn load_word(&self, at: usize) -> u64;

    /// Writes the little-endian word at `at` in the data area.
    fn store_word(&self, at: usize, word: u64);

    /// Copies bytes from `at` on out of the data area, each once; behind its end comes its start.
    fn read(&self, at: usize, into: &mut [u8]);

    /// Copies bytes into the data area from `at` on; behind its end comes its start.
    fn write(&self, at: usize, from: &[u8]);
}

impl<M: Memory + ?Sized> Memory for &M {
    fn data_len(&self) -> usize {
        (**self).data_len()
    }

    fn load(&self, field: Field, order: Ordering) -> u64 {
        (**self).load(field, order)
    }

    fn store(&self, field: Field, value: u64, order: Ordering) {
        (**self).store(field, value, order);
    }

    fn fence(&self) {
        (**self).fence();
    }

    fn load_word(&self, at: usize) -> u64 {
        (**self).load_word(at)
    }

    fn store_word(&self, at: usize, word: u64) {
        (**self).store_word(at, word);
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        (**self).read(at, into);
    }

    fn write(&self, at: usize, from: &[u8]) {
        (**self).write(at, from);
    }
}
