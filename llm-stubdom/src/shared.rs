//! A page that others may write at any time: another domain, or Xen.
//!
//! Its bytes are read once, into a copy; no reference to them is ever formed. What a page holds is
//! for the modules that use it to check.

use core::fmt;

/// Access to such a page. An `at` counts bytes from the start of the page; one that is out of the page, or not
/// aligned to what is read or written there, is a mistake of the caller and panics.
pub trait Shared {
    /// Reads four bytes at once; later reads see at least what was written before them.
    fn load32(&self, at: usize) -> u32;

    /// Writes four bytes at once, behind all writes before.
    fn store32(&self, at: usize, value: u32);

    /// Replaces `old` by `new` in four bytes; false, with nothing changed, if they are not `old`.
    fn replace32(&self, at: usize, old: u32, new: u32) -> bool;

    /// Clears the bits of `mask` in eight bytes, and returns what they were before.
    fn clear64(&self, at: usize, mask: u64) -> u64;

    /// Copies bytes out, each read once.
    fn read(&self, at: usize, into: &mut [u8]);

    /// Copies bytes in.
    fn write(&self, at: usize, from: &[u8]);
}

impl<S: Shared> Shared for &S {
    fn load32(&self, at: usize) -> u32 {
        (**self).load32(at)
    }

    fn store32(&self, at: usize, value: u32) {
        (**self).store32(at, value);
    }

    fn replace32(&self, at: usize, old: u32, new: u32) -> bool {
        (**self).replace32(at, old, new)
    }

    fn clear64(&self, at: usize, mask: u64) -> u64 {
        (**self).clear64(at, mask)
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        (**self).read(at, into);
    }

    fn write(&self, at: usize, from: &[u8]) {
        (**self).write(at, from);
    }
}

/// The other side's index of a ring says that it holds more than fits: the ring is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenRing {
    /// Bytes it would hold.
    pub held: u32,
    /// Bytes that fit.
    pub room: usize,
}

impl fmt::Display for BrokenRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bad ring: it would hold {} bytes, but has room for {}", self.held, self.room)
    }
}

impl core::error::Error for BrokenRing {}

/// One of the byte rings of Xen's console and xenstore pages, from this domain's side. Indices count bytes, wrap
/// at 2^32, and are each written by one side alone; the own one is kept here and never read back.
#[derive(Clone, Copy, Debug)]
pub struct ByteRing {
    /// Place of the data in the page.
    at: usize,
    /// Bytes of the data, a power of two.
    size: usize,
    /// Place of the own index, and of the other side's.
    own_at: usize,
    peer_at: usize,
    own: u32,
}

impl ByteRing {
    /// A ring whose data lies at `(place, bytes)`, from the index on that the page has for this side.
    pub fn new<S: Shared>(page: &S, (at, size): (usize, usize), own_at: usize, peer_at: usize) -> Self {
        debug_assert!(size.is_power_of_two());
        Self { at, size, own_at, peer_at, own: page.load32(own_at) }
    }

    /// Writes as much of `bytes` as there is room for, and returns how much that is.
    ///
    /// # Errors
    /// [`BrokenRing`].
    pub fn write<S: Shared>(&mut self, page: &S, bytes: &[u8]) -> Result<usize, BrokenRing> {
        let held = self.checked(self.own.wrapping_sub(page.load32(self.peer_at)))?;
        let count = bytes.len().min(self.size - held);
        let (bytes, _) = bytes.split_at(count);
        let place = self.place();
        let (first, second) = bytes.split_at(count.min(self.size - place));
        page.write(self.at + place, first);
        page.write(self.at, second);
        self.advance(page, count);
        Ok(count)
    }

    /// Reads as many bytes as there are and fit into `into`, and returns how many.
    ///
    /// # Errors
    /// [`BrokenRing`].
    pub fn read<S: Shared>(&mut self, page: &S, into: &mut [u8]) -> Result<usize, BrokenRing> {
        let held = self.checked(page.load32(self.peer_at).wrapping_sub(self.own))?;
        let count = into.len().min(held);
        let (into, _) = into.split_at_mut(count);
        let place = self.place();
        let (first, second) = into.split_at_mut(count.min(self.size - place));
        page.read(self.at + place, first);
        page.read(self.at, second);
        self.advance(page, count);
        Ok(count)
    }

    /// Whether the other side has come as far as this one: all that was written is read.
    pub fn is_drained<S: Shared>(&self, page: &S) -> bool {
        page.load32(self.peer_at) == self.own
    }

    fn checked(&self, held: u32) -> Result<usize, BrokenRing> {
        match usize::try_from(held) {
            Ok(count) if count <= self.size => Ok(count),
            _ => Err(BrokenRing { held, room: self.size }),
        }
    }

    fn place(&self) -> usize {
        self.own as usize & (self.size - 1)
    }

    fn advance<S: Shared>(&mut self, page: &S, count: usize) {
        if count > 0 {
            // At most the ring's size, which is far below 2^32.
            self.own = self.own.wrapping_add(count as u32);
            page.store32(self.own_at, self.own);
        }
    }
}

/// Shared memory for tests: a page of one thread.
#[cfg(test)]
pub(crate) mod testing {
    use super::Shared;
    use crate::abi::PAGE;
    use core::cell::RefCell;
    use std::boxed::Box;
    use std::rc::Rc;

    #[derive(Clone, Debug)]
    pub(crate) struct TestPage(Rc<RefCell<Box<[u8; PAGE]>>>);

    impl TestPage {
        pub(crate) fn new() -> Self {
            Self(Rc::new(RefCell::new(Box::new([0; PAGE]))))
        }

        fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
            assert!(at.is_multiple_of(N), "not aligned: {at}");
            self.0.borrow()[at..at + N].try_into().unwrap()
        }
    }

    impl Shared for TestPage {
        fn load32(&self, at: usize) -> u32 {
            u32::from_le_bytes(self.bytes(at))
        }

        fn store32(&self, at: usize, value: u32) {
            let _: [u8; 4] = self.bytes(at);
            self.write(at, &value.to_le_bytes());
        }

        fn replace32(&self, at: usize, old: u32, new: u32) -> bool {
            let equal = self.load32(at) == old;
            if equal {
                self.store32(at, new);
            }
            equal
        }

        fn clear64(&self, at: usize, mask: u64) -> u64 {
            let old = u64::from_le_bytes(self.bytes(at));
            self.write(at, &(old & !mask).to_le_bytes());
            old
        }

        fn read(&self, at: usize, into: &mut [u8]) {
            into.copy_from_slice(&self.0.borrow()[at..at + into.len()]);
        }

        fn write(&self, at: usize, from: &[u8]) {
            self.0.borrow_mut()[at..at + from.len()].copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::TestPage;
    use super::*;
    use crate::random::Random;
    use std::vec::Vec;

    const DATA: (usize, usize) = (64, 32);
    const PROD: usize = 0;
    const CONS: usize = 4;

    #[test]
    fn bytes_come_out_as_they_went_in_across_all_wraps() {
        let mut random = Random::new(1);
        let page = TestPage::new();
        // Close below the wrap of the indices.
        page.store32(PROD, 0u32.wrapping_sub(100));
        page.store32(CONS, 0u32.wrapping_sub(100));
        let mut writer = ByteRing::new(&page, DATA, PROD, CONS);
        let mut reader = ByteRing::new(&page, DATA, CONS, PROD);
        let (mut sent, mut got): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        while sent.len() < 2000 {
            let bytes: Vec<u8> = (0..random.below(50)).map(|_| random.next() as u8).collect();
            let count = writer.write(&page, &bytes).unwrap();
            assert!(count <= bytes.len() && sent.len() + count - got.len() <= DATA.1);
            sent.extend_from_slice(&bytes[..count]);
            let mut into = [0; 50];
            let (into, _) = into.split_at_mut(random.below(50) as usize);
            let count = reader.read(&page, into).unwrap();
            got.extend_from_slice(&into[..count]);
            assert_eq!(writer.is_drained(&page), sent.len() == got.len());
        }
        assert_eq!(got, sent[..got.len()]);
        let mut outside = [0; 32];
        page.read(32, &mut outside);
        assert_eq!(outside, [0; 32], "nothing is written beside the ring");
    }

    #[test]
    fn an_index_beyond_the_ring_is_refused() {
        let page = TestPage::new();
        let mut writer = ByteRing::new(&page, DATA, PROD, CONS);
        let mut reader = ByteRing::new(&page, DATA, CONS, PROD);
        page.store32(CONS, 1);
        assert_eq!(writer.write(&page, b"x"), Err(BrokenRing { held: u32::MAX, room: 32 }));
        page.store32(PROD, 33);
        assert_eq!(reader.read(&page, &mut [0; 8]), Err(BrokenRing { held: 33, room: 32 }));
    }
}
