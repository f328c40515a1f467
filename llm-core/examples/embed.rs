//! The codec, the framing of the input log and the ring in a kernel of one's own: `Sender` is all that it takes, fifty
//! lines. `docs/embedding.md` explains it.
//!
//! Behind it stand the other end and a `main` in which the two meet: `cargo run -p llm-core --example embed`.
#![no_std]
// For `main` alone: there is no `alloc` here, and none in `llm-core`.
extern crate std;

use core::cell::RefCell;
use core::error::Error as Any;
use core::fmt;
use embedded_io::Write as _;
use llm_core::frame::{HEADER, Kind, Parser, encode_header};
use llm_core::log::{AppendError, Entry, Flags, LogWriter, RecordKind, records};
use llm_core::page::batch::{BatchReader, BatchWriter, Full, Op};
use llm_core::page::{self, Density, Encoder, Features, PAGE, Page};
use llm_core::ring::{self, Consumer, Mapped, Memory, Producer, ReserveError};
use llm_core::time::Instant;
use std::boxed::Box;

/// What the kernel has to give beside memory.
trait Host {
    /// Notifies the other end.
    fn notify(&mut self);
    /// Sleeps until the other end notifies; at once if it has since the last sleep.
    fn sleep(&mut self);
}

struct Sender<'a, M, H> {
    encoder: Encoder,
    batch: BatchWriter<'a>,
    log: LogWriter<'a>,
    ring: Producer<M>,
    /// Numbers of the next frame of log records and of the next batch.
    seqs: [u64; 2],
    host: H,
}

impl<M: Memory, H: Host> Sender<'_, M, H> {
    /// A page that has changed, and the copy of it that the other end has too; the copy becomes equal to the page.
    fn page(&mut self, pfn: u64, copy: &mut Page, page: &Page) -> Result<(), Error> {
        if self.batch.encode_page_update(&mut self.encoder, pfn, copy, page, None).is_err() {
            self.flush()?;
            self.batch.encode_page_update(&mut self.encoder, pfn, copy, page, None).map_err(Error::Batch)?;
        }
        Ok(())
    }

    /// A packet on its way into the guest; returns the number of its log record.
    fn packet(&mut self, entry: &Entry<'_>) -> Result<u64, Error> {
        let mut appended = self.log.append(entry);
        if appended == Err(AppendError::Full) {
            self.flush()?;
            appended = self.log.append(entry);
        }
        appended.map_err(Error::Log)
    }

    /// Frames what there is and hands it over: at the end of an epoch, and whenever a reply waits for the log.
    fn flush(&mut self) -> Result<(), Error> {
        let parts = [(Kind::LOG, self.log.written()), (Kind::BATCH, self.batch.written())];
        for ((kind, payload), seq) in parts.into_iter().zip(&mut self.seqs).filter(|(p, _)| !p.1.is_empty()) {
            let (header, len) = (encode_header(kind, 0, *seq, payload), HEADER + payload.len());
            let mut room = loop {
                if let Some(room) = self.ring.reserve(len).map_err(Error::Ring)? {
                    break room;
                }
                let wait = self.ring.wait(len).map_err(Error::Ring)?;
                if wait.wake.peer() {
                    self.host.notify();
                }
                if wait.sleep {
                    self.host.sleep();
                }
            };
            // The room is as long as the two.
            let _ = room.write_all(&header).and_then(|()| room.write_all(payload));
            room.commit();
            *seq += 1;
        }
        self.log.clear();
        self.batch.clear();
        if self.ring.publish().peer() {
            self.host.notify();
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Error {
    /// The ring has ended, or its records are shorter than a frame.
    Ring(ReserveError),
    /// The packet is longer than the log's buffer.
    Log(AppendError),
    /// The buffer for batches is too short for one page.
    Batch(Full),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::Batch(error) => error.fmt(f),
        }
    }
}

impl Any for Error {}

// From here on: the other end, and a guest of four pages.

/// Data pages of the ring.
const RING: usize = 6;
/// Bytes of the longest batch, and of the longest piece of log.
const BATCH: usize = 16 << 10;
/// Bytes of the longest record of the ring.
const MAX_FRAME: usize = HEADER + BATCH;
const PAGES: usize = 4;
const EPOCHS: u64 = 20;

struct Receiver<'m, M> {
    ring: Consumer<&'m M>,
    parser: Parser<[u8; 2 * MAX_FRAME]>,
    copies: [Page; PAGES],
    packets: u64,
}

impl<M: Memory> Receiver<'_, M> {
    /// Takes all frames that are there, and says whether the sender must be notified.
    fn take(&mut self) -> Result<bool, Box<dyn Any>> {
        while let Some(record) = self.ring.next()? {
            // Checked is the copy: the bytes in the ring may change at any time.
            let len = record.copy_to(self.parser.space()).ok_or("a record without room")?.len();
            self.parser.advance(len);
            let frame = self.parser.next_frame()?.ok_or("half a frame")?;
            if frame.kind == Kind::LOG {
                for record in records(frame.payload, Some(self.packets + 1)) {
                    self.packets = record?.lsn;
                }
                continue;
            }
            for op in BatchReader::new(frame.payload) {
                if let Op::Page { pfn, record, .. } = op? {
                    let copy = self.copies.get_mut(usize::try_from(pfn)?).ok_or("no such page")?;
                    page::decode(record, copy, true)?;
                }
            }
        }
        Ok(self.ring.wait()?.wake.peer())
    }
}

/// One thread plays both ends here: the receiver works whenever it is notified.
impl<M: Memory> Host for &RefCell<Receiver<'_, M>> {
    fn notify(&mut self) {
        // That the sender is to be notified says nothing: it does not sleep now.
        let _: bool = self.borrow_mut().take().expect("an honest sender");
    }

    fn sleep(&mut self) {
        self.notify();
    }
}

fn main() -> Result<(), Box<dyn Any>> {
    // A kernel has these in memory of its own, and the ring's in pages that it grants.
    let (mut shared, mut batch, mut log) = ([ring::Page::ZERO; 1 + RING], [0; BATCH], [0; BATCH]);
    let memory = Mapped::local(&mut shared).ok_or("no data page")?;
    ring::format(&memory)?;
    let receiver = RefCell::new(Receiver {
        ring: Consumer::attach(&memory, MAX_FRAME)?,
        parser: Parser::new([0; 2 * MAX_FRAME], BATCH)?,
        copies: [[0; PAGE]; PAGES],
        packets: 0,
    });
    // The receiver sleeps until there is something.
    let _: bool = receiver.borrow_mut().take()?;
    let mut sender = Sender {
        encoder: Encoder::new(Features::PORTABLE, Density::Fast),
        batch: BatchWriter::new(&mut batch),
        log: LogWriter::new(&mut log, 1),
        ring: Producer::attach(&memory, MAX_FRAME)?,
        seqs: [1; 2],
        host: &receiver,
    };
    let (mut guest, mut copies) = ([[0; PAGE]; PAGES], [[0; PAGE]; PAGES]);
    for epoch in 0..EPOCHS {
        for (pfn, (page, copy)) in (0..).zip(guest.iter_mut().zip(&mut copies)) {
            let at = usize::try_from(epoch * 200 + pfn)?;
            page[at] ^= 0x55;
            sender.page(pfn, copy, page)?;
        }
        let time = Instant::from_nanos(epoch * 1_000_000);
        let entry =
            Entry { kind: RecordKind::Input, epoch, time, vif: 0, flags: Flags::NONE, packet: b"a packet" };
        sender.packet(&entry)?;
        sender.flush()?;
    }
    let [logs, batches] = sender.seqs.map(|next| next - 1);
    let receiver = receiver.borrow();
    assert!(receiver.copies == guest, "all pages are equal");
    assert_eq!((receiver.packets, logs, batches), (EPOCHS, EPOCHS, EPOCHS));
    std::println!("{PAGES} pages equal and {logs} packets logged after {EPOCHS} epochs");
    Ok(())
}

#[test]
fn both_ends_understand_each_other() {
    main().unwrap();
}
