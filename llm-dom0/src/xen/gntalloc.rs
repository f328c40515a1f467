//! `/dev/xen/gntalloc`: pages of this domain that are granted to another.
//!
//! Numbers and layouts are from Linux' `include/uapi/xen/gntalloc.h`. The kernel limits how many pages there may be in
//! all (`/sys/module/xen_gntalloc/parameters/limit`, 1024 by default).

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd;

use super::gntdev::MAX_PAGES;
use super::ioctl::{Argument, call};
use crate::shared::{Mapping, Part, RingPages, SharedPages};

const WRITABLE: u16 = 1;

/// `struct ioctl_gntalloc_alloc_gref`, with room for many references.
#[repr(C)]
struct AllocGref {
    domid: u16,
    flags: u16,
    count: u32,
    index: u64,
    references: [u32; MAX_PAGES],
}

const _: () = assert!(offset_of!(AllocGref, index) == 8 && offset_of!(AllocGref, references) == 16);

// SAFETY: IOCTL_GNTALLOC_ALLOC_GREF takes this structure, and writes `index` and as many references as `count`
// says, which is at most as many as there are: see `request`.
unsafe impl Argument for AllocGref {
    const GROUP: u8 = b'G';
    const NUMBER: u8 = 5;
    // As the kernel counts: with one reference, and padded to the alignment of `index`.
    const SIZE: usize = offset_of!(Self, references) + 8;
}

/// Pages of zeros that a domain may map. They are taken back when they are unmapped here and there.
#[derive(Debug)]
pub struct OwnPages {
    device: File,
    index: u64,
    references: Vec<u32>,
}

impl OwnPages {
    /// Grants a new header page and `data` data pages to domain `domid`: tell it the [`references`](Self::references).
    ///
    /// # Errors
    ///
    /// There is no such device; no data page or more than 256; the kernel's limit.
    pub fn new(domid: u16, data: usize) -> io::Result<Self> {
        let mut request = request(domid, data)?;
        let device = OpenOptions::new().read(true).write(true).open("/dev/xen/gntalloc")?;
        call(&device, &mut request)?;
        let references = request.references.iter().take(1 + data).copied().collect();
        Ok(Self { device, index: request.index, references })
    }

    /// References of the pages: that of the header page, then those of the data pages.
    #[must_use]
    pub fn references(&self) -> &[u32] {
        &self.references
    }
}

impl SharedPages for OwnPages {
    fn map(self) -> io::Result<RingPages> {
        let pages = self.references.len();
        let part = Part { fd: self.device.as_fd(), offset: self.index, pages };
        Mapping::ring(&[part], pages.saturating_sub(1), false)
    }
}

fn request(domid: u16, data: usize) -> io::Result<AllocGref> {
    let pages = data.saturating_add(1);
    if !(2..=MAX_PAGES).contains(&pages) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "Too few or too many pages to grant"));
    }
    let count = u32::try_from(pages).map_err(io::Error::other)?;
    Ok(AllocGref { domid, flags: WRITABLE, count, index: 0, references: [0; MAX_PAGES] })
}

#[cfg(test)]
mod tests {
    use super::super::ioctl::opcode_of;
    use super::*;

    #[test]
    fn request_and_layout_are_the_kernels() {
        // _IOC(_IOC_NONE, 'G', 5, 24)
        assert_eq!(opcode_of::<AllocGref>(), 0x0018_4705);
        let request = request(5, 2).unwrap();
        assert_eq!((request.domid, request.flags, request.count), (5, 1, 3));
        for data in [0, MAX_PAGES, usize::MAX] {
            assert!(super::request(1, data).is_err(), "{data}");
        }
    }
}
