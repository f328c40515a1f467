//! A domain that was taken over is protected again: its connections go on, translated by one and then by the other.

use super::lab::{Lab, TAP, VIF, run_in, skip_without_root, spawn_in, tcp_from, wait_for};
use super::{BRIDGE, FOR_EVER, GUEST_MAC, SOON, config};
use llm_core::flow::{Direction, FlowKey, NO_VLAN, Packet, TCP, Translation, VNET_HEADER};
use llm_core::log::{Carry, Entry, Flags, Note, Record, RecordKind};
use llm_core::replay::{Config, Handed, LogSource, Replay};
use llm_core::time::Instant;
use llm_dom0::clock;
use llm_dom0::net::{
    Ending, Former, Joint, Recorder, ReplayConfig, ReplayNews, Replayer, Translations, isolate,
    prepare_isolation,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

const GUEST: &str = "10.77.0.2:80";
const CLIENT: &str = "10.77.0.3:4000";
/// The next numbers of the guest and of the client, as the guest counts.
const GUEST_NEXT: u32 = 0x0100_0000;
const CLIENT_NEXT: u32 = 0x0200_0000;
/// What the client has more.
const AHEAD: u32 = 0x9000_0000;

fn key() -> FlowKey {
    let v4 = |last| std::net::Ipv4Addr::new(10, 77, 0, last).to_ipv6_mapped().octets();
    FlowKey::new(4, TCP, NO_VLAN, (v4(2), 80), (v4(3), 4000))
}

/// A log that says of one connection what is translated already.
struct OneCarry(Carry);

impl LogSource for OneCarry {
    fn record(&self, lsn: u64) -> Option<Record<'_>> {
        let (kind, flags, packet) = (RecordKind::Carry, Flags::NONE, self.0.as_wire());
        let entry = Entry { kind, epoch: 1, time: Instant::ZERO, vif: 0, flags, packet };
        (lsn == 1).then_some(Record { lsn, entry })
    }
}

/// `llm backup` after a take-over, with that log.
struct Backup {
    ending: Arc<Ending>,
    thread: JoinHandle<Option<Vec<Handed>>>,
}

impl Backup {
    fn start(lab: &Lab, run_dir: &Path, carry: Carry) -> Self {
        let ending = Arc::new(Ending::default());
        let is_live = Arc::new(AtomicBool::new(false));
        let (stop, told) = (Arc::clone(&ending), Arc::clone(&is_live));
        let config = ReplayConfig {
            domain: "web1".into(),
            run_dir: run_dir.into(),
            mac: Some(GUEST_MAC),
            addresses: Vec::new(),
        };
        let thread = spawn_in(&lab.host(), move || {
            let log = OneCarry(carry);
            let mut machine = Box::new(Replay::<16>::new(Config::default(), clock::now()));
            machine.prepare(&log.record(1).unwrap());
            let replayer = Replayer::start(&config, &mut machine, &log, &stop).unwrap().unwrap();
            let news = |news, _: &Replay<16>| {
                told.fetch_or(matches!(news, ReplayNews::Live), Ordering::Relaxed);
            };
            replayer.run(&stop, news).unwrap()
        });
        wait_for("the replay is live", || is_live.load(Ordering::Relaxed));
        Self { ending, thread }
    }

    fn hand_over(self) -> Vec<Handed> {
        self.ending.hand_over();
        self.thread.join().unwrap().expect("it is handed over")
    }
}

/// What a log got.
#[derive(Clone, Debug, Default)]
struct Written {
    inputs: Arc<Mutex<Vec<Vec<u8>>>>,
    notes: Arc<Mutex<Vec<Note>>>,
    carries: Arc<Mutex<Vec<Carry>>>,
}

impl Recorder for Written {
    fn is_full(&self) -> bool {
        false
    }
    fn input(&mut self, packet: &[u8]) {
        self.inputs.lock().unwrap().push(packet.to_vec());
    }
    fn waits_for_log(&mut self, _: &[u8]) -> bool {
        true
    }
    fn output(&mut self, packet: &[u8], mark: u64) -> u64 {
        let frame = &packet[VNET_HEADER..];
        let parsed = Packet::parse(frame).unwrap();
        self.notes.lock().unwrap().push(Note::of(frame, &parsed, parsed.key(Direction::FromGuest), mark));
        1
    }
    fn carry(&mut self, carry: &Carry) {
        self.carries.lock().unwrap().push(*carry);
    }
    fn flush(&mut self) {}
}

/// `llm protect`, which goes on with what the backup did.
fn protect(lab: &Lab, backup: Backup, translations: &Arc<Translations>, written: &Written) -> Joint {
    let (translations, recorder) = (Arc::clone(translations), Box::new(written.clone()));
    let joint = run_in(&lab.host(), move || {
        let taken = Arc::clone(&translations);
        let former = Former::new(translations, move || {
            taken.take(&backup.hand_over());
            Ok(true)
        });
        Joint::start_after(former, &config(1 << 20), Some(recorder), || 1, |_| {}).unwrap()
    });
    joint.lease(FOR_EVER);
    joint.release(u64::MAX);
    joint
}

/// Bytes that come back from the guest, one after the other, all the time.
struct Talk {
    replies: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: [JoinHandle<()>; 2],
}

impl Talk {
    fn start(lab: &Lab) -> Self {
        let (replies, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let guest = run_in(&lab.guest(), || tcp_from((GUEST, GUEST_NEXT), (CLIENT, CLIENT_NEXT)));
        let ahead = GUEST_NEXT.wrapping_add(AHEAD);
        let client = run_in(&lab.client(), move || tcp_from((CLIENT, CLIENT_NEXT), (GUEST, ahead)));
        let echo = std::thread::spawn(move || echo(guest));
        let (count, end) = (Arc::clone(&replies), Arc::clone(&stop));
        let ask = std::thread::spawn(move || ask(client, &count, &end));
        Self { replies, stop, threads: [echo, ask] }
    }

    fn goes_on(&self, when: &str) {
        let before = self.replies.load(Ordering::Relaxed);
        wait_for(when, || self.replies.load(Ordering::Relaxed) > before + 20);
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn echo(mut stream: TcpStream) {
    let mut buf = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buf) {
        stream.write_all(&buf[..len]).unwrap();
    }
}

fn ask(mut stream: TcpStream, replies: &AtomicU64, stop: &AtomicBool) {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        stream.write_all(&number.to_be_bytes()).unwrap();
        let mut reply = [0; 8];
        stream.read_exact(&mut reply).expect("the connection goes on");
        assert_eq!(u64::from_be_bytes(reply), number);
        replies.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn run_dir() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("allow")).unwrap();
    std::fs::write(dir.path().join("allow/.web1.vif"), format!("{VIF} {BRIDGE}\n")).unwrap();
    dir
}

#[test]
fn a_connection_goes_on_when_its_domain_is_protected_again_and_taken_over_again() {
    if skip_without_root() {
        return;
    }
    let (lab, run_dir) = (Lab::new(), run_dir());
    run_in(&lab.host(), || {
        prepare_isolation().unwrap();
        isolate(VIF).unwrap();
    });
    let translation = Translation { seq: AHEAD, timestamp: 0 };
    let talk = Talk::start(&lab);
    let backup = Backup::start(&lab, run_dir.path(), Carry::new(key(), translation));
    talk.goes_on("replies after the take-over");

    let (translations, written) = (Arc::new(Translations::default()), Written::default());
    let joint = protect(&lab, backup, &translations, &written);
    assert!(lab.host_link(TAP).contains(&format!("master {BRIDGE}")));
    assert!(!lab.host_link("llmr1.0").contains("llmr1.0"), "two would answer");
    talk.goes_on("replies after it is protected again");
    assert_eq!(translations.count(), 1);

    // The log counts as the guest does.
    let near = |number: u32, first: u32| number.wrapping_sub(first) < 1 << 20;
    for input in written.inputs.lock().unwrap().iter() {
        let parsed = Packet::parse(&input[VNET_HEADER..]).unwrap();
        if let Some(segment) = parsed.segment() {
            assert!(near(segment.seq, CLIENT_NEXT) && near(segment.ack, GUEST_NEXT), "{segment:?}");
        }
    }
    let notes: Vec<Note> =
        written.notes.lock().unwrap().iter().copied().filter(|n| *n.key() == key()).collect();
    assert!(notes.len() > 20 && notes.iter().all(|note| near(note.seq(), GUEST_NEXT)), "{notes:?}");
    assert_eq!(*written.carries.lock().unwrap(), [], "it still needs its translation");

    // The next backup has that from the log, and restores a guest that stands where it was.
    let carry = Carry::new(key(), translation);
    joint.stop(false).unwrap();
    let backup = Backup::start(&lab, run_dir.path(), carry);
    talk.goes_on("replies after the second take-over");
    talk.end();
    backup.ending.rejoin();
    assert_eq!(backup.thread.join().unwrap(), None);
}
