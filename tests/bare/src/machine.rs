//! The machine: what the processor can do, its counter, the serial port, and how to end.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc, _xgetbv, _xsetbv};
use core::fmt::{self, Write as _};
use llm_core::page::Features;

/// State of SSE, AVX and AVX-512, and the x87's, which is always there.
const AVX: u64 = 7;
const AVX512: u64 = 0xe7;

/// Switches wide registers on, if there are any, and tells the widths that the processor has, the narrowest first. Says
/// what it has found.
pub(crate) fn widths(serial: &mut Serial) -> [Option<Features>; 3] {
    let (one, seven, extended) = (__cpuid(1), __cpuid_count(7, 0), __cpuid(0x8000_0001));
    let has = |register: u32, bit: u32| register >> bit & 1 != 0;
    let features = [
        ("xsave", has(one.ecx, 26)),
        ("avx", has(one.ecx, 28)),
        ("avx2", has(seven.ebx, 5)),
        ("bmi1", has(seven.ebx, 3)),
        ("bmi2", has(seven.ebx, 8)),
        ("lzcnt", has(extended.ecx, 5)),
        ("popcnt", has(one.ecx, 23)),
        ("avx512f", has(seven.ebx, 16)),
        ("avx512bw", has(seven.ebx, 30)),
        ("avx512vbmi", has(seven.ecx, 1)),
        ("avx512vbmi2", has(seven.ecx, 6)),
    ];
    let _ = write!(serial, "processor");
    for (name, _) in features.iter().filter(|(_, has)| *has) {
        let _ = write!(serial, " {name}");
    }
    let _ = writeln!(serial);
    let all = |features: &[(&str, bool)]| features.iter().all(|(_, has)| *has);
    let kept = if features[0].1 { keep_registers() } else { 0 };
    let avx2 = all(&features[..7]) && kept & AVX == AVX;
    let avx512 = avx2 && all(&features) && kept & AVX512 == AVX512;
    // SAFETY: the processor says that it has all five, and the registers of AVX are switched on.
    let avx2 = avx2.then(|| unsafe { Features::avx2() });
    // SAFETY: as above, and the three of AVX-512, whose registers are switched on.
    let avx512 = avx512.then(|| unsafe { Features::avx512() });
    [Some(Features::PORTABLE), avx2, avx512]
}

/// Switches on all registers of AVX and AVX-512 that there are; returns those that are on.
fn keep_registers() -> u64 {
    // SAFETY: sets OSXSAVE in CR4; the processor has XSAVE, as the caller has seen. Nothing else runs here.
    unsafe {
        asm!("mov {x}, cr4", "bts {x}, 18", "mov cr4, {x}", x = out(reg) _, options(nostack));
    }
    let possible = u64::from(__cpuid_count(0xd, 0).eax);
    // SAFETY: XSAVE is switched on, and the processor says that it has these registers.
    unsafe { set_kept(possible & if possible & AVX512 == AVX512 { AVX512 } else { AVX }) }
}

/// # Safety
///
/// The processor has XSAVE, switched on, and these registers.
#[target_feature(enable = "xsave")]
unsafe fn set_kept(registers: u64) -> u64 {
    // SAFETY: as the caller promises; this is ring 0.
    unsafe { _xsetbv(0, registers) };
    // SAFETY: register 0 is there with XSAVE.
    unsafe { _xgetbv(0) }
}

/// The counter of the processor's time. Bochs counts instructions by it.
pub(crate) fn count() -> u64 {
    // SAFETY: every processor with long mode has the instruction.
    unsafe { _rdtsc() }
}

/// The first serial port.
pub(crate) struct Serial(());

impl Serial {
    /// Sets it to eight bits, no parity, one stop bit.
    pub(crate) fn open() -> Self {
        write(PORT + 3, 3);
        Self(())
    }
}

const PORT: u16 = 0x3f8;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // Until it takes a byte.
            while read(PORT + 5) & 0x20 == 0 {}
            write(PORT, byte);
        }
        Ok(())
    }
}

/// Ends the emulator.
pub(crate) fn end() -> ! {
    // What is on its way over the serial port goes out first.
    while read(PORT + 5) & 0x40 == 0 {}
    for byte in *b"Shutdown" {
        write(0x8900, byte);
    }
    loop {
        // SAFETY: waits for interrupts, which are off.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

fn read(port: u16) -> u8 {
    let byte;
    // SAFETY: reading the status of the serial port, the only one read here, changes no memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") byte, options(nomem, nostack, preserves_flags)) };
    byte
}

fn write(port: u16, byte: u8) {
    // SAFETY: neither the serial port nor that by which Bochs ends changes memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags)) };
}
