//! Layouts shared with Xen: the structures of `xen-sys`, with their sizes and
//! offsets checked against Xen's public headers when this crate is compiled.
//!
//! Only types and constants are taken from `xen-sys`; its hypercall functions are
//! not used (on x86 they pass argument 5 in the wrong register and hide from the
//! compiler that they use the stack).

use core::mem::{align_of, offset_of, size_of};

pub use xen_sys::{sched_shutdown, shared_info, start_info};

/// Bytes of a page on x86.
pub const PAGE: usize = 4096;

// Source: xen/include/public/xen.h and sched.h, for x86-64.
const _: () = {
    assert!(size_of::<start_info>() == 1168);
    assert!(align_of::<start_info>() == 8);
    assert!(offset_of!(start_info, nr_pages) == 32);
    assert!(offset_of!(start_info, shared_info) == 40);
    assert!(offset_of!(start_info, cmd_line) == 128);
    assert!(size_of::<shared_info>() == 3136);
    assert!(offset_of!(shared_info, evtchn_pending) == 2048);
    assert!(size_of::<sched_shutdown>() == 4);
};

/// The text in `field`, a C string of fixed room: the bytes before the first NUL
/// (all of them if there is none), or `None` if they are not UTF-8.
#[must_use]
pub fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    core::str::from_utf8(&field[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_at_the_first_nul_or_with_the_field() {
        assert_eq!(text(b"xen-3.0-x86_64\0\0junk"), Some("xen-3.0-x86_64"));
        assert_eq!(text(b"full"), Some("full"));
        assert_eq!(text(b"\0"), Some(""));
        assert_eq!(text(b"\xff\0"), None);
    }
}
