//! What we ask of Xen: one file a device or tool, safe wrappers, no policy.
//!
//! | module | what it is |
//! |---|---|
//! | [`privcmd`] | domain state by hypercall |
//! | [`evtchn`] | notifications between domains |
//! | [`gntdev`] | pages that another domain grants to this one |
//! | [`gntalloc`] | pages of this domain that are granted to another |
//! | [`toolstack`] | short `xl` commands: look up, make, rename, pause, destroy |
//! | [`encoder`] | the domain that encodes for a protected one |
//! | [`remus`] | a running `xl remus` on the primary |
//! | [`receive`] | a running `xl migrate-receive` on the backup |
//! | [`orphans`] | what a killed `xl migrate-receive` leaves running |
//! | [`stdio`] | how `xl remus` gives us its pipes |
//! | [`store`] | XenStore: nodes, watches, transactions |
//! | [`unikernel`] | the unikernel that encodes: its configuration, its rings |
mod child;
pub mod encoder;
pub mod evtchn;
pub mod gntalloc;
pub mod gntdev;
mod ioctl;
pub mod orphans;
pub mod privcmd;
pub mod receive;
pub mod remus;
pub mod stdio;
pub mod store;
pub mod toolstack;
pub mod unikernel;

#[cfg(test)]
mod testing;
