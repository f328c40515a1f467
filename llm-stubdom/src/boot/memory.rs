//! The functions compiled code calls for copying, filling and comparing memory; a
//! hosted program gets them from its C library. Copies and fills are string
//! instructions: a loop here would be compiled into a call to itself. They go by
//! words, since an emulator carries them out one by one.

use core::arch::asm;
use core::ffi::c_int;

/// # Safety
/// As C's `memcpy`: `src` is readable and `dest` writable for `n` bytes, and they do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(dest: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    // SAFETY:
    // - Forward copy of `n` bytes, words and then the rest, as the caller allows; the ABI keeps the direction
    //   flag clear.
    unsafe {
        asm!("rep movsq", "mov ecx, {rest:e}", "rep movsb", rest = in(reg) n % 8, inout("rcx") n / 8 => _,
            inout("rdi") dest => _, inout("rsi") src => _, options(nostack, preserves_flags));
    }
    dest
}

/// # Safety
/// As C's `memmove`: `src` is readable and `dest` writable for `n` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(dest: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    if dest.addr().wrapping_sub(src.addr()) >= n {
        // `dest` does not start inside the source: going forward reads each word before it is written.
        // SAFETY:
        // - As above, and the instructions copy word after word and byte after byte.
        return unsafe { memcpy(dest, src, n) };
    }
    // SAFETY:
    // - Backward copy of the same `n` bytes from their last one; n > 0 here, and the direction
    //   flag is clear again afterwards, as the ABI demands.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") n => _,
            inout("rdi") dest.wrapping_add(n).wrapping_sub(1) => _,
            inout("rsi") src.wrapping_add(n).wrapping_sub(1) => _,
            options(nostack));
    }
    dest
}

/// # Safety
/// As C's `memset`: `dest` is writable for `n` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(dest: *mut u8, byte: c_int, n: usize) -> *mut u8 {
    // Not as an array of eight: compiled without optimisation, that is a call of this function.
    let word = u64::from(byte.to_le_bytes()[0]).wrapping_mul(0x0101_0101_0101_0101);
    // SAFETY:
    // - Fills `n` bytes, words and then the rest, as the caller allows; the ABI keeps the direction flag clear.
    unsafe {
        asm!("rep stosq", "mov ecx, {rest:e}", "rep stosb", rest = in(reg) n % 8, inout("rcx") n / 8 => _,
            inout("rdi") dest => _, in("rax") word, options(nostack, preserves_flags));
    }
    dest
}

/// # Safety
/// As C's `memcmp`: `a` and `b` are readable for `n` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> c_int {
    let mut at = 0;
    while n - at >= size_of::<u64>() {
        // SAFETY:
        // - Eight bytes at `at` lie inside the `n` bytes of `a`; any alignment will do.
        let x = unsafe { a.wrapping_add(at).cast::<u64>().read_unaligned() };
        // SAFETY:
        // - As above, for `b`.
        let y = unsafe { b.wrapping_add(at).cast::<u64>().read_unaligned() };
        if x != y {
            // The first byte in memory decides, and is the highest in big-endian order.
            return if x.swap_bytes() < y.swap_bytes() { -1 } else { 1 };
        }
        at += size_of::<u64>();
    }
    while at < n {
        // SAFETY:
        // - `at` is less than `n`.
        let x = unsafe { a.wrapping_add(at).read() };
        // SAFETY:
        // - As above, for `b`.
        let y = unsafe { b.wrapping_add(at).read() };
        if x != y {
            return c_int::from(x) - c_int::from(y);
        }
        at += 1;
    }
    0
}

/// # Safety
/// As [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> c_int {
    // SAFETY:
    // - The same contract.
    unsafe { memcmp(a, b, n) }
}

/// Named by the precompiled `core`; never called, as a panic does not unwind here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
