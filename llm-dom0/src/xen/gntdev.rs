//! `/dev/xen/gntdev`: pages that another domain grants to this one.
//!
//! Numbers and layouts are from Linux' `include/uapi/xen/gntdev.h`.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd;

use super::ioctl::{Argument, call};
use crate::shared::{Mapping, Part, RingPages, SharedPages};

/// Most pages of one mapping: a ring of 1 MiB.
pub const MAX_PAGES: usize = 257;

/// `struct ioctl_gntdev_grant_ref`.
#[derive(Clone, Copy)]
#[repr(C)]
struct GrantRef {
    domid: u32,
    reference: u32,
}

/// `struct ioctl_gntdev_map_grant_ref`, with room for many references.
#[repr(C)]
struct MapGrantRef {
    count: u32,
    pad: u32,
    index: u64,
    refs: [GrantRef; MAX_PAGES],
}

const _: () = assert!(offset_of!(MapGrantRef, index) == 8 && offset_of!(MapGrantRef, refs) == 16);

// SAFETY: IOCTL_GNTDEV_MAP_GRANT_REF takes this structure and reads as many references as `count` says, which
// is at most as many as there are: see `request`. It writes `index`.
unsafe impl Argument for MapGrantRef {
    const GROUP: u8 = b'G';
    const NUMBER: u8 = 0;
    // As the kernel counts: with one reference.
    const SIZE: usize = offset_of!(Self, refs) + size_of::<GrantRef>();
}

/// Pages of another domain. Mapped, they stay valid whatever that domain does.
#[derive(Debug)]
pub struct ForeignPages {
    device: File,
    index: u64,
    pages: usize,
}

impl ForeignPages {
    /// The pages that domain `domid` grants by these references, in their order: a header page and data pages.
    ///
    /// # Errors
    ///
    /// There is no such device; less than 2 or more than [`MAX_PAGES`] references. That a reference is not granted
    /// shows when they are mapped.
    pub fn new(domid: u16, references: &[u32]) -> io::Result<Self> {
        let mut request = request(domid, references)?;
        let device = OpenOptions::new().read(true).write(true).open("/dev/xen/gntdev")?;
        call(&device, &mut request)?;
        Ok(Self { device, index: request.index, pages: references.len() })
    }
}

impl SharedPages for ForeignPages {
    fn map(self) -> io::Result<RingPages> {
        let part = Part { fd: self.device.as_fd(), offset: self.index, pages: self.pages };
        Mapping::ring(&[part], self.pages.saturating_sub(1), false)
    }
}

fn request(domid: u16, references: &[u32]) -> io::Result<MapGrantRef> {
    let count = u32::try_from(references.len()).unwrap_or(u32::MAX);
    if !(2..=MAX_PAGES).contains(&references.len()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "Too few or too many granted pages"));
    }
    let none = GrantRef { domid: 0, reference: 0 };
    let mut request = MapGrantRef { count, pad: 0, index: 0, refs: [none; MAX_PAGES] };
    for (to, reference) in request.refs.iter_mut().zip(references) {
        *to = GrantRef { domid: domid.into(), reference: *reference };
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::super::ioctl::opcode_of;
    use super::*;

    #[test]
    fn request_and_layout_are_the_kernels() {
        // _IOC(_IOC_NONE, 'G', 0, 24)
        assert_eq!(opcode_of::<MapGrantRef>(), 0x0018_4700);
        let request = request(5, &[8, 9]).unwrap();
        assert_eq!(request.count, 2);
        assert_eq!((request.refs[1].domid, request.refs[1].reference), (5, 9));
        assert_eq!((request.refs[2].domid, request.refs[2].reference), (0, 0));
    }

    #[test]
    fn the_number_of_pages_is_limited() {
        for count in [0, 1, MAX_PAGES + 1] {
            assert!(request(1, &vec![1; count]).is_err(), "{count}");
        }
        assert!(request(1, &[1; MAX_PAGES]).is_ok());
    }
}
