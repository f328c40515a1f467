//! What can be wrong with a kept log.

use std::io;

use llm_core::log::LogReason;

/// A place where a kept log cannot be read on. Offsets are in bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeptLogError {
    /// The file cannot be read.
    #[error("Cannot read at byte {offset}")]
    Read {
        /// Where the read began.
        offset: u64,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It starts otherwise, or is made by another version.
    #[error("Bad header at byte {offset}: {reason}")]
    Header {
        /// Where the field starts.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A record that is damaged, cut short or out of order. All before it is good.
    #[error("Bad record at byte {offset} of the file: {reason}")]
    Record {
        /// Where the record starts.
        offset: u64,
        /// What is wrong with it.
        reason: LogReason,
    },
}
