//! Bulk data: its order, and the commit of whole epochs.

use super::super::epoch_end::EpochEnd;
use super::super::message::{Refusal, RefuseReason};
use super::super::{ConnectionId, Path};
use super::{Backup, BackupEvent, BackupPhase, Data, EpochError, Instant};

impl Backup {
    /// A bulk data frame came in; what to do with it. Numbers go on across connections.
    pub fn data_received(&mut self, connection: ConnectionId, seq: u64) -> Data {
        if self.corrupt {
            return Data::Stale;
        }
        self.number_received(connection, Path::Bulk, seq)
    }

    /// A frame of the input log came in; what to do with it. Accepting it means to keep it: it is acknowledged with
    /// the next message. Numbers go on across connections.
    pub fn log_received(&mut self, connection: ConnectionId, seq: u64) -> Data {
        if !self.terms.mode.has_log() {
            return Data::Stale;
        }
        let data = self.number_received(connection, Path::Control, seq);
        if let (Data::Accept | Data::Duplicate, Some(link)) = (data, &mut self.links[Path::Control.index()]) {
            link.due.log_ack = true;
        }
        data
    }

    /// The log has the record that ends `epoch`. Without it an epoch is not committed: nobody could tell which inputs
    /// its checkpoint holds.
    pub fn cut_received(&mut self, epoch: u64, now: Instant) {
        self.tick(now);
        self.cut = self.cut.max(epoch);
        self.commit();
    }

    fn number_received(&mut self, connection: ConnectionId, path: Path, seq: u64) -> Data {
        if self.phase != BackupPhase::Protecting || connection.path != path || !self.current(connection) {
            return Data::Stale;
        }
        let next = match path {
            Path::Control => &mut self.next_log,
            Path::Bulk => &mut self.next_seq,
        };
        let expected = *next;
        match seq.cmp(&expected) {
            core::cmp::Ordering::Less => Data::Duplicate,
            core::cmp::Ordering::Equal => match expected.checked_add(1) {
                Some(following) => {
                    *next = following;
                    Data::Accept
                }
                None => Data::Stale,
            },
            core::cmp::Ordering::Greater => {
                self.links[path.index()] = None;
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
        let whole = if self.terms.mode.has_log() { self.complete.min(self.cut) } else { self.complete };
        if self.phase == BackupPhase::Protecting && !self.backlog && whole > self.committed {
            self.committed = whole;
            self.events.push(BackupEvent::HandOver { epoch: self.committed });
            for link in self.links.iter_mut().flatten() {
                link.due.commit = true;
            }
        }
    }
}
