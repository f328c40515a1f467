//! What must be there before Rust code can run: the ELF notes Xen reads, the
//! entry point, the stack, and the memory functions the compiler calls.

mod memory;
mod pv;

pub(crate) use pv::{read_null, read_stack_guard};
