//! What the backup tells its driver.

use super::super::events::Slotted;
use super::super::{ConnectionId, LostReason, Refusal};
use crate::time::Duration;

/// Something for the driver to do or to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupEvent {
    /// The connection is given up: close it.
    PathLost {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: LostReason,
    },
    /// All epochs up to this one are committed: give them to the toolstack, in order.
    HandOver {
        /// The newest committed.
        epoch: u64,
    },
    /// Run the domain: drop what belongs to later epochs, finish handing over up to
    /// `committed`, end the pipe, join the network, announce.
    TakeOver {
        /// The newest committed epoch: what the domain starts from.
        committed: u64,
        /// Why.
        reason: TakeOverReason,
    },
    /// Drop the copy of the domain without letting it run.
    Discard {
        /// Why.
        reason: DiscardReason,
    },
}

impl BackupEvent {
    pub(super) const SLOTS: usize = 5;
}

impl Slotted for BackupEvent {
    fn slot(&self) -> usize {
        match self {
            Self::PathLost { connection, .. } => connection.path.index(),
            Self::HandOver { .. } => 2,
            Self::TakeOver { .. } => 3,
            Self::Discard { .. } => 4,
        }
    }
}

/// What made the backup act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum TakeOverReason {
    /// The primary gave the domain up.
    Failing,
    /// No sign of life on either path for the detect time.
    Silence {
        /// How long it has been.
        lasted: Duration,
    },
}

/// Why a copy is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum DiscardReason {
    /// The primary ended protection.
    Released,
    /// The domain has ended.
    DomainEnded,
    /// The primary was lost before its first epoch was committed: there is nothing whole.
    NeverCommitted,
    /// This service ends.
    ShuttingDown,
}

/// Where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum BackupPhase {
    /// Receiving, and watching the primary.
    Protecting,
    /// Running the domain.
    TakenOver,
    /// Without a copy.
    Discarded(DiscardReason),
}

/// What to do with a bulk data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Data {
    /// The next one: apply it.
    Accept,
    /// Received before: drop it.
    Duplicate,
    /// One is missing, which a connection cannot do by itself: close it.
    Gap {
        /// The number that was due.
        expected: u64,
    },
    /// Not on this connection, or not any more: drop it and close the connection.
    Stale,
}

/// Why an epoch is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EpochError {
    /// The connection is no longer in use, or the session is over: close it.
    Stale,
    /// The epoch is not what was announced. No later one will be committed either: send
    /// this refusal, then close the connection.
    Corrupt(Refusal),
}

impl core::fmt::Display for EpochError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Stale => f.write_str("epoch ended on a connection that is not in use"),
            Self::Corrupt(refusal) => refusal.fmt(f),
        }
    }
}

impl core::error::Error for EpochError {}
