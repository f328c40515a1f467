//! What is counted: the core's hot paths on inputs that are made here, the same in each run.

use std::hint::black_box;

use llm_core::checksum::digest;
use llm_core::flow::{Direction, Packet as Parsed, Policy, Tracker, VNET_HEADER};
use llm_core::frame::{HEADER, Header, Kind, Parser, encode_header};
use llm_core::log::{Entry, Flags, LogWriter, Packer, Record, RecordKind, Unpacked, Unpacker, records};
use llm_core::page::{self, Density, Encoder, Features, MAX_RECORD, PAGE, Page};
use llm_core::ring::{self, Consumer, Mapped, Producer};
use llm_core::time::Instant;
use llm_dom0::checkpoint::width;

use crate::bench::packets::{Chance, Packet, made};

/// One hot path.
pub struct Case {
    /// Its name in the baseline.
    pub name: &'static str,
    /// What the count is of: a page, a record.
    pub per: &'static str,
    make: fn() -> Option<Work>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Inputs, and what to do with them.
pub struct Work {
    /// Pages or records of a pass.
    pub units: usize,
    /// Does it once to all.
    pub pass: Box<dyn FnMut() -> usize>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Work of {}", self.units)
    }
}

impl Case {
    /// Makes its inputs; `None` if this processor cannot do it.
    #[must_use]
    pub fn make(&self) -> Option<Work> {
        (self.make)()
    }
}

/// All cases, in the order in which they are shown.
pub const CASES: &[Case] = &[
    Case {
        name: "page encode, portable",
        per: "page",
        make: || Some(encode(Features::PORTABLE, Density::Fast)),
    },
    Case {
        name: "page encode, dense, portable",
        per: "page",
        make: || Some(encode(Features::PORTABLE, Density::Dense)),
    },
    Case { name: "page encode, avx2", per: "page", make: || Some(encode(widest()?, Density::Fast)) },
    Case { name: "page encode, dense, avx2", per: "page", make: || Some(encode(widest()?, Density::Dense)) },
    Case { name: "page decode", per: "page", make: decode },
    Case { name: "page frame, header and checksum read", per: "frame", make: header },
    Case { name: "page frame, header and checksum made", per: "frame", make: frame },
    Case { name: "page frame, parser", per: "frame", make: parser },
    Case { name: "log record, written", per: "record", make: log_write },
    Case { name: "log record, read", per: "record", make: log_read },
    Case { name: "log record, packed", per: "record", make: log_pack },
    Case { name: "log record, unpacked", per: "record", make: log_unpack },
    Case { name: "ring, 4 KiB reserved, published, taken", per: "record", make: through_ring },
    Case { name: "flow, packet parsed and classified", per: "packet", make: classify },
];

/// AVX2, if it is there. Valgrind knows nothing wider.
fn widest() -> Option<Features> {
    width::available().into_iter().find(|features| features.name() == "avx2")
}

/// Pairs of pages as guests have them: unchanged, changed in few words and in many, filled anew, freed.
#[must_use]
pub fn pairs() -> Vec<[Page; 2]> {
    let mut chance = Chance(7);
    (0..64)
        .map(|number| {
            let mut old = [0; PAGE];
            // Small numbers, pointers and text, with holes.
            for word in old.as_chunks_mut::<8>().0 {
                *word = match chance.below(4) {
                    0 => 0,
                    1 => u64::from(chance.below(300)),
                    2 => 0xffff_8880_0000_0000 | u64::from(chance.below(1 << 23)) << 6,
                    _ => 0x6f6c_6c65_6800_0000 | u64::from(chance.below(1 << 16)),
                }
                .to_le_bytes();
            }
            let mut new = old;
            match number % 16 {
                0 | 1 => {}
                2 => new = [0; PAGE],
                3 => new.iter_mut().for_each(|byte| *byte = chance.below(256) as u8),
                kind => {
                    let changes = if kind < 11 { 1 + chance.below(8) } else { 40 + chance.below(160) };
                    for _ in 0..changes {
                        let at = 8 * chance.below(512) as usize;
                        let len = 1 + chance.below(8) as usize;
                        for byte in &mut new[at..at + len] {
                            *byte = byte.wrapping_add(1 + chance.below(200) as u8);
                        }
                    }
                }
            }
            [old, new]
        })
        .collect()
}

fn encode(features: Features, density: Density) -> Work {
    let pairs = pairs();
    let mut encoder = Box::new(Encoder::new(features, density));
    let mut out = Box::new([0; MAX_RECORD]);
    let units = pairs.len();
    let pass =
        move || pairs.iter().map(|[old, new]| encoder.encode(Some(old), new, None, &mut out).len).sum();
    Work { units, pass: Box::new(pass) }
}

fn decode() -> Option<Work> {
    let pairs = pairs();
    let mut out = [0; MAX_RECORD];
    let records: Vec<Vec<u8>> = pairs
        .iter()
        .map(|[old, new]| {
            let len = page::encode(Some(old), new, &mut out).len;
            out[..len].to_vec()
        })
        .collect();
    let mut pages: Vec<Page> = pairs.iter().map(|[old, _]| *old).collect();
    let pass = move || {
        let both = records.iter().zip(&mut pages);
        both.map(|(record, page)| page::decode(record, page, true).unwrap_or(0)).sum()
    };
    Some(Work { units: pairs.len(), pass: Box::new(pass) })
}

/// Frames with a page each, as their receiver has them.
fn frames() -> Vec<Vec<u8>> {
    let pages = pairs().into_iter().map(|[old, _]| old);
    pages.map(|page| [&encode_header(Kind::BATCH, 0, 9, &page)[..], &page].concat()).collect()
}

fn header() -> Option<Work> {
    let frames = frames();
    let units = frames.len();
    let pass = move || {
        let right = frames.iter().filter(|frame| {
            let Some((head, payload)) = frame.split_first_chunk::<HEADER>() else { return false };
            Header::parse(head).is_some_and(|header| header.payload_digest == digest(payload))
        });
        right.count()
    };
    Some(Work { units, pass: Box::new(pass) })
}

fn frame() -> Option<Work> {
    let pages: Vec<Page> = pairs().into_iter().map(|[old, _]| old).collect();
    let units = pages.len();
    let pass = move || pages.iter().map(|page| usize::from(encode_header(Kind::BATCH, 0, 9, page)[31])).sum();
    Some(Work { units, pass: Box::new(pass) })
}

fn parser() -> Option<Work> {
    let stream = frames().concat();
    let units = stream.len() / (HEADER + PAGE);
    let mut parser = Parser::new(vec![0; 64 << 10], PAGE).ok()?;
    let pass = move || {
        let mut bytes = 0;
        // Pieces that are copied by plain moves on any processor: string instructions count for each byte.
        for mut input in stream.chunks(2048) {
            while !input.is_empty() {
                parser.push(&mut input);
                while let Ok(Some(frame)) = parser.next_frame() {
                    bytes += black_box(frame.payload).len();
                }
            }
        }
        bytes
    };
    Some(Work { units, pass: Box::new(pass) })
}

/// What the log's cases have in common.
pub(super) const RECORDS: usize = 512;

fn entry(packet: &Packet) -> Entry<'_> {
    let time = Instant::from_nanos(packet.time);
    let (kind, flags) = (RecordKind::Input, Flags::VNET_HEADER);
    Entry { kind, epoch: 3, time, vif: 0, flags, packet: &packet.bytes }
}

fn write_log(packets: &[Packet], buf: &mut [u8]) -> usize {
    let mut writer = LogWriter::new(buf, 1);
    for packet in packets {
        let _ = black_box(writer.append(&entry(packet)));
    }
    writer.finish()
}

fn log_write() -> Option<Work> {
    let (packets, mut buf) = (made(RECORDS), vec![0; RECORDS * 256]);
    Some(Work { units: RECORDS, pass: Box::new(move || write_log(&packets, &mut buf)) })
}

fn log_read() -> Option<Work> {
    let mut buf = vec![0; RECORDS * 256];
    let len = write_log(&made(RECORDS), &mut buf);
    buf.truncate(len);
    let pass = move || records(&buf, Some(1)).map_while(Result::ok).map(|r| r.entry.packet.len()).sum();
    Some(Work { units: RECORDS, pass: Box::new(pass) })
}

fn pack_log(packets: &[Packet], packer: &mut Packer, buf: &mut [u8]) -> usize {
    let mut at = 0;
    for (lsn, packet) in (1..).zip(packets) {
        let room = buf.get_mut(at..).unwrap_or_default();
        at += packer.pack(&Record { lsn, entry: entry(packet) }, room).unwrap_or(0);
    }
    at + packer.seal(buf.get_mut(at..).unwrap_or_default()).unwrap_or(0)
}

fn log_pack() -> Option<Work> {
    let (packets, mut buf) = (made(RECORDS), vec![0; RECORDS * 256]);
    let mut packer = Box::new(Packer::new());
    // A pass begins where the one before has ended: nothing goes whole but the first.
    Some(Work { units: RECORDS, pass: Box::new(move || pack_log(&packets, &mut packer, &mut buf)) })
}

fn log_unpack() -> Option<Work> {
    let mut buf = vec![0; RECORDS * 256];
    let len = pack_log(&made(RECORDS), &mut Packer::new(), &mut buf);
    buf.truncate(len);
    let mut unpacker = Box::new(Unpacker::new());
    let pass = move || {
        *unpacker = Unpacker::new();
        let (mut rest, mut bytes) = (buf.as_slice(), 0);
        while let Ok(Some(Unpacked::Record(record))) = unpacker.take(&mut rest) {
            bytes += black_box(record).entry.packet.len();
        }
        bytes
    };
    Some(Work { units: RECORDS, pass: Box::new(pass) })
}

fn through_ring() -> Option<Work> {
    const UNITS: usize = 128;
    // For the rest of the program: the ring borrows them.
    let pages: &'static mut [ring::Page] = vec![ring::Page::ZERO; 17].leak();
    let memory: &'static _ = Box::leak(Box::new(Mapped::local(pages)?));
    ring::format(memory).ok()?;
    let mut producer = Producer::attach(memory, PAGE).ok()?;
    let mut consumer = Consumer::attach(memory, PAGE).ok()?;
    let (page, mut copy) = ([7; PAGE], [0; PAGE]);
    let pass = move || {
        let mut bytes = 0;
        for _ in 0..UNITS {
            if let Ok(Some(mut record)) = producer.reserve(PAGE) {
                let _ = record.write_at(0, &page);
                record.commit();
            }
            let _ = producer.publish();
            if let Ok(Some(record)) = consumer.next() {
                bytes += record.copy_to(&mut copy).map_or(0, |copy| copy.len());
            }
            let _ = consumer.release();
        }
        bytes
    };
    Some(Work { units: UNITS, pass: Box::new(pass) })
}

fn classify() -> Option<Work> {
    let packets = made(RECORDS);
    let mut tracker: Box<Tracker<64>> = Box::new(Tracker::new(Policy::default()));
    let pass = move || {
        let parsed = packets.iter().filter_map(|packet| Parsed::parse(packet.bytes.get(VNET_HEADER..)?));
        parsed.map(|parsed| black_box(tracker.classify(&parsed, Direction::ToGuest)) as usize).sum()
    };
    Some(Work { units: RECORDS, pass: Box::new(pass) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_does_its_work() {
        let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len(), "a name is used twice");
        for case in CASES {
            let Some(mut work) = case.make() else { continue };
            let first = (work.pass)();
            assert!(work.units > 0);
            // What is counted is not the first pass; packing has learnt from that.
            let again = (work.pass)();
            assert!(again == first || again < first && case.name.ends_with("packed"), "{}", case.name);
        }
    }

    #[test]
    fn all_kinds_of_page_are_there() {
        let mut out = [0; MAX_RECORD];
        let kinds: BTreeSet<_> =
            pairs().iter().map(|[old, new]| page::encode(Some(old), new, &mut out).kind as u8).collect();
        let wanted = [page::Kind::Unchanged, page::Kind::Zero, page::Kind::Diff, page::Kind::Raw];
        assert!(wanted.iter().all(|kind| kinds.contains(&(*kind as u8))), "{kinds:?}");
    }
}
