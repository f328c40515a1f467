//! Records from Dom0 to another domain and back: our ring beside libxenvchan, TCP over netfront and netback, and the copies alone.
//!
//! One emulated host. The other end of our ring, of libxenvchan and of TCP is the same Linux domain, in which a process for each sends
//! everything back; a unikernel does so as well. All peers are measured in turn, several times, and the medians count.

pub mod domain;
pub mod link;
pub mod load;
pub mod others;
mod run;
mod table;

use std::time::Duration;

use llm_core::ring::PAGE;

pub use run::run;

/// Data pages of each ring, as in the unikernel. libxenvchan's rings have as many.
pub const DATA_PAGES: usize = 64;

/// Bytes of the longest record.
pub const MAX_RECORD: usize = 64 << 10;

/// Bytes of the records.
pub const SIZES: [usize; 6] = [64, 256, 1 << 10, 4 << 10, 16 << 10, MAX_RECORD];

/// How long the other end may be silent.
pub const PATIENCE: Duration = Duration::from_secs(30);

const _: () = assert!(DATA_PAGES * PAGE == 256 << 10, "RING in vchan-peer.c");

/// How the bench is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab.
    pub name: String,
    /// How long each measure takes.
    pub time: Duration,
    /// How often all is measured.
    pub rounds: usize,
}
