use super::*;
use crate::replication::{PROTOCOL_MAX, PROTOCOL_MIN};
use proptest::prelude::*;

fn hello() -> Hello {
    Hello {
        min: PROTOCOL_MIN,
        max: PROTOCOL_MAX,
        features: 0,
        session: 7,
        resume: None,
        path: Path::Bulk,
        mode: Mode::Remus,
        domain: String::try_from("web").unwrap(),
        interval_ms: 200,
        detect_ms: 1000,
        heartbeat_ms: 100,
        shadow_pages: 32768,
        sent: 300,
    }
}

fn longest() -> [Message; 4] {
    let full = u64::MAX;
    [
        Message::Hello(Hello {
            min: u16::MAX,
            max: u16::MAX,
            features: full,
            session: full,
            resume: Some(full),
            domain: String::try_from(core::str::from_utf8(&[b'x'; DOMAIN_MAX]).unwrap()).unwrap(),
            interval_ms: u32::MAX,
            detect_ms: u32::MAX,
            heartbeat_ms: u32::MAX,
            shadow_pages: full,
            sent: full,
            ..hello()
        }),
        Message::Refuse(Refusal {
            min: u16::MAX,
            max: u16::MAX,
            ..Refusal::new(RefuseReason::Full, format_args!("{:200}", 1))
        }),
        Message::Addresses(Addresses {
            mac: [255; 6],
            ips: core::iter::repeat_n(IpAddr::from([255; 16]), ADDRESSES_MAX).collect(),
        }),
        Message::Welcome(Welcome {
            version: u16::MAX,
            features: full,
            incarnation: full,
            next_seq: full,
            committed: Some(full),
            echo: full,
        }),
    ]
}

#[test]
fn every_message_fits_and_comes_back() {
    let mut buf = [0; MESSAGE_MAX];
    for message in longest() {
        let bytes = message.encode(&mut buf).unwrap();
        assert_eq!(Message::decode(bytes), Ok(message));
    }
}

/// The bytes of a vector in `docs/replication.md`, so that document and code cannot drift apart.
fn vector(name: &str) -> std::vec::Vec<u8> {
    let document = include_str!("../../../../docs/replication.md");
    let mut lines = document.lines().skip_while(|line| *line != std::format!("```vector {name}"));
    assert!(lines.next().is_some(), "docs/replication.md has no vector {name}");
    let body = lines.take_while(|line| *line != "```").flat_map(str::split_whitespace);
    body.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn layout_is_as_documented() {
    let cases = [
        ("hello", Message::Hello(hello())),
        ("refuse", Message::Refuse(Refusal::new(RefuseReason::Version, format_args!("no")))),
        ("commit", Message::Commit(Commit { epoch: 5, echo: 128 })),
        ("taken-over", Message::TakenOver),
        ("log-ack", Message::LogAck(LogAck { next_seq: 300 })),
    ];
    for (name, message) in cases {
        let mut buf = [0; MESSAGE_MAX];
        assert_eq!(message.encode(&mut buf).unwrap(), vector(name), "{name}");
        assert_eq!(Message::decode(&vector(name)), Ok(message));
    }
    let end = crate::replication::EpochEnd::new(0x0102, 8192, 0x1122_3344_5566_7788, 2);
    assert_eq!(end.as_wire(), vector("epoch-end"));
}

#[test]
fn numbers_of_reasons_are_stable() {
    let goodbye = |reason| Message::Goodbye(Goodbye { reason });
    let refuse = |reason| Message::Refuse(Refusal::new(reason, format_args!("")));
    let cases: [(Message, &[u8]); 4] = [
        (goodbye(GoodbyeReason::ShuttingDown), &[6, 2]),
        (refuse(RefuseReason::DomainBusy), &[2, 5, 1, 1, 0]),
        (refuse(RefuseReason::UnknownSession), &[2, 8, 1, 1, 0]),
        (refuse(RefuseReason::Corrupt), &[2, 11, 1, 1, 0]),
    ];
    for (message, bytes) in cases {
        let mut buf = [0; MESSAGE_MAX];
        assert_eq!(message.encode(&mut buf), Ok(bytes));
    }
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(Message::TakenOver.encode(&mut []), Err(MessageError::NoRoom { room: 0 }));
    assert_eq!(Message::decode(&[]), Err(MessageError::Malformed { len: 0, first: None }));
    assert_eq!(Message::decode(&[9]), Err(MessageError::Malformed { len: 1, first: Some(9) }));
    assert_eq!(Message::decode(&[7, 1, 2]), Err(MessageError::Trailing { offset: 1, extra: 2 }));
    // A length prefix far beyond the room.
    assert!(Message::decode(&[2, 0, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    let mut buf = [0; MESSAGE_MAX];
    let zero = Message::Hello(Hello { session: 0, ..hello() });
    assert_eq!(Message::decode(zero.encode(&mut buf).unwrap()), Err(MessageError::Session));
    for name in ["", "-rf", "a/b", "..", "a b", "a\n"] {
        let bad = Message::Hello(Hello { domain: String::try_from(name).unwrap(), ..hello() });
        assert_eq!(Message::decode(bad.encode(&mut buf).unwrap()), Err(MessageError::Domain), "{name:?}");
    }
    assert!(Hello::domain_is_valid("web-1.test_A"));
}

#[test]
fn refusal_text_is_cut_at_a_character() {
    let refusal =
        Refusal::new(RefuseReason::Mode, format_args!("{}{}", "x".repeat(REFUSAL_TEXT_MAX - 1), "äöü"));
    assert_eq!(refusal.text.len(), REFUSAL_TEXT_MAX - 1);
    assert!(std::format!("{refusal}").starts_with("the mode is not offered: xxx"));
}

proptest! {
    #[test]
    fn decoding_never_panics_and_what_it_accepts_can_be_sent(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(message) = Message::decode(&bytes) {
            let mut buf = [0; MESSAGE_MAX];
            let again = message.encode(&mut buf).unwrap();
            prop_assert_eq!(Message::decode(again), Ok(message));
        }
    }

    #[test]
    fn damaged_messages_never_panic(which in 0_usize..4, at in 0_usize..MESSAGE_MAX, to in any::<u8>()) {
        let mut buf = [0; MESSAGE_MAX];
        let len = longest()[which].encode(&mut buf).unwrap().len();
        buf[at % len] = to;
        let _ = Message::decode(&buf[..len]);
        let _ = Message::decode(&buf[..at % len]);
    }
}
