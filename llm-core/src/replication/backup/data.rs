//! Bulk data: its order, and the commit of whole epochs.

use super::super::epoch_end::EpochEnd;
use super::super::message::{Refusal, RefuseReason};
use super::super::{ConnectionId, Path};
use super::{Backup, BackupEvent, BackupPhase, Data, EpochError, Instant};

impl Backup {
    /// A bulk data frame came in; what to do with it. Numbers go on across connections.
    pub fn data_received(&mut self, connection: ConnectionId, seq: u64) -> Data {
        let expected = self.next_seq;
        if self.phase != BackupPhase::Protecting
            || self.corrupt
            || connection.path != Path::Bulk
            || !self.current(connection)
        {
            return Data::Stale;
        }
        match seq.cmp(&expected) {
            core::cmp::Ordering::Less => Data::Duplicate,
            core::cmp::Ordering::Equal => match expected.checked_add(1) {
                Some(next) => {
                    self.next_seq = next;
                    Data::Accept
                }
                None => Data::Stale,
            },
            core::cmp::Ordering::Greater => {
                self.links[Path::Bulk.index()] = None;
                Data::Gap { expected }
            }
        }
    }

    /// All frames of an epoch are applied; `digest_ok` tells whether the rebuilt stream has
    /// the length, pages and digest that `end` announces. Commits it if there is room.
    ///
    /// # Errors
    /// See [`EpochError`]. The committed epochs stay good.
    pub fn epoch_complete(
        &mut self,
        connection: ConnectionId,
        end: &EpochEnd,
        digest_ok: bool,
        now: Instant,
    ) -> Result<(), EpochError> {
        self.tick(now);
        if self.phase != BackupPhase::Protecting
            || self.corrupt
            || connection.path != Path::Bulk
            || !self.current(connection)
        {
            return Err(EpochError::Stale);
        }
        let expected = self.complete.saturating_add(1);
        if end.epoch() != expected || !digest_ok {
            self.corrupt = true;
            self.links[Path::Bulk.index()] = None;
            let refusal = if digest_ok {
                Refusal::new(
                    RefuseReason::Corrupt,
                    format_args!("epoch {} came, {expected} was due", end.epoch()),
                )
            } else {
                Refusal::new(RefuseReason::Corrupt, format_args!("epoch {expected} has another digest"))
            };
            return Err(EpochError::Corrupt(refusal));
        }
        self.complete = expected;
        self.commit();
        Ok(())
    }

    /// Whether handed-over epochs pile up. While they do, whole epochs wait for their commit,
    /// which makes the primary wait with the next ones.
    pub fn set_backlog(&mut self, full: bool, now: Instant) {
        self.tick(now);
        self.backlog = full;
        self.commit();
    }

    /// Said on both paths, so that one stuck path delays nothing; a path that comes up
    /// later says it in its Welcome.
    fn commit(&mut self) {
        if self.phase == BackupPhase::Protecting && !self.backlog && self.complete > self.committed {
            self.committed = self.complete;
            self.events.push(BackupEvent::HandOver { epoch: self.committed });
            for link in self.links.iter_mut().flatten() {
                link.due.commit = true;
            }
        }
    }
}
