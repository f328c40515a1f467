//! What is done again, what is compared, and what becomes of a guest that does not go along.

use super::*;

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
            assert_eq!(replay.from_guest(&Nothing, &mut out, &mut [0; 200], now), Verdict::Forward);
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
    let _ = replay.from_guest(&Nothing, &mut out, &mut [0; 200], Instant::from_nanos(1 << 41));
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

#[test]
fn a_lost_reply_is_served_as_it_was_released() {
    let mut original = busy_in(World { bytes: true, ..World::default() }, "?");
    original.saved.as_mut().unwrap().salt = "!".into();
    let mut restored = original.restored();
    let config = Config { on_divergence: OnDivergence::Serve, ..Config::default() };
    let (mut replay, _) = original.replay(config, &mut restored);
    let now = Instant::from_nanos(1 << 41);
    for (port, name) in [(1001, "done 1 a1"), (1003, "done 3 c1")] {
        // The first reply of the connection, once more, with its checksum complete and in two segments.
        let (_, conn) = &restored.conns[&key(port).to_string()];
        let made: u32 = [("done 1 a1!", 1001), ("done 4 a2!", 1001), ("done 3 c1!", 1003)]
            .iter()
            .filter(|(_, of)| *of == port)
            .map(|(reply, _)| reply.len() as u32)
            .sum();
        let begin = conn.next.wrapping_sub(made);
        let mut served = Vec::new();
        for (from, part) in [(0, &b"xxxx"[..]), (4, &b"yyyyyy"[..])] {
            let says = Says { seq: begin.wrapping_add(from), flags: flags::ACK, ..Says::default() };
            let mut bytes = packet(&key(port), Direction::FromGuest, &says, part);
            bytes[0] = 0;
            let frame = &mut bytes[VNET_HEADER..];
            let (start, ip) = (14 + 20, 20 + part.len() as u16 + 20);
            frame[16..18].copy_from_slice(&ip.to_be_bytes());
            frame[start + 16..start + 18].fill(0);
            let sum = crate::flow::transport_checksum(&key(port), &frame[start..]);
            frame[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(replay.from_guest(&original, &mut bytes, &mut [0; 200], now), Verdict::Forward);
            let frame = &mut bytes[VNET_HEADER..];
            served.extend_from_slice(&frame[start + 20..]);
            let given: [u8; 2] = frame[start + 16..start + 18].try_into().unwrap();
            frame[start + 16..start + 18].fill(0);
            let sum = crate::flow::transport_checksum(&key(port), &frame[start..]);
            assert_eq!(given, sum.to_be_bytes(), "the checksum is right");
        }
        assert_eq!(String::from_utf8(served).unwrap(), format!("{name}?"), "as it was released");
        // Once its client has all of it, nothing is touched any more.
        let (_, released, _) = original.clients[&port];
        let says = Says { seq: 1, ack: released, flags: flags::ACK, ..Says::default() };
        let mut ack = packet(&key(port), Direction::ToGuest, &says, b"");
        assert_eq!(replay.from_peer(&mut ack, now), Verdict::Forward);
        let says = Says { seq: begin, flags: flags::ACK, ..Says::default() };
        let mut late = packet(&key(port), Direction::FromGuest, &says, b"late");
        assert_eq!(replay.from_guest(&original, &mut late, &mut [0; 200], now), Verdict::Forward);
        assert!(late.ends_with(b"late"));
    }
}

fn busy_with_salt(salt: &str) -> World {
    busy_in(World::default(), salt)
}

fn busy_in(mut world: World, salt: &str) -> World {
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
fn a_connection_that_the_replay_had_no_time_for_is_told() {
    let world = busy();
    let mut guest = world.restored();
    guest.mute = true;
    let config = Config { total: Duration::from_millis(500), ..Config::default() };
    let (replay, events) = world.replay(config, &mut guest);
    let missed = Event::Reset { key: key(1003), cause: Cause::NotRegenerated };
    assert!(events.iter().chain(&replay.events).any(|event| *event == missed));
    assert_eq!(replay.report().resets(Cause::NotRegenerated), 3);
    assert_eq!(replay.flows[&key(1003)].state, State::Reset(Cause::NotRegenerated));
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
    let Verdict::Answer(len) = replay.from_guest(&Nothing, &mut question, &mut answer, Instant::ZERO) else {
        panic!("no answer");
    };
    assert_eq!(answer[VNET_HEADER + 22..len][..6], LINK.peer);
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
        assert_eq!(replay.from_guest(&Nothing, &mut out, &mut [0; 200], now), Verdict::Drop);
    }
    let told: Vec<FlowKey> = core::iter::from_fn(|| match replay.poll(&world, &mut buf, now)? {
        Action::ToGuest(len) => Some(Packet::parse(&buf[VNET_HEADER..len]).unwrap().key(Direction::ToGuest)),
        _ => None,
    })
    .take(2)
    .collect();
    assert_eq!(told, [key(1001), key(1002)]);
}
