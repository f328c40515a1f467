//! What the unikernel of LLM is made of, apart from its entry point.
//!
//! A small kernel for a paravirtual Xen domain: it needs no page tables, no
//! interrupts and no allocator of its own, one virtual CPU, and nothing of Dom0
//! but the hypervisor's own services. `src/main.rs` boots it; everything here
//! compiles and is tested on a host as well.
//!
//! | module | what it is |
//! |---|---|
//! | [`abi`] | layouts shared with Xen, checked when compiling |
//! | [`arch`] | hypercalls, page tables, shared pages: the only unsafe code of this library |
//! | [`arena`] | the memory that is left, shared out once |
//! | [`clock`] | time as Xen shows it |
//! | [`cmdline`] | options on the kernel command line |
//! | [`console`] | text to the console, a line at a time |
//! | [`grants`] | which pages which domain may map |
//! | [`handshake`] | how this domain and its driver come together and part |
//! | [`kernel`] | the server's machine: granted rings, an event channel |
//! | [`loopback`] | proof at boot of all that a driver will use |
//! | [`messages`] | what waits for the driver's log |
//! | [`selftest`] | proof at boot that llm-core works here |
//! | [`server`] | the main loop: handshake, rings, service |
//! | [`service`] | the work for one protected domain |
//! | [`shared`] | pages that others write to, and the byte rings in them |
//! | [`store`] | a client of xenstore |
//! | [`wait`] | waiting for events |
#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod abi;
#[allow(unsafe_code, reason = "hypercalls, page tables and shared pages")]
pub mod arch;
pub mod arena;
pub mod clock;
pub mod cmdline;
pub mod console;
pub mod grants;
pub mod handshake;
pub mod kernel;
pub mod loopback;
pub mod messages;
#[cfg(test)]
mod random;
pub mod selftest;
pub mod server;
pub mod service;
pub mod shared;
pub mod store;
pub mod wait;
