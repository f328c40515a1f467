//! Layouts shared with Xen: the structures of `xen-sys`, with their sizes and
//! offsets checked against Xen's public headers when this crate is compiled.
//!
//! Only types and constants are taken from `xen-sys`; its hypercall functions are
//! not used (on x86 they pass argument 5 in the wrong register and hide from the
//! compiler that they use the stack).

use core::mem::{align_of, offset_of, size_of};

pub use xen_sys::{
    evtchn_alloc_unbound, evtchn_bind_interdomain, evtchn_close, evtchn_send, sched_poll, sched_shutdown,
    shared_info, start_info, vcpu_info, vcpu_time_info,
};

/// Bytes of a page on x86.
pub const PAGE: usize = 4096;

/// Stands for the calling domain in hypercalls (`DOMID_SELF`).
pub const SELF: u16 = 0x7ff0;

/// The flag in `start_info` that tells the first domain, which has no toolstack (`SIF_INITDOMAIN`).
pub const SIF_INITDOMAIN: u32 = 1 << 1;

/// `struct mmu_update` of xen/include/public/xen.h: a new page table entry, and where it goes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MmuUpdate {
    /// Machine address of the entry; its two lowest bits say what kind of update it is.
    pub ptr: u64,
    /// The entry.
    pub val: u64,
}

/// `struct gnttab_setup_table` of xen/include/public/grant_table.h.
#[derive(Debug)]
#[repr(C)]
pub struct SetupTable {
    /// Whose table.
    pub domid: u16,
    /// Frames that it shall have.
    pub nr_frames: u32,
    /// How it went: 0, or a `GNTST_*` number below it.
    pub status: i16,
    /// Address of as many numbers of eight bytes, into which Xen writes the machine frames.
    pub frame_list: u64,
}

/// One side of a [`GrantCopy`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CopyEnd {
    /// A grant reference, or a frame number of the calling domain.
    pub page: u64,
    /// Whose page.
    pub domid: u16,
    /// Bytes from the start of the page.
    pub offset: u16,
}

/// `struct gnttab_copy` of xen/include/public/grant_table.h.
#[derive(Debug)]
#[repr(C)]
pub struct GrantCopy {
    /// Where from.
    pub source: CopyEnd,
    /// Where to.
    pub dest: CopyEnd,
    /// Bytes.
    pub len: u16,
    /// Which sides are grant references.
    pub flags: u16,
    /// How it went: 0, or a `GNTST_*` number below it.
    pub status: i16,
}

/// Places in `struct xencons_interface` (xen/include/public/io/console.h), a page.
pub mod console_ring {
    /// What the domain writes: its place and its bytes.
    pub const OUT: (usize, usize) = (1024, 2048);
    /// Index of the console's reader.
    pub const OUT_CONS: usize = 3080;
    /// Index of the domain's writer.
    pub const OUT_PROD: usize = 3084;
}

/// Places in `struct xenstore_domain_interface` (xen/include/public/io/xs_wire.h), a page.
pub mod store_ring {
    /// Requests of the domain: their place and their bytes.
    pub const REQ: (usize, usize) = (0, 1024);
    /// Replies and watch events: their place and their bytes.
    pub const RSP: (usize, usize) = (1024, 1024);
    /// Index of the requests' reader.
    pub const REQ_CONS: usize = 2048;
    /// Index of the requests' writer.
    pub const REQ_PROD: usize = 2052;
    /// Index of the replies' reader.
    pub const RSP_CONS: usize = 2056;
    /// Index of the replies' writer.
    pub const RSP_PROD: usize = 2060;
}

/// Places in `struct shared_info`, of the first virtual CPU where there are many.
pub mod shared {
    use super::{offset_of, shared_info, vcpu_info, vcpu_time_info};

    /// Bits of pending event channels, 64 words of eight bytes.
    pub const PENDING: usize = offset_of!(shared_info, evtchn_pending);
    /// Whether events are held back, a byte.
    pub const UPCALL_MASK: usize = offset_of!(vcpu_info, evtchn_upcall_mask);
    const TIME: usize = offset_of!(vcpu_info, time);
    /// Odd while Xen changes the time; four bytes.
    pub const TIME_VERSION: usize = TIME + offset_of!(vcpu_time_info, version);
    /// Time stamp counter when the system time was taken; eight bytes.
    pub const TIME_TSC: usize = TIME + offset_of!(vcpu_time_info, tsc_timestamp);
    /// Nanoseconds since boot; eight bytes.
    pub const TIME_SYSTEM: usize = TIME + offset_of!(vcpu_time_info, system_time);
    /// Nanoseconds a shifted tick in 2^-32; four bytes, behind them the shift, one byte.
    pub const TIME_SCALE: usize = TIME + offset_of!(vcpu_time_info, tsc_to_system_mul);
}

// Source: xen/include/public/xen.h, sched.h, event_channel.h and grant_table.h, for x86-64.
const _: () = {
    assert!(size_of::<start_info>() == 1168);
    assert!(align_of::<start_info>() == 8);
    assert!(offset_of!(start_info, nr_pages) == 32);
    assert!(offset_of!(start_info, shared_info) == 40);
    assert!(offset_of!(start_info, cmd_line) == 128);
    assert!(size_of::<shared_info>() == 3136);
    assert!(offset_of!(shared_info, evtchn_pending) == 2048);
    assert!(offset_of!(start_info, flags) == 48);
    assert!(offset_of!(start_info, store_mfn) == 56);
    assert!(offset_of!(start_info, store_evtchn) == 64);
    assert!(offset_of!(start_info, console) == 72);
    assert!(offset_of!(start_info, pt_base) == 88);
    assert!(offset_of!(start_info, nr_pt_frames) == 96);
    assert!(offset_of!(start_info, mfn_list) == 104);
    assert!(size_of::<sched_shutdown>() == 4);
    assert!(size_of::<sched_poll>() == 24 && offset_of!(sched_poll, timeout) == 16);
    assert!(size_of::<evtchn_alloc_unbound>() == 8 && offset_of!(evtchn_alloc_unbound, port) == 4);
    assert!(size_of::<evtchn_bind_interdomain>() == 12);
    assert!(offset_of!(evtchn_bind_interdomain, local_port) == 8);
    assert!(size_of::<evtchn_send>() == 4 && size_of::<evtchn_close>() == 4);
    assert!(shared::UPCALL_MASK == 1 && shared::TIME_VERSION == 32 && shared::TIME_TSC == 40);
    assert!(shared::TIME_SYSTEM == 48 && shared::TIME_SCALE == 56);
    assert!(offset_of!(vcpu_time_info, tsc_shift) == offset_of!(vcpu_time_info, tsc_to_system_mul) + 4);
    assert!(size_of::<MmuUpdate>() == 16);
    assert!(size_of::<SetupTable>() == 24 && offset_of!(SetupTable, frame_list) == 16);
    assert!(size_of::<CopyEnd>() == 16 && offset_of!(CopyEnd, offset) == 10);
    assert!(size_of::<GrantCopy>() == 40 && offset_of!(GrantCopy, status) == 36);
    assert!(console_ring::OUT.0 + console_ring::OUT.1 + 8 == console_ring::OUT_CONS);
    assert!(store_ring::RSP.0 + store_ring::RSP.1 == store_ring::REQ_CONS);
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
