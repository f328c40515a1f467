//! Page tables of a paravirtual domain.
//!
//! The builder maps the kernel, what it hands over, and 512 KiB to 4 MiB behind that. The rest of the memory is
//! mapped here. Xen validates each page table: it must be mapped read-only, and entries go in by hypercall. All
//! virtual addresses equal pseudo-physical ones. Source: xen/include/public/xen.h.

use super::hypercall::{Refused, check, hypercall};
use crate::abi::{MmuUpdate, PAGE, SELF};
use core::fmt;
use core::ops::Range;
use core::ptr;

/// Entries of a page table.
const ENTRIES: usize = PAGE / size_of::<u64>();
/// Pages that a table of the second level covers: 1 GiB.
const GIB: usize = ENTRIES * ENTRIES;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
/// A paravirtual kernel runs in ring 3.
const USER: u64 = 4;
const ACCESSED: u64 = 0x20;
const DIRTY: u64 = 0x40;

const READ_ONLY: u64 = PRESENT | USER | ACCESSED;
const FULL: u64 = READ_ONLY | WRITABLE | DIRTY;

/// Bits of an entry that are the machine address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Machine frame of each page of this domain, by page number.
#[derive(Clone, Copy, Debug)]
pub struct Frames(&'static [u64]);

impl Frames {
    /// The list that Xen hands over.
    #[must_use]
    pub const fn new(list: &'static [u64]) -> Self {
        Self(list)
    }

    /// Pages of the domain.
    #[must_use]
    pub const fn pages(self) -> usize {
        self.0.len()
    }

    /// Machine frame of page `pfn`.
    #[must_use]
    pub fn get(self, pfn: usize) -> Option<u64> {
        self.0.get(pfn).copied()
    }

    /// The first of `pages` that has the machine frame `mfn`.
    #[must_use]
    pub fn find(self, mfn: u64, pages: Range<usize>) -> Option<usize> {
        let start = pages.start;
        Some(start + self.0.get(pages)?.iter().position(|frame| *frame == mfn)?)
    }
}

/// Why memory could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Xen refused an entry.
    Refused(Refused),
    /// The page tables are not where the builder should have put them, or end too early.
    Tables,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Tables => f.write_str("the builder's page tables are not understood"),
        }
    }
}

impl core::error::Error for MapError {}

impl From<Refused> for MapError {
    fn from(error: Refused) -> Self {
        Self::Refused(error)
    }
}

/// Shows the machine frame `mfn`, of this domain or shared with it by Xen, at virtual address `va`. What was there
/// before is no longer mapped.
///
/// # Errors
/// [`Refused`] with Xen's error number; nothing has changed.
///
/// # Safety
/// `va` is a multiple of [`PAGE`] and covered by page tables; no object lies in that page, nor, by its other
/// addresses, in that frame.
pub unsafe fn map(va: usize, mfn: u64) -> Result<(), Refused> {
    // SAFETY:
    // - The caller promises that no object is mapped here or to be found in the frame.
    unsafe { set_entry(va, mfn << 12 | FULL) }
}

/// Takes the page at virtual address `va` out of the page tables, so that touching it crashes the domain.
///
/// # Errors
/// [`Refused`] with Xen's error number; the page is still mapped.
///
/// # Safety
/// `va` is a multiple of [`PAGE`], and no live object lies in that page.
pub unsafe fn unmap(va: usize) -> Result<(), Refused> {
    // SAFETY:
    // - A zero entry maps nothing; the caller promises that nothing lives there.
    unsafe { set_entry(va, 0) }
}

/// Maps, at their own addresses, all pages of the domain that are not mapped yet, and returns the first page
/// behind those that this took for page tables. `tables` are the pages of the builder's tables, that of the
/// highest level first; from `free` on pages hold nothing.
///
/// # Errors
/// [`MapError`]; the domain cannot go on then.
///
/// # Safety
/// `frames` and `tables` are what Xen handed over. No object lies in pages from `free` on.
pub unsafe fn map_rest(frames: Frames, tables: Range<usize>, free: usize) -> Result<usize, MapError> {
    let mut free = free;
    let table = |entry: u64| frames.find((entry & ADDRESS) >> 12, tables.clone()).ok_or(MapError::Tables);
    // SAFETY:
    // - Page tables are mapped for reading; the first of them has the highest level.
    let third = table(unsafe { entry(tables.start, 0) })?;
    for gib in 0..frames.pages().div_ceil(GIB) {
        if gib >= ENTRIES {
            return Err(MapError::Tables);
        }
        // SAFETY:
        // - As above; it has `ENTRIES` entries.
        let found = unsafe { entry(third, gib) };
        let second = if found & PRESENT != 0 {
            table(found)?
        } else {
            // SAFETY:
            // - The page is free, and mapped: those mapped below are more than tables need.
            unsafe { fill(free, [0; ENTRIES]) };
            // SAFETY:
            // - As above, and the page is used for nothing else from here on.
            unsafe { link(frames, third, gib, free) }?;
            free += 1;
            free - 1
        };
        for place in 0..ENTRIES {
            let first = gib * GIB + place * ENTRIES;
            // SAFETY:
            // - `second` is a page table, read-only mapped.
            if first >= frames.pages() || unsafe { entry(second, place) } & PRESENT != 0 {
                continue;
            }
            let entries =
                core::array::from_fn(|i| frames.get(first + i).map_or(0, |frame| frame << 12 | FULL));
            // SAFETY:
            // - The page is free, and mapped: those mapped below are more than tables need.
            unsafe { fill(free, entries) };
            // SAFETY:
            // - As above, and the page is used for nothing else from here on. What it maps was not mapped.
            unsafe { link(frames, second, place, free) }?;
            free += 1;
        }
    }
    Ok(free)
}

/// Makes page `new` a page table: the one that entry `place` of the table in page `parent` points to.
///
/// # Safety
/// Page `new` holds valid entries, and is not used for anything else.
unsafe fn link(frames: Frames, parent: usize, place: usize, new: usize) -> Result<(), MapError> {
    let parent = frames.get(parent).ok_or(MapError::Tables)?;
    let frame = frames.get(new).ok_or(MapError::Tables)?;
    // SAFETY:
    // - Read-only, as Xen wants it for a page table; the caller does not use the page any more.
    unsafe { set_entry(new * PAGE, frame << 12 | READ_ONLY) }?;
    let arg = MmuUpdate { ptr: (parent << 12) + (place * size_of::<u64>()) as u64, val: frame << 12 | FULL };
    // SAFETY:
    // - Xen reads one `struct mmu_update`, which `arg` is, and is asked for no count.
    // - The entry was empty, so no address changes its meaning.
    let ret = unsafe {
        hypercall::<{ xen_sys::__HYPERVISOR_mmu_update }>([
            (&raw const arg).expose_provenance() as u64,
            1,
            0,
            u64::from(SELF),
            0,
        ])
    };
    Ok(check(ret)?)
}

/// # Safety
/// As for [`map`], for the frame in `entry`.
unsafe fn set_entry(va: usize, entry: u64) -> Result<(), Refused> {
    /// `UVMF_INVLPG`: flush this one entry of the translation buffer.
    const UVMF_INVLPG: u64 = 2;
    // SAFETY:
    // - The caller promises that no object depends on what is mapped here.
    let ret = unsafe {
        hypercall::<{ xen_sys::__HYPERVISOR_update_va_mapping }>([va as u64, entry, UVMF_INVLPG, 0, 0])
    };
    check(ret)
}

/// # Safety
/// Page `page` is mapped, and `place` is less than [`ENTRIES`].
unsafe fn entry(page: usize, place: usize) -> u64 {
    let place = ptr::with_exposed_provenance::<u64>(page * PAGE).wrapping_add(place);
    // SAFETY:
    // - Inside of a mapped page, and aligned. Volatile, as hypercalls change it.
    unsafe { place.read_volatile() }
}

/// # Safety
/// Page `page` is mapped for writing, and holds no object.
unsafe fn fill(page: usize, entries: [u64; ENTRIES]) {
    let place = ptr::with_exposed_provenance_mut::<[u64; ENTRIES]>(page * PAGE);
    // SAFETY:
    // - A whole page, which the caller promises to be free. Volatile, as Xen reads it.
    unsafe { place.write_volatile(entries) };
}
