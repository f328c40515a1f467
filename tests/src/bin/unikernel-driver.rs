//! Drives a unikernel from Dom0, as a test: sends it pages of a made-up guest, epoch after epoch, rebuilds them from its
//! frames, and compares. Prints what it did; any difference is an error.
//!
//! `unikernel-driver DOMID [EPOCHS [PAGES]]`, or `unikernel-driver config NAME KERNEL GUEST-MIB` for its configuration.

use llm_core::checksum::digest;
use llm_core::frame::{Kind, Parser};
use llm_core::log::{Entry, Flags, RecordKind, records};
use llm_core::page::batch::{BatchReader, Op};
use llm_core::page::{self, PAGE, Page};
use llm_core::service::{ANSWER_HEAD, Answer, Begin, FRAME_HEAD, MAX_ANSWER, MAX_LOG, Request};
use llm_core::time;
use llm_dom0::xen::unikernel::{self, Unikernel};
use llm_tests::held::held;
use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the unikernel may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the backup would hold.
#[derive(Default)]
struct Backup {
    copies: HashMap<u64, Box<Page>>,
    frames: u64,
    bytes: u64,
    records: u64,
    flushed: Option<u64>,
}

impl Backup {
    fn take(&mut self, answer: &[u8]) -> Result<(), Box<dyn Error>> {
        let (head, mut rest) = answer.split_first_chunk::<ANSWER_HEAD>().ok_or("a short answer")?;
        match Answer::from_head(*head).ok_or("an unknown answer")? {
            Answer::Ready | Answer::Echoed | Answer::Message => {}
            Answer::Flushed => self.flushed = Some(u64::from_le_bytes(rest.try_into()?)),
            Answer::Frame => {
                rest = rest.get(FRAME_HEAD - ANSWER_HEAD..).ok_or("a short answer")?;
                self.bytes += rest.len() as u64;
                let mut parser = Parser::new(vec![0; 2 * MAX_LOG], MAX_LOG)?;
                parser.push(&mut rest);
                let frame = parser.next_frame()?.ok_or("half a frame")?;
                self.frames += 1;
                match frame.kind {
                    Kind::BATCH => self.batch(frame.payload)?,
                    Kind::LOG => {
                        for record in records(frame.payload, Some(self.records + 1)) {
                            record?;
                            self.records += 1;
                        }
                    }
                    kind => return Err(format!("a frame of kind {}", kind.0).into()),
                }
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: &[u8]) -> Result<(), Box<dyn Error>> {
        for op in BatchReader::new(batch) {
            if let Op::Page { pfn, record, .. } = op? {
                let held = self.copies.contains_key(&pfn);
                let copy = self.copies.entry(pfn).or_insert_with(|| Box::new([0; PAGE]));
                page::decode(record, copy, held)?;
            }
        }
        Ok(())
    }
}

/// Sends one request, and takes answers while there is no room.
fn send(
    unikernel: &mut Unikernel,
    request: &Request<'_>,
    backup: &mut Backup,
    buffer: &mut [u8],
) -> Result<(), Box<dyn Error>> {
    while !unikernel.send(request)? {
        if !take(unikernel, backup, buffer)? && !unikernel.wait(true, PATIENCE)? {
            return Err("the unikernel does not take requests".into());
        }
    }
    Ok(())
}

/// Takes what there is; false if there is nothing.
fn take(unikernel: &mut Unikernel, backup: &mut Backup, buffer: &mut [u8]) -> Result<bool, Box<dyn Error>> {
    let mut some = false;
    while let Some(len) = unikernel.answer(buffer)? {
        backup.take(buffer.get(..len).unwrap_or_default())?;
        some = true;
    }
    Ok(some)
}

fn flush(
    unikernel: &mut Unikernel,
    token: u64,
    backup: &mut Backup,
    buffer: &mut [u8],
) -> Result<(), Box<dyn Error>> {
    send(unikernel, &Request::Flush(token), backup, buffer)?;
    while backup.flushed != Some(token) {
        if !take(unikernel, backup, buffer)? && !unikernel.wait(false, PATIENCE)? {
            return Err("the unikernel does not answer".into());
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [command, name, kernel, mib] = &args[..]
        && command == "config"
    {
        print!("{}", unikernel::config(name, Path::new(kernel), mib.parse()?));
        return Ok(());
    }
    let number = |at: usize| args.get(at).map(|arg| arg.parse::<u64>()).transpose();
    let domid = number(0)?.ok_or("unikernel-driver DOMID [EPOCHS [PAGES]]")?;
    let (epochs, pages) = (number(1)?.unwrap_or(5), number(2)?.unwrap_or(1000));

    let before = held()?;
    let start = Instant::now();
    let mut unikernel = Unikernel::connect(u16::try_from(domid)?, PATIENCE)?;
    println!("connected after {:?}; room for {} copies", start.elapsed(), unikernel.copies());
    let (mut backup, mut buffer) = (Backup::default(), vec![0; MAX_ANSWER]);
    let begin = Begin { copies: u32::MAX, batch_seq: 1, log_seq: 1, lsn: 1 };
    send(&mut unikernel, &Request::Begin(begin), &mut backup, &mut buffer)?;

    // SplitMix64.
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut guest = vec![[0; PAGE]; usize::try_from(pages)?];
    let start = Instant::now();
    for epoch in 0..epochs {
        let before = (Instant::now(), backup.bytes);
        for (pfn, page) in (0..).zip(&mut guest) {
            if epoch == 0 {
                page.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random().to_le_bytes()));
            } else {
                for _ in 0..16 {
                    page[usize::try_from(random() % 4096)?] ^= 0x55;
                }
            }
            send(&mut unikernel, &Request::Page { pfn, page }, &mut backup, &mut buffer)?;
        }
        let entry = Entry {
            kind: RecordKind::Input,
            epoch,
            time: time::Instant::from_nanos(epoch),
            vif: 0,
            flags: Flags::NONE,
            packet: b"a packet",
        };
        send(&mut unikernel, &Request::Log(entry), &mut backup, &mut buffer)?;
        flush(&mut unikernel, epoch, &mut backup, &mut buffer)?;
        println!("epoch {epoch}: {pages} pages, {} bytes, {:?}", backup.bytes - before.1, before.0.elapsed());
    }
    let took = start.elapsed();
    let wrong = (0..).zip(&guest).filter(|(pfn, page)| {
        backup.copies.get(pfn).is_none_or(|copy| digest(&copy[..]) != digest(&page[..]))
    });
    let wrong = wrong.count();
    if wrong > 0 || backup.records != epochs {
        return Err(
            format!("{wrong} pages of {pages} differ, {} log records of {epochs}", backup.records).into()
        );
    }
    // How long a record waits for its frame, which is what a reply waits for.
    let mut waits = Vec::new();
    for i in 0..200 {
        let before = Instant::now();
        flush(&mut unikernel, 1_000_000 + i, &mut backup, &mut buffer)?;
        waits.push(before.elapsed());
    }
    waits.sort();
    println!("all {pages} pages equal after {epochs} epochs and {} frames in {took:?}", backup.frames);
    println!("round trip p50 {:?}, p99 {:?}", waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    let meanwhile = held()?;
    drop(unikernel);
    let after = held()?;
    if after != before || meanwhile == before {
        return Err(
            format!("held before {before:?}, with the unikernel {meanwhile:?}, after it {after:?}").into()
        );
    }
    println!("all descriptors and mappings are given back");
    Ok(())
}
