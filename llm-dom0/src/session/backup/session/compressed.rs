//! Batches that were compressed together, on their way into the epoch.

use std::ops::ControlFlow;

use llm_core::frame::CompressedHead;
use llm_core::replication::{ConnectionId, Data};

use super::Session;
use crate::checkpoint::second::unpack::UnpackError;
use crate::link::Incoming;

impl Session {
    /// Batches that were compressed together. A connection that starts anew may bring some that are here already.
    pub(super) fn handle_compressed(
        &self,
        connection: ConnectionId,
        frame: &Incoming<'_>,
    ) -> ControlFlow<()> {
        let mut intake = self.intake();
        let mut core = self.lock();
        let batches = match CompressedHead::parse(frame.payload) {
            Ok((head, _)) => u64::from(head.batches),
            Err(error) => {
                return self.corrupt(connection, intake, core, &UnpackError::Head(error).to_string());
            }
        };
        let mut had = 0;
        for seq in frame.seq..frame.seq.saturating_add(batches) {
            match core.machine.data_received(connection, seq) {
                Data::Accept => {}
                Data::Duplicate => had += 1,
                Data::Gap { expected } => {
                    tracing::warn!(domain = self.domain, expected, got = seq, "data is missing");
                    return ControlFlow::Break(());
                }
                Data::Stale => return ControlFlow::Break(()),
            }
        }
        if had as u64 == batches {
            return ControlFlow::Continue(());
        }
        let (first, features) = (core.machine.committed().is_none(), core.machine.features());
        drop(core);
        let applied = intake.compressed(frame.payload, features, had, || self.feeder.queue.buffer());
        self.applied(connection, intake, applied, first)
    }
}
