use super::build::{self, Link, Says};
use super::*;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const LINK: Link = Link { guest: [2; 6], peer: [4; 6] };

fn v4(d: u8) -> [u8; 16] {
    Ipv4Addr::new(10, 0, 0, d).to_ipv6_mapped().octets()
}

fn v6(d: u8) -> [u8; 16] {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, d.into()).octets()
}

fn keys() -> [FlowKey; 4] {
    [
        FlowKey::new(4, TCP, NO_VLAN, (v4(50), 80), (v4(9), 40_000)),
        FlowKey::new(4, TCP, 77, (v4(50), 80), (v4(9), 40_000)),
        FlowKey::new(6, TCP, NO_VLAN, (v6(50), 80), (v6(9), 40_000)),
        FlowKey::new(6, TCP, 4094, (v6(50), 80), (v6(9), 40_000)),
    ]
}

/// A segment with payload and options, and its whole checksum.
fn segment(key: &FlowKey, direction: Direction, says: &Says, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; build::BUILT_MAX];
    let plain = Says { timestamps: None, ..*says };
    let end = build::segment(&mut buf, &LINK, key, direction, &plain).unwrap();
    let mut frame = buf[VNET_HEADER..end].to_vec();
    let at = frame.len() - 20;
    frame.extend(options);
    frame.extend(payload);
    let longer = u16::try_from(options.len() + payload.len()).unwrap();
    let place = if key.version() == 4 { at - 18 } else { at - 36 };
    let length = u16::from_be_bytes([frame[place], frame[place + 1]]) + longer;
    frame[place..place + 2].copy_from_slice(&length.to_be_bytes());
    frame[at + 12] = u8::try_from((20 + options.len()) / 4).unwrap() << 4;
    if key.version() == 4 {
        frame[at - 10..at - 8].fill(0);
        let sum = ipv4_header_checksum(&frame[at - 20..at]);
        frame[at - 10..at - 8].copy_from_slice(&sum.to_be_bytes());
    }
    complete(&mut frame, key);
    frame
}

fn complete(frame: &mut [u8], key: &FlowKey) {
    let at = Packet::parse(frame).unwrap().transport;
    frame[at + 16..at + 18].fill(0);
    let sum = transport_checksum(key, &frame[at..]);
    frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
}

fn is_whole(frame: &[u8], key: &FlowKey) -> bool {
    let mut again = frame.to_vec();
    complete(&mut again, key);
    again == frame
}

#[test]
fn a_segment_is_read_as_it_was_made() {
    let says =
        Says { seq: 7, ack: 9, flags: flags::ACK | flags::PSH, window: 500, timestamps: Some((11, 12)) };
    for key in keys() {
        for direction in [Direction::FromGuest, Direction::ToGuest] {
            let mut buf = [0xaa; build::BUILT_MAX];
            let end = build::segment(&mut buf, &LINK, &key, direction, &says).unwrap();
            let frame = &buf[VNET_HEADER..end];
            let packet = Packet::parse(frame).unwrap();
            assert_eq!(packet.key(direction), key);
            assert_eq!(Link::of(frame, direction), Some(LINK));
            let segment = packet.segment().unwrap();
            assert_eq!((segment.seq, segment.ack, segment.window), (7, 9, 500));
            assert_eq!((segment.seq_len(), segment.payload_len()), (0, 0));
            assert_eq!(segment.timestamp.map(|t| (t.value, t.echo)), Some((11, 12)));
            assert!(is_whole(frame, &key));
        }
    }
}

#[test]
fn syn_and_fin_take_a_number_each() {
    let key = keys()[0];
    let says = Says { seq: u32::MAX, flags: flags::SYN | flags::FIN, ..Says::default() };
    let frame = segment(&key, Direction::ToGuest, &says, &[], b"abc");
    let packet = Packet::parse(&frame).unwrap();
    let segment = packet.segment().unwrap();
    assert_eq!((segment.seq_len(), segment.seq_end()), (5, 4));
    assert_eq!(&frame[segment.payload_range()], b"abc");
}

#[test]
fn padding_is_no_payload_and_a_long_segment_may_say_no_length() {
    let key = keys()[0];
    let mut frame = segment(&key, Direction::ToGuest, &Says::default(), &[], b"");
    frame.extend([0; 6]);
    assert_eq!(Packet::parse(&frame).unwrap().segment().unwrap().payload_len(), 0);
    let mut long = segment(&key, Direction::ToGuest, &Says::default(), &[], b"x");
    long.extend(vec![b'y'; 70_000]);
    long[16..18].fill(0);
    assert_eq!(Packet::parse(&long).unwrap().segment().unwrap().payload_len(), 70_001);
}

#[test]
fn what_is_cut_or_false_is_other() {
    let key = keys()[2];
    let frame = segment(&key, Direction::ToGuest, &Says::default(), &[], b"payload");
    for end in 0..frame.len() {
        match Packet::parse(&frame[..end]) {
            None => assert!(end < 14),
            Some(packet) => assert_eq!(packet.body, Body::Other, "cut at {end}"),
        }
    }
    let mut fragment = segment(&keys()[0], Direction::ToGuest, &Says::default(), &[], b"payload");
    fragment[20] = 0x20;
    let packet = Packet::parse(&fragment).unwrap();
    assert_eq!((packet.body, packet.version), (Body::Other, 4));
    assert_eq!(packet.key(Direction::ToGuest).guest_port(), 0);
}

#[test]
fn sack_blocks_and_echoes_go_back_by_the_difference() {
    // NOP, NOP, timestamps; NOP, SACK of two blocks at an odd place; NOP.
    let mut options = vec![1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 1, 0, 1, 5, 18];
    for edge in [2000_u32, 2100, 3000, 3100] {
        options.extend(edge.to_be_bytes());
    }
    options.push(1);
    let says = Says { seq: 1, ack: 1500, flags: flags::ACK, ..Says::default() };
    let translation = Translation { seq: 1000, timestamp: 0x10 };
    for key in keys() {
        let mut frame = segment(&key, Direction::ToGuest, &says, &options, b"data");
        let packet = Packet::parse(&frame).unwrap();
        translation.incoming(&mut frame, &packet, false);
        assert!(is_whole(&frame, &key));
        let changed = Packet::parse(&frame).unwrap();
        let segment = changed.segment().unwrap();
        assert_eq!((segment.seq, segment.ack), (1, 500));
        assert_eq!(segment.timestamp.map(|t| (t.value, t.echo)), Some((5, 0xf0)));
        let edges: Vec<u32> = frame[segment.sack.0..segment.sack.1]
            .chunks(4)
            .map(|edge| u32::from_be_bytes(edge.try_into().unwrap()))
            .collect();
        assert_eq!(edges, [1000, 1100, 2000, 2100]);
    }
}

#[test]
fn what_a_replayed_segment_selected_is_blanked_out() {
    for blocks in 1..=3 {
        let mut options = vec![1, 1, 5, 2 + 8 * blocks];
        options.extend(vec![9; 8 * usize::from(blocks)]);
        for key in keys() {
            let says = Says { seq: 1, ack: 1500, flags: flags::ACK, ..Says::default() };
            let mut frame = segment(&key, Direction::ToGuest, &says, &options, b"data");
            let packet = Packet::parse(&frame).unwrap();
            readdress(&mut frame, &packet, 700, None, false);
            assert!(is_whole(&frame, &key));
            let changed = Packet::parse(&frame).unwrap();
            let segment = changed.segment().unwrap();
            assert_eq!((segment.ack, segment.sack), (700, (0, 0)));
            assert_eq!(&frame[segment.payload_range()], b"data");
            let options = &frame[changed.transport + 20..segment.payload];
            assert!(options.iter().all(|byte| *byte == 1), "{options:?}");
        }
    }
}

#[test]
fn a_partial_checksum_is_left_alone() {
    let key = keys()[0];
    let mut frame = segment(&key, Direction::FromGuest, &Says { seq: 3, ..Says::default() }, &[], b"data");
    let packet = Packet::parse(&frame).unwrap();
    let at = packet.transport + 16;
    let before = frame[at..at + 2].to_vec();
    Translation { seq: 5, timestamp: 0 }.outgoing(&mut frame, &packet, true);
    assert_eq!(frame[at..at + 2], before);
    assert_eq!(Packet::parse(&frame).unwrap().segment().unwrap().seq, 8);
}

#[test]
fn questions_for_addresses_are_answered() {
    let mut question = vec![0xff; 6];
    question.extend([2; 6]);
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend([2, 2, 2, 2, 2, 2, 10, 0, 0, 50]);
    question.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 9]);
    let packet = Packet::parse(&question).unwrap();
    assert_eq!(build::asks_for(&question, &packet), Some(IpAddr::from([10, 0, 0, 9])));
    let mut buf = [0; build::BUILT_MAX];
    let end = build::answer(&mut buf, &question, &packet, [4; 6]).unwrap();
    let reply = &buf[VNET_HEADER..end];
    assert_eq!(Packet::parse(reply).unwrap().body, Body::Arp { operation: 2 });
    assert_eq!(reply[..12], [2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4]);
    assert_eq!(reply[22..42], [4, 4, 4, 4, 4, 4, 10, 0, 0, 9, 2, 2, 2, 2, 2, 2, 10, 0, 0, 50]);

    let key = FlowKey::new(6, ICMPV6, 5, (v6(50), 0), (v6(9), 0));
    let mut question = vec![0x33; 6];
    question.extend([2; 6]);
    question.extend([0x81, 0, 0, 5, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
    question.extend(v6(50));
    question.extend(v6(9));
    question.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    question.extend(v6(9));
    let packet = Packet::parse(&question).unwrap();
    assert_eq!(build::asks_for(&question, &packet), Some(IpAddr::from(v6(9))));
    let end = build::answer(&mut buf, &question, &packet, [4; 6]).unwrap();
    let reply = &mut buf[VNET_HEADER..end];
    let packet = Packet::parse(reply).unwrap();
    assert_eq!((packet.body, packet.vlan), (Body::Icmp { kind: 136 }, 5));
    let at = packet.transport;
    assert_eq!(reply[at + 26..at + 32], [4; 6]);
    let sum = [reply[at + 2], reply[at + 3]];
    reply[at + 2..at + 4].fill(0);
    assert_eq!(transport_checksum(&key, &reply[at..]).to_be_bytes(), sum);
}

#[test]
fn the_class_follows_who_opened_the_connection() {
    let rule = Rule { protocol: Some(TCP), port: Some((Side::Guest, 443)), class: Class::Remus };
    let mut tracker = Tracker::<4>::new(Policy::new(&[rule]).unwrap());
    let mut look = |guest: u16, peer: u16, direction, flags| {
        let key = FlowKey::new(4, TCP, NO_VLAN, (v4(50), guest), (v4(9), peer));
        let frame = segment(&key, direction, &Says { flags, ..Says::default() }, &[], b"");
        tracker.classify(&Packet::parse(&frame).unwrap(), direction)
    };
    use Direction::{FromGuest, ToGuest};
    assert_eq!(look(80, 40_000, ToGuest, flags::SYN), Class::Llm);
    assert_eq!(look(80, 40_000, FromGuest, flags::SYN | flags::ACK), Class::Llm);
    assert_eq!(look(40_001, 5432, FromGuest, flags::SYN), Class::Remus);
    assert_eq!(look(40_001, 5432, ToGuest, flags::SYN | flags::ACK), Class::Remus);
    assert_eq!(look(443, 40_002, ToGuest, flags::SYN), Class::Remus, "by rule");
    assert_eq!(look(40_003, 5432, ToGuest, flags::ACK), Class::Remus, "begun before");
    assert_eq!(look(6379, 40_004, ToGuest, flags::ACK), Class::Llm, "begun before");
    // Both ends of no known kind: whoever opens, decides; and a new connection may reuse the ports.
    assert_eq!(look(40_005, 40_006, FromGuest, flags::SYN), Class::Remus);
    assert_eq!(look(40_005, 40_006, ToGuest, flags::SYN), Class::Llm);
    for port in 0..100 {
        assert_eq!(look(80, 50_000 + port, ToGuest, flags::SYN), Class::Llm);
    }
}

proptest! {
    #[test]
    fn there_and_back_is_the_same(
        seq: u32, ack: u32, by: u32, shift: u32, payload in proptest::collection::vec(any::<u8>(), 0..100), which in 0_usize..4,
    ) {
        let key = keys()[which];
        let says = Says { seq, ack, flags: flags::ACK, window: 1, timestamps: None };
        let options = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        let original = segment(&key, Direction::FromGuest, &says, &options, &payload);
        let mut frame = original.clone();
        let there = Translation { seq: by, timestamp: shift };
        let packet = Packet::parse(&frame).unwrap();
        there.outgoing(&mut frame, &packet, false);
        prop_assert!(is_whole(&frame, &key) || frame == original);
        let back = Translation { seq: by.wrapping_neg(), timestamp: shift.wrapping_neg() };
        let packet = Packet::parse(&frame).unwrap();
        prop_assert_eq!(packet.segment().unwrap().seq, seq.wrapping_add(by));
        back.outgoing(&mut frame, &packet, false);
        prop_assert_eq!(frame, original);
    }

    #[test]
    fn any_bytes_are_taken(mut frame in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4_u8) {
        if frame.len() > 24 {
            let ethertype: [u8; 2] = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]][usize::from(kind)];
            frame[12..14].copy_from_slice(&ethertype);
            frame[14] = [0x45, 0x60, 0, 0][usize::from(kind)];
        }
        if let Some(packet) = Packet::parse(&frame) {
            prop_assert!(packet.end <= frame.len() && packet.transport <= frame.len().max(40));
            Translation { seq: 1, timestamp: 2 }.incoming(&mut frame, &packet, false);
            Translation { seq: 1, timestamp: 2 }.outgoing(&mut frame, &packet, true);
            let mut buf = [0; build::BUILT_MAX];
            _ = build::asks_for(&frame, &packet);
            _ = build::answer(&mut buf, &frame, &packet, [4; 6]);
        }
    }
}
