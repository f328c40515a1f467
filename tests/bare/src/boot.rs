//! From a BIOS to Rust: the first sector of a disk, which loads the others and enters long mode.
//!
//! Interrupts stay off and there is no table of handlers: an exception ends in a triple fault, which the emulator reports.

use core::arch::global_asm;

// The functions that compiled code calls for copying and the like: the unikernel's own.
#[path = "../../../llm-stubdom/src/boot/memory.rs"]
mod memory;

/// Bytes of stack: an unoptimised build holds many pages on it.
const STACK: usize = 1 << 20;

global_asm!(
    ".pushsection .boot, \"ax\"",
    ".code16",
    ".globl boot",
    "boot:",
    "ljmp $0, $1f",
    "1:",
    "cli",
    "cld",
    "xorw %ax, %ax",
    "movw %ax, %ds",
    "movw %ax, %es",
    "movw %ax, %ss",
    "movw $0x7c00, %sp",
    // Fifteen times 64 sectors, from the second one on; the BIOS has told the drive in dl and may change it.
    "movb %dl, drive",
    "movw $15, %bp",
    "2:",
    "movw $packet, %si",
    "movb drive, %dl",
    "movb $0x42, %ah",
    "int $0x13",
    "jc fail",
    "addw $0x800, packet + 6",
    "addl $64, packet + 8",
    "decw %bp",
    "jnz 2b",
    // Addresses above 1 MiB.
    "inb $0x92, %al",
    "orb $2, %al",
    "outb %al, $0x92",
    // Physical addresses of 64 bits, and SSE.
    "movl $0x620, %eax",
    "movl %eax, %cr4",
    "movl $tables, %eax",
    "movl %eax, %cr3",
    // Long mode, which begins with paging.
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "orl $0x100, %eax",
    "wrmsr",
    "lgdt descriptor",
    "movl %cr0, %eax",
    "andl $0xfffffffb, %eax",
    "orl $0x80000003, %eax",
    "movl %eax, %cr0",
    "ljmp $8, $3f",
    "fail:",
    "hlt",
    "jmp fail",
    ".code64",
    "3:",
    "movw $16, %ax",
    "movw %ax, %ds",
    "movw %ax, %es",
    "movw %ax, %ss",
    "xorl %eax, %eax",
    "movl $zeros_start, %edi",
    "movl $zeros_end, %ecx",
    "subl %edi, %ecx",
    "rep stosb",
    "movl $stack_top, %esp",
    "xorl %ebp, %ebp",
    "fninit",
    "movzbl option, %edi",
    "call {entry}",
    "ud2",
    // What to read: this many bytes of packet, sectors, to where (offset, segment), from which sector.
    ".balign 4",
    "packet:",
    ".word 16, 64, 0, 0x7e0",
    ".quad 1",
    "drive:",
    ".byte 0",
    ".balign 8",
    "segments:",
    ".quad 0",
    ".quad 0x00209a0000000000",
    ".quad 0x0000920000000000",
    "descriptor:",
    ".word descriptor - segments - 1",
    ".long segments",
    // Set in the image by who starts it.
    ".org boot + 509",
    "option:",
    ".byte 0",
    ".word 0xaa55",
    ".popsection",
    // The first GiB at its own addresses.
    ".pushsection .tables, \"aw\", @progbits",
    ".balign 4096",
    "tables:",
    ".quad 4f + 3",
    ".skip 4088",
    "4:",
    ".quad 0x83",
    ".skip 4088",
    ".popsection",
    ".pushsection .bss.stack, \"aw\", @nobits",
    ".balign 4096",
    ".skip {stack}",
    "stack_top:",
    ".popsection",
    stack = const STACK,
    entry = sym entry,
    options(att_syntax),
);

extern "C" fn entry(option: u32) -> ! {
    crate::main(option)
}
