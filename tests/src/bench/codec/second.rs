//! The second stage: what came out of the first one, and what others make of the same pages, compressed in runs of pages.

use llm_core::page::batch::{BatchWriter, MAX_PAGE_HEAD};
use llm_core::page::{Density, Encoder, MAX_RECORD};
use llm_dom0::checkpoint::second::Level;
use llm_dom0::checkpoint::second::pack::Packer;
use llm_dom0::checkpoint::second::unpack::Unpacker;
use llm_dom0::checkpoint::width;

use super::arena::Subject;
use super::subjects::{memcmp, subject, xbzrle_encoder, xor};

/// Pages of a batch: what a chunk of the checkpoint pipe holds.
pub(super) const BATCH: usize = 64;
/// Pages of an epoch: as many as the corpus has of one interval, at most.
pub(super) const EPOCH: usize = 832;

/// The first stage with each method behind it, and others.
pub(super) fn subjects() -> Vec<Subject> {
    let mut subjects = vec![memcmp(), xbzrle_encoder()];
    for level in Level::ALL {
        let names = match level {
            Level::Lz4 => ["xor, lz4", "llm, lz4", "llm, dense, lz4"],
            Level::Zstd1 => ["xor, zstd 1", "llm, zstd 1", "llm, dense, zstd 1"],
            Level::Zstd3 => ["xor, zstd 3", "llm, zstd 3", "llm, dense, zstd 3"],
        };
        subjects.push(xored(names[0], level));
        subjects.push(ours(names[1], Density::Fast, level));
        subjects.push(ours(names[2], Density::Dense, level));
    }
    subjects
}

/// Makes batches of the first stage, and hands as many to the packer as a frame takes.
fn ours(name: &'static str, density: Density, level: Level) -> Subject {
    let mut encoder = Box::new(Encoder::new(width::features(), density));
    let mut packer = Packer::new().expect("memory");
    let mut buffer = vec![0; BATCH * (MAX_RECORD + MAX_PAGE_HEAD)];
    subject(name, width::features().name(), 1, move |arena, places| {
        let (mut bytes, mut run) = (0, Run::default());
        for batch in places.chunks(BATCH) {
            let mut writer = BatchWriter::new(&mut buffer);
            for &at in batch {
                let (old, new) = (&arena.old[at as usize].0, &arena.new[at as usize].0);
                writer.encode_page(&mut encoder, at.into(), true, Some(old), new).expect("room for 64 pages");
            }
            bytes += run.push(writer.written(), level, &mut packer);
        }
        bytes + run.finish(level, &mut packer)
    })
}

/// The XOR of old and new page, in batches of as many pages.
fn xored(name: &'static str, level: Level) -> Subject {
    let mut packer = Packer::new().expect("memory");
    let mut buffer = Vec::new();
    subject(name, "", 4, move |arena, places| {
        let (mut bytes, mut run) = (0, Run::default());
        for batch in places.chunks(BATCH - 1) {
            buffer.clear();
            for &at in batch {
                buffer.extend_from_slice(&xor(&arena.old[at as usize].0, &arena.new[at as usize].0));
            }
            bytes += run.push(&buffer, level, &mut packer);
        }
        bytes + run.finish(level, &mut packer)
    })
}

/// Batches of one frame.
#[derive(Default)]
struct Run {
    batches: Vec<Vec<u8>>,
    bytes: usize,
}

impl Run {
    /// Takes in a batch. Bytes of the frame that was full without it, if one was.
    fn push(&mut self, batch: &[u8], level: Level, packer: &mut Packer) -> usize {
        let fits = Packer::content_len(self.batches.len() + 1, self.bytes + batch.len()).is_some();
        let out = if fits { 0 } else { self.finish(level, packer) };
        self.bytes += batch.len();
        self.batches.push(batch.to_vec());
        out
    }

    /// Bytes of the frame; as they are, if that is shorter.
    fn finish(&mut self, level: Level, packer: &mut Packer) -> usize {
        let batches = std::mem::take(&mut self.batches);
        let bytes = std::mem::take(&mut self.bytes);
        let packed = packer.pack(level, batches.iter().map(Vec::as_slice));
        packed.map_or(bytes, |payload| payload.len())
    }
}

/// Panics unless what is packed comes back, and counts for what it is.
pub(super) fn assert_comes_back(pairs: &[[llm_core::page::Page; 2]]) {
    let mut encoder = Box::new(Encoder::new(width::features(), Density::Dense));
    let (mut packer, mut unpacker) = (Packer::new().expect("memory"), Unpacker::default());
    for run in pairs.chunks(BATCH) {
        let mut record = [0; MAX_RECORD];
        let mut batch = Vec::new();
        for [old, new] in run {
            let len = encoder.encode(Some(old), new, None, &mut record).len;
            batch.extend_from_slice(&record[..len]);
        }
        for level in Level::ALL {
            if let Some(payload) = packer.pack(level, [&batch[..]].into_iter()) {
                let mut back = unpacker.unpack(&payload, u64::MAX).expect("our own");
                assert!(
                    back.next() == Some(&batch[..]) && back.next().is_none(),
                    "a batch came out as another one"
                );
            }
        }
    }
}
