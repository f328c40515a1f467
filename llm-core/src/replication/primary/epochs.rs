//! Which epochs are closed, committed and released, and when the next one is due.

use super::super::{FIRST_EPOCH, MAX_OPEN_EPOCHS};
use super::event::{CheckpointReason, SequenceError};
use crate::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub(super) struct Epochs {
    interval: Duration,
    max_open: u64,
    closed: u64,
    committed: u64,
    released: u64,
    /// When each open epoch was closed, at its number modulo the length.
    closed_at: [Instant; MAX_OPEN_EPOCHS],
    last_close: Instant,
    early: Option<CheckpointReason>,
}

/// A commit of an epoch that was never closed.
#[derive(Debug)]
pub(super) struct FalseCommit;

const NONE: u64 = FIRST_EPOCH - 1;

impl Epochs {
    pub(super) fn new(interval: Duration, max_open: usize, now: Instant) -> Self {
        Self {
            interval,
            max_open: max_open.clamp(1, MAX_OPEN_EPOCHS) as u64,
            closed: NONE,
            committed: NONE,
            released: NONE,
            closed_at: [now; MAX_OPEN_EPOCHS],
            last_close: now,
            early: None,
        }
    }

    const fn slot(epoch: u64) -> usize {
        // The remainder is below an array length.
        #[allow(clippy::cast_possible_truncation)]
        let slot = (epoch % MAX_OPEN_EPOCHS as u64) as usize;
        slot
    }

    const fn some(epoch: u64) -> Option<u64> {
        if epoch == NONE { None } else { Some(epoch) }
    }

    pub(super) const fn closed(&self) -> Option<u64> {
        Self::some(self.closed)
    }

    pub(super) const fn committed(&self) -> Option<u64> {
        Self::some(self.committed)
    }

    /// Notes the next epoch as closed. Returns the interval it took, if that was
    /// noticeably longer than wanted.
    pub(super) fn close(&mut self, epoch: u64, now: Instant) -> Result<Option<Duration>, SequenceError> {
        let expected = self.closed + 1;
        if epoch != expected {
            return Err(SequenceError::Order { expected, found: epoch });
        }
        if self.closed - self.committed >= MAX_OPEN_EPOCHS as u64 {
            return Err(SequenceError::TooManyOpen { committed: self.committed });
        }
        // The first epoch carries all of the memory; its length says nothing of the interval.
        let real = now.since(self.last_close);
        let stretched = epoch != FIRST_EPOCH && real > self.interval + self.interval / 4;
        self.closed = epoch;
        if let Some(at) = self.closed_at.get_mut(Self::slot(epoch)) {
            *at = now;
        }
        self.last_close = now;
        self.early = None;
        Ok(stretched.then_some(real))
    }

    /// Notes all epochs up to `epoch` as committed. Returns how long the newest of them
    /// took since it was closed, or `None` if that was known already.
    pub(super) fn commit(&mut self, epoch: u64, now: Instant) -> Result<Option<Duration>, FalseCommit> {
        if epoch > self.closed {
            return Err(FalseCommit);
        }
        if epoch <= self.committed {
            return Ok(None);
        }
        self.committed = epoch;
        Ok(self.closed_at.get(Self::slot(epoch)).map(|&at| now.since(at)))
    }

    /// The newest committed epoch, once.
    pub(super) fn release(&mut self) -> Option<u64> {
        (self.committed > self.released).then(|| {
            self.released = self.committed;
            self.released
        })
    }

    pub(super) fn request(&mut self, reason: CheckpointReason) {
        self.early.get_or_insert(reason);
    }

    pub(super) const fn early(&self) -> Option<CheckpointReason> {
        self.early
    }

    /// When the next epoch may be closed; `None` while too many wait for their commit.
    pub(super) fn next_at(&self) -> Option<Instant> {
        (self.closed - self.committed < self.max_open).then(|| match self.early {
            Some(_) => self.last_close,
            None => self.last_close + self.interval,
        })
    }
}
