//! Hypercalls on grant tables, version 1. Source: xen/include/public/grant_table.h.

use super::hypercall::{Refused, check, hypercall};
use crate::abi::{CopyEnd, GrantCopy, SELF, SetupTable};
use crate::grants::Ref;

/// `GNTTABOP_setup_table`.
const SETUP_TABLE: u32 = 2;
/// `GNTTABOP_copy`.
const COPY: u32 = 5;
/// `GNTCOPY_source_gref`.
const SOURCE_GREF: u16 = 1;
/// `GNTCOPY_dest_gref`.
const DEST_GREF: u16 = 2;

/// Gives this domain a grant table of one frame, and returns that machine frame.
///
/// # Errors
/// [`Refused`] with Xen's error number, or with the positive form of a `GNTST_*` number.
pub fn set_up() -> Result<u64, Refused> {
    let mut frame = 0_u64;
    let mut arg = SetupTable {
        domid: SELF,
        nr_frames: 1,
        status: 0,
        frame_list: (&raw mut frame).expose_provenance() as u64,
    };
    // SAFETY:
    // - Xen reads and writes a `struct gnttab_setup_table`, which `arg` is, and writes one frame number, for which
    //   `frame` is there.
    unsafe { op(SETUP_TABLE, &raw mut arg) }?;
    status(arg.status)?;
    Ok(frame)
}

/// Copies the first `len` bytes of one page to another; both are granted by this domain to itself. This is what a
/// grant is good for, so it shows that both hold.
///
/// # Errors
/// As for [`set_up`].
pub fn copy_own(from: Ref, to: Ref, len: u16) -> Result<(), Refused> {
    let end = |page: Ref| CopyEnd { page: u64::from(page.0), domid: SELF, offset: 0 };
    let mut arg =
        GrantCopy { source: end(from), dest: end(to), len, flags: SOURCE_GREF | DEST_GREF, status: 0 };
    // SAFETY:
    // - Xen reads and writes a `struct gnttab_copy`, which `arg` is. It writes to a page that was granted for
    //   that, which is memory given up to others.
    unsafe { op(COPY, &raw mut arg) }?;
    status(arg.status)
}

/// # Safety
/// `arg` points to one structure of the kind that `cmd` takes.
unsafe fn op<T>(cmd: u32, arg: *mut T) -> Result<(), Refused> {
    // SAFETY:
    // - The caller promises that Xen finds there what `cmd` takes; one of them.
    let ret = unsafe {
        hypercall::<{ xen_sys::__HYPERVISOR_grant_table_op }>([
            u64::from(cmd),
            arg.expose_provenance() as u64,
            1,
            0,
            0,
        ])
    };
    check(ret)
}

fn status(status: i16) -> Result<(), Refused> {
    if status == 0 { Ok(()) } else { Err(Refused(i64::from(status).saturating_neg())) }
}
