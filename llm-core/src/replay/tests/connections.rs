//! Where connections begin and end: ports that are used again, what comes late, numbers and windows.

use super::*;

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
    assert_eq!(replay.from_guest(&Nothing, &mut answer, &mut [0; 200], now), Verdict::Forward);
    assert_eq!(answer, sent);
    assert_eq!(replay.handed().count(), before - 1);
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
    assert_eq!(replay.from_guest(&Nothing, &mut again, &mut [0; 200], now), Verdict::Forward);
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
    assert!(!guest.windows.contains(&0), "a reset has no window: {:?}", guest.windows);
}

#[test]
fn a_reset_that_was_overtaken_by_a_request_ends_nothing() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.checkpoint();
    world.connect(1002);
    let says = Says { seq: world.clients[&1002].0, flags: flags::RST, ..Says::default() };
    world.ask(1002, "a1");
    world.overtakes(packet(&key(1002), Direction::ToGuest, &says, b""));
    world.ask(1002, "a2");
    let mut guest = world.restored();
    let (replay, events) = world.replay(Config::default(), &mut guest);
    assert_eq!(events, []);
    assert_eq!(guest.done, ["a1", "a2"]);
    assert_eq!(replay.report().carried, 2);
}

#[test]
fn what_a_guest_waits_for_is_behind_what_it_was_given() {
    let mut flow = Flow::new(State::Open, LINK, Instant::ZERO);
    flow.peer_next = Some(40);
    assert_eq!(flow.expected(), Some(40));
    flow.guest_ack = Some(10);
    for (lsn, seq, end) in [(1, 20, 25), (2, 5, 20), (3, 30, 40)] {
        let _ = flow.given.push_back(flow::Given { lsn, seq, end, at: Instant::ZERO });
    }
    assert_eq!(flow.expected(), Some(25));
}

#[test]
fn a_connection_that_its_client_has_reset_is_translated_while_the_guest_does_not_know() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.checkpoint();
    world.connect(1002);
    world.ask(1002, "a1");
    let (seq, ack, _) = world.clients[&1002];
    let says = Says { seq, flags: flags::RST, ..Says::default() };
    world.log.push((RecordKind::Input, packet(&key(1002), Direction::ToGuest, &says, b"")));
    let mut guest = world.restored();
    let (mut replay, events) = world.replay(Config::default(), &mut guest);
    assert_eq!(events, []);
    assert_eq!(replay.report().carried, 1);
    let now = Instant::from_nanos(1 << 41);
    let counted = ack.wrapping_sub(replay.flows[&key(1002)].translation.seq);
    assert_ne!(counted, ack);
    let timestamps = Some((guest.clock, 0));
    let says = Says { seq: counted, ack: seq, flags: flags::ACK, window: 1, timestamps };
    let mut late = packet(&key(1002), Direction::FromGuest, &says, b"");
    assert_eq!(replay.from_guest(&Nothing, &mut late, &mut [0; 200], now), Verdict::Forward);
    let parsed = Packet::parse(&late[VNET_HEADER..]).unwrap();
    let segment = parsed.segment().unwrap();
    assert_eq!(segment.seq, ack);
    assert!(seq::after(segment.timestamp.unwrap().value, world.clients[&1002].2));
}

#[test]
fn an_acknowledgement_is_of_one_connection_between_the_same_ports() {
    let note = |seq, flags| {
        let says = Says { seq, ack: 1, flags, timestamps: Some((1, 1)), ..Says::default() };
        let bytes = packet(&key(1), Direction::FromGuest, &says, b"");
        let frame = &bytes[VNET_HEADER..];
        Note::of(frame, &Packet::parse(frame).unwrap(), key(1), 1)
    };
    let mut base = Base::default();
    (base.sent, base.peer_ack) = (Some(100), Some(90));
    let mut flow = Flow::from_base(&base, Instant::ZERO);
    assert_eq!(flow.acked(), Some(90));
    // Another connection follows, and its client goes on.
    flow.note(&note(5000, flags::SYN | flags::ACK));
    assert_eq!(flow.acked(), Some(90));
    flow.peer_ack = Some(5001);
    flow.walked_ack = Some(95);
    assert_eq!(flow.acked(), Some(95));
    flow.open(5, 1);
    assert_eq!(flow.acked(), Some(5001));
    // The answer to its SYN, sent again, is of the same connection.
    flow.note(&note(5000, flags::SYN | flags::ACK));
    assert_eq!(flow.acked(), Some(5001));
}

#[test]
fn what_the_guest_has_taken_makes_room_behind_a_hole() {
    let mut flow = Flow::new(State::Open, LINK, Instant::ZERO);
    // The first is behind a hole; of the others the guest has all.
    for (seq, end) in [(50, 60), (10, 20), (20, 30)] {
        flow.given.push_back(flow::Given { lsn: 1, seq, end, at: Instant::ZERO }).unwrap();
    }
    let says = Says { seq: 1, ack: 30, flags: flags::ACK, ..Says::default() };
    let bytes = packet(&key(1), Direction::FromGuest, &says, b"");
    let parsed = Packet::parse(&bytes[VNET_HEADER..]).unwrap();
    flow.sent(&key(1), parsed.segment().unwrap(), b"", Instant::ZERO, &mut |_| {});
    assert_eq!(flow.given.iter().map(|given| given.seq).collect::<Vec<_>>(), [50]);
}

#[test]
fn a_syn_that_came_twice_has_the_answer_that_stands_before_it() {
    let note = |seq, ack| {
        let says = Says { seq, ack, flags: flags::SYN | flags::ACK, ..Says::default() };
        let bytes = packet(&key(1), Direction::FromGuest, &says, b"");
        let frame = &bytes[VNET_HEADER..];
        Note::of(frame, &Packet::parse(frame).unwrap(), key(1), 1)
    };
    let mut flow = Flow::new(State::Coming, LINK, Instant::ZERO);
    flow.note(&note(5000, 101));
    flow.note(&note(9000, 201));
    assert_eq!([101, 201, 301].map(|syn| flow.opening(syn)), [Some(5000), Some(9000), None]);
}

#[test]
fn what_comes_late_of_the_connection_before_is_of_no_other() {
    let segment = |seq, ack, flags| {
        let says = Says { seq, ack, flags, ..Says::default() };
        let bytes = packet(&key(1), Direction::ToGuest, &says, b"");
        *Packet::parse(&bytes[VNET_HEADER..]).unwrap().segment().unwrap()
    };
    let mut flow = Flow::new(State::Open, LINK, Instant::ZERO);
    let late = segment(1000, 70, flags::ACK);
    assert!(!flow.is_of_before(&late), "of a connection whose opening is not known");
    flow.open(5, 5001);
    assert!(flow.is_of_before(&late));
    assert!(!flow.is_of_before(&segment(5000, 0, flags::SYN)), "its own SYN");
    assert!(!flow.is_of_before(&segment(5001, 80, flags::ACK)));
    // Far on, what is old cannot be told from what is new by the number of the SYN.
    flow.peer_next = Some(5001 + (1 << 31));
    assert!(!flow.is_of_before(&segment(5001 + (1 << 31), 80, flags::ACK)));
}

#[test]
fn an_acknowledgement_has_the_number_that_the_guest_waits_for() {
    let mut flow = Flow::new(State::Open, LINK, Instant::ZERO);
    flow.peer_next = Some(5);
    let says = Says { seq: 1, ack: 9, flags: flags::ACK, ..Says::default() };
    let bytes = packet(&key(1), Direction::FromGuest, &says, b"");
    let parsed = Packet::parse(&bytes[VNET_HEADER..]).unwrap();
    flow.sent(&key(1), parsed.segment().unwrap(), b"", Instant::ZERO, &mut |_| {});
    assert_eq!(flow.peer_next, Some(9));
}

#[test]
fn what_the_guest_says_of_an_older_connection_is_not_of_the_newer_one() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    let mut replay = std::boxed::Box::new(Replay::<16>::new(Config::default(), Instant::ZERO));
    for lsn in 1..=world.log.len() as u64 {
        replay.prepare(&world.record(lsn).unwrap());
    }
    replay.start(Instant::ZERO);
    let mut buf = vec![0; 200];
    assert!(matches!(replay.poll(&world, &mut buf, Instant::ZERO), Some(Action::ToGuest(_))));
    assert_eq!(replay.flows[&key(1001)].opened, Some(CLIENT + 1));
    for (ack, sent) in [(CLIENT - 900, None), (CLIENT + 1, Some(world.clients[&1001].1))] {
        let flags = if sent.is_some() { flags::SYN | flags::ACK } else { flags::ACK };
        let says = Says { seq: 70_000, ack, flags, timestamps: Some((1, 1)), ..Says::default() };
        let mut out = packet(&key(1001), Direction::FromGuest, &says, b"");
        assert_eq!(replay.from_guest(&Nothing, &mut out, &mut [0; 200], Instant::ZERO), Verdict::Drop);
        assert_eq!(replay.flows[&key(1001)].sent, sent);
    }
}

#[test]
fn a_connection_that_the_checkpoint_was_opening_keeps_its_number() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.checkpoint();
    let (retention, _) = world.retained();
    let base = *retention.flows().next().unwrap().1;
    let sent = base.sent.unwrap();
    let mut replay = std::boxed::Box::new(Replay::<16>::new(Config::default(), Instant::ZERO));
    replay.base(&key(1001), &base);
    // Another one follows between the same ports.
    world.guest.clock += 1000;
    world.connect(1001);
    for lsn in world.base_end as u64 + 1..=world.log.len() as u64 {
        replay.prepare(&world.record(lsn).unwrap());
    }
    replay.start(Instant::ZERO);
    let says = Says {
        seq: sent.wrapping_sub(1),
        ack: CLIENT + 1,
        flags: flags::SYN | flags::ACK,
        timestamps: Some((9000, 1)),
        ..Says::default()
    };
    let mut again = packet(&key(1001), Direction::FromGuest, &says, b"");
    assert_eq!(replay.from_guest(&Nothing, &mut again, &mut [0; 200], Instant::ZERO), Verdict::Drop);
    assert_eq!(replay.flows[&key(1001)].translation.seq, 0);
    assert_eq!(replay.flows[&key(1001)].sent, Some(sent));
}

#[test]
fn a_reset_tells_no_window_to_the_checkpoint() {
    let mut world = World::default();
    world.guest.clock = 1000;
    world.connect(1001);
    world.ask(1001, "a1");
    let says = Says { seq: CLIENT - 900, flags: flags::RST, ..Says::default() };
    world.log.push((RecordKind::Input, packet(&key(1001), Direction::ToGuest, &says, b"")));
    world.checkpoint();
    let (retention, _) = world.retained();
    assert_eq!(retention.flows().next().unwrap().1.window, 900);
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
    let Verdict::Answer(len) = replay.from_guest(&Nothing, &mut late, &mut answer, now) else {
        panic!("it went out");
    };
    let parsed = Packet::parse(&answer[VNET_HEADER..len]).unwrap();
    assert!(parsed.segment().unwrap().has(flags::RST));
    assert_eq!(parsed.segment().unwrap().seq, 4711);
}
