//! What the primary tells its driver.

use super::super::events::Slotted;
use super::super::{ConnectionId, LostReason, MAX_OPEN_EPOCHS, Path, Refusal};
use crate::time::{Duration, Instant};
use core::fmt;

/// Something for the driver to do or to report.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrimaryEvent {
    /// Dial the backup for this path, with a time-out of at most half the detect time;
    /// then call `handle_connected` or `handle_disconnected`.
    Connect {
        /// To be named in all that follows.
        connection: ConnectionId,
    },
    /// The backup welcomed the connection.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// Protocol version in use.
        version: u16,
        /// Abilities both have.
        features: u64,
    },
    /// The connection is given up: close it if it is open. Another `Connect` follows
    /// unless the session is over.
    PathLost {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: LostReason,
    },
    /// Send all kept bulk data, or log frames on the control path, from `next_seq` on over this connection, in order, before
    /// any newer. If `next_seq` is not between the oldest kept and the next to be made,
    /// the two ends disagree: begin a new session.
    Resume {
        /// The connection.
        connection: ConnectionId,
        /// First sequence number the backup lacks.
        next_seq: u64,
    },
    /// The backup holds all epochs up to this one: their bulk data may be dropped.
    Committed {
        /// The newest committed.
        epoch: u64,
        /// From its `epoch_closed` to now.
        latency: Duration,
    },
    /// Output of all epochs up to this one may leave, at moments when
    /// [`super::Primary::may_release`] holds.
    Release {
        /// The newest releasable.
        epoch: u64,
    },
    /// The last epoch took over a quarter longer than wanted.
    IntervalStretched {
        /// The interval of the session.
        wanted: Duration,
        /// From close to close.
        real: Duration,
    },
    /// The lease is over: output is held. Once until `BackupBack`.
    BackupLost {
        /// When the lease ended.
        since: Instant,
    },
    /// The lease was renewed after a `BackupLost`.
    BackupBack {
        /// From the end of the lease to now.
        after: Duration,
    },
    /// The backup dropped its copy and says so (its service ends).
    BackupLeft,
    /// The backup no longer has what this session sent. The session is over; a new one
    /// has to send everything.
    BackupRestarted,
    /// The backup refused a connection. It is tried again only if
    /// [`super::super::RefuseReason::may_pass`].
    Refused {
        /// Which.
        connection: ConnectionId,
        /// Why, in the backup's words.
        refusal: Refusal,
    },
    /// The domain runs unprotected from now on, by policy or command: all output may
    /// leave, no checkpoint is needed. The session is over.
    GoneUnprotected,
    /// The backup has not answered the release in time. Output still waits, and the
    /// release goes on being tried; `go_on` ends the wait.
    ReleaseUnanswered,
    /// The backup has dropped its copy as asked: all output may leave. The session is over.
    Released,
    /// The backup runs the domain: stop it here and never release anything again.
    StopDomain,
}

impl PrimaryEvent {
    pub(super) const fn connected_slot(path: Path) -> usize {
        2 + path.index()
    }

    pub(super) const fn resume_slot(path: Path) -> usize {
        match path {
            Path::Bulk => 8,
            Path::Control => 19,
        }
    }

    pub(super) const SLOTS: usize = 20;
}

impl Slotted for PrimaryEvent {
    fn slot(&self) -> usize {
        match self {
            Self::Connect { connection } => connection.path.index(),
            Self::Connected { connection, .. } => Self::connected_slot(connection.path),
            Self::PathLost { connection, .. } => 4 + connection.path.index(),
            Self::Refused { connection, .. } => 6 + connection.path.index(),
            Self::Resume { connection, .. } => Self::resume_slot(connection.path),
            Self::Committed { .. } => 9,
            Self::Release { .. } => 10,
            Self::IntervalStretched { .. } => 11,
            Self::BackupLost { .. } | Self::BackupBack { .. } => 12,
            Self::BackupLeft => 13,
            Self::BackupRestarted => 14,
            Self::GoneUnprotected => 15,
            Self::ReleaseUnanswered => 16,
            Self::Released => 17,
            Self::StopDomain => 18,
        }
    }
}

/// Why a checkpoint is wanted before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum CheckpointReason {
    /// Held output nears its bound.
    EgressPressure,
    /// The input log since the last one nears its bound.
    LogBudget,
    /// Asked for by a person or program.
    Command,
}

/// What to do when the backup cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum OnBackupLoss {
    /// Hold all output until it is back or somebody decides.
    #[default]
    Stop,
    /// Run on without protection. If it was the network that failed, the backup runs the
    /// domain as well: unsafe until an arbiter decides.
    GoOn,
}

/// Where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PrimaryPhase {
    /// Protecting, or on the way there.
    Active,
    /// Asked to end; the backup has yet to agree.
    Releasing,
    /// Gave the domain up.
    Failed,
    /// Ended; the domain runs without protection although the backup did not agree.
    Unprotected,
    /// Ended in agreement.
    Released,
    /// The backup runs the domain.
    TakenOver,
    /// The backup has lost the session.
    Restarted,
}

/// An `epoch_closed` that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SequenceError {
    /// Not the number after the last one.
    Order {
        /// That number.
        expected: u64,
        /// As given.
        found: u64,
    },
    /// [`MAX_OPEN_EPOCHS`] epochs wait for their commit already.
    TooManyOpen {
        /// The newest committed, 0 if none.
        committed: u64,
    },
}

impl fmt::Display for SequenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order { expected, found } => write!(f, "epoch {found} closed where {expected} was next"),
            Self::TooManyOpen { committed } => {
                write!(f, "{MAX_OPEN_EPOCHS} epochs after {committed} wait for their commit")
            }
        }
    }
}

impl core::error::Error for SequenceError {}
