//! What only the hypervisor can do for us.

pub mod hypercall;
