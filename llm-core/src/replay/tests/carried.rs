//! Take-overs one after the other: the copy is protected again, and its host dies too.

use super::*;
use proptest::prelude::*;

/// The domain of `first` was taken over, and is protected again where it runs.
fn again(first: &World, replay: &Replay<16>, guest: Guest) -> World {
    let mut world =
        World { guest, clients: first.clients.clone(), ahead: first.ahead + 1_000_000, ..World::default() };
    for handed in replay.handed() {
        assert!(world.carried.insert(&handed, Instant::ZERO));
        world.carry(handed.key, handed.translation);
    }
    world.log.push((RecordKind::Cut, Cut::new(0, 0).as_wire().to_vec()));
    world
}

/// The next take-over. The clock of each copy starts anew, and is behind.
fn take_over(world: &World, clock: u32) -> World {
    let mut guest = world.restored();
    guest.clock = guest.clock.wrapping_add(clock);
    let (replay, events) = world.replay(Config::default(), &mut guest);
    assert_eq!(events, []);
    assert_eq!(guest.done, world.guest.done);
    again(world, &replay, guest)
}

#[test]
fn connections_survive_one_take_over_after_the_other() {
    let mut world = take_over(&busy(), 0);
    for round in 0..5_u16 {
        assert!(!world.carried.is_empty());
        for port in 1001..1004 + round {
            world.ask(port, "before");
        }
        world.checkpoint();
        world.connect(1004 + round);
        for port in 1001..=1004 + round {
            world.ask(port, "behind");
        }
        world = take_over(&world, u32::from(round));
    }
    for port in 1001..=1008 {
        world.ask(port, "at last");
    }
    assert!(world.guest.done.ends_with(&["at last".to_string(), "at last".to_string()]));
}

#[test]
fn a_connection_that_is_silent_all_the_while_is_carried() {
    let mut world = take_over(&busy(), 0);
    world.checkpoint();
    world.ask(1001, "another");
    let mut world = take_over(&world, 0);
    world.ask(1003, "after two take-overs");
    assert_eq!(world.guest.done.last().map(String::as_str), Some("after two take-overs"));
}

#[test]
fn a_connection_older_than_the_log_is_asked_where_it_stands() {
    let mut old = busy();
    old.log.clear();
    old.checkpoint();
    old.ask(1002, "first of the log");
    let mut guest = old.restored();
    let (replay, events) = old.replay(Config::default(), &mut guest);
    assert_eq!(events, []);
    assert_eq!(guest.done, old.guest.done, "its request is done again");
    assert_eq!(replay.report().stalls, 0);
}

#[test]
fn an_old_connection_is_asked_at_a_number_that_it_has_passed() {
    let mut old = busy();
    old.log.clear();
    old.checkpoint();
    // A request is lost on its way to the guest, and the one behind it comes first.
    old.clients.get_mut(&1002).unwrap().0 += 4;
    old.ask(1002, "out of order");
    let mut replay = Replay::<16>::new(Config::default(), Instant::ZERO);
    (1..=old.log.len() as u64).for_each(|lsn| replay.prepare(&old.record(lsn).unwrap()));
    replay.start(Instant::ZERO);
    let mut buf = [0; build::BUILT_MAX];
    let Some(Action::ToGuest(len)) = replay.poll(&old, &mut buf, Instant::ZERO) else { panic!("no probe") };
    let parsed = Packet::parse(&buf[VNET_HEADER..len]).unwrap();
    let expects = old.saved.as_ref().unwrap().conns[&key(1002).to_string()].1.expects;
    assert!(seq::after(expects, parsed.segment().unwrap().seq), "it is in the window, and not answered");
}

#[test]
fn a_new_connection_between_the_same_ports_carries_nothing() {
    let mut world = take_over(&busy(), 0);
    let key = key(1003);
    assert!(world.carried.iter().any(|(carried, _)| *carried == key));
    world.checkpoint();
    world.connect(1003);
    assert!(world.carried.iter().all(|(carried, _)| *carried != key));
    world.ask(1003, "new");
    let mut world = take_over(&world, 0);
    world.ask(1003, "newer");
    // The same, but the checkpoint holds it.
    world.connect(1003);
    world.ask(1003, "new");
    world.checkpoint();
    let mut world = take_over(&world, 0);
    world.ask(1003, "newest");
}

#[test]
fn an_answer_to_a_syn_that_comes_again_keeps_what_is_carried() {
    let (key, translation) = (key(1001), Translation { seq: 100, timestamp: 7 });
    let syn = |seq| {
        let says = Says { seq, ack: 1, flags: flags::SYN | flags::ACK, ..Says::default() };
        packet(&key, Direction::FromGuest, &says, b"")[VNET_HEADER..].to_vec()
    };
    let mut carried = Carried::<4>::new();
    let handed = Handed { key, translation, opened: Some(501), closed: false };
    assert!(carried.insert(&handed, Instant::ZERO));
    let first = syn(500);
    let first = Packet::parse(&first).unwrap();
    assert_eq!(carried.sent(&first, Instant::ZERO), Fate::Passes);
    let mut retention = Retention::<4>::new();
    let note = Note::of(&syn(500), &first, key, 0);
    let records = [
        (RecordKind::Carry, Carry::new(key, translation).as_wire().to_vec()),
        (RecordKind::Note, note.as_wire().to_vec()),
    ];
    for (lsn, (kind, packet)) in (1..).zip(&records) {
        let entry = Entry { kind: *kind, epoch: 1, time: Instant::ZERO, vif: 0, flags: Flags::NONE, packet };
        retention.fold(&Record { lsn, entry }, &Cut::new(1, 1), 3);
    }
    assert_eq!(retention.flows().next().map(|(_, base)| base.carry), Some(translation));
    let other = syn(900);
    assert_eq!(carried.sent(&Packet::parse(&other).unwrap(), Instant::ZERO), Fate::Opens(key));
    assert!(carried.is_empty());
    // Its number is not known if it was silent since a take-over before: then it is translated in any case.
    let silent = Handed { opened: None, ..handed };
    assert!(carried.insert(&silent, Instant::ZERO));
    assert_eq!(carried.sent(&first, Instant::ZERO), Fate::Passes);
    assert_eq!(carried.sent(&first, Instant::ZERO), Fate::Passes);
    assert_eq!(carried.sent(&Packet::parse(&other).unwrap(), Instant::ZERO), Fate::Opens(key));
}

#[test]
fn what_was_given_up_says_nothing_more_and_is_forgotten() {
    let key = key(1001);
    let handed = Handed { key, translation: Translation::default(), opened: None, closed: true };
    let mut carried = Carried::<4>::new();
    assert!(carried.insert(&handed, Instant::ZERO));
    assert_eq!(carried.iter().count(), 0, "it is no business of a log");
    let fate = |carried: &mut Carried<4>, flags| {
        let bytes = packet(&key, Direction::FromGuest, &Says { flags, ..Says::default() }, b"");
        carried.sent(&Packet::parse(&bytes[VNET_HEADER..]).unwrap(), Instant::ZERO)
    };
    assert_eq!(fate(&mut carried, flags::ACK), Fate::Drops);
    assert_eq!(fate(&mut carried, flags::RST), Fate::Passes);
    assert_eq!(carried.forget(Instant::ZERO + Duration::from_secs(59)), None);
    assert_eq!(carried.forget(Instant::ZERO + Duration::from_secs(60)), Some(key));
    assert!(carried.is_empty());
}

#[test]
fn a_reset_from_outside_ends_no_translation_but_the_guests_does() {
    let key = key(1001);
    let handed =
        Handed { key, translation: Translation { seq: 1, timestamp: 0 }, opened: None, closed: false };
    let mut carried = Carried::<4>::new();
    assert!(carried.insert(&handed, Instant::ZERO));
    let says = Says { flags: flags::RST, ..Says::default() };
    let mut reset = packet(&key, Direction::ToGuest, &says, b"")[VNET_HEADER..].to_vec();
    let parsed = Packet::parse(&reset).unwrap();
    carried.incoming(&mut reset, &parsed, true, Instant::ZERO);
    let later = Instant::ZERO + Duration::from_secs(3600);
    assert_eq!(carried.forget(later), None);
    let reset = packet(&key, Direction::FromGuest, &says, b"");
    assert_eq!(carried.sent(&Packet::parse(&reset[VNET_HEADER..]).unwrap(), Instant::ZERO), Fate::Passes);
    assert_eq!(carried.forget(later), Some(key));
}

#[test]
fn whoever_hands_over_tells_the_guest_what_was_given_up() {
    let world = busy();
    let mut guest = Guest { salt: "!".into(), ..world.restored() };
    let (mut replay, _) = world.replay(Config::default(), &mut guest);
    let closed: Vec<FlowKey> = replay.handed().filter(|h| h.closed).map(|h| h.key).collect();
    assert!(!closed.is_empty());
    let mut buf = [0; build::BUILT_MAX];
    while let Some(len) = replay.part(&mut buf) {
        guest.receive(&buf[..len]);
    }
    for key in closed {
        assert!(!guest.conns.contains_key(&key.to_string()), "{key}");
    }
}

#[test]
fn a_clock_that_has_not_been_heard_yet_is_shifted_by_where_it_was() {
    let world = busy();
    let mut guest = world.restored();
    let (mut replay, _) = world.replay(Config::default(), &mut guest);
    for handed in replay.handed().collect::<Vec<_>>() {
        let seen = world.clients[&handed.key.peer_port()].2;
        assert!(seq::after(guest.clock.wrapping_add(handed.translation.timestamp), seen), "{handed:?}");
        // Once it is heard, it is known: never more than before.
        let says = Says { flags: flags::ACK, timestamps: Some((guest.clock, 0)), ..Says::default() };
        let mut out = packet(&handed.key, Direction::FromGuest, &says, b"");
        let _ = replay.from_guest(&Nothing, &mut out, &mut [0; 200], Instant::ZERO);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Ask(u16),
    Connect(u16),
    Checkpoint,
}

fn op() -> impl Strategy<Value = Op> {
    let port = 1001..1007_u16;
    prop_oneof![
        6 => port.clone().prop_map(Op::Ask),
        2 => port.prop_map(Op::Connect),
        1 => Just(Op::Checkpoint),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever clients do between take-overs, each goes on with its own numbers; `World::deliver` looks.
    #[test]
    fn no_order_of_events_breaks_the_numbers(
        lives in proptest::collection::vec((proptest::collection::vec(op(), 0..25), 0..9_u32), 1..5),
    ) {
        let mut world = busy();
        for (ops, clock) in lives {
            world = take_over(&world, clock);
            world.checkpoint();
            for op in ops {
                match op {
                    Op::Ask(port) if world.clients.contains_key(&port) => world.ask(port, "ask"),
                    Op::Connect(port) if !world.clients.contains_key(&port) => world.connect(port),
                    Op::Ask(_) | Op::Connect(_) => {}
                    Op::Checkpoint => world.checkpoint(),
                }
            }
        }
        let world = &mut take_over(&world, 0);
        for port in world.clients.keys().copied().collect::<Vec<_>>() {
            world.ask(port, "at last");
        }
    }

    #[test]
    fn differences_add_and_the_clock_goes_on(
        steps in proptest::collection::vec((any::<u32>(), 0..0x1000_0000_u32), 1..8), isn: u32, clock: u32,
    ) {
        // What the peer has seen last, and what the guest of each life counts.
        let (mut seen, mut carry) = (clock, Translation::default());
        let (mut number, mut guest) = (isn, clock);
        for (other, back) in steps {
            let released = guest;
            let own = Translation { seq: number.wrapping_sub(other), timestamp: 0 };
            (number, guest) = (other, guest.wrapping_sub(back));
            let shift = Translation::clock(released, guest);
            carry = Translation { timestamp: shift, ..own }.then(carry);
            prop_assert_eq!(number.wrapping_add(carry.seq), isn);
            let told = guest.wrapping_add(carry.timestamp);
            prop_assert!(seq::after(told, seen));
            seen = told;
        }
    }
}
