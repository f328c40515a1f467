//! Input logs that are kept in files: written at a take-over, looked into with `llm log`.
//!
//! A kept log is a header and then records as [`llm_core::log`] writes them; `docs/wire-format.md` has the bytes.
//! Numbers of records only grow, but some may be missing: what a checkpoint provably holds is dropped from the log.
//!
//! | item | what it is |
//! |---|---|
//! | [`Writer`] | makes a file, whole or not at all |
//! | [`Reader`] | reads one record by record, and trusts nothing in it |
//! | [`frame`], [`pcapng`] | records as packets that Wireshark shows |

mod error;
pub mod frame;
mod layout;
pub mod pcapng;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use error::KeptLogError;
pub use reader::{Kept, Reader};
pub use writer::Writer;

use std::time::SystemTime;

use llm_core::log::{LogReason, Record};

/// What a kept log says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The session of primary and backup.
    pub session: u64,
    /// Name of the domain on the primary; see [`llm_core::replication::Hello::domain_is_valid`].
    pub domain: String,
    /// The last epoch that was committed when the log was kept: the copy went on from its end.
    pub committed: u64,
    /// When the log was kept, on the clock of the host that kept it. Stored in nanoseconds from 1970 to 2554.
    pub kept: SystemTime,
}

/// What holds from record to record.
#[derive(Clone, Copy, Debug, Default)]
struct Order {
    last: Option<(u64, u64)>,
}

impl Order {
    /// Takes the next record; how many numbers are missing before it.
    fn next(&mut self, record: &Record<'_>) -> Result<u64, LogReason> {
        let (lsn, epoch) = (record.lsn, record.entry.epoch);
        let missing = match self.last {
            None => 0,
            Some((u64::MAX, _)) => return Err(LogReason::LsnExhausted),
            Some((last, _)) if lsn <= last => return Err(LogReason::Lsn { want: last + 1, got: lsn }),
            Some((_, last)) if epoch < last => return Err(LogReason::Epoch { last, got: epoch }),
            Some((last, _)) => lsn - last - 1,
        };
        self.last = Some((lsn, epoch));
        Ok(missing)
    }
}
