//! Mappings of shared pages: the one place where they are made and unmade.

use llm_core::ring::{Mapped, PAGE, Page};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use super::RingPages;

/// A piece of a mapping: pages of a descriptor from an offset on.
#[derive(Debug)]
pub struct Part<'a> {
    /// What is mapped.
    pub fd: BorrowedFd<'a>,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How many pages.
    pub pages: usize,
}

/// Mapped pages. What they are of stays open in the kernel meanwhile.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and has no tie to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `parts` one behind the other, and uses them for one end of a ring: the first page for the header,
    /// `data` pages for data. With `twice` the parts hold the data pages two times.
    ///
    /// # Errors
    ///
    /// The parts are not as many pages as that, or the kernel does not map them.
    pub fn ring(parts: &[Part<'_>], data: usize, twice: bool) -> io::Result<RingPages> {
        let pages = parts.iter().map(|part| part.pages).fold(0_usize, usize::saturating_add);
        let wanted = data.checked_mul(1 + usize::from(twice)).and_then(|data| data.checked_add(1));
        if data == 0 || Some(pages) != wanted {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "A ring needs a header page and data pages",
            ));
        }
        let mapping = Self::new(parts, pages)?;
        let header: NonNull<Page> = mapping.address.cast();
        let Some(first) = NonNull::new(header.as_ptr().wrapping_add(1)) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        // SAFETY:
        // - The mapping has `1 + data` pages, or `1 + 2 * data`, that can be read and written for as long as
        //   `mapping` lives, wherever it is moved to: no address depends on it.
        // - It was just made, so nothing else in this program uses it; if the same memory is mapped
        //   elsewhere in this program, then by this function, for the other end.
        Ok(unsafe { Mapped::new(header, first, data, twice, mapping) })
    }

    fn new(parts: &[Part<'_>], pages: usize) -> io::Result<Self> {
        let len = pages.checked_mul(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        // The whole range first, so that the parts come to lie side by side.
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        let address = NonNull::new(address).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Self { address, len };
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        let mut done = 0;
        for part in parts {
            let (at, size) = (address.as_ptr().cast::<u8>().wrapping_add(done).cast(), part.pages * PAGE);
            // SAFETY: `at` and the `size` bytes behind it lie in the range made above, as the sizes of all
            // parts add up to its length; nothing refers to that range yet.
            unsafe { mmap(at, size, access, flags, part.fd, part.offset) }?;
            done += size;
        }
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range made in `new`, to which nothing refers any longer.
        if let Err(error) = unsafe { munmap(self.address.as_ptr(), self.len) } {
            tracing::debug!(%error, "Cannot unmap shared pages");
        }
    }
}
