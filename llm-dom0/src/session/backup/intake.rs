//! Bulk data on its way from the link to `xl`.

use std::collections::VecDeque;

use llm_core::replication::EpochEnd;

use super::super::queue::CHUNK;
use crate::checkpoint::rebuild::{EpochCheck, RebuildError, Rebuilder};

/// Rebuilds the stream, and keeps what may not yet go to `xl`.
///
/// The first epoch is passed on as it comes: it is as large as the guest, and before
/// its end there is nothing that could be taken over. Every later one is kept until it is committed.
#[derive(Debug)]
pub(super) struct Intake {
    rebuilder: Rebuilder,
    /// The epoch that is coming in.
    open: Vec<Vec<u8>>,
    open_epoch: u64,
    /// Whole epochs that are not committed yet.
    whole: VecDeque<(u64, Vec<Vec<u8>>)>,
}

impl Intake {
    pub(super) fn new(shadow_pages: u32, first_epoch: u64) -> Self {
        Self {
            rebuilder: Rebuilder::new(shadow_pages),
            open: Vec::new(),
            open_epoch: first_epoch,
            whole: VecDeque::new(),
        }
    }

    /// Takes in a batch. What is rebuilt is gathered in buffers from `buffer`, each of [`CHUNK`] bytes.
    pub(super) fn batch(
        &mut self,
        payload: &[u8],
        mut buffer: impl FnMut() -> Vec<u8>,
    ) -> Result<(), RebuildError> {
        let open = &mut self.open;
        self.rebuilder.apply(payload, |bytes| match open.last_mut() {
            Some(last) if last.len() + bytes.len() <= CHUNK => last.extend_from_slice(bytes),
            _ => {
                // A piece of its own size if it is larger than a buffer.
                let mut chunk = if bytes.len() > CHUNK { Vec::new() } else { buffer() };
                chunk.extend_from_slice(bytes);
                open.push(chunk);
            }
        })
    }

    /// Full chunks of the epoch that is coming in: for the first epoch only.
    pub(super) fn pass(&mut self) -> Vec<Vec<u8>> {
        let last = self.open.len().saturating_sub(1);
        self.open.drain(..last).collect()
    }

    /// Checks the epoch that has come in against what the primary says of it.
    pub(super) fn end(&mut self, end: &EpochEnd) -> Result<(), RebuildError> {
        let expected =
            EpochCheck { stream_bytes: end.stream_bytes(), digest: end.digest(), pages: end.pages() };
        self.rebuilder.finish_epoch(expected)?;
        self.whole.push_back((self.open_epoch, std::mem::take(&mut self.open)));
        self.open_epoch += 1;
        Ok(())
    }

    /// Takes out all epochs up to this one: they are committed.
    pub(super) fn committed(&mut self, epoch: u64) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        while self.whole.front().is_some_and(|(e, _)| *e <= epoch) {
            if let Some((_, mut more)) = self.whole.pop_front() {
                chunks.append(&mut more);
            }
        }
        chunks
    }

    /// Throws away what is not committed.
    pub(super) fn discard(&mut self) {
        self.open.clear();
        self.whole.clear();
    }

    /// Memory of the copy of pages, in bytes.
    pub(super) fn shadow_bytes(&self) -> u64 {
        self.rebuilder.shadow().memory() as u64
    }
}

#[cfg(test)]
mod tests {
    use llm_core::replication::FIRST_EPOCH;

    use super::*;
    use crate::checkpoint::encode::{Encoder, Output};
    use crate::checkpoint::stream::{Guest, StreamWriter};

    /// The chunks of an epoch, and how it ends.
    type Epoch = (Vec<Vec<u8>>, EpochEnd);

    /// Two epochs, encoded: batches and the end of each.
    fn encoded() -> (Vec<u8>, Vec<Epoch>) {
        let pages: Vec<_> = (0..600u64).map(|i| [(i % 251) as u8 + 1; 4096]).collect();
        let mut writer = StreamWriter::new();
        writer.start(b"{}", Guest::Hvm, 3);
        writer.pages(pages.iter().enumerate().map(|(i, p)| (i as u64, Some(p)))).epoch_end(b"a", None);
        let stream = writer.pages([(3, Some(&[9; 4096]))]).epoch_end(b"b", None).take();
        let (mut epochs, mut batches) = (Vec::new(), Vec::new());
        Encoder::new(1000)
            .feed(&stream, |out| match out {
                Output::Batch(b) => batches.push(b.to_vec()),
                Output::Epoch(s) => {
                    let end = EpochEnd::new(FIRST_EPOCH + s.index, s.stream_bytes, s.digest, s.pages);
                    epochs.push((std::mem::take(&mut batches), end));
                }
                Output::Mark(_) => {}
            })
            .expect("a sound stream");
        (stream, epochs)
    }

    #[test]
    fn only_committed_epochs_come_out_and_they_are_the_stream() {
        let (stream, epochs) = encoded();
        let mut intake = Intake::new(1000, FIRST_EPOCH);
        let mut out: Vec<Vec<u8>> = Vec::new();
        for (at, (batches, end)) in epochs.iter().enumerate() {
            for batch in batches {
                intake.batch(batch, Vec::new).expect("batch");
                if at == 0 {
                    out.extend(intake.pass());
                }
            }
            intake.end(end).expect("whole");
            let before = out.concat().len();
            assert!(at == 0 || before < stream.len(), "nothing of a later epoch before its commit");
            out.extend(intake.committed(end.epoch()));
        }
        assert_eq!(out.concat(), stream);
        assert!(intake.shadow_bytes() >= 600 * 4096);
    }

    #[test]
    fn a_wrong_digest_is_refused() {
        let (_, epochs) = encoded();
        let mut intake = Intake::new(1000, FIRST_EPOCH);
        let (batches, end) = &epochs[0];
        for batch in batches {
            intake.batch(batch, Vec::new).expect("batch");
        }
        let wrong = EpochEnd::new(end.epoch(), end.stream_bytes(), end.digest() ^ 1, end.pages());
        assert!(matches!(intake.end(&wrong), Err(RebuildError::Differs { .. })));
    }
}
