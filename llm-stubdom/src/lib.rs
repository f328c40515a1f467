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
//! | [`arch`] | hypercalls: the only unsafe code of this library |
//! | [`cmdline`] | options on the kernel command line |
//! | [`console`] | text to the hypervisor's console, a line at a time |
//! | [`selftest`] | proof at boot that llm-core works here |
#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod abi;
#[allow(unsafe_code, reason = "hypercalls")]
pub mod arch;
pub mod cmdline;
pub mod console;
pub mod selftest;
