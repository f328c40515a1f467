//! Memory for copies of pages.

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

use llm_core::page::{PAGE, Page};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Pages that are zero at first, aligned to their size: one huge page where the kernel has one to give. That saves 511 page faults
/// of 512 while a first copy comes in, each of which costs more than the copy of a page. A PV Dom0 has no huge pages.
pub(super) struct Slab {
    pages: NonNull<Page>,
}

// SAFETY: the memory belongs to this value alone and has no tie to a thread.
unsafe impl Send for Slab {}
// SAFETY: shared, it is only read.
unsafe impl Sync for Slab {}

impl Slab {
    /// Pages that one has.
    pub(super) const PAGES: usize = 512;
    const SIZE: usize = Self::PAGES * PAGE;

    pub(super) fn new() -> Self {
        // Wherever it is, an aligned piece lies in it.
        let len = 2 * Self::SIZE - PAGE;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let room = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags) };
        let Some(room) = room.ok().and_then(NonNull::new) else {
            handle_alloc_error(Layout::new::<[Page; Self::PAGES]>());
        };
        let room = room.cast::<u8>().as_ptr();
        let ahead = room.align_offset(Self::SIZE);
        let start = room.wrapping_add(ahead);
        unmap(room, ahead);
        unmap(start.wrapping_add(Self::SIZE), len - Self::SIZE - ahead);
        // SAFETY: these are whole pages of the mapping, which nobody uses yet, and the advice changes no content.
        let _ = unsafe { madvise(start.cast(), Self::SIZE, Advice::LinuxHugepage) };
        match NonNull::new(start.cast()) {
            Some(pages) => Self { pages },
            None => handle_alloc_error(Layout::new::<[Page; Self::PAGES]>()),
        }
    }
}

/// Gives a part of a mapping back that nobody uses.
fn unmap(start: *mut u8, len: usize) {
    if len > 0 {
        // SAFETY: all callers have mapped this part, and use it no more.
        let _ = unsafe { munmap(start.cast::<c_void>(), len) };
    }
}

impl Deref for Slab {
    type Target = [Page];

    fn deref(&self) -> &[Page] {
        // SAFETY: so many pages are mapped there, readable and zero at first, until this value is dropped.
        unsafe { slice::from_raw_parts(self.pages.as_ptr(), Self::PAGES) }
    }
}

impl DerefMut for Slab {
    fn deref_mut(&mut self) -> &mut [Page] {
        // SAFETY: as in `deref`; they are writable, and the exclusive borrow of this value is one of them.
        unsafe { slice::from_raw_parts_mut(self.pages.as_ptr(), Self::PAGES) }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        unmap(self.pages.cast().as_ptr(), Self::SIZE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_zero_and_its_own() {
        let mut slabs: Vec<Slab> = (0..4).map(|_| Slab::new()).collect();
        for (i, slab) in slabs.iter_mut().enumerate() {
            assert_eq!(slab.as_ptr().addr() % Slab::SIZE, 0);
            assert!(slab.len() == Slab::PAGES && slab.iter().all(|page| *page == [0; PAGE]));
            slab.fill([i as u8; PAGE]);
        }
        slabs.remove(1);
        for (slab, i) in slabs.iter().zip([0, 2, 3]) {
            assert!(slab.iter().all(|page| *page == [i; PAGE]));
        }
    }
}
