//! The core of LLM (Lightweight Live Migration for Xen).
//!
//! Everything here is pure: bytes and time come in as arguments, bytes and
//! actions go out. There is no allocation, no I/O and no clock, so the same
//! code runs in the Dom0 driver, in a stub domain and under the simulator.
//!
//! | module | what it is |
//! |---|---|
//! | [`page`] | diff codec for 4 KiB pages, and batches of encoded pages |
//! | [`frame`] | framing over any byte stream |
//! | [`flow`] | packets, flows, and the translation of their numbers |
//! | [`log`] | records of the input log |
//! | [`replay`] | what the log must keep, and its replay into a restored guest |
//! | [`ring`] | records through memory shared with a peer that is not trusted |
//! | [`replication`] | primary and backup state machines |
//! | [`service`] | what a driver and a unikernel that encodes for it say to each other |
#![no_std]
// Allowed in the files that docs/unsafe.md names, each of which says so itself.
#![deny(unsafe_code)]
#![warn(missing_docs, clippy::std_instead_of_core, clippy::alloc_instead_of_core)]
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)
)]

#[cfg(test)]
extern crate std;

pub mod checksum;
pub mod flow;
pub mod frame;
pub mod log;
pub mod page;
pub mod replay;
pub mod replication;
pub mod ring;
pub mod service;
pub mod time;
