//! A checkpoint stream of many epochs, made from dirty pages of real guests.

use std::fs::File;
use std::io::{self, Write as _};

use llm_core::checksum::Digest;
use llm_core::page::{PAGE, Page};
use llm_dom0::checkpoint::stream::{Guest, StreamWriter};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::bench::corpus::Workload;

/// How large a guest is, and its epochs.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Shape {
    /// Pages of the guest, all of which are in the first epoch.
    pub(in crate::bench) guest: usize,
    /// Pages of each later epoch; a multiple of 64.
    pub(in crate::bench) epoch: usize,
}

impl Shape {
    /// A guest with three times the bytes of a large cache.
    pub(super) const LARGE: Self = Self { guest: 24_576, epoch: 4096 };
}

/// Neighbouring pages that change together: a run of the corpus.
pub(in crate::bench) const RUN: usize = 64;
/// Pages of one memory record, as Xen writes them.
const RECORD: usize = 1024;
/// Bytes of the context of virtual CPUs.
const CONTEXT: usize = 6000;

/// A stream in memory, as a file that can be spliced.
#[derive(Debug)]
pub(in crate::bench) struct Input {
    /// The stream, from its start.
    pub(in crate::bench) file: File,
    pub(in crate::bench) bytes: u64,
    /// Guest pages in it.
    pub(in crate::bench) pages: u64,
    pub(in crate::bench) epochs: u64,
    /// End of the first epoch.
    pub(in crate::bench) first_bytes: u64,
    /// End of each epoch.
    pub(in crate::bench) ends: Vec<u64>,
    pub(in crate::bench) shape: Shape,
    /// XXH3-64 of all.
    pub(in crate::bench) digest: u64,
}

impl Input {
    /// A stream of about `bytes`: the old pages of the workload as the first epoch, over and over until the guest is full; then
    /// epochs in which random runs of pages change, from the old content to the new or back.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub(in crate::bench) fn new(workload: &Workload, shape: Shape, bytes: u64) -> io::Result<Self> {
        let file = File::from(memfd_create("llm-stream", MemfdFlags::CLOEXEC)?);
        let ends = Vec::new();
        let mut input = Self { file, bytes: 0, pages: 0, epochs: 0, first_bytes: 0, ends, shape, digest: 0 };
        let (mut writer, mut digest) = (StreamWriter::new(), Digest::new());
        let mut is_new = vec![false; shape.guest];
        let mut runs: Vec<usize> = (0..shape.guest / RUN).collect();
        let mut random = 1_u64;
        writer.start(b"{\"type\":\"pvh\"}", Guest::Hvm, 3);
        let mut pfns: Vec<usize> = (0..shape.guest).collect();
        while input.bytes < bytes.max(1) {
            let page = |pfn: usize| -> Option<&Page> {
                workload.pairs.get(pfn % workload.pairs.len())?.get(usize::from(is_new[pfn]))
            };
            for record in pfns.chunks(RECORD) {
                writer.pages(record.iter().map(|&pfn| (pfn as u64, page(pfn))));
            }
            let context: Vec<u8> = (0..CONTEXT).map(|i| ((i as u64 * input.epochs) >> 5) as u8).collect();
            let epoch = writer.epoch_end(&context, None).take();
            digest.update(&epoch);
            input.file.write_all(&epoch)?;
            input.bytes += epoch.len() as u64;
            input.pages += pfns.len() as u64;
            input.ends.push(input.bytes);
            input.epochs += 1;
            if input.epochs == 1 {
                input.first_bytes = input.bytes;
            }
            // The next epoch's runs: the first ones of a partial shuffle, in the order of their numbers.
            let count = shape.epoch / RUN;
            for at in 0..count {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let other = at + (random >> 33) as usize % (runs.len() - at);
                runs.swap(at, other);
            }
            let mut chosen = runs[..count].to_vec();
            chosen.sort_unstable();
            pfns = chosen.iter().flat_map(|run| run * RUN..(run + 1) * RUN).collect();
            pfns.iter().for_each(|&pfn| is_new[pfn] = !is_new[pfn]);
        }
        input.digest = digest.value();
        Ok(input)
    }

    /// Bytes of guest memory in it.
    pub(in crate::bench) fn page_bytes(&self) -> u64 {
        self.pages * PAGE as u64
    }
}
