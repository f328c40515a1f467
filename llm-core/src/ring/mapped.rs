//! Shared memory that is mapped into this program: the one file of the ring with unsafe code.
//!
//! No reference to shared bytes is ever formed, since the peer may write them at any time. Bytes are
//! copied through raw pointers; words and fields are atomics, and a reference to an atomic promises
//! nothing about its value. A peer outside of this program is outside of Rust's memory model: a copy
//! that it disturbs holds a mix of old and new bytes, no worse, for `u8` has no invalid value. Behind each copy
//! stands a fence of the compiler, so that it does not fetch the bytes a second time.
#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, Ordering, compiler_fence, fence};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::layout::Header;
use super::{Field, Memory, UNIT};

/// Bytes of a page.
pub const PAGE: usize = 4096;

const _: () = assert!(size_of::<Page>() == PAGE && size_of::<Header>() == PAGE);

/// A page, with its alignment.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; PAGE]);

impl Page {
    /// A page of zeros.
    pub const ZERO: Self = Self([0; PAGE]);
}

/// A header page and data pages, mapped as long as a `K` lives. [`PhantomData`] stands for pages of this program.
pub struct Mapped<K> {
    header: NonNull<Page>,
    data: NonNull<Page>,
    /// Bytes of the data pages.
    len: usize,
    /// Whether the data pages are mapped a second time behind themselves.
    twice: bool,
    _keep: K,
}

// SAFETY: the pages may be used from any thread, and the `K` that keeps them may go there as well.
unsafe impl<K: Send> Send for Mapped<K> {}

impl<K> Mapped<K> {
    /// A header page, and `pages` data pages.
    ///
    /// With `twice`, the same data pages are mapped once more right behind: copies are then never split.
    ///
    /// # Safety
    ///
    /// - `header` is valid for reads and writes of a page, `data` of `pages` pages, twice that many with
    ///   `twice`, as long as `keep` lives, wherever it is moved to. `pages` of them fit into an `isize`.
    /// - This program uses the memory through this value alone. Another mapping of the same pages may exist in it
    ///   only for the ring's other end, and be used only by one more value of this type.
    #[must_use]
    pub const unsafe fn new(
        header: NonNull<Page>,
        data: NonNull<Page>,
        pages: usize,
        twice: bool,
        keep: K,
    ) -> Self {
        Self { header, data, len: pages * PAGE, twice, _keep: keep }
    }

    /// The atomic of a field.
    fn field(&self, field: Field) -> &AtomicU64 {
        let place: *mut u64 = self.header.as_ptr().cast::<u8>().wrapping_add(field.offset()).cast();
        // SAFETY:
        // - `place` is aligned, as pages and the offsets of fields are, and lies in the header page,
        //   which is valid as long as `self`.
        // - All accesses to fields are atomic ones of eight bytes: the value of this type at the
        //   other end makes no others.
        unsafe { AtomicU64::from_ptr(place) }
    }

    /// The atomic at `at` in the data area.
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.len && at.is_multiple_of(UNIT), "no word of the data area");
        let place: *mut u64 = self.data.as_ptr().cast::<u8>().wrapping_add(at).cast();
        // SAFETY:
        // - `place` is aligned and lies in the data area, since `at` is a multiple of eight below its
        //   length, which is one too; the data area is valid as long as `self`.
        // - An honest peer has given these bytes up, by an index that was read with `Acquire`. What a
        //   dishonest one does is outside of this program.
        unsafe { AtomicU64::from_ptr(place) }
    }

    /// How a copy of `len` bytes at `at` is done: bytes before the end of the mapping, and bytes from its start on.
    fn split(&self, at: usize, len: usize) -> (usize, usize) {
        assert!(at < self.len && len <= self.len, "not in the data area");
        let first = if self.twice { len } else { len.min(self.len - at) };
        (first, len - first)
    }

    fn bytes(&self, at: usize) -> *mut u8 {
        self.data.as_ptr().cast::<u8>().wrapping_add(at)
    }
}

impl<'a> Mapped<PhantomData<&'a mut [Page]>> {
    /// Pages of this program, for both ends in one thread: the first is the header page. `None` for less than two.
    #[must_use]
    pub const fn local(pages: &'a mut [Page]) -> Option<Self> {
        let Some((header, data)) = pages.split_first_mut() else { return None };
        let len = data.len();
        if len == 0 {
            return None;
        }
        // No reference is formed here, but the pointers of two that are given up.
        let (header, data) = (NonNull::from_mut(header), NonNull::from_mut(data).cast());
        // SAFETY:
        // - The pages are borrowed for as long as `'a`, which outlives the value.
        // - They are borrowed exclusively, and the value is not `Sync`: it is used by one thread at a time.
        Some(unsafe { Self::new(header, data, len, false, PhantomData) })
    }
}

impl<K> Memory for Mapped<K> {
    #[inline]
    fn data_len(&self) -> usize {
        self.len
    }

    #[inline]
    fn load(&self, field: Field, order: Ordering) -> u64 {
        u64::from_le(self.field(field).load(order))
    }

    #[inline]
    fn store(&self, field: Field, value: u64, order: Ordering) {
        self.field(field).store(value.to_le(), order);
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline]
    fn load_word(&self, at: usize) -> u64 {
        u64::from_le(self.word(at).load(Ordering::Relaxed))
    }

    #[inline]
    fn store_word(&self, at: usize, word: u64) {
        self.word(at).store(word.to_le(), Ordering::Relaxed);
    }

    #[inline]
    fn read(&self, at: usize, into: &mut [u8]) {
        let (first, second) = self.split(at, into.len());
        // SAFETY:
        // - The source is valid for `first` bytes: see `split`. An honest peer does not write to it
        //   now, as its index says; what a dishonest one writes is outside of this program.
        // - The destination is valid for `first` bytes, which are not more than its length.
        // - They do not overlap: no reference to the shared memory exists, so `into` is other memory.
        unsafe { ptr::copy_nonoverlapping(self.bytes(at), into.as_mut_ptr(), first) };
        if second > 0 {
            let rest = into.as_mut_ptr().wrapping_add(first);
            // SAFETY: as above, with `second` bytes at the start of the data area, and behind the first in `into`.
            unsafe { ptr::copy_nonoverlapping(self.bytes(0), rest, second) };
        }
        // The copy is what is checked and used from here on, never the source again.
        compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn write(&self, at: usize, from: &[u8]) {
        let (first, second) = self.split(at, from.len());
        // SAFETY:
        // - The source is valid for `first` bytes, which are not more than its length.
        // - The destination is valid for `first` bytes: see `split`. An honest peer does not read or
        //   write it now, as its index says; what a dishonest one does is outside of this program.
        // - They do not overlap: no reference to the shared memory exists, so `from` is other memory.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.bytes(at), first) };
        if second > 0 {
            let rest = from.as_ptr().wrapping_add(first);
            // SAFETY: as above, with `second` bytes behind the first in `from`, and at the start of the data area.
            unsafe { ptr::copy_nonoverlapping(rest, self.bytes(0), second) };
        }
    }
}

impl<K> fmt::Debug for Mapped<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("len", &self.len).field("twice", &self.twice).finish_non_exhaustive()
    }
}
