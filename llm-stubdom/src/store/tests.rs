use super::testing::{Daemon, Turns, honest};
use super::*;
use crate::random::Random;
use crate::shared::Shared;
use crate::shared::testing::TestPage;
use std::cell::RefCell;
use std::rc::Rc;
use std::string::{String, ToString};
use std::vec::Vec;

fn store(seed: u64, answer: fn(&mut Daemon, Header, &[u8])) -> (Store<TestPage, Turns>, Rc<RefCell<Daemon>>) {
    let page = TestPage::new();
    let daemon = Rc::new(RefCell::new(Daemon::new(page.clone(), seed, answer)));
    (Store::new(page, Turns(daemon.clone())), daemon)
}

#[test]
fn reads_what_it_wrote_through_rings_that_wrap() {
    let (mut store, daemon) = store(1, honest);
    let mut random = Random::new(2);
    for _ in 0..100 {
        let value: Vec<u8> = (0..random.below(3000)).map(|_| random.next() as u8).collect();
        store.write(Tx::NONE, "data/llm/state", &value).unwrap();
        assert_eq!(store.read(Tx::NONE, "data/llm/state"), Ok(&value[..]));
    }
    assert_eq!(
        store.read(Tx::NONE, "data/none"),
        Err(StoreError::Refused(Refusal::NoEntry)),
        "and it goes on after a refusal"
    );
    store.write(Tx::NONE, "data/llm/version", b"1").unwrap();
    let names: Vec<String> = store
        .directory(Tx::NONE, "data/llm")
        .unwrap()
        .map(|name| String::from_utf8_lossy(name).to_string())
        .collect();
    assert_eq!(names, ["state", "version"]);
    store.remove(Tx::NONE, "data/llm/state").unwrap();
    assert!(store.read(Tx::NONE, "data/llm/state").is_err());
    let tx = store.begin().unwrap();
    store.write(tx, "data/llm/version", b"2").unwrap();
    let committed = store.commit(tx);
    assert!(matches!(committed, Ok(()) | Err(StoreError::Refused(Refusal::Again))), "{committed:?}");
    assert_eq!(store.abort(Tx(18)), Err(StoreError::Refused(Refusal::NoEntry)));
    assert_eq!(daemon.borrow().nodes["data/llm/version"], b"2");
}

#[test]
fn events_between_replies_are_kept_and_told_once() {
    let (mut store, daemon) = store(3, honest);
    store.watch("data/llm", 12).unwrap();
    while daemon.borrow_mut().step() {}
    assert!(store.fired().unwrap().has(12));
    assert!(!store.fired().unwrap().has(12));
    for _ in 0..50 {
        store.write(Tx::NONE, "data/llm/x", b"y").unwrap();
    }
    let fired = store.fired().unwrap();
    assert!(fired.has(3) && fired.has(12) && !fired.has(32));
}

#[test]
fn hostile_replies_are_errors() {
    let (mut too_long, _) = store(4, |daemon, header, _| {
        daemon.output.extend(Header { len: u32::MAX, ..header }.to_bytes());
    });
    let len = u32::MAX as usize;
    assert_eq!(too_long.read(Tx::NONE, "x"), Err(StoreError::TooLong { len, max: MAX_PAYLOAD }));
    let (mut other_kind, _) = store(5, |daemon, header, _| {
        daemon.reply(Header { kind: Kind::WRITE, ..header }, b"");
    });
    assert!(matches!(other_kind.read(Tx::NONE, "x"), Err(StoreError::Reply { .. })));
    let (mut other_id, _) = store(6, |daemon, header, _| {
        daemon.reply(Header { id: header.id + 1, ..header }, b"");
    });
    assert!(matches!(other_id.read(Tx::NONE, "x"), Err(StoreError::Reply { .. })));
    let (mut silent, _) = store(7, |_, _, _| ());
    assert_eq!(silent.read(Tx::NONE, "x"), Err(StoreError::TimedOut));
    let (mut no_number, _) = store(8, |daemon, header, _| daemon.reply(header, b"+17\0"));
    assert_eq!(no_number.begin(), Err(StoreError::Payload));
    let long = [0; MAX_PAYLOAD];
    assert!(matches!(no_number.write(Tx::NONE, "x", &long), Err(StoreError::TooLong { .. })));
}

#[test]
fn a_late_reply_is_not_taken_for_another() {
    fn late(daemon: &mut Daemon, header: Header, payload: &[u8]) {
        if payload != b"lost\0" {
            daemon.reply(Header { id: header.id - 1, ..header }, b"late");
            daemon.reply(header, b"right");
        }
    }
    let (mut store, _) = store(9, late);
    assert_eq!(store.read(Tx::NONE, "lost"), Err(StoreError::TimedOut));
    assert_eq!(store.read(Tx::NONE, "x"), Ok(&b"right"[..]));
}

/// Whatever comes, there is an answer or an error, and nothing else.
#[test]
fn noise_never_panics_nor_hangs() {
    for seed in 0..500 {
        let (mut store, daemon) = store(seed, |daemon, header, _| {
            let payload: Vec<u8> =
                (0..daemon.random.below(30)).map(|_| daemon.random.next() as u8 % 4).collect();
            let pick = |random: &mut Random, right: u32| match random.below(4) {
                0 => random.next() as u32,
                1 => random.below(20) as u32,
                _ => right,
            };
            let kind = Kind(pick(&mut daemon.random, header.kind.0));
            let id = pick(&mut daemon.random, header.id);
            let len = pick(&mut daemon.random, payload.len() as u32);
            daemon.output.extend(Header { kind, id, transaction: 0, len }.to_bytes());
            daemon.output.extend(payload);
        });
        for _ in 0..10 {
            let _ = store.read(Tx::NONE, "x").map(<[u8]>::len);
            let _ = store.watch("x", 3);
        }
        // An index of the ring that is noise itself.
        let index = daemon.borrow_mut().random.next() as u32;
        daemon.borrow().page.store32(RSP_PROD, index);
        let _ = store.fired();
    }
}

#[test]
fn decimals_are_digits_alone() {
    assert_eq!(decimal(b"17\0"), Some(17));
    assert_eq!(decimal(b"0"), Some(0));
    for text in [&b""[..], b"+1", b"-1", b"1 ", b"4294967296", b"\xff", b"1\0\0"] {
        assert_eq!(decimal(text), None, "{text:?}");
    }
}
