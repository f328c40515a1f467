//! The checkpoint engine that sits in the pipe of the stock toolstack.
//!
//! | module | what it is |
//! |---|---|
//! | [`stream`] | parser of what the toolstack writes |
//! | [`shadow`] | the last known copy of each page, alike on both sides |
//! | `slab` | ... and its memory |
//! | [`encode`] | primary: the stream into batches of page diffs |
//! | `local` | ... in this process |
//! | [`offload`] | ... by somebody else, who may fail |
//! | [`held`] | which pages the backup holds |
//! | [`second`] | batches that wait for the link, compressed together |
//! | [`rebuild`] | backup: the batches into the same stream |
//! | [`tap`] | the pipe, and how many bytes the toolstack has written |
//! | [`width`] | what the processor can do for the page codec |
pub mod encode;
pub mod held;
mod local;
pub mod offload;
pub mod rebuild;
pub mod second;
pub mod shadow;
mod slab;
pub mod stream;
pub mod tap;
pub mod width;

#[cfg(test)]
mod tests;
