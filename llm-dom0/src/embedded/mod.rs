//! Shared pages and notifications between processes of one host, without Xen.
//!
//! | module | what it is |
//! |---|---|
//! | [`memfd`] | shared pages |
//! | [`eventfd`] | notifications |
//! | [`pass`] | descriptors of both, given to another process |
pub mod eventfd;
pub mod memfd;
pub mod pass;
