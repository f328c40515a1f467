//! A checkpoint stream of many epochs: made from dirty pages of real guests, or recorded of one.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, Read, Seek as _, SeekFrom, Write as _};

use llm_core::checksum::Digest;
use llm_core::page::{PAGE, Page};
use llm_dom0::checkpoint::stream::{Guest, Item, MarkKind, Parser, StreamWriter};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::bench::corpus::Workload;

/// How large a guest is, and its epochs, where they are made.
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
/// What zstd's frames begin with.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Largest window of what is read: 128 MiB.
const WINDOW_LOG_MAX: u32 = 27;

/// A stream in memory, as a file that can be spliced.
#[derive(Debug)]
pub(in crate::bench) struct Input {
    /// The stream, from its start.
    pub(in crate::bench) file: File,
    pub(in crate::bench) bytes: u64,
    /// Guest pages in it.
    pub(in crate::bench) pages: u64,
    /// Of these, those of the first epoch.
    pub(in crate::bench) first_pages: u64,
    /// Pages that the guest has: of so many either end keeps a copy.
    pub(in crate::bench) guest: usize,
    pub(in crate::bench) epochs: u64,
    /// End of the first epoch.
    pub(in crate::bench) first_bytes: u64,
    /// End of each epoch.
    pub(in crate::bench) ends: Vec<u64>,
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
        let mut input = Self::empty(shape.guest)?;
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
                (input.first_bytes, input.first_pages) = (input.bytes, input.pages);
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

    /// A stream that was recorded, up to the end of its last whole epoch; it may be compressed by zstd.
    ///
    /// # Errors
    /// It cannot be read, is no checkpoint stream, or has no whole epoch.
    pub(in crate::bench) fn recorded(mut from: impl BufRead) -> io::Result<Self> {
        if from.fill_buf()?.starts_with(&ZSTD) {
            let mut unpacked = zstd::Decoder::with_buffer(from)?;
            unpacked.window_log_max(WINDOW_LOG_MAX)?;
            Self::parsed(unpacked)
        } else {
            Self::parsed(from)
        }
    }

    fn parsed(mut from: impl Read) -> io::Result<Self> {
        let mut input = Self::empty(0)?;
        let (mut parser, mut guest, mut pages) = (Parser::new(), HashSet::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let part = match from.read(&mut buffer)? {
                0 => break,
                n => &buffer[..n],
            };
            let fed = parser.feed(part, |item| match item {
                Item::Page { pfn, .. } => {
                    guest.insert(pfn);
                    pages += 1;
                }
                Item::Mark(mark) if mark.kind == MarkKind::Epoch => {
                    (input.bytes, input.pages, input.guest) = (mark.end, pages, guest.len());
                    input.ends.push(mark.end);
                    if input.epochs == 0 {
                        (input.first_bytes, input.first_pages) = (mark.end, pages);
                    }
                    input.epochs += 1;
                }
                Item::Mark(_) | Item::Bytes(_) => {}
            });
            fed.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            input.file.write_all(part)?;
        }
        if input.epochs == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "there is no whole epoch in it"));
        }
        input.file.set_len(input.bytes)?;
        input.file.seek(SeekFrom::Start(0))?;
        let mut digest = Digest::new();
        loop {
            match input.file.read(&mut buffer)? {
                0 => break,
                n => digest.update(&buffer[..n]),
            }
        }
        input.digest = digest.value();
        Ok(input)
    }

    fn empty(guest: usize) -> io::Result<Self> {
        let file = File::from(memfd_create("llm-stream", MemfdFlags::CLOEXEC)?);
        Ok(Self {
            file,
            bytes: 0,
            pages: 0,
            first_pages: 0,
            guest,
            epochs: 0,
            first_bytes: 0,
            ends: Vec::new(),
            digest: 0,
        })
    }

    /// Bytes of guest memory in it.
    pub(in crate::bench) fn page_bytes(&self) -> u64 {
        self.pages * PAGE as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_taken_up_to_its_last_whole_epoch() {
        let pages = [[1; PAGE], [2; PAGE], [3; PAGE]];
        let mut writer = StreamWriter::new();
        writer.start(b"{}", Guest::Hvm, 3);
        // A live first copy has some pages again, and names some that the guest does not have.
        writer.pages([(5, Some(&pages[0])), (9, Some(&pages[1]))]);
        writer.pages([(5, Some(&pages[2])), (7, None)]);
        let first = writer.epoch_end(b"context", None).take();
        let second = writer.pages([(9, Some(&pages[0]))]).epoch_end(b"context", None).take();
        let whole = [first.as_slice(), &second].concat();
        let cut = [&whole, &writer.pages([(5, Some(&pages[1]))]).take()[..50]].concat();
        for packed in [cut.clone(), zstd::encode_all(&cut[..], 1).expect("memory")] {
            let mut input = Input::recorded(packed.as_slice()).expect("a recording");
            assert_eq!((input.epochs, input.pages, input.first_pages, input.guest), (2, 4, 3, 2));
            assert_eq!(input.ends, [first.len() as u64, whole.len() as u64]);
            assert_eq!((input.first_bytes, input.bytes), (first.len() as u64, whole.len() as u64));
            assert_eq!(input.digest, llm_core::checksum::digest(&whole));
            let mut held = Vec::new();
            input
                .file
                .seek(SeekFrom::Start(0))
                .and_then(|_| input.file.read_to_end(&mut held))
                .expect("memory");
            assert!(held == whole);
        }
        for bad in [&first[..first.len() - 1], b"", &[7; 100]] {
            assert_eq!(Input::recorded(bad).expect_err("no epoch").kind(), io::ErrorKind::InvalidData);
        }
    }
}
