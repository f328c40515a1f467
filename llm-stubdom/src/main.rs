//! The unikernel of LLM: boots as a paravirtual Xen domain. Made by a toolstack, it serves a driver in Dom0 until it is
//! asked to end; as the first domain of a host it shows that all it is made of works, and powers off.
//!
//! Run on a hypervisor; a host process started from this file would crash at once.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::panic::PanicInfo;
use llm_stubdom::arch::hypercall::{self, Reason};
use llm_stubdom::arch::machine::{Channel, Machine, Toolstack};
use llm_stubdom::cmdline::{Fault, Options};
use llm_stubdom::grants::Grants;
use llm_stubdom::kernel::{self, Kernel, StoreLine};
use llm_stubdom::server::Server;
use llm_stubdom::store::Store;
use llm_stubdom::{abi, console, loopback, println, selftest};

#[allow(unsafe_code, reason = "entry from Xen and the functions the compiler calls")]
mod boot;
#[allow(unsafe_code, reason = "the promises of a logger")]
mod logger;
mod tell;

/// Notifications after which a wanted fault of a ring comes: in the middle of a first copy.
const FAULT_AFTER: u32 = 50;

/// Runs once the boot code has made a stack and mapped all memory.
fn main(mut machine: Machine) -> ! {
    let toolstack = machine.toolstack.take().map(|Toolstack { console, store }| {
        console::init(console.page, console.port);
        store
    });
    tell::started(abi::text(&machine.magic).unwrap_or("an unknown hypervisor"), machine.frames.pages());
    let options = match Options::parse(abi::text(&machine.cmd_line).unwrap_or_default()) {
        Ok(options) => options,
        Err(error) => panic!("{error}"),
    };
    match options.fault {
        Some(Fault::Null) => boot::read_null(),
        Some(Fault::Stack) => boot::read_stack_guard(),
        Some(Fault::Panic) => panic!("as asked by fault=panic"),
        Some(Fault::Digest | Fault::Ring) | None => {}
    }
    match selftest::run(options.fault == Some(Fault::Digest)) {
        Ok(report) => println!("llm-core: {report}"),
        Err(error) => panic!("Self-test failed: {error}"),
    }
    match toolstack {
        Some(store) => serve(machine, store, options.fault),
        None => {
            let pages = machine.frames.pages();
            match loopback::run(machine) {
                Ok(report) => {
                    println!("llm-stubdom: {report}");
                    tell::room(pages, report.copies());
                    tell::messages();
                }
                Err(error) => panic!("Loopback test failed: {error}"),
            }
        }
    }
    println!("llm-stubdom: done, powering off");
    console::drain();
    hypercall::shutdown(Reason::PowerOff)
}

/// Serves until a toolstack asks the domain to end.
fn serve(machine: Machine, Channel { page, port }: Channel, fault: Option<Fault>) {
    let Machine { grants, frames, mut arena, .. } = machine;
    let store = Store::new(page, StoreLine(port));
    let (Some(requests), Some(answers)) = (kernel::ring(&mut arena), kernel::ring(&mut arena)) else {
        panic!("Too little memory for the rings");
    };
    let Some((service, request)) = kernel::service(&mut arena) else {
        panic!("Too little memory for the buffers");
    };
    tell::room(frames.pages(), service.capacity());
    let kernel = Kernel::new(frames, Grants::new(grants), (requests, answers), port, tell::event);
    let kernel = if fault == Some(Fault::Ring) { kernel.with_ring_fault(FAULT_AFTER) } else { kernel };
    if let Err(error) = Server::new(kernel, store, service, request).run() {
        panic!("The server cannot go on: {error}");
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::print_in_panic(format_args!("llm-stubdom: {info}\n"));
    console::drain();
    hypercall::shutdown(Reason::Crash)
}
