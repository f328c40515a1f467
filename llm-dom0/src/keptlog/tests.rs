use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, UNIX_EPOCH};

use llm_core::checksum::digest;
use llm_core::flow::{FlowKey, NO_VLAN, TCP, UDP, transport_checksum};
use llm_core::log::{Entry, Flags, HEADER, LogWriter, MAX_PACKET, RecordKind};
use llm_core::time::Instant;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

#[allow(dead_code, reason = "tables of codes are for the core")]
#[path = "../../../llm-core/src/page/vectors.rs"]
mod vectors;

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).expect("the folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

fn header() -> Header {
    Header {
        session: 0x1122_3344_5566_7788,
        domain: "web1".into(),
        committed: 3,
        kept: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001),
    }
}

fn entry(epoch: u64, packet: &[u8]) -> Entry<'_> {
    let time = Instant::from_nanos(5);
    Entry { kind: RecordKind::Input, epoch, time, vif: 0, flags: Flags::NONE, packet }
}

fn record(lsn: u64, epoch: u64, packet: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; HEADER + packet.len()];
    LogWriter::new(&mut buf, lsn).append(&entry(epoch, packet)).expect("room");
    buf
}

fn file(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = header().to_bytes().expect("a name");
    bytes.extend(records.concat());
    bytes
}

/// Numbers with what is missing before, and how it ends.
fn read(input: impl Read) -> (Vec<(u64, u64)>, Option<String>) {
    let mut reader = match Reader::new(input) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(error.to_string())),
    };
    let mut found = Vec::new();
    loop {
        match reader.next_record() {
            Ok(Some(kept)) => found.push((kept.record.lsn, kept.missing)),
            Ok(None) => return (found, None),
            Err(error) => {
                assert!(matches!(reader.next_record(), Ok(None)), "nothing comes after an error");
                return (found, Some(error.to_string()));
            }
        }
    }
}

#[test]
fn the_documented_header() {
    let bytes = header().to_bytes().expect("a name");
    assert_eq!(bytes, vectors::hex("kept-log"), "{bytes:02x?}");
    assert_eq!(*Reader::new(&bytes[..]).expect("a header").header(), header());
}

#[test]
fn numbers_may_be_missing_and_never_go_back() {
    let records = [record(7, 3, b"a"), record(8, 3, b"bc"), record(20, 4, b"")];
    assert_eq!(read(&file(&records)[..]), (vec![(7, 0), (8, 0), (20, 11)], None));
    for (next, words) in [
        (record(20, 4, b""), "Bad record at byte 167 of the file: record 20 where 21 should come"),
        (record(5, 4, b""), "Bad record at byte 167 of the file: record 5 where 21 should come"),
        (record(21, 3, b""), "Bad record at byte 167 of the file: epoch 3 after epoch 4"),
    ] {
        let (found, error) = read(&[file(&records), next].concat()[..]);
        assert_eq!((found.len(), error.as_deref()), (3, Some(words)));
    }
    let last = [record(u64::MAX, 1, b""), record(1, 1, b"")];
    assert!(read(&file(&last)[..]).1.expect("an error").contains("no record can follow"));
}

#[test]
fn damage_is_found_where_it_is() {
    let whole = file(&[record(1, 3, b"abc"), record(2, 3, b"def")]);
    let first = 44;
    for bit in 0..8 * (first + 43) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (found, error) = read(&bytes[..]);
        assert!(found.is_empty() && error.is_some(), "bit {bit}");
    }
    for len in 0..whole.len() {
        let (found, error) = read(&whole[..len]);
        let start = first + found.len() * 43;
        assert_eq!(error.is_none(), len == start, "{len} bytes");
        if len > start {
            let words = format!("Bad record at byte {start} of the file: ends after {} bytes", len - start);
            assert_eq!(error, Some(words));
        }
    }
}

#[test]
fn a_header_that_is_none_is_told_why() {
    let good = header().to_bytes().expect("a name");
    let words = |bytes: &[u8]| read(bytes).1.expect("an error");
    assert!(words(b"").contains("no kept log starts like this"));
    assert!(words(&good[..20]).contains("byte 20: the file ends inside the header"));
    assert!(words(&good[..42]).contains("byte 42: the file ends inside the domain's name"));
    let mut bytes = good.clone();
    bytes[4] = 2;
    assert!(words(&bytes).contains("byte 4: made by another version"));
    // A name that would move a terminal's cursor, with the right checksum.
    let mut bytes = good;
    bytes[41] = 0x1b;
    let check = digest(&[&bytes[..32], &bytes[40..]].concat()).to_le_bytes();
    bytes[32..40].copy_from_slice(&check);
    assert!(words(&bytes).contains("byte 40: no domain can have this name"));
    assert_eq!(Header { domain: "a/b".into(), ..header() }.to_bytes(), None);
}

#[test]
fn a_file_gets_its_name_when_it_is_whole() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("log");
    fs::write(folder.path().join("log.new"), "left behind").expect("write");
    let mut writer = Writer::create(&path, &header()).expect("create");
    assert_eq!(names(&folder), ["log.new"]);
    writer.append(&[record(5, 1, b"a"), record(6, 1, b"b")].concat()).expect("append");
    writer.append(&record(9, 2, b"c")).expect("append");
    let len = writer.bytes();
    writer.finish().expect("finish");
    assert_eq!(names(&folder), ["log"]);
    let meta = fs::metadata(&path).expect("the file");
    assert_eq!((meta.permissions().mode() & 0o777, meta.len()), (0o600, len));
    assert_eq!(read(fs::File::open(&path).expect("open")), (vec![(5, 0), (6, 0), (9, 2)], None));

    drop(Writer::create(&path, &header()).expect("create"));
    assert_eq!((names(&folder), fs::metadata(&path).expect("the file").len()), (vec!["log".into()], len));
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("log");
    let nameless = Header { domain: String::new(), ..header() };
    assert_eq!(Writer::create(&path, &nameless).unwrap_err().kind(), ErrorKind::InvalidInput);
    let mut writer = Writer::create(&path, &header()).expect("create");
    writer.append(&record(5, 1, b"a")).expect("append");
    let good = record(6, 1, b"b");
    for bad in [
        &good[..good.len() - 1],
        &[&good[..], &good[..]].concat(),
        &record(5, 1, b"a"),
        &record(6, 0, b"a"),
        b"nonsense",
    ] {
        assert_eq!(writer.append(bad).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    writer.append(&good).expect("append");
    writer.finish().expect("finish");
    assert_eq!(read(fs::File::open(&path).expect("open")), (vec![(5, 0), (6, 0)], None));
}

/// Hands out a few bytes at a time, then fails.
struct Pieces<'a>(&'a [u8], usize, Option<ErrorKind>);

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.1.min(self.0.len());
        match (len, self.2) {
            (0, Some(kind)) => Err(kind.into()),
            _ => (&mut self.0).take(len as u64).read(buf),
        }
    }
}

#[test]
fn a_disk_that_fails_is_no_end() {
    let bytes = file(&[record(1, 1, b"a")]);
    let (found, error) = read(Pieces(&bytes, 10, Some(ErrorKind::Other)));
    assert_eq!((found, error.as_deref()), (vec![(1, 0)], Some("Cannot read at byte 85")));
    for len in [0, 39, 41, 60] {
        let (found, error) = read(Pieces(&bytes[..len], 10, Some(ErrorKind::Other)));
        assert_eq!((found.len(), error), (0, Some(format!("Cannot read at byte {len}"))));
    }
}

fn key(version: u8, protocol: u8) -> FlowKey {
    let address = |last| {
        if version == 4 { [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last] } else { [last; 16] }
    };
    FlowKey::new(version, protocol, NO_VLAN, (address(5), 80), (address(9), 4242))
}

/// A virtio-net header and a frame whose checksum is still that of the pseudo-header.
fn partial(key: &FlowKey, segment: &[u8], offset: usize) -> Vec<u8> {
    let octets = |address| match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (source, destination) = (octets(key.peer()), octets(key.guest()));
    let len = segment.len() as u16;
    let mut ip = if key.version() == 4 {
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, key.protocol(), 0, 0];
        ip[2..4].copy_from_slice(&(20 + len).to_be_bytes());
        ip
    } else {
        let [high, low] = len.to_be_bytes();
        vec![0x60, 0, 0, 0, high, low, key.protocol(), 64]
    };
    ip.extend([source, destination].concat());
    let start = (14 + ip.len()) as u16;
    let ethertype = if key.version() == 4 { [8, 0] } else { [0x86, 0xdd] };
    let mut packet = vec![1, 0, 0, 0, 0, 0];
    packet.extend(start.to_le_bytes());
    packet.extend((offset as u16).to_le_bytes());
    packet.extend([&[0; 12][..], &ethertype, &ip].concat());
    let mut segment = segment.to_vec();
    // The sum over nothing but the pseudo-header, with the real length.
    let zeros = vec![0; segment.len()];
    let pseudo = !transport_checksum(key, &zeros);
    segment[offset..offset + 2].copy_from_slice(&pseudo.to_be_bytes());
    packet.extend(segment);
    packet
}

fn plain(packet: &[u8]) -> Vec<u8> {
    frame::plain(&Entry { flags: Flags::VNET_HEADER, ..entry(1, packet) }).into_owned()
}

#[test]
fn partial_checksums_become_whole() {
    for (version, protocol, offset, header) in
        [(4, TCP, 16, 20), (6, TCP, 16, 20), (4, UDP, 6, 8), (6, UDP, 6, 8)]
    {
        let key = key(version, protocol);
        let mut segment: Vec<u8> = (0..header + 9).map(|i| i as u8).collect();
        segment[12] = 0x50;
        segment[offset..offset + 2].fill(0);
        let packet = partial(&key, &segment, offset);
        // Padding does not count.
        let got = plain(&[&packet[..], &[0xee; 3]].concat());
        let start = if version == 4 { 34 } else { 54 };
        let sum = transport_checksum(&key, &segment);
        segment[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(got[start..start + segment.len()], segment, "{key}");
        assert_eq!(transport_checksum(&key, &segment), 0);
    }
}

#[test]
fn a_udp_checksum_of_zero_is_written_as_ones() {
    let key = key(4, UDP);
    let mut datagram = [0x10, 0x92, 0, 80, 0, 10, 0, 0, 0, 0];
    let rest = transport_checksum(&key, &datagram);
    datagram[8..].copy_from_slice(&rest.to_be_bytes());
    let got = plain(&partial(&key, &datagram, 6));
    assert_eq!(got[40..42], [0xff, 0xff]);
}

#[test]
fn the_pcapng_is_that_of_the_draft() {
    let mut out = Vec::new();
    let mut pcap = pcapng::PcapNg::new(&mut out, "web1", "hi").expect("memory");
    pcap.inbound(3, Instant::from_nanos(0x0000_0001_0000_0002), b"abcde", "x").expect("memory");
    pcap.inbound(3, Instant::ZERO, b"", "").expect("memory");
    pcap.finish().expect("memory");
    let word = |at: usize| u32::from_le_bytes(*out[at..].first_chunk().expect("four bytes"));
    let (mut at, mut kinds) = (0, Vec::new());
    while at < out.len() {
        let len = word(at + 4) as usize;
        assert_eq!((len % 4, word(at + len - 4) as usize), (0, len));
        kinds.push((word(at), at));
        at += len;
    }
    assert_eq!(kinds.iter().map(|k| k.0).collect::<Vec<_>>(), [0x0a0d_0d0a, 1, 6, 6]);
    assert_eq!(out[8..24], [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert_eq!(out[24..32], *b"\x01\0\x02\0hi\0\0");
    let interface = kinds[1].1;
    assert_eq!(out[interface + 8..][..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(out[interface + 16..][..20], *b"\x02\0\x09\0web1.vif3\0\0\0\x09\0\x01\0");
    let packet = kinds[2].1;
    assert_eq!([8, 12, 16, 20, 24].map(|i| word(packet + i)), [0, 1, 2, 5, 5]);
    assert_eq!(out[packet + 28..][..24], *b"abcde\0\0\0\x01\0\x01\0x\0\0\0\x02\0\x04\0\x01\0\0\0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_read_to_an_end(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        sealed in 0..3,
        piece in 1..500_usize,
    ) {
        let mut rest = bytes;
        if sealed == 2 && rest.len() >= HEADER {
            let len = (rest.len() - HEADER) as u32;
            rest[32..36].copy_from_slice(&len.to_le_bytes());
            let check = digest(&rest[8..]).to_le_bytes();
            rest[..8].copy_from_slice(&check);
        }
        let bytes = if sealed == 0 { rest } else { file(&[rest]) };
        prop_assert!(read(Pieces(&bytes, piece, None)).0.len() <= bytes.len() / HEADER);
    }

    #[test]
    fn any_input_becomes_a_frame(packet in prop::collection::vec(any::<u8>(), 0..120), good: bool, start in 0..80_u16) {
        let mut packet = packet;
        if good && packet.len() >= 30 {
            packet[0] = 1;
            packet[6..8].copy_from_slice(&start.to_le_bytes());
            packet[8..10].copy_from_slice(&[16, 0]);
            packet[22..26].copy_from_slice(&[8, 0, 0x45, 0]);
        }
        prop_assert_eq!(plain(&packet).len(), packet.len().saturating_sub(10));
    }

    #[test]
    fn long_logs_come_in_any_pieces(
        records in prop::collection::vec((1..4_u64, 0..2_u64, 0..=MAX_PACKET), 0..20),
        piece in 1000..300_000_usize,
    ) {
        let (mut lsn, mut epoch, mut want) = (0, 0, Vec::new());
        let records: Vec<_> = records.into_iter().map(|(step, up, len)| {
            want.push((lsn + step, if lsn == 0 { 0 } else { step - 1 }));
            (lsn, epoch) = (lsn + step, epoch + up);
            record(lsn, epoch, &vec![lsn as u8; len])
        }).collect();
        prop_assert_eq!(read(Pieces(&file(&records), piece, None)), (want, None));
    }
}
