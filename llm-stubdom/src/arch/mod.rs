//! What only the hypervisor and the processor can do for us.

pub mod event;
pub mod grant;
pub mod hypercall;
pub mod machine;
pub mod memory;
pub mod page;
pub mod ring;
pub mod tsc;
