use super::*;
use crate::link::Outgoing;
use llm_core::flow::{FlowKey, NO_VLAN, TCP, Translation};
use llm_core::frame::Kind;
use llm_core::log::{SEAL, Unpacked, Unpacker, records};
use llm_core::replay::Handed;

fn log() -> (Arc<InputLog>, Arc<Outbox>, u64) {
    let outbox = Arc::new(Outbox::new(1 << 20));
    let log = Arc::new(InputLog::new(Budget { bytes: 4096, records: 10 }, Arc::default()));
    log.begin(7, &outbox, false);
    let generation = outbox.connect(None);
    assert!(outbox.resume(1));
    (log, outbox, generation)
}

fn lsns(frame: Option<Outgoing>) -> Vec<u64> {
    let Some(Outgoing::Data(frame)) = frame else { panic!("a frame is due") };
    assert_eq!(frame.kind, Kind::LOG);
    records(&frame.payload, None).map(|r| r.expect("a sound record").lsn).collect()
}

#[test]
fn records_go_out_in_frames_and_are_acknowledged_by_frame() {
    let (log, outbox, generation) = log();
    log.cut(1, 0);
    assert_eq!(lsns(outbox.next(generation)), [1]);
    log.acknowledged(7, 2);
    let mut recorder = log.recorder(0, Policy::default());
    recorder.input(&[0; 60]);
    recorder.input(&[1; 60]);
    recorder.flush();
    recorder.input(&[2; 60]);
    recorder.flush();
    recorder.flush();
    assert_eq!(lsns(outbox.next(generation)), [2, 3]);
    assert_eq!(lsns(outbox.next(generation)), [4]);
    assert_eq!(log.status().unacknowledged_bytes, 3 * (HEADER as u64 + 60));
    log.acknowledged(7, 3);
    assert_eq!(log.status().unacknowledged_bytes, HEADER as u64 + 60);
    log.acknowledged(6, 4);
    assert_eq!(log.status().unacknowledged_bytes, HEADER as u64 + 60);
    log.acknowledged(7, 4);
    assert_eq!(log.status().unacknowledged_bytes, 0);
    assert_eq!(outbox.fill().frames, 0);
}

#[test]
fn packed_frames_end_with_a_seal_and_begin_anew_with_a_session() {
    let (log, ..) = log();
    for session in [8, 9] {
        let outbox = Arc::new(Outbox::new(1 << 20));
        log.begin(session, &outbox, true);
        let generation = outbox.connect(None);
        assert!(outbox.resume(1));
        log.cut(1, 0);
        let mut recorder = log.recorder(0, Policy::default());
        let mut packet = [0; 80];
        for n in 0..3 {
            packet[70] = n;
            recorder.input(&packet);
        }
        // Neither is remembered.
        recorder.input(&[1; 60]);
        recorder.input(&[2; 4000]);
        log.cut(2, 9);
        let (mut unpacker, mut seals, mut found) = (Box::new(Unpacker::new()), 0, Vec::new());
        let mut bytes = 0;
        while outbox.fill().unsent > 0 {
            let Some(Outgoing::Data(frame)) = outbox.next(generation) else { panic!("a frame is due") };
            assert_eq!(frame.kind, Kind::PACKED_LOG);
            let mut rest = &frame.payload[..];
            bytes += rest.len();
            while let Some(taken) = unpacker.take(&mut rest).expect("sound") {
                match taken {
                    Unpacked::Record(record) => {
                        found.push((record.entry.kind, record.entry.packet.len()));
                    }
                    Unpacked::Seal => seals += usize::from(rest.is_empty()),
                }
            }
        }
        let input = |len| (RecordKind::Input, len);
        let cut = (RecordKind::Cut, 16);
        assert_eq!(found, [cut, input(80), input(80), input(80), input(60), input(4000), cut]);
        assert_eq!(seals, 2, "one for each frame");
        assert_eq!(log.status().unacknowledged_bytes, bytes as u64);
        assert_eq!(log.status().sent_bytes, bytes as u64 * (session - 7));
        let (wholes, differences) = (5 * (HEADER + 2), 2 * 13);
        assert_eq!(bytes, 4000 + 60 + 80 + 2 * 16 + wholes + differences + 2 * SEAL);
    }
}

#[test]
fn where_the_policy_asks_for_it_the_bytes_follow_their_note() {
    use llm_core::flow::Rule;
    use llm_core::flow::build::{self, BUILT_MAX, Link, Says};
    let (log, outbox, generation) = log();
    log.cut(1, 0);
    assert_eq!(lsns(outbox.next(generation)), [1]);
    let rule = Rule { protocol: None, port: None, class: Class::LlmBytes };
    let mut recorder = log.recorder(0, Policy::new(&[rule]).expect("few"));
    let key = FlowKey::new(6, TCP, NO_VLAN, ([1; 16], 80), ([2; 16], 4000));
    let mut packet = vec![0; BUILT_MAX];
    let says = Says { flags: llm_core::flow::flags::ACK, ..Says::default() };
    let len = build::segment(&mut packet, &Link::default(), &key, Direction::FromGuest, &says).expect("room");
    packet.truncate(len);
    packet.extend_from_slice(b"reply");
    // Behind the Ethernet header: the length of what follows the IPv6 header.
    packet[VNET_HEADER + 18..VNET_HEADER + 20].copy_from_slice(&25_u16.to_be_bytes());
    assert!(recorder.waits_for_log(&packet));
    assert_eq!(recorder.output(&packet, 7), 2);
    recorder.flush();
    let Some(Outgoing::Data(frame)) = outbox.next(generation) else { panic!("a frame is due") };
    let record = records(&frame.payload, None).next().expect("one").expect("sound");
    let note = Note::parse(record.entry.packet).expect("a note");
    assert_eq!(note.bytes(record.entry.packet), Some(&b"reply"[..]));
}

#[test]
fn with_two_frames_on_their_way_the_rest_goes_together() {
    let (log, outbox, generation) = log();
    log.cut(1, 0);
    let frames = || lsns(outbox.next(generation));
    assert_eq!(frames(), [1]);
    log.acknowledged(7, 2);
    let mut recorder = log.recorder(0, Policy::default());
    for _ in 0..5 {
        recorder.input(&[0; 60]);
        recorder.flush();
    }
    assert_eq!((frames(), frames()), (vec![2], vec![3]));
    assert_eq!(outbox.fill().unsent, 0, "records 4 to 6 wait");
    log.acknowledged(7, 3);
    assert_eq!(frames(), [4, 5, 6]);
}

#[test]
fn before_the_first_suspension_frames_are_large() {
    let (log, outbox, generation) = log();
    let mut recorder = log.recorder(0, Policy::default());
    for _ in 0..3 {
        recorder.input(&[0; 60]);
        recorder.flush();
    }
    assert_eq!(outbox.fill().frames, 0);
    log.cut(0, 9);
    assert_eq!(lsns(outbox.next(generation)), [1, 2, 3, 4]);
}

#[test]
fn what_piles_up_stops_the_input_and_asks_for_a_checkpoint() {
    let (log, _, _) = log();
    let mut recorder = log.recorder(0, Policy::default());
    assert!(!recorder.is_full() && !log.is_over_budget());
    log.cut(1, 0);
    recorder.input(&[0; 2100]);
    recorder.flush();
    assert!(recorder.is_full() && log.is_over_budget());
    log.cut(2, 5);
    assert!(recorder.is_full() && !log.is_over_budget());
    for _ in 0..11 {
        recorder.input(&[0; 20]);
    }
    assert!(log.is_over_budget(), "by number");
    log.end();
    assert!(!recorder.is_full(), "what no backup waits for stops no input");
}

#[test]
fn each_session_begins_with_what_is_translated() {
    let (log, outbox, generation) = log();
    let key = FlowKey::new(6, TCP, NO_VLAN, ([1; 16], 80), ([2; 16], 4000));
    let translation = Translation { seq: 5, timestamp: 6 };
    log.translations.take(&[Handed { key, translation, opened: None, closed: false }]);
    log.carry();
    log.cut(0, 9);
    let carry = Carry::new(key, translation);
    let carries = |frame| {
        let Some(Outgoing::Data(frame)) = frame else { panic!("a frame is due") };
        let all = records(&frame.payload, None).map(|record| record.expect("a sound record").entry);
        all.filter(|entry| entry.kind == RecordKind::Carry && entry.packet == carry.as_wire()).count()
    };
    assert_eq!(carries(outbox.next(generation)), 1);
    let outbox = Arc::new(Outbox::new(1 << 20));
    log.begin(8, &outbox, false);
    let generation = outbox.connect(None);
    assert!(outbox.resume(1));
    log.cut(0, 9);
    assert_eq!(carries(outbox.next(generation)), 1, "the new backup knows nothing yet");
}

#[test]
fn numbers_go_on_from_session_to_session() {
    let (log, _, _) = log();
    let mut recorder = log.recorder(0, Policy::default());
    recorder.input(&[0; 60]);
    let outbox = Arc::new(Outbox::new(1 << 20));
    log.begin(8, &outbox, false);
    let generation = outbox.connect(None);
    assert!(outbox.resume(1));
    log.cut(1, 0);
    assert_eq!(lsns(outbox.next(generation)), [2]);
    outbox.close();
    recorder.input(&[0; 60]);
    recorder.flush();
    assert_eq!(recorder.output(&[0; 80], 3), u64::MAX, "without a session nothing is logged");
}
