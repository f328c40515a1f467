//! Bulk data on its way from the link to `xl`.

use std::collections::VecDeque;

use llm_core::replication::EpochEnd;

use super::super::queue::CHUNK;
use crate::checkpoint::rebuild::{EpochCheck, RebuildError, Rebuilder};
use crate::checkpoint::second::unpack::{UnpackError, Unpacker};

/// Why a frame was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntakeError {
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

/// Rebuilds the stream, and keeps what may not yet go to `xl`.
///
/// The first epoch is passed on as it comes: it is as large as the guest, and before
/// its end there is nothing that could be taken over. Every later one is kept until it is committed.
#[derive(Debug)]
pub(super) struct Intake {
    rebuilder: Rebuilder,
    unpacker: Unpacker,
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
            unpacker: Unpacker::default(),
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
        apply(&mut self.rebuilder, &mut self.open, payload, &mut buffer)
    }

    /// Takes in batches that were compressed together, by one of the methods in `features`; the first `had` of them are here already.
    pub(super) fn compressed(
        &mut self,
        payload: &[u8],
        features: u64,
        had: usize,
        mut buffer: impl FnMut() -> Vec<u8>,
    ) -> Result<(), IntakeError> {
        let Self { rebuilder, unpacker, open, .. } = self;
        for batch in unpacker.unpack(payload, features)?.skip(had) {
            apply(rebuilder, open, batch, &mut buffer)?;
        }
        Ok(())
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

/// Rebuilds what a batch says, into the last piece of `open` or further ones.
fn apply(
    rebuilder: &mut Rebuilder,
    open: &mut Vec<Vec<u8>>,
    batch: &[u8],
    buffer: &mut impl FnMut() -> Vec<u8>,
) -> Result<(), RebuildError> {
    rebuilder.apply(batch, |bytes| match open.last_mut() {
        Some(last) if last.len() + bytes.len() <= CHUNK => last.extend_from_slice(bytes),
        _ => {
            // A piece of its own size if it is larger than a buffer.
            let mut chunk = if bytes.len() > CHUNK { Vec::new() } else { buffer() };
            chunk.extend_from_slice(bytes);
            open.push(chunk);
        }
    })
}

#[cfg(test)]
mod tests {
    use llm_core::replication::FIRST_EPOCH;

    use super::*;
    use crate::checkpoint::encode::{Encoder, Output};
    use crate::checkpoint::second::Level;
    use crate::checkpoint::second::pack::Packer;
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

    #[test]
    fn compressed_batches_are_taken_in_once() {
        let (stream, epochs) = encoded();
        let mut intake = Intake::new(1000, FIRST_EPOCH);
        let mut packer = Packer::new().expect("memory");
        let mut out: Vec<Vec<u8>> = Vec::new();
        for (batches, end) in &epochs {
            let (first, rest) = batches.split_first().expect("a batch");
            // The first comes by itself, then again with the others.
            intake.batch(first, Vec::new).expect("batch");
            let all = || std::iter::once(first).chain(rest).map(Vec::as_slice);
            let slices: Vec<&[u8]> = all().collect();
            match packer.pack(Level::Lz4, slices.iter().copied()) {
                Some(payload) => intake.compressed(&payload, 1, 1, Vec::new).expect("sound"),
                None => rest.iter().for_each(|batch| intake.batch(batch, Vec::new).expect("batch")),
            }
            intake.end(end).expect("whole");
            out.extend(intake.committed(end.epoch()));
        }
        assert_eq!(out.concat(), stream);
        let wrong = intake.compressed(&[1, 0, 1, 0, 9, 0, 0, 0, 0xff], 1, 0, Vec::new);
        let error = wrong.expect_err("refused").to_string();
        assert!(error.contains("compressed by lz4 that cannot be decompressed"), "{error}");
    }
}
