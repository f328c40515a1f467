//! The unikernel of LLM: boots as a paravirtual Xen domain, shows on the
//! hypervisor's console that llm-core works in it, and powers off.
//!
//! Run on a hypervisor; a host process started from this file would crash at once.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::panic::PanicInfo;
use llm_stubdom::abi::start_info;
use llm_stubdom::arch::hypercall::{self, Reason};
use llm_stubdom::cmdline::{Fault, Options};
use llm_stubdom::{abi, console, println, selftest};

#[allow(unsafe_code, reason = "entry from Xen and the functions the compiler calls")]
mod boot;

/// Runs once the boot code has made a stack; `info` is what Xen says of this domain.
fn main(info: &start_info) -> ! {
    let magic = info.magic.map(|c| c.cast_unsigned());
    println!(
        "llm-stubdom {} on {}, {} pages of memory",
        env!("CARGO_PKG_VERSION"),
        abi::text(&magic).unwrap_or("an unknown hypervisor"),
        info.nr_pages
    );
    let line = info.cmd_line.map(i8::cast_unsigned);
    let options = match Options::parse(abi::text(&line).unwrap_or_default()) {
        Ok(options) => options,
        Err(error) => panic!("{error}"),
    };
    match options.fault {
        Some(Fault::Null) => boot::read_null(),
        Some(Fault::Stack) => boot::read_stack_guard(),
        Some(Fault::Digest) | None => {}
    }
    match selftest::run(options.fault == Some(Fault::Digest)) {
        Ok(report) => println!("llm-core: {report}"),
        Err(error) => panic!("Self-test failed: {error}"),
    }
    println!("llm-stubdom: done, powering off");
    hypercall::shutdown(Reason::PowerOff)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::print_in_panic(format_args!("llm-stubdom: {info}\n"));
    hypercall::shutdown(Reason::Crash)
}
