//! What the kernel of this crate compares, and what a host compares its summary with: pairs of pages, and the widths of the
//! page codec on each.
#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod compare;
pub mod count;
pub mod pairs;
