//! One protected domain: the threads of its primary, and those of its backup.

pub mod backup;
pub mod primary;
mod queue;
pub mod relay;
mod samples;

pub use samples::{PauseMeter, Samples};
