//! Primary and backup as machines without I/O.
//!
//! [`Primary`] sits beside the running domain, [`Backup`] beside its copy. A
//! driver owns the sockets and the clock; after *every* call into a machine it
//! drains `poll_transmit` and `poll_event`, then sleeps until `poll_timeout`
//! or the next input.
//!
//! ```text
//!   accepted/dialled, messages, data sequence numbers, time
//!         |                                          ^
//!         v                                          |
//!   handle_*(.., now)   ->   poll_transmit() poll_event() poll_timeout()
//! ```
//!
//! Two rules the lease rests on (the argument is in `docs/replication.md`):
//! - `now` is read from one monotonic clock that goes on while the host is
//!   suspended, and is read *after* the bytes it is handed in with arrived.
//!   A `now` older than one seen before counts as that one.
//! - a packet leaves the primary only if [`Primary::may_release`] holds at that
//!   moment; [`PrimaryEvent::Release`] says how far, not until when.
//!
//! One machine lives for one session: a random number the primary draws when it
//! begins to protect a domain. Whatever ends a session ends its machines.

mod backup;
mod epoch_end;
mod events;
mod message;
mod primary;
mod timing;

pub use backup::{
    Backup, BackupEvent, BackupPhase, Data, DiscardReason, EpochError, Holder, ModeSet, Offer, TakeOverReason,
};
pub use epoch_end::{EpochEnd, EpochEndError};
pub use message::{
    ADDRESSES_MAX, Addresses, Commit, DOMAIN_MAX, Goodbye, GoodbyeReason, Heartbeat, Hello, LogAck,
    MESSAGE_MAX, Message, MessageError, Mode, REFUSAL_TEXT_MAX, Refusal, RefuseReason, Welcome,
};
pub use primary::{
    CheckpointReason, OnBackupLoss, Primary, PrimaryConfig, PrimaryEvent, PrimaryPhase, SequenceError,
};
pub use timing::{DETECT_MAX, DETECT_MIN, HEARTBEAT_MIN, INTERVAL_MAX, INTERVAL_MIN, Timing, TimingError};

use crate::frame::Method;
use serde::{Deserialize, Serialize};

/// Oldest protocol version spoken here.
pub const PROTOCOL_MIN: u16 = 1;
/// Newest protocol version spoken here.
pub const PROTOCOL_MAX: u16 = 1;
/// Optional abilities that are defined: the methods of compressed batches, and [`PACKED_LOG`]. Each side offers those that it has.
pub const FEATURES: u64 = Method::Lz4.feature() | Method::Zstd.feature() | PACKED_LOG;
/// The ability to read [packed log records](crate::log::Packer), which then a whole session sends.
pub const PACKED_LOG: u64 = 4;

/// Number of the first epoch of a session.
pub const FIRST_EPOCH: u64 = 1;
/// Number of the first bulk data frame of a session, and of its first log frame.
pub const FIRST_DATA_SEQ: u64 = 1;
/// Most epochs that may be closed and not yet committed.
pub const MAX_OPEN_EPOCHS: usize = 16;

/// One of the two connections between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Path {
    /// Control messages and the input log.
    Control,
    /// Checkpoint data, and heartbeats of its own.
    Bulk,
}

impl Path {
    /// Both, in the order in which they are served.
    pub const ALL: [Self; 2] = [Self::Control, Self::Bulk];

    const fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Bulk => 1,
        }
    }
}

/// One connection on a path. It tells a late message of a connection that is gone from
/// one of its successor's, in a later session too; the number means nothing to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ConnectionId {
    /// The session of the machine that made it.
    pub session: u64,
    /// The path it serves.
    pub path: Path,
    /// Counts the machine's connections, from 1.
    pub number: u32,
}

/// The connection named is not (or no longer) the machine's: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct StaleConnection;

impl core::fmt::Display for StaleConnection {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("connection has been replaced or given up")
    }
}

impl core::error::Error for StaleConnection {}

/// Why a connection is no longer used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum LostReason {
    /// The driver reported its end.
    Closed,
    /// Nothing was heard on it for [`Timing::silence`].
    Silent,
    /// The peer opened a newer one for the same path.
    Superseded,
    /// The peer refused it.
    Refused,
    /// The peer said what it may not say at this point.
    Violation,
    /// The session is over.
    Ended,
}
