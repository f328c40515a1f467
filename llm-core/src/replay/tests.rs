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

mod carried;

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
            self.log.push((RecordKind::Note, note.as_wire().to_vec()));
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
                assert_eq!(replay.from_guest(&mut out, &mut answer, now), Verdict::Drop);
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

#[test]
fn every_request_is_done_again_in_order_and_every_connection_goes_on() {
    let world = busy();
    let mut guest = world.restored();
    let (mut replay, events) = world.replay(Config::default(), &mut guest);
    assert_eq!(events, []);
    assert_eq!(guest.done, world.guest.done);
    assert_eq!(replay.report().carried, 3);
    let (identical, different, unknown) = fidelity(&replay);
    assert!(identical > 0 && different == 0 && unknown == 0, "{:?}", replay.report());
    // Each client goes on with its own numbers, and the guest's clock never goes back for it.
    let now = Instant::from_nanos(1 << 41);
    for (port, (seq, ack, newest)) in &world.clients {
        let timestamps = Some((200_000, *newest));
        let says = Says { seq: *seq, ack: *ack, flags: flags::ACK, window: 1, timestamps };
        let mut bytes = packet(&key(*port), Direction::ToGuest, &says, b"after");
        assert_eq!(replay.from_peer(&mut bytes, now), Verdict::Forward);
        guest.receive(&bytes);
        guest.work();
        let outs = core::mem::take(&mut guest.out);
        assert_eq!(outs.len(), 3);
        let mut next = *ack;
        for mut out in outs {
            assert_eq!(replay.from_guest(&mut out, &mut [0; 200], now), Verdict::Forward);
            let parsed = Packet::parse(&out[VNET_HEADER..]).unwrap();
            let segment = parsed.segment().unwrap();
            assert_eq!(segment.seq, next);
            next = segment.seq_end();
            assert!(seq::at_least(segment.timestamp.unwrap().value, *newest));
        }
    }
    assert_eq!(guest.done.len(), world.guest.done.len() + 3);
}

#[test]
fn without_pacing_requests_are_lost() {
    let world = busy();
    let mut guest = world.restored();
    let faults = Faults { no_pacing: true, ..Faults::default() };
    let (replay, _) = world.replay(Config { faults, ..Config::default() }, &mut guest);
    let whole = guest.done == world.guest.done && replay.report().fed_again == 0;
    assert!(!whole, "a segment that acknowledges the future was taken");
}

#[test]
fn without_translation_a_new_connection_is_given_up() {
    let world = busy();
    let mut guest = world.restored();
    let faults = Faults { no_translation: true, ..Faults::default() };
    let (replay, _) = world.replay(Config { faults, ..Config::default() }, &mut guest);
    assert!(replay.report().carried < 3);
}

#[test]
fn without_the_shift_the_clock_goes_back() {
    let world = busy();
    let mut guest = world.restored();
    guest.clock = 1000;
    let faults = Faults { no_shift: true, ..Faults::default() };
    let (mut replay, _) = world.replay(Config { faults, ..Config::default() }, &mut guest);
    guest.clock = 1001;
    let says = Says { timestamps: Some((guest.clock, 0)), flags: flags::ACK, ..Says::default() };
    let mut out = packet(&key(1001), Direction::FromGuest, &says, b"");
    let _ = replay.from_guest(&mut out, &mut [0; 200], Instant::from_nanos(1 << 41));
    let parsed = Packet::parse(&out[VNET_HEADER..]).unwrap();
    assert_eq!(parsed.segment().unwrap().timestamp.unwrap().value, 1001);
}

#[test]
fn what_the_guest_did_not_get_is_given_again() {
    let world = busy();
    let mut guest = world.restored();
    guest.deaf = 4;
    let (replay, _) = world.replay(Config::default(), &mut guest);
    assert_eq!(guest.done, world.guest.done);
    assert_eq!(replay.report().carried, 3);
}

#[test]
fn a_changed_reply_is_told_and_handled_as_asked() {
    for (policy, carried) in [(OnDivergence::Reset, 0), (OnDivergence::Serve, 3), (OnDivergence::Ignore, 3)] {
        // Replies of the same length, in their place.
        let mut original = busy_with_salt("?");
        original.saved.as_mut().unwrap().salt = "!".into();
        let mut restored = original.restored();
        let (mut replay, events) =
            original.replay(Config { on_divergence: policy, ..Config::default() }, &mut restored);
        assert_eq!(replay.report().carried, carried, "{policy:?} {:?} {events:?}", replay.report());
        // What was asked for is done in any case.
        assert_eq!(restored.done, original.guest.done);
        let told = events.iter().filter(|event| matches!(event, Event::Diverged(_))).count();
        assert_eq!(told > 0, policy != OnDivergence::Ignore);
        assert!(fidelity(&replay).1 > 0);
        let mut buf = vec![0; 200];
        let mut resets = 0;
        while let Some(Action::ToPeers(len)) = replay.poll(&original, &mut buf, Instant::from_nanos(1 << 41))
        {
            let parsed = Packet::parse(&buf[VNET_HEADER..len]).unwrap();
            let segment = parsed.segment().unwrap();
            assert!(segment.has(flags::RST));
            resets += 1;
        }
        assert_eq!(resets, 3 - carried);
    }
}

fn busy_with_salt(salt: &str) -> World {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.connect(1002);
    world.checkpoint();
    world.guest.salt = salt.into();
    world.ask(1001, "a1");
    world.ask(1002, "b1");
    world.connect(1003);
    world.ask(1003, "c1");
    world.ask(1001, "a2");
    world
}

#[test]
fn a_guest_that_answers_no_more_hangs_nothing() {
    let world = busy();
    let mut guest = world.restored();
    guest.mute = true;
    let (replay, events) = world.replay(Config::default(), &mut guest);
    assert!(events.iter().any(|event| matches!(event, Event::Stalled { .. })));
    assert_eq!(replay.report().resets(Cause::NotRegenerated), 3);
    // What the clients asked for is done all the same.
    assert_eq!(guest.done.len(), world.guest.done.len());
}

#[test]
fn what_is_in_the_ring_at_the_suspension_stays_in_the_log() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.ask(1001, "a0");
    // Delivered, but the guest is suspended before it looks: it acknowledges afterwards, and that is released.
    world.saved = Some(world.guest.clone());
    world.mark += 1000;
    world.ask(1001, "a1");
    world.base_end = world.log.len();
    let (_, kept) = world.retained();
    let inputs =
        kept.iter().filter(|lsn| world.record(**lsn).unwrap().entry.kind == RecordKind::Input).count();
    assert!(inputs >= 1, "{kept:?}");
    let mut guest = world.restored();
    let (replay, _) = world.replay(Config::default(), &mut guest);
    assert_eq!(guest.done, ["a0", "a1"]);
    assert_eq!(replay.report().carried, 1);
    // What was acknowledged before is gone.
    assert!(
        kept.iter()
            .all(|lsn| *lsn > 4 || world.record(*lsn).unwrap().entry.kind != RecordKind::Input || *lsn == 3)
    );
}

#[test]
fn a_handshake_that_cannot_come_again_is_reset() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.checkpoint();
    world.ask(1001, "plain");
    world.connect(1002);
    world.ask(1002, "\u{16}\u{3}\u{1} hello");
    let mut guest = world.restored();
    let (replay, events) = world.replay(Config::default(), &mut guest);
    assert_eq!(events, [Event::Reset { key: key(1002), cause: Cause::TlsHandshake }]);
    assert_eq!(replay.report().carried, 1);
    assert_eq!(replay.report().resets(Cause::TlsHandshake), 1);
}

#[test]
fn questions_for_neighbours_are_answered_while_nobody_else_can() {
    let world = busy();
    let (retention, _) = world.retained();
    let mut replay = std::boxed::Box::new(Replay::<16>::new(Config::default(), Instant::ZERO));
    for (key, base) in retention.flows() {
        replay.base(key, base);
    }
    let mut question = vec![0; VNET_HEADER];
    question.extend([0xff; 6]);
    question.extend([2; 6]);
    question.extend([
        8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 10, 0, 0, 50, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9,
    ]);
    let mut answer = [0; build::BUILT_MAX];
    let Verdict::Answer(len) = replay.from_guest(&mut question, &mut answer, Instant::ZERO) else {
        panic!("no answer");
    };
    assert_eq!(answer[VNET_HEADER + 22..len][..6], LINK.peer);
}

#[test]
fn a_late_copy_of_a_syn_opens_nothing_again() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.checkpoint();
    world.connect(1002);
    let syn = world.log.iter().rev().find(|(kind, bytes)| {
        *kind == RecordKind::Input
            && Packet::parse(&bytes[VNET_HEADER..]).unwrap().segment().unwrap().flags == flags::SYN
    });
    let syn = syn.unwrap().1.clone();
    world.ask(1002, "a1");
    // The primary's guest did not heed it either.
    world.log.push((RecordKind::Input, syn));
    world.ask(1002, "a2");
    let mut guest = world.restored();
    let (replay, _) = world.replay(Config::default(), &mut guest);
    assert_eq!(guest.done, ["a1", "a2"]);
    assert_eq!(replay.report().carried, 2);
}

#[test]
fn ports_that_are_used_again_belong_to_the_new_connection() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.ask(1001, "old");
    world.checkpoint();
    // The client's numbers are behind those of the old connection.
    world.clients.insert(1001, (CLIENT.wrapping_sub(2_000_000_000), 0, 0));
    let says = world.client_says(1001, flags::SYN);
    world.clients.get_mut(&1001).unwrap().0 += 1;
    world.deliver(packet(&key(1001), Direction::ToGuest, &says, b""));
    world.ask(1001, "new");
    let mut guest = world.restored();
    let (replay, _) = world.replay(Config::default(), &mut guest);
    assert_eq!(guest.done, ["old", "new"]);
    assert_eq!(replay.report().carried, 1);
}

#[test]
fn a_syn_from_outside_ends_no_translation_but_the_guests_answer_does() {
    let world = busy();
    let mut guest = world.restored();
    let (mut replay, _) = world.replay(Config::default(), &mut guest);
    let now = Instant::from_nanos(1 << 41);
    let before = replay.handed().count();
    let says = Says { seq: 77, flags: flags::SYN, timestamps: Some((1, 0)), ..Says::default() };
    let mut forged = packet(&key(1003), Direction::ToGuest, &says, b"");
    assert_eq!(replay.from_peer(&mut forged, now), Verdict::Forward);
    assert_eq!(replay.handed().count(), before);
    let says = Says { seq: 99, ack: 78, flags: flags::SYN | flags::ACK, ..says };
    let mut answer = packet(&key(1003), Direction::FromGuest, &says, b"");
    let sent = answer.clone();
    assert_eq!(replay.from_guest(&mut answer, &mut [0; 200], now), Verdict::Forward);
    assert_eq!(answer, sent);
    assert_eq!(replay.handed().count(), before - 1);
}

#[test]
fn one_busy_connection_takes_no_other_ones_place() {
    let world = busy();
    let (retention, kept) = world.retained();
    let now = Instant::from_nanos(1 << 40);
    let config = Config { on_divergence: OnDivergence::Ignore, ..Config::default() };
    let mut replay = std::boxed::Box::new(Replay::<4>::new(config, now));
    for (key, base) in retention.flows() {
        replay.base(key, base);
    }
    for lsn in kept {
        replay.prepare(&world.record(lsn).unwrap());
    }
    replay.start(now);
    let mut buf = vec![0; 70_000];
    // More packets of one connection than the machine has places, then one of another.
    for (port, seq) in (0..20).map(|i| (1001, i)).chain([(1002, 0)]) {
        let base = retention.flows().find(|(k, _)| **k == key(port)).unwrap().1.sent.unwrap();
        let says = Says {
            seq: base.wrapping_add(seq),
            flags: flags::ACK,
            timestamps: Some((2000, 0)),
            ..Says::default()
        };
        let mut out = packet(&key(port), Direction::FromGuest, &says, b"x");
        assert_eq!(replay.from_guest(&mut out, &mut [0; 200], now), Verdict::Drop);
    }
    let told: Vec<FlowKey> = core::iter::from_fn(|| match replay.poll(&world, &mut buf, now)? {
        Action::ToGuest(len) => Some(Packet::parse(&buf[VNET_HEADER..len]).unwrap().key(Direction::ToGuest)),
        _ => None,
    })
    .take(2)
    .collect();
    assert_eq!(told, [key(1001), key(1002)]);
}

/// A connection that the client ends, as records; `fin` false leaves the end out.
fn whole_connection(world: &mut World, port: u16, fin: bool) {
    world.connect(port);
    world.ask(port, "once");
    if !fin {
        return;
    }
    let (seq, ack, echo) = world.clients[&port];
    let timestamps = Some((90_000 + world.guest.clock, echo));
    let says = Says { seq, ack, flags: flags::FIN | flags::ACK, window: 900, timestamps };
    world.log.push((RecordKind::Input, packet(&key(port), Direction::ToGuest, &says, b"")));
    let answer = Says { seq: ack, ack: seq.wrapping_add(1), ..says };
    let out = packet(&key(port), Direction::FromGuest, &answer, b"");
    let parsed = Packet::parse(&out[VNET_HEADER..]).unwrap();
    let note = Note::of(&out[VNET_HEADER..], &parsed, key(port), world.mark);
    world.log.push((RecordKind::Note, note.as_wire().to_vec()));
    let last = Says { seq: seq.wrapping_add(1), ack: ack.wrapping_add(1), flags: flags::ACK, ..says };
    world.log.push((RecordKind::Input, packet(&key(port), Direction::ToGuest, &last, b"")));
    world.guest.conns.remove(&key(port).to_string());
}

#[test]
fn a_connection_that_is_over_is_not_done_again() {
    let mut world = World::default();
    world.guest.clock = 1000;
    whole_connection(&mut world, 1001, true);
    world.checkpoint();
    world.connect(1002);
    let mut guest = world.restored();
    let (replay, events) = world.replay(Config::default(), &mut guest);
    assert_eq!(events, []);
    assert_eq!(guest.done, ["once"]);
    assert_eq!(replay.report().carried, 1);
}

#[test]
fn what_comes_late_for_a_connection_that_is_over_resets_nothing() {
    let mut world = World::default();
    world.guest.clock = 1000;
    whole_connection(&mut world, 1001, true);
    world.checkpoint();
    // The client has not got the last reply to its FIN yet, and says so again.
    let says = world.client_says(1001, flags::ACK);
    world.log.push((RecordKind::Input, packet(&key(1001), Direction::ToGuest, &says, b"")));
    let mut guest = world.restored();
    let (replay, events) = world.replay(Config::default(), &mut guest);
    assert_eq!(events, []);
    assert_eq!(replay.report().resets(Cause::Refused), 0);
}

#[test]
fn the_end_of_an_older_connection_is_not_that_of_a_newer_one() {
    let mut world = World::default();
    world.guest.clock = 1000;
    whole_connection(&mut world, 1001, false);
    // The client resets it, and begins anew over the same ports.
    let says = world.client_says(1001, flags::RST | flags::ACK);
    world.log.push((RecordKind::Input, packet(&key(1001), Direction::ToGuest, &says, b"")));
    world.guest.conns.clear();
    world.connect(1001);
    world.checkpoint();
    let (mut retention, kept) = world.retained();
    // The reset is still there when the next epoch is committed, the new connection's SYN-ACK is not.
    world.checkpoint();
    let lsn = world.base_end as u64 + 1;
    let cut = Cut::new(2, world.mark);
    for lsn in kept {
        retention.fold(&world.record(lsn).unwrap(), &cut, lsn + 1);
    }
    retention.settle(lsn, false);
    let base = retention.flows().find(|(k, _)| **k == key(1001)).unwrap().1;
    assert!(!base.is_over());
}

#[test]
fn an_answer_to_a_syn_is_translated_when_it_is_sent_again() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.checkpoint();
    world.clients.insert(1002, (CLIENT, 0, 0));
    let syn = packet(&key(1002), Direction::ToGuest, &world.client_says(1002, flags::SYN), b"");
    world.deliver(syn);
    let seen = world.clients[&1002].1.wrapping_sub(1);
    let mut guest = world.restored();
    let (mut replay, _) = world.replay(Config::default(), &mut guest);
    let conn = guest.conns[&key(1002).to_string()].1.clone();
    let says = Says { seq: conn.next.wrapping_sub(1), ..guest.says(&conn, flags::SYN) };
    let mut again = packet(&key(1002), Direction::FromGuest, &says, b"");
    assert_ne!(says.seq, seen);
    let now = Instant::from_nanos(1 << 41);
    assert_eq!(replay.from_guest(&mut again, &mut [0; 200], now), Verdict::Forward);
    assert_eq!(Packet::parse(&again[VNET_HEADER..]).unwrap().segment().unwrap().seq, seen);
}

#[test]
fn the_window_is_that_of_the_newest_acknowledgement() {
    let mut flow = Flow::new(State::Open, LINK, Instant::ZERO);
    let tell = |flow: &mut Flow, seq, ack, window| {
        let says = Says { seq, ack, flags: flags::ACK, window, timestamps: None };
        let bytes = packet(&key(1), Direction::ToGuest, &says, b"");
        let parsed = Packet::parse(&bytes[VNET_HEADER..]).unwrap();
        flow.tell_window(parsed.segment().unwrap())
    };
    assert!(tell(&mut flow, 10, 100, 500));
    // Overtaken on its way.
    assert!(!tell(&mut flow, 10, 90, 400));
    assert_eq!(flow.window, 500);
    assert!(tell(&mut flow, 10, 100, 600));
    assert!(!tell(&mut flow, 10, 100, 550));
    assert!(tell(&mut flow, 11, 100, 50));
    assert_eq!(flow.window, 50);
}

#[test]
fn a_late_reset_of_an_older_connection_ends_no_newer_one() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.checkpoint();
    world.connect(1002);
    world.ask(1002, "a1");
    let says = Says { seq: CLIENT - 900, flags: flags::RST, ..Says::default() };
    world.log.push((RecordKind::Input, packet(&key(1002), Direction::ToGuest, &says, b"")));
    world.ask(1002, "a2");
    let mut guest = world.restored();
    let (replay, events) = world.replay(Config::default(), &mut guest);
    assert_eq!(events, []);
    assert_eq!(guest.done, ["a1", "a2"]);
    assert_eq!(replay.report().carried, 2);
}

#[test]
fn a_syn_that_nobody_answered_opens_nothing() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.checkpoint();
    world.ask(1001, "a1");
    // The client begins anew over the same ports; the guest still has the connection before, and takes no notice.
    let says =
        Says { seq: CLIENT + 900_000, flags: flags::SYN, timestamps: Some((99_000, 0)), ..Says::default() };
    world.log.push((RecordKind::Input, packet(&key(1001), Direction::ToGuest, &says, b"")));
    let mut guest = world.restored();
    let (replay, events) = world.replay(Config::default(), &mut guest);
    assert_eq!(events, []);
    assert_eq!(guest.done, ["a1"]);
    assert_eq!(replay.report().carried, 1);
}

#[test]
fn a_probe_acknowledges_nothing_that_came_after_the_checkpoint() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.checkpoint();
    world.ask(1001, "a1");
    world.ask(1001, "a2");
    let (retention, kept) = world.retained();
    let sent = retention.flows().next().unwrap().1.sent;
    let mut replay = std::boxed::Box::new(Replay::<16>::new(Config::default(), Instant::ZERO));
    for (key, base) in retention.flows() {
        replay.base(key, base);
    }
    for lsn in kept {
        replay.prepare(&world.record(lsn).unwrap());
    }
    replay.start(Instant::ZERO);
    let mut buf = vec![0; 200];
    let Some(Action::ToGuest(len)) = replay.poll(&world, &mut buf, Instant::ZERO) else {
        panic!("no probe");
    };
    let parsed = Packet::parse(&buf[VNET_HEADER..len]).unwrap();
    assert_eq!(Some(parsed.segment().unwrap().ack), sent);
}

#[test]
fn who_goes_on_with_a_connection_that_was_given_up_is_told_again() {
    let world = busy();
    let mut guest = world.restored();
    guest.mute = true;
    let (mut replay, _) = world.replay(Config::default(), &mut guest);
    let now = Instant::from_nanos(1 << 41);
    let mut buf = vec![0; 200];
    let resets = |replay: &mut Replay<16>, buf: &mut [u8], now| {
        core::iter::from_fn(|| replay.poll(&world, buf, now))
            .filter(|action| matches!(action, Action::ToPeers(_)))
            .count()
    };
    assert_eq!(resets(&mut replay, &mut buf, now), 3);
    // A client that only waits is told some times more.
    assert_eq!(resets(&mut replay, &mut buf, now), 0);
    let now = now + Duration::from_secs(1);
    assert_eq!(resets(&mut replay, &mut buf, now), 3);
    // The reset was lost, and the client waits for another number meanwhile.
    let says = Says { seq: 1, ack: 4711, flags: flags::ACK, timestamps: Some((1, 1)), ..Says::default() };
    let mut again = packet(&key(1001), Direction::ToGuest, &says, b"more");
    assert_eq!(replay.from_peer(&mut again, now), Verdict::Drop);
    let Some(Action::ToPeers(len)) = replay.poll(&world, &mut buf, now) else { panic!("no reset") };
    assert_eq!(Packet::parse(&buf[VNET_HEADER..len]).unwrap().segment().unwrap().seq, 4711);
    // And the guest's half of it ends as well.
    let mut late = packet(&key(1001), Direction::FromGuest, &says, b"late");
    let mut answer = [0; build::BUILT_MAX];
    let Verdict::Answer(len) = replay.from_guest(&mut late, &mut answer, now) else {
        panic!("it went out");
    };
    let parsed = Packet::parse(&answer[VNET_HEADER..len]).unwrap();
    assert!(parsed.segment().unwrap().has(flags::RST));
    assert_eq!(parsed.segment().unwrap().seq, 4711);
}
