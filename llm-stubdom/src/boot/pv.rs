//! Entry of a PV kernel.
//!
//! Xen loads the segments where the ELF file says (VIRT_BASE 0: virtual address ==
//! pseudo-physical address), builds page tables, and enters `_start` in ring 3 of
//! long mode with rsi at `struct start_info`. Event delivery is masked at entry and
//! stays so: an upcall would write below the stack pointer, into the red zone this
//! target's code uses. Sources: xen/include/public/{xen.h,elfnote.h}.

use core::arch::global_asm;
use llm_stubdom::abi::{PAGE, start_info};
use llm_stubdom::arch::hypercall;

/// Room for the stack, in bytes. The self-test holds some pages on it.
const STACK: usize = 32 * PAGE;

/// One ELF note of the owner "Xen"; `$desc` is an assembler directive of `$size` bytes.
macro_rules! elf_note {
    ($kind:ident, $size:literal, $desc:literal) => {
        global_asm!(
            ".pushsection .note.Xen, \"a\", @note",
            ".balign 4",
            concat!(".long 4, ", $size, ", {kind}"),
            ".asciz \"Xen\"",
            $desc,
            ".balign 4",
            ".popsection",
            kind = const xen_sys::$kind,
        );
    };
}

elf_note!(XEN_ELFNOTE_XEN_VERSION, "8", ".asciz \"xen-3.0\"");
elf_note!(XEN_ELFNOTE_LOADER, "8", ".asciz \"generic\"");
elf_note!(XEN_ELFNOTE_GUEST_OS, "12", ".asciz \"llm-stubdom\"");
elf_note!(XEN_ELFNOTE_VIRT_BASE, "8", ".quad 0");
elf_note!(XEN_ELFNOTE_ENTRY, "8", ".quad _start");
elf_note!(XEN_ELFNOTE_HYPERCALL_PAGE, "8", ".quad hypercall_page");

global_asm!(
    // Filled by Xen before entry; `ret` until then.
    ".pushsection .text.hypercall_page, \"ax\", @progbits",
    ".globl hypercall_page",
    ".balign {page}",
    "hypercall_page:",
    ".fill {page}, 1, 0xc3",
    ".popsection",
    ".pushsection .bss.stack, \"aw\", @nobits",
    ".balign {page}",
    ".globl stack_guard",
    "stack_guard:",
    ".skip {page}",
    ".skip {stack}",
    "stack_top:",
    ".popsection",
    ".pushsection .text.boot, \"ax\", @progbits",
    ".globl _start",
    "_start:",
    "cld",
    "lea rsp, [rip + stack_top]",
    "xor ebp, ebp",
    "mov rdi, rsi",
    "call {entry}",
    "ud2",
    ".popsection",
    page = const PAGE,
    stack = const STACK,
    entry = sym entry,
);

unsafe extern "C" {
    // The page below the stack; never part of a Rust object.
    safe static stack_guard: [u8; PAGE];
}

extern "C" fn entry(info: *const start_info) -> ! {
    // SAFETY:
    // - Page 0 lies below the image, which starts at 1 MiB: nothing lives there.
    let null = unsafe { hypercall::unmap(0) };
    // SAFETY:
    // - The guard page is page-aligned and holds no object.
    let guard = unsafe { hypercall::unmap((&raw const stack_guard).addr()) };
    if let Err(error) = null.and(guard) {
        panic!("Unmapping the guard pages failed: {error}");
    }
    // SAFETY:
    // - Xen enters with rsi at a `struct start_info` in this domain's memory, page-aligned.
    // - Xen writes to it only while the domain is suspended, which this kernel never asks for.
    crate::main(unsafe { &*info })
}

/// Reads address 0. Returns only if the page is mapped, which is an error.
pub(crate) fn read_null() {
    read(0);
}

/// Reads the page below the stack. Returns only if it is mapped, which is an error.
pub(crate) fn read_stack_guard() {
    read((&raw const stack_guard).addr());
}

fn read(address: usize) {
    let byte: u8;
    // SAFETY:
    // - The load either crashes this domain, as is wanted, or reads a byte of memory that no
    //   object occupies. Assembly, as such a load has no meaning in Rust.
    unsafe {
        core::arch::asm!("mov {}, byte ptr [{}]", out(reg_byte) byte, in(reg) address,
            options(nostack, readonly, preserves_flags));
    }
    panic!("Address {address:#x} is readable ({byte:#04x}), but should not be mapped");
}
