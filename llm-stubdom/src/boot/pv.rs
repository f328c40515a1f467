//! Entry of a PV kernel.
//!
//! Xen loads the segments where the ELF file says (VIRT_BASE 0: virtual address ==
//! pseudo-physical address), builds page tables, and enters `_start` in ring 3 of
//! long mode with rsi at `struct start_info`. Event delivery is masked at entry and
//! stays so: an upcall would write below the stack pointer, into the red zone this
//! target's code uses. Sources: xen/include/public/{xen.h,elfnote.h}.

use core::arch::global_asm;
use core::ptr::{self, NonNull};
use core::slice;
use llm_core::ring::Page;
use llm_stubdom::abi::{PAGE, SIF_INITDOMAIN, start_info};
use llm_stubdom::arch::event::Port;
use llm_stubdom::arch::grant;
use llm_stubdom::arch::machine::{Channel, Machine, Toolstack};
use llm_stubdom::arch::memory::{self, Frames, MapError};
use llm_stubdom::arch::page::SharedPage;
use llm_stubdom::arena::Arena;
use llm_stubdom::wait;

/// Room for the stack, in bytes. The self-test and the encoder hold some pages on it, an unoptimised build several times over.
const STACK: usize = 64 * PAGE;

/// Pages of address space that frames are shown in.
const WINDOWS: usize = 4;

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
    ".globl windows",
    "windows:",
    ".skip {windows}",
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
    windows = const WINDOWS * PAGE,
    entry = sym entry,
);

unsafe extern "C" {
    // The page below the stack; never part of a Rust object.
    safe static stack_guard: [u8; PAGE];
    // Address space, its own pages never used; never part of a Rust object.
    safe static windows: [u8; WINDOWS * PAGE];
    // The end of the image; no object.
    safe static image_end: [u8; 0];
}

extern "C" fn entry(info: *const start_info) -> ! {
    // SAFETY:
    // - Page 0 lies below the image, which starts at 1 MiB: nothing lives there.
    let null = unsafe { memory::unmap(0) };
    // SAFETY:
    // - The guard page is page-aligned and holds no object.
    let guard = unsafe { memory::unmap((&raw const stack_guard).addr()) };
    if let Err(error) = null.and(guard) {
        panic!("Unmapping the guard pages failed: {error}");
    }
    // SAFETY:
    // - Xen enters with rsi at a `struct start_info` in this domain's memory, page-aligned.
    // - Xen writes to it only while the domain is suspended, which this kernel never asks for.
    let info = unsafe { &*info };
    match machine(info) {
        Ok(machine) => crate::main(machine),
        Err(error) => panic!("Setting up the memory failed: {error}"),
    }
}

/// Shows the pages that are shared with Xen and Dom0, and maps all memory.
fn machine(info: &start_info) -> Result<Machine, MapError> {
    let list = ptr::with_exposed_provenance::<u64>(address(info.mfn_list)?);
    // SAFETY:
    // - Xen puts there the machine frame of each page of this domain, eight bytes each, and nobody writes to the
    //   list while this domain runs.
    let frames = Frames::new(unsafe { slice::from_raw_parts(list, address(info.nr_pages)?) });
    // SAFETY:
    // - `shared_info` is the machine address of the page that Xen shares with this domain.
    wait::init(unsafe { show(0, info.shared_info >> 12) }?);
    let table = grant::set_up()?;
    // SAFETY:
    // - The frame is this domain's grant table.
    let grants = unsafe { show(1, table) }?;
    let toolstack = if info.flags & SIF_INITDOMAIN == 0 {
        // SAFETY:
        // - A domain that a toolstack has made finds its console's frame and port there, not those of a first domain.
        let console = unsafe { info.console.domU };
        // SAFETY:
        // - The builder set this page aside for the console.
        let page = unsafe { show(2, console.mfn) }?;
        let console = Channel { page, port: Port(console.evtchn) };
        // SAFETY:
        // - The builder set this page aside for xenstore.
        let page = unsafe { show(3, info.store_mfn) }?;
        Some(Toolstack { console, store: Channel { page, port: Port(info.store_evtchn) } })
    } else {
        None
    };

    let tables = address(info.pt_base)? / PAGE;
    let tables = tables..tables + address(info.nr_pt_frames)?;
    // SAFETY:
    // - Xen handed all of it over; what it put into memory ends where `first_free` says.
    let free = unsafe { memory::map_rest(frames, tables.clone(), first_free(info, frames, tables.end)?) }?;
    let pages = ptr::with_exposed_provenance_mut::<Page>(free * PAGE);
    // SAFETY:
    // - All pages from `free` to the last one are mapped for writing, by nothing else, and hold no object.
    // - Any bytes are a valid `Page`.
    let pages = unsafe { slice::from_raw_parts_mut(pages, frames.pages() - free) };
    Ok(Machine {
        magic: info.magic.map(i8::cast_unsigned),
        cmd_line: info.cmd_line.map(i8::cast_unsigned),
        grants,
        frames,
        arena: Arena::new(pages),
        toolstack,
    })
}

/// The first page behind all that Xen has put into memory: image, module, list of frames, start info, page
/// tables, a stack of one page that this kernel does not use, and the pages shared with Dom0.
fn first_free(info: &start_info, frames: Frames, tables_end: usize) -> Result<usize, MapError> {
    let module = address(info.mod_start)? + address(info.mod_len)?;
    let list = address(info.mfn_list)? + frames.pages() * size_of::<u64>();
    let start = (&raw const *info).addr() + PAGE;
    let bytes = [module, list, start, (&raw const image_end).addr()].into_iter().max().unwrap_or(0);
    let mut free = bytes.div_ceil(PAGE).max(tables_end + 1);
    if info.flags & SIF_INITDOMAIN == 0 {
        // SAFETY:
        // - As in `machine`: this domain was made by a toolstack.
        let console = unsafe { info.console.domU.mfn };
        for shared in [console, info.store_mfn] {
            let page = frames.find(shared, 0..frames.pages()).ok_or(MapError::Tables)?;
            free = free.max(page + 1);
        }
    }
    Ok(free)
}

/// Shows a machine frame in window `number`.
///
/// # Safety
/// Nothing of this program lies in the frame, and each window is used once.
unsafe fn show(number: usize, mfn: u64) -> Result<SharedPage, MapError> {
    let window = (&raw const windows).cast::<u8>().cast_mut().wrapping_add(number * PAGE);
    // SAFETY:
    // - A window is page-aligned and holds no object; the caller promises the same for the frame.
    unsafe { memory::map(window.expose_provenance(), mfn) }?;
    let base = NonNull::new(ptr::with_exposed_provenance_mut(window.addr())).ok_or(MapError::Tables)?;
    // SAFETY:
    // - The window is mapped for reading and writing, and is used through this value alone.
    Ok(unsafe { SharedPage::new(base) })
}

fn address(number: u64) -> Result<usize, MapError> {
    usize::try_from(number).map_err(|_| MapError::Tables)
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
