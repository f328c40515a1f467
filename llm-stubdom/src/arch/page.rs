//! A page of this domain that others write too.

use crate::abi::PAGE;
use crate::shared::Shared;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicU64, compiler_fence};

/// Such a page, mapped for as long as the kernel runs.
///
/// Words are atomics, to which a reference promises nothing about the value; bytes are copied through raw
/// pointers. What another domain writes meanwhile is a device's doing to this program: a copy holds a mix
/// of old and new bytes, no worse.
#[derive(Debug)]
pub struct SharedPage(NonNull<u8>);

// SAFETY:
// - The page is mapped for ever and at the same address for all threads, of which there is one.
unsafe impl Send for SharedPage {}

// SAFETY:
// - The kernel has one virtual CPU and takes no interrupts: no two accesses of its own are concurrent.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// The page at `base`.
    ///
    /// # Safety
    /// `base` is a multiple of [`PAGE`] and valid for reads and writes of a page from now on. No reference to the
    /// page exists or will exist, and this program uses it through this value alone.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        Self(base)
    }

    fn place<const N: usize>(&self, at: usize) -> *mut u8 {
        assert!(at < PAGE && at.is_multiple_of(N), "no word of the page");
        self.0.as_ptr().wrapping_add(at)
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        let place = self.place::<4>(at).cast();
        // SAFETY:
        // - Aligned and inside of the page, which is valid as long as this program runs: see `place` and `new`.
        unsafe { AtomicU32::from_ptr(place) }
    }

    fn bytes(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at <= PAGE && len <= PAGE - at, "not inside of the page");
        self.0.as_ptr().wrapping_add(at)
    }
}

impl Shared for SharedPage {
    fn load32(&self, at: usize) -> u32 {
        self.word(at).load(Acquire)
    }

    fn store32(&self, at: usize, value: u32) {
        self.word(at).store(value, Release);
    }

    fn replace32(&self, at: usize, old: u32, new: u32) -> bool {
        self.word(at).compare_exchange(old, new, AcqRel, Acquire).is_ok()
    }

    fn clear64(&self, at: usize, mask: u64) -> u64 {
        let place = self.place::<8>(at).cast();
        // SAFETY:
        // - Aligned and inside of the page, which is valid as long as this program runs: see `place` and `new`.
        let word = unsafe { AtomicU64::from_ptr(place) };
        word.fetch_and(!mask, SeqCst)
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        let from = self.bytes(at, into.len());
        // SAFETY:
        // - The source lies inside of the page; the destination is a live slice of the same length.
        // - They do not overlap, as no reference to the page exists.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        // The copy is what is checked and used from here on, never the source again.
        compiler_fence(SeqCst);
    }

    fn write(&self, at: usize, from: &[u8]) {
        let into = self.bytes(at, from.len());
        // SAFETY:
        // - The source is a live slice; the destination of the same length lies inside of the page.
        // - They do not overlap, as no reference to the page exists.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    #[repr(align(4096))]
    struct Aligned([u8; PAGE]);

    fn page() -> SharedPage {
        let page: &'static mut Aligned = Box::leak(Box::new(Aligned([0; PAGE])));
        // SAFETY:
        // - A page that is leaked lives for ever; its only reference is given up here.
        unsafe { SharedPage::new(NonNull::from(&mut page.0).cast()) }
    }

    #[test]
    fn words_and_bytes_are_where_they_should_be() {
        let page = page();
        page.write(8, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(page.load32(8), 0x0403_0201);
        assert_eq!(page.clear64(8, 0xff), 0x0807_0605_0403_0201);
        page.store32(PAGE - 4, 9);
        assert!(!page.replace32(PAGE - 4, 8, 1));
        assert!(page.replace32(PAGE - 4, 9, 1));
        let mut all = [0xff; PAGE];
        page.read(0, &mut all);
        assert_eq!(all[8..16], [0, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(all[PAGE - 4..], [1, 0, 0, 0]);
    }
}
