//! What we ask of Xen: one file a device or tool, safe wrappers, no policy.
//!
//! | module | what it is |
//! |---|---|
//! | [`privcmd`] | domain state by hypercall |
//! | [`toolstack`] | short `xl` commands: look up, rename, pause, destroy |
//! | [`remus`] | a running `xl remus` on the primary |
//! | [`receive`] | a running `xl migrate-receive` on the backup |
//! | [`orphans`] | what a killed `xl migrate-receive` leaves running |
//! | [`stdio`] | how `xl remus` gives us its pipes |
mod child;
pub mod orphans;
pub mod privcmd;
pub mod receive;
pub mod remus;
pub mod stdio;
pub mod toolstack;

#[cfg(test)]
mod testing;
