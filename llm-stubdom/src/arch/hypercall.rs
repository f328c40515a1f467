//! Hypercalls of a PV guest on x86-64.
//!
//! Xen fills the guest's hypercall page with one 32-byte stub a hypercall. A stub
//! is called with its arguments in rdi, rsi, rdx, r10 and r8 and answers in rax;
//! it may change these and rcx and r11, and it pushes on the stack. Source:
//! xen/include/public/arch-x86/xen-x86_64.h.

use crate::abi;
use core::arch::asm;
use core::fmt;

/// Bytes of a stub in the hypercall page.
const STUB: u32 = 32;

/// What Xen says when it refuses a hypercall: a positive `XEN_E*` number
/// (xen/include/public/errno.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub i64);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Xen refused the hypercall: error {}", self.0)
    }
}

impl core::error::Error for Refused {}

/// Why a domain ends (`SHUTDOWN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its work is done.
    PowerOff,
    /// It found itself broken.
    Crash,
}

/// Writes `text` to the hypervisor's console (`CONSOLEIO_write`).
///
/// A hypervisor built without verbose debugging refuses this to all domains but
/// the hardware domain.
///
/// # Errors
/// [`Refused`] with Xen's error number.
pub fn console_write(text: &[u8]) -> Result<(), Refused> {
    // SAFETY:
    // - CONSOLEIO_write only reads `count` bytes from `buffer`: the length and start of a live slice.
    let ret = unsafe {
        hypercall::<{ xen_sys::__HYPERVISOR_console_io }>([
            u64::from(xen_sys::CONSOLEIO_write),
            text.len() as u64,
            text.as_ptr().addr() as u64,
            0,
            0,
        ])
    };
    check(ret)
}

/// Gives the rest of this virtual CPU's time slice away (`SCHEDOP_yield`).
pub fn yield_now() {
    // SAFETY:
    // - SCHEDOP_yield takes no argument and touches no memory of the guest.
    unsafe {
        hypercall::<{ xen_sys::__HYPERVISOR_sched_op }>([u64::from(xen_sys::SCHEDOP_yield), 0, 0, 0, 0])
    };
}

/// Ends this domain (`SCHEDOP_shutdown`).
pub fn shutdown(reason: Reason) -> ! {
    let arg = abi::sched_shutdown {
        reason: match reason {
            Reason::PowerOff => xen_sys::SHUTDOWN_poweroff,
            Reason::Crash => xen_sys::SHUTDOWN_crash,
        },
    };
    loop {
        // SAFETY:
        // - SCHEDOP_shutdown only reads a `struct sched_shutdown`, which `arg` is and stays.
        unsafe {
            hypercall::<{ xen_sys::__HYPERVISOR_sched_op }>([
                u64::from(xen_sys::SCHEDOP_shutdown),
                (&raw const arg).addr() as u64,
                0,
                0,
                0,
            ])
        };
    }
}

pub(super) fn check(ret: i64) -> Result<(), Refused> {
    if ret < 0 { Err(Refused(-ret)) } else { Ok(()) }
}

/// Hypercall number `NR`. A hypercall with fewer than five arguments ignores the rest.
///
/// # Safety
/// The caller upholds the contract of that hypercall: pointers among `args` point
/// to what Xen will read or write there.
pub(super) unsafe fn hypercall<const NR: u32>(args: [u64; 5]) -> i64 {
    let ret: i64;
    // SAFETY:
    // - The stub is entered as the ABI says, with all it may change listed.
    // - No `nostack`: the call pushes, so the compiler must keep nothing below the stack pointer.
    // - Memory is not declared untouched, as a hypercall may read and write it.
    unsafe {
        asm!(
            "call {page} + {offset}",
            page = sym page::hypercall_page,
            offset = const NR * STUB,
            lateout("rax") ret,
            inlateout("rdi") args[0] => _,
            inlateout("rsi") args[1] => _,
            inlateout("rdx") args[2] => _,
            inlateout("r10") args[3] => _,
            inlateout("r8") args[4] => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    ret
}

#[cfg(not(test))]
mod page {
    unsafe extern "C" {
        // Defined by the kernel's boot code.
        pub(super) safe static hypercall_page: [u8; crate::abi::PAGE];
    }
}

/// A hypercall page for tests on a host: stub 1 answers with a number that tells
/// where each argument was, and clobbers what a stub may clobber.
#[cfg(test)]
mod page {
    use core::arch::naked_asm;

    #[unsafe(naked)]
    pub(super) extern "C" fn hypercall_page() {
        naked_asm!(
            ".fill 32, 1, 0xcc",
            "lea rax, [rdi + rsi*2]",
            "lea rax, [rax + rdx*4]",
            "lea rax, [rax + r10*8]",
            "shl r8, 4",
            "add rax, r8",
            "mov rcx, -1",
            "mov rdi, rcx",
            "mov rsi, rcx",
            "mov rdx, rcx",
            "mov r10, rcx",
            "mov r8, rcx",
            "mov r11, rcx",
            "ret",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_travel_in_the_registers_of_the_abi() {
        for i in 0..5 {
            let mut args = [0; 5];
            args[i] = 1;
            // SAFETY:
            // - Stub 1 of the test page only computes.
            let ret = unsafe { hypercall::<1>(args) };
            assert_eq!(ret, 1 << i, "argument {}", i + 1);
        }
        // SAFETY:
        // - As above.
        assert_eq!(unsafe { hypercall::<1>([10, 20, 30, 40, 50]) }, 10 + 40 + 120 + 320 + 800);
    }

    #[test]
    fn negative_answers_are_errors() {
        assert_eq!(check(-22), Err(Refused(22)));
        assert_eq!(check(0), Ok(()));
        assert_eq!(check(7), Ok(()));
    }
}
