//! A kernel for an emulated machine: does the widest width of the page codec that the processor has make the same records as
//! the portable one? It says on the serial port what it has compared, and what differed.
//!
//! Run it by `cargo test -p llm-tests --test bare`; a host process started from this file would crash at once.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::fmt::Write as _;
use core::panic::PanicInfo;
use llm_bare::compare::{Comparison, Fault};
use llm_bare::{count, pairs};
use machine::Serial;

#[allow(unsafe_code, reason = "entry from the BIOS and the functions the compiler calls")]
mod boot;
#[allow(unsafe_code, reason = "instructions and ports that only a kernel uses")]
mod machine;

/// Runs once the boot code has made a stack.
fn main(option: u32) -> ! {
    let mut serial = Serial::open();
    let widths = machine::widths(&mut serial);
    for features in widths.iter().flatten() {
        let _ = writeln!(serial, "width {}", features.name());
    }
    let fault = if option == 0 { None } else { Some(Fault { pair: option }) };
    // The widest is the one in question, and an emulator slow.
    let widest = widths.iter().rev().flatten().next().copied();
    let mut comparison = Comparison::new([widths[0], None, widest], fault);
    for number in 0..pairs::COUNT {
        if let Err(difference) = comparison.pair(number) {
            let _ = writeln!(serial, "{difference}");
            machine::end();
        }
    }
    let _ = writeln!(serial, "{}", comparison.summary());
    for features in widths.into_iter().flatten() {
        for counted in count::all(features, machine::count) {
            let _ = writeln!(serial, "{counted}");
        }
    }
    let _ = writeln!(serial, "end");
    machine::end()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Serial::open(), "{info}");
    machine::end()
}
