//! The log of a unikernel: its messages, decoded by the table in its kernel, in the log of this process.
//!
//! The table is this host's own file and is trusted; messages are not. A message has a bounded length, its texts reach
//! the log without control characters, and so many reach it in a second.

mod decode;
mod table;

pub use decode::{BadMessage, Message};
pub use table::{Table, TableError};

use std::path::Path;
use std::time::{Duration, Instant};

use defmt_parser::Level;

/// Messages shown in each [`WINDOW`].
const SHOWN_MAX: u32 = 50;
const WINDOW: Duration = Duration::from_secs(1);

/// The messages of one domain on their way into the log.
#[derive(Debug)]
pub struct Messages {
    domain: String,
    /// None if the kernel has none.
    table: Option<Table>,
    limit: Limit,
    /// A message that made no sense was seen.
    doubted: bool,
}

impl Messages {
    /// Those of `domain`, which runs the kernel in the file `kernel`. A kernel without a table is no error: the log
    /// says so, and nothing more of this domain.
    #[must_use]
    pub fn new(domain: &str, kernel: &Path) -> Self {
        let table = Table::read(kernel)
            .inspect_err(|error| {
                let why =
                    std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
                tracing::warn!(domain, "the messages of the domain cannot be shown: {error}{why}");
            })
            .ok();
        Self { domain: domain.to_owned(), table, limit: Limit::default(), doubted: false }
    }

    /// Shows a message, if it can be decoded and there are not too many.
    pub fn take(&mut self, message: &[u8]) {
        let Some(table) = &self.table else { return };
        let domain = &*self.domain;
        let Some(left_out) = self.limit.admit(Instant::now()) else { return };
        if left_out > 0 {
            tracing::warn!(domain, left_out, "the domain says too much");
        }
        match table.decode(message) {
            Ok(Message { level, time, text }) => match level {
                Level::Trace => tracing::trace!(domain, time, "{text}"),
                Level::Debug => tracing::debug!(domain, time, "{text}"),
                Level::Info => tracing::info!(domain, time, "{text}"),
                Level::Warn => tracing::warn!(domain, time, "{text}"),
                Level::Error => tracing::error!(domain, time, "{text}"),
            },
            Err(error) if !self.doubted => {
                self.doubted = true;
                tracing::warn!(domain, %error, "the domain says what its kernel does not; such messages are left out");
            }
            Err(_) => {}
        }
    }
}

/// How many messages were seen lately.
#[derive(Debug, Default)]
struct Limit {
    since: Option<Instant>,
    seen: u32,
    left_out: u64,
}

impl Limit {
    /// Whether one more may pass at `now`: how many did not since the last that did.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            (self.since, self.seen) = (Some(now), 0);
        }
        if self.seen == SHOWN_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.seen += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests;
