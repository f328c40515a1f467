//! `llm log` on a log that is made here; what it exports is read by Wireshark's `tshark`.
//!
//! Without `tshark` that test says so and passes; with `LLM_REQUIRE_LAB=1` it fails.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, UNIX_EPOCH};

use llm_core::flow::build::{self, Link, Says};
use llm_core::flow::{
    Direction, FlowKey, NO_VLAN, Packet, TCP, Translation, VNET_HEADER, flags, ipv4_header_checksum,
    transport_checksum,
};
use llm_core::log::{Carry, Cut, Entry, Flags, LogWriter, MAX_RECORD, Note, RecordKind};
use llm_core::time::Instant;
use llm_dom0::keptlog::{Header, Writer};
use tempfile::TempDir;

fn address(last: u8) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]
}

fn key() -> FlowKey {
    FlowKey::new(4, TCP, NO_VLAN, (address(5), 80), (address(9), 4242))
}

fn segment(direction: Direction, says: &Says) -> Vec<u8> {
    let mut buf = [0; build::BUILT_MAX];
    let end = build::segment(&mut buf, &Link::default(), &key(), direction, says).expect("a segment");
    buf[..end].to_vec()
}

/// A segment of the peer with so much payload, whose checksum the guest's device has still to compute.
fn data(seq: u32, len: u16) -> Vec<u8> {
    let says = Says { seq, ack: 501, flags: flags::ACK | flags::PSH, window: 1000, timestamps: Some((7, 8)) };
    let mut packet = segment(Direction::ToGuest, &says);
    let (ip, tcp) = (VNET_HEADER + 14, VNET_HEADER + 34);
    packet.extend((0..len).map(|i| i.wrapping_mul(7) as u8));
    let total = (packet.len() - ip) as u16;
    packet[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
    packet[ip + 10..ip + 12].fill(0);
    let sum = ipv4_header_checksum(&packet[ip..tcp]);
    packet[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = !transport_checksum(&key(), &vec![0; packet.len() - tcp]);
    packet[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
    // NEEDS_CSUM, GSO for IPv4, segments of 1448 bytes; the checksum covers all from 34 and is at 16.
    let gso = u8::from(len > 1448);
    packet[..VNET_HEADER].copy_from_slice(&[1, gso, 66, 0, 0xa8 * gso, 5 * gso, 34, 0, 16, 0]);
    packet
}

fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([2, 0, 0, 0, 0, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 5]);
    frame
}

/// Records 5 to 8 and 12 to 15.
fn make(path: &Path) {
    let syn = Says { seq: 100, flags: flags::SYN, window: 900, ..Says::default() };
    let reply = Says { seq: 500, ack: 101, flags: flags::SYN | flags::ACK, window: 800, ..Says::default() };
    let sent = segment(Direction::FromGuest, &reply);
    let sent = &sent[VNET_HEADER..];
    let packet = Packet::parse(sent).expect("a frame");
    let note = Note::of(sent, &packet, key(), 77);
    let cut = Cut::new(3, 78);
    let carry = Carry::new(key(), Translation { seq: 9, timestamp: 10 });
    let (input, vnet) = (RecordKind::Input, Flags::VNET_HEADER);
    let records = [
        (5, 3, 0, input, vnet, segment(Direction::ToGuest, &syn)),
        (6, 3, 0, RecordKind::Note, Flags::NONE, note.as_wire().to_vec()),
        (7, 3, 1, input, Flags::NONE, arp()),
        (8, 3, 0, RecordKind::Cut, Flags::NONE, cut.as_wire().to_vec()),
        (12, 4, 0, RecordKind::Carry, Flags::NONE, carry.as_wire().to_vec()),
        (13, 4, 0, input, vnet, data(101, 10)),
        (14, 4, 0, input, vnet, data(111, 1001)),
        (15, 4, 0, input, vnet, data(1112, 30_001)),
    ];
    let kept = UNIX_EPOCH + Duration::from_secs(1_709_251_199);
    let header = Header { session: 0xabc, domain: "web1".into(), committed: 2, kept };
    let mut writer = Writer::create(path, &header).expect("create");
    let mut buf = vec![0; MAX_RECORD];
    for (lsn, epoch, vif, kind, flags, packet) in &records {
        let time = Instant::from_nanos(90_000_000_000 + lsn * 1_000_001);
        let entry = Entry { kind: *kind, epoch: *epoch, time, vif: *vif, flags: *flags, packet };
        let mut log = LogWriter::new(&mut buf, *lsn);
        log.append(&entry).expect("room");
        let len = log.finish();
        writer.append(&buf[..len]).expect("append");
    }
    writer.finish().expect("finish");
}

fn llm(args: &[&str], file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm")).arg("log").args(args).arg(file).output().expect("llm")
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn inspect_shows_every_record() {
    let folder = TempDir::new().expect("a folder");
    let log = folder.path().join("log");
    make(&log);
    let (code, text, error) = said(&llm(&["inspect"], &log));
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let want = "\
domain     web1
session    0000000000000abc
committed  epoch 2
kept       2024-02-29 23:59:59 UTC

       lsn    epoch            seconds vif kind
         5        3       90.005000005   0 input  tcp 10.0.0.5:80 <- 10.0.0.9:4242  SYN seq 100 len 0
         6        3       90.006000006   0 note   tcp 10.0.0.5:80 <- 10.0.0.9:4242  SYN+ACK seq 500 ack 101 len 0 mark 77
         7        3       90.007000007   1 input  not ip  arp request len 30
         8        3       90.008000008   0 cut    what has a mark below 78 was sent before the suspension of epoch 3
         9 to 11 are not in the log
        12        4       90.012000012   0 carry  tcp 10.0.0.5:80 <- 10.0.0.9:4242  seq +9 timestamp +10
        13        4       90.013000013   0 input  tcp 10.0.0.5:80 <- 10.0.0.9:4242  PSH+ACK seq 101 ack 501 len 10
        14        4       90.014000014   0 input  tcp 10.0.0.5:80 <- 10.0.0.9:4242  PSH+ACK seq 111 ack 501 len 1001
        15        4       90.015000015   0 input  tcp 10.0.0.5:80 <- 10.0.0.9:4242  PSH+ACK seq 1112 ack 501 len 30001
";
    assert_eq!(text, want);

    let (code, text, _) = said(&llm(&["inspect", "--summary"], &log));
    assert_eq!(code, Some(0));
    for line in [
        "records    5 to 15, 3 of them missing",
        "epochs     3 to 4",
        "input             5        31546",
        "note              1          116",
        "       4        31012        1            0  tcp 10.0.0.5:80 <- 10.0.0.9:4242",
        "       1           30        0            0  all others",
    ] {
        assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
    }
}

#[test]
fn inspect_tells_programs_the_same() {
    let folder = TempDir::new().expect("a folder");
    let log = folder.path().join("log");
    make(&log);
    let lines = |args: &[&str]| -> Vec<serde_json::Value> {
        let (code, text, error) = said(&llm(args, &log));
        assert_eq!(code, Some(0), "{error}");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let all = lines(&["inspect", "--json"]);
    assert_eq!(all.len(), 9);
    assert_eq!((&all[0]["domain"], &all[0]["session"]), (&"web1".into(), &"0000000000000abc".into()));
    assert_eq!(all[5]["missing"], 3);
    assert_eq!(all[5]["carry"]["seq"], 9);
    let note = &all[2];
    assert_eq!(
        (&note["kind"], &note["tcp"]["ack"], &note["mark"]),
        (&"note".into(), &101.into(), &77.into())
    );
    assert_eq!(note["tcp"]["flags"], serde_json::json!(["SYN", "ACK"]));
    assert_eq!((&note["flow"]["peer"], &note["flow"]["guest_port"]), (&"10.0.0.9".into(), &80.into()));
    let sums = lines(&["inspect", "--json", "--summary"]);
    assert_eq!(sums.len(), 2);
    assert_eq!(sums[1]["kinds"]["input"]["records"], 5);
    assert_eq!(sums[1]["flows"][0]["input_len"], 31_012);
}

#[test]
fn what_comes_before_a_damage_is_shown_and_exported() {
    let folder = TempDir::new().expect("a folder");
    let (log, pcap) = (folder.path().join("log"), folder.path().join("pcap"));
    make(&log);
    let mut bytes = std::fs::read(&log).expect("the log");
    let cut = bytes.len() - 100;
    bytes.truncate(cut);
    std::fs::write(&log, &bytes).expect("write");
    let (code, text, error) = said(&llm(&["inspect"], &log));
    assert_eq!(code, Some(1));
    assert!(text.lines().last().is_some_and(|line| line.contains("        14 ")), "{text}");
    for word in [log.to_str().expect("text"), "Bad record at byte 1733 of the file", "ends after"] {
        assert!(error.contains(word), "{error}");
    }
    let (code, text, _) = said(&llm(&["inspect", "--summary"], &log));
    assert!(code == Some(1) && text.contains("records    5 to 14"), "{text}");
    let out = pcap.to_str().expect("text");
    let (code, text, error) = said(&llm(&["export", "--pcap", out], &log));
    assert!(code == Some(1) && text.contains("4 packets") && error.contains("Bad record"), "{text}{error}");

    let missing = folder.path().join("missing");
    let (code, _, error) = said(&llm(&["inspect"], &missing));
    assert!(code == Some(1) && error.contains("missing"), "{error}");
    let (code, _, error) = said(&llm(&["inspect"], &pcap));
    assert!(code == Some(1) && error.contains("no kept log"), "{error}");
    let (code, _, error) = said(&llm(&["export", "--pcap", log.to_str().expect("text")], &log));
    assert!(code == Some(2) && error.contains("the log itself"), "{error}");
    assert_eq!(std::fs::read(&log).expect("the log"), bytes);
}

fn tshark(pcap: &Path, args: &[&str]) -> std::io::Result<String> {
    let mut command = Command::new("tshark");
    for check in ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"] {
        command.args(["-o", &format!("{check}:TRUE")]);
    }
    let output = command.arg("-r").arg(pcap).args(args).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn wireshark_reads_the_export() {
    let folder = TempDir::new().expect("a folder");
    let (log, pcap) = (folder.path().join("log"), folder.path().join("out.pcapng"));
    make(&log);
    let (code, text, error) = said(&llm(&["export", "--pcap", pcap.to_str().expect("text")], &log));
    assert!(code == Some(0) && text.contains("5 packets; 3 records"), "{text}{error}");
    assert_eq!(std::fs::metadata(&pcap).expect("the file").permissions().mode() & 0o777, 0o600);
    let (code, _, _) = said(&llm(&["export", "--pcap", "-"], &log));
    assert_eq!(code, Some(0));
    assert_eq!(llm(&["export", "--pcap", "-"], &log).stdout, std::fs::read(&pcap).expect("the file"));

    let fields =
        ["frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction", "frame.comment"];
    let tcp = ["tcp.srcport", "tcp.dstport", "tcp.len", "tcp.checksum.status", "arp.opcode"];
    let mut args = vec!["-T", "fields", "-E", "separator=|"];
    args.extend(fields.iter().chain(&tcp).flat_map(|field| ["-e", *field]));
    let table = match tshark(&pcap, &args) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            assert!(std::env::var_os("LLM_REQUIRE_LAB").is_none_or(|v| v != "1"), "tshark is missing");
            // Past the test harness, which shows what a passed test printed to nobody.
            let _ = writeln!(std::io::stderr(), "skipped: tshark is missing; install the package tshark");
            return;
        }
        table => table.expect("tshark"),
    };
    let want = "\
90.005000005|web1.vif0|0x00000001|lsn 5, epoch 3|4242|80|0|1|
90.007000007|web1.vif1|0x00000001|lsn 7, epoch 3|||||1
90.013000013|web1.vif0|0x00000001|lsn 13, epoch 4|4242|80|10|1|
90.014000014|web1.vif0|0x00000001|lsn 14, epoch 4|4242|80|1001|1|
90.015000015|web1.vif0|0x00000001|lsn 15, epoch 4|4242|80|30001|1|
";
    assert_eq!(table, want);
    let bad = "_ws.malformed || tcp.checksum.status == 0 || ip.checksum.status == 0";
    assert_eq!(tshark(&pcap, &["-Y", bad]).expect("tshark"), "");
}
