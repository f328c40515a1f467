//! A guest, its clients and the log between them, to replay.

mod carried;
mod connections;
mod guarantee;

use super::*;
use crate::flow::build::Link;
use crate::flow::{NO_VLAN, Translation};
use crate::log::{Cut, Entry, Flags, RecordKind};
use core::net::Ipv4Addr;
use std::collections::{BTreeMap, VecDeque};
use std::format;
use std::string::{String, ToString as _};
use std::vec;
use std::vec::Vec;

const LINK: Link = Link { guest: [2; 6], peer: [4; 6] };
/// The client's first sequence number.
const CLIENT: u32 = 5_000;

fn key(client: u16) -> FlowKey {
    let v4 = |d| Ipv4Addr::new(10, 0, 0, d).to_ipv6_mapped().octets();
    FlowKey::new(4, crate::flow::TCP, NO_VLAN, (v4(50), 80), (v4(9), client))
}

/// A segment with payload; its checksum is left to the receiving interface.
fn packet(key: &FlowKey, direction: Direction, says: &Says, payload: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; build::BUILT_MAX];
    let end = build::segment(&mut buf, &LINK, key, direction, says).unwrap();
    buf.truncate(end);
    buf[0] = 1;
    buf[VNET_HEADER + 16..VNET_HEADER + 18].fill(0);
    buf.extend(payload);
    buf
}

#[derive(Clone)]
struct Conn {
    next: u32,
    expects: u32,
    timestamps: u32,
}

/// A guest with a TCP like Linux's as far as it matters here, and one service: it remembers every request and answers it.
#[derive(Clone, Default)]
struct Guest {
    clock: u32,
    conns: BTreeMap<String, (FlowKey, Conn)>,
    done: Vec<String>,
    work: VecDeque<(String, String)>,
    out: Vec<Vec<u8>>,
    /// Appended to replies.
    salt: String,
    /// The next packets for it are lost.
    deaf: usize,
    mute: bool,
    /// Windows that its peers told.
    windows: Vec<u16>,
}

impl Guest {
    fn says(&self, conn: &Conn, flags: u8) -> Says {
        let timestamps = Some((self.clock, conn.timestamps));
        Says { seq: conn.next, ack: conn.expects, flags: flags | flags::ACK, window: 500, timestamps }
    }

    fn receive(&mut self, bytes: &[u8]) {
        if self.deaf > 0 {
            self.deaf -= 1;
            return;
        }
        let frame = &bytes[VNET_HEADER..];
        let parsed = Packet::parse(frame).unwrap();
        let segment = *parsed.segment().unwrap();
        let key = parsed.key(Direction::ToGuest);
        let name = key.to_string();
        if segment.flags == flags::SYN {
            let isn = self.clock.wrapping_mul(1_000_003);
            let conn =
                Conn { next: isn, expects: segment.seq_end(), timestamps: segment.timestamp.unwrap().value };
            self.out.push(packet(&key, Direction::FromGuest, &self.says(&conn, flags::SYN), b""));
            self.conns.insert(name, (key, Conn { next: isn.wrapping_add(1), ..conn }));
            return;
        }
        let Some((_, mut conn)) = self.conns.get(&name).cloned() else {
            let says = Says { seq: segment.ack, flags: flags::RST, ..Says::default() };
            self.out.push(packet(&key, Direction::FromGuest, &says, b""));
            return;
        };
        if segment.has(flags::RST) {
            if segment.seq == conn.expects {
                self.conns.remove(&name);
            }
            return;
        }
        self.windows.push(segment.window);
        if segment.timestamp.unwrap().value.wrapping_sub(conn.timestamps).cast_signed() < 0
            || segment.seq != conn.expects
        {
            self.out.push(packet(&key, Direction::FromGuest, &self.says(&conn, 0), b""));
            return;
        }
        if seq::after(segment.ack, conn.next) {
            return;
        }
        conn.timestamps = segment.timestamp.unwrap().value;
        let payload = &frame[segment.payload_range()];
        if !payload.is_empty() {
            conn.expects = segment.seq_end();
            let request = String::from_utf8(payload.to_vec()).unwrap();
            self.work.push_back((name.clone(), request));
            self.out.push(packet(&key, Direction::FromGuest, &self.says(&conn, 0), b""));
        }
        self.conns.insert(name, (key, conn));
    }

    /// The service does a piece of work. False if there is none.
    fn work(&mut self) -> bool {
        let Some((name, request)) = self.work.pop_front() else { return false };
        self.done.push(request.clone());
        let (key, mut conn) = self.conns[&name].clone();
        if !self.mute {
            let reply = format!("done {} {request}{}", self.done.len(), self.salt);
            // In two pieces, wherever the clock says.
            let cut = self.clock as usize % reply.len();
            for part in [&reply.as_bytes()[..cut], &reply.as_bytes()[cut..]] {
                self.out.push(packet(&key, Direction::FromGuest, &self.says(&conn, 0), part));
                conn.next = conn.next.wrapping_add(part.len() as u32);
            }
        }
        self.conns.insert(name, (key, conn));
        true
    }
}

/// The log, and a client that talks with the primary's guest.
#[derive(Default)]
struct World {
    guest: Guest,
    log: Vec<(RecordKind, Vec<u8>)>,
    /// What each client has: next number of its own, next number of the guest's, newest timestamp of the guest's.
    clients: BTreeMap<u16, (u32, u32, u32)>,
    mark: u64,
    saved: Option<Guest>,
    base_end: usize,
    /// What an earlier take-over left to translate.
    carried: Carried<16>,
    /// Of the clients' clocks.
    ahead: u32,
    /// Replies are logged with their bytes.
    bytes: bool,
}

/// For what needs no log.
struct Nothing;

impl LogSource for Nothing {
    fn record(&self, _: u64) -> Option<Record<'_>> {
        None
    }
}

/// A log from which records were dropped.
struct Kept<'a>(&'a World, Vec<u64>);

impl LogSource for Kept<'_> {
    fn record(&self, lsn: u64) -> Option<Record<'_>> {
        self.1.contains(&lsn).then(|| self.0.record(lsn))?
    }
}

impl LogSource for World {
    fn record(&self, lsn: u64) -> Option<Record<'_>> {
        let (kind, packet) = self.log.get(usize::try_from(lsn).unwrap() - 1)?;
        let flags = if *kind == RecordKind::Input { Flags::VNET_HEADER } else { Flags::NONE };
        let entry = Entry { kind: *kind, epoch: 1, time: Instant::ZERO, vif: 0, flags, packet };
        Some(Record { lsn, entry })
    }
}

impl World {
    fn deliver(&mut self, mut bytes: Vec<u8>) {
        self.guest.clock += 7;
        let parsed = Packet::parse(&bytes[VNET_HEADER..]).unwrap();
        self.carried.incoming(&mut bytes[VNET_HEADER..], &parsed, true, Instant::ZERO);
        self.guest.receive(&bytes);
        self.log.push((RecordKind::Input, bytes));
        while self.guest.work() {}
        for mut out in core::mem::take(&mut self.guest.out) {
            let frame = &mut out[VNET_HEADER..];
            let parsed = Packet::parse(frame).unwrap();
            let key = parsed.key(Direction::FromGuest);
            match self.carried.sent(&parsed, Instant::ZERO) {
                Fate::Passes => {}
                Fate::Drops => continue,
                Fate::Opens(key) => self.carry(key, Translation::default()),
            }
            let note = Note::of(frame, &parsed, key, self.mark);
            let mut record = note.as_wire().to_vec();
            if self.bytes {
                record = note.followed_by_bytes().as_wire().to_vec();
                record.extend_from_slice(&frame[parsed.segment().unwrap().payload_range()]);
            }
            self.log.push((RecordKind::Note, record));
            self.carried.outgoing(frame, &parsed, true);
            let parsed = Packet::parse(frame).unwrap();
            let segment = parsed.segment().unwrap();
            let timestamp = segment.timestamp.unwrap().value;
            let client = self.clients.get_mut(&key.peer_port()).unwrap();
            if !segment.has(flags::SYN) {
                assert_eq!(segment.seq, client.1, "{key}: not what its client waits for");
                assert!(seq::at_least(timestamp, client.2), "{key}: the clock went back");
            }
            client.1 = segment.seq_end();
            client.2 = timestamp;
        }
    }

    fn carry(&mut self, key: FlowKey, translation: Translation) {
        self.log.push((RecordKind::Carry, Carry::new(key, translation).as_wire().to_vec()));
    }

    fn client_says(&self, port: u16, flags: u8) -> Says {
        let (seq, ack, echo) = self.clients[&port];
        let timestamps = Some((90_000 + self.ahead + self.guest.clock, echo));
        Says { seq, ack, flags, window: 900, timestamps }
    }

    fn connect(&mut self, port: u16) {
        self.clients.insert(port, (CLIENT, 0, 0));
        let syn = packet(&key(port), Direction::ToGuest, &self.client_says(port, flags::SYN), b"");
        self.clients.get_mut(&port).unwrap().0 += 1;
        self.deliver(syn);
        let ack = packet(&key(port), Direction::ToGuest, &self.client_says(port, flags::ACK), b"");
        self.deliver(ack);
    }

    /// A record behind the last input: what the guest does for that comes later in the log.
    fn overtakes(&mut self, packet: Vec<u8>) {
        let last = self.log.iter().rposition(|(kind, _)| *kind == RecordKind::Input).unwrap();
        self.log.insert(last + 1, (RecordKind::Input, packet));
    }

    fn ask(&mut self, port: u16, request: &str) {
        let says = self.client_says(port, flags::ACK | flags::PSH);
        let bytes = packet(&key(port), Direction::ToGuest, &says, request.as_bytes());
        self.clients.get_mut(&port).unwrap().0 += request.len() as u32;
        self.deliver(bytes);
    }

    /// The guest is suspended: all before is in the checkpoint.
    fn checkpoint(&mut self) {
        self.saved = Some(self.guest.clone());
        self.mark += 1000;
        self.base_end = self.log.len();
    }

    /// What a backup would hold: connections, and the records behind the checkpoint.
    fn retained(&self) -> (Retention<16>, Vec<u64>) {
        let mut retention = Retention::new();
        let cut = Cut::new(1, self.mark);
        let lsn = self.base_end as u64 + 1;
        let all = 1..=self.log.len() as u64;
        for lsn_of in all.clone() {
            retention.fold(&self.record(lsn_of).unwrap(), &cut, lsn);
        }
        retention.settle(lsn, false);
        let kept = all.filter(|lsn| retention.keeps(&self.record(*lsn).unwrap(), &cut)).collect();
        (retention, kept)
    }

    fn replay(&self, config: Config, guest: &mut Guest) -> (std::boxed::Box<Replay<16>>, Vec<Event>) {
        let mut now = Instant::from_nanos(1 << 40);
        let (retention, kept) = self.retained();
        let mut replay = std::boxed::Box::new(Replay::<16>::new(config, now));
        for (key, base) in retention.flows() {
            replay.base(key, base);
        }
        for lsn in &kept {
            replay.prepare(&self.record(*lsn).unwrap());
        }
        let log = Kept(self, kept);
        replay.start(now);
        let (mut buf, mut events) = (vec![0; 70_000], Vec::new());
        for _ in 0..20_000 {
            match replay.poll(&log, &mut buf, now) {
                Some(Action::ToGuest(len)) => guest.receive(&buf[..len]),
                Some(Action::Event(event)) => events.push(event),
                Some(Action::GoLive) => return (replay, events),
                Some(Action::ToPeers(_)) => panic!("nothing is for the peers yet"),
                None => {
                    now = now + Duration::from_millis(10);
                    guest.clock += 10;
                    guest.work();
                }
            }
            for mut out in core::mem::take(&mut guest.out) {
                let mut answer = [0; build::BUILT_MAX];
                assert_eq!(replay.from_guest(&log, &mut out, &mut answer, now), Verdict::Drop);
            }
        }
        panic!("the replay does not end");
    }

    fn restored(&self) -> Guest {
        self.saved.clone().unwrap()
    }
}

/// Two connections older than the checkpoint, and one opened after it.
fn busy() -> World {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.connect(1002);
    world.ask(1001, "a0");
    world.checkpoint();
    world.ask(1001, "a1");
    world.ask(1002, "b1");
    world.connect(1003);
    world.ask(1003, "c1");
    world.ask(1001, "a2");
    world.ask(1003, "c2");
    world
}

fn fidelity(replay: &Replay<16>) -> (u64, u64, u64) {
    replay
        .report()
        .services
        .iter()
        .fold((0, 0, 0), |(i, d, u), s| (i + s.identical, d + s.different, u + s.unknown))
}
