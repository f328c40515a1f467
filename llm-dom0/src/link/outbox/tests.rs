//! Tests of the outbox.

use super::*;

const MAX: u64 = u64::MAX;

fn seq_of(out: Option<Outgoing>) -> u64 {
    match out {
        Some(Outgoing::Data(f)) => f.seq,
        other => panic!("data expected, got {other:?}"),
    }
}

#[test]
fn a_new_connection_starts_where_the_peer_says() {
    let outbox = Outbox::new(1 << 20);
    for i in 0..4u8 {
        assert_eq!(outbox.data(Kind::BATCH, vec![i; 10], MAX), Ok(u64::from(i) + 1));
    }
    let first = outbox.connect(None);
    assert!(outbox.resume(1));
    assert_eq!(seq_of(outbox.next(first)), 1);
    assert_eq!(seq_of(outbox.next(first)), 2);
    outbox.disconnect(first);
    assert!(outbox.next(first).is_none());
    outbox.committed(1);
    let second = outbox.connect(None);
    assert!(!outbox.resume(1), "frame 1 is gone");
    assert!(!outbox.resume(6), "frame 5 was never sent");
    assert!(outbox.resume(2));
    for want in 2..=4 {
        assert_eq!(seq_of(outbox.next(second)), want);
    }
    assert_eq!(outbox.fill(), Fill { bytes: 30, frames: 3, unsent: 0, waits: 0 });
    assert!(outbox.next(first).is_none(), "an old writer gets nothing");
}

#[test]
fn messages_go_first_and_do_not_outlive_a_connection() {
    let outbox = Outbox::new(1 << 20);
    outbox.message(vec![1]); // no connection: dropped
    let generation = outbox.connect(None);
    outbox.message(vec![2]);
    assert_eq!(outbox.data(Kind::BATCH, vec![0], MAX), Ok(1));
    assert!(outbox.resume(1));
    assert!(matches!(outbox.next(generation), Some(Outgoing::Message(0, m)) if m == [2]));
    assert_eq!(seq_of(outbox.next(generation)), 1);
    outbox.message(vec![3]);
    let generation = outbox.connect(None);
    outbox.close();
    assert!(outbox.next(generation).is_none());
}

#[test]
fn a_full_outbox_makes_its_producer_wait_until_the_commit() {
    let outbox = Arc::new(Outbox::new(100));
    assert_eq!(outbox.data(Kind::BATCH, vec![0; 100], MAX), Ok(1));
    let producer = std::thread::spawn({
        let outbox = Arc::clone(&outbox);
        move || outbox.data(Kind::BATCH, vec![0; 1], MAX)
    });
    while outbox.fill().waits == 0 {
        std::thread::yield_now();
    }
    assert_eq!(outbox.fill().frames, 1);
    outbox.committed(1);
    assert_eq!(producer.join().ok(), Some(Ok(2)));
}

#[test]
fn a_producer_that_waits_wakes_when_half_is_written() {
    let outbox = Arc::new(Outbox::new(1000));
    let generation = outbox.connect(None);
    assert!(outbox.resume(1));
    for seq in 1..=10 {
        assert_eq!(outbox.data(Kind::BATCH, vec![0; 10], 100), Ok(seq));
    }
    let producer = std::thread::spawn({
        let outbox = Arc::clone(&outbox);
        move || outbox.data(Kind::BATCH, vec![0; 10], 100)
    });
    // It waits from when the lock is free after this.
    while outbox.lock().room_at.is_none() {
        std::thread::yield_now();
    }
    assert!((1..=4).all(|seq| seq_of(outbox.next(generation)) == seq));
    assert_eq!(outbox.lock().room_at, Some(50));
    assert_eq!(seq_of(outbox.next(generation)), 5);
    assert_eq!(producer.join().ok(), Some(Ok(11)));
}

#[test]
fn what_was_written_gives_way_and_what_was_not_waits() {
    let outbox = Outbox::new(100);
    let generation = outbox.connect(None);
    assert!(outbox.resume(1));
    // An epoch far larger than the limit passes, as long as it is written.
    for seq in 1..=50 {
        assert_eq!(outbox.data(Kind::BATCH, vec![0; 30], 40), Ok(seq));
        assert_eq!(seq_of(outbox.next(generation)), seq);
    }
    let fill = outbox.fill();
    assert!(fill.bytes <= 130 && fill.unsent == 0 && fill.waits == 0, "{fill:?}");
    let _ = outbox.connect(None);
    assert!(!outbox.resume(2), "long gone");
    assert!(outbox.resume(50), "the last one is still there");
}

#[test]
fn a_peer_that_has_everything_makes_room() {
    let outbox = Arc::new(Outbox::new(1000));
    let _ = outbox.connect(None);
    assert!(outbox.resume(1));
    assert_eq!(outbox.data(Kind::BATCH, vec![0; 50], 40), Ok(1));
    let producer = std::thread::spawn({
        let outbox = Arc::clone(&outbox);
        move || outbox.data(Kind::BATCH, vec![0; 1], 40)
    });
    while outbox.fill().waits == 0 {
        std::thread::yield_now();
    }
    // The frame had arrived, although the connection broke.
    let _ = outbox.connect(None);
    assert!(outbox.resume(2));
    assert_eq!(producer.join().ok(), Some(Ok(2)));
}

#[test]
fn closing_frees_a_waiting_producer() {
    let outbox = Arc::new(Outbox::new(1));
    assert_eq!(outbox.data(Kind::BATCH, vec![0; 4], MAX), Ok(1));
    let producer = std::thread::spawn({
        let outbox = Arc::clone(&outbox);
        move || outbox.data(Kind::BATCH, vec![0; 1], MAX)
    });
    while outbox.fill().waits == 0 {
        std::thread::yield_now();
    }
    outbox.close();
    assert_eq!(producer.join().ok(), Some(Err(Closed)));
}

fn socket_pair() -> (Arc<TcpStream>, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (Arc::new(near), listener.accept().unwrap().0)
}

#[test]
fn what_is_small_goes_without_the_writer() {
    use std::io::Read as _;
    let (near, mut far) = socket_pair();
    let outbox = Outbox::new(1 << 20);
    let generation = outbox.connect(Some(near));
    assert!(outbox.resume(1));
    outbox.message(vec![1; 5]);
    assert_eq!(outbox.data(Kind::LOG, vec![2; 7], MAX), Ok(1));
    assert_eq!(outbox.data(Kind::LOG, vec![3; DIRECT_MAX + 1], MAX), Ok(2), "left to the writer");
    outbox.message(vec![4; 5]);
    let mut seen = vec![0; 3 * llm_core::frame::HEADER + 5 + 7 + 5];
    far.read_exact(&mut seen).unwrap();
    assert_eq!((seen[llm_core::frame::HEADER], seen.last()), (1, Some(&4)));
    assert_eq!(outbox.fill(), Fill { bytes: (8 + DIRECT_MAX) as u64, frames: 2, unsent: 1, waits: 0 });
    assert_eq!(seq_of(outbox.next(generation)), 2);
    outbox.message(vec![5]);
    let out = outbox.next(generation);
    assert!(matches!(out, Some(Outgoing::Message(2, m)) if m == [5]), "the writer has a frame in hand");
}

#[test]
fn direct_and_other_writes_make_one_sound_stream() {
    use crate::link::{Connection, read_loop};
    use std::ops::ControlFlow;
    const FRAMES: u64 = 600;
    const MESSAGES: usize = 200;
    let (near, far) = socket_pair();
    let near = Arc::try_unwrap(near).unwrap();
    let outbox = Arc::new(Outbox::new(u64::MAX));
    let connection = Connection::start(near, &outbox, "test").unwrap();
    assert!(outbox.resume(1));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seq in 1..=FRAMES {
                // Now and then more than a socket holds, so that writes are cut short.
                let len = if seq % 50 == 0 { 500_000 } else { (seq * 7919 % 20_000) as usize };
                assert_eq!(outbox.data(Kind::LOG, vec![(seq % 251) as u8; len], MAX), Ok(seq));
            }
        });
        scope.spawn(|| (0..MESSAGES).for_each(|i| outbox.message(vec![i as u8; 40])));
        let (mut frames, mut messages) = (0, 0);
        let ended = read_loop(&far, connection.peer, |frame| {
            if frame.kind == Kind::MESSAGE {
                messages += 1;
                assert_eq!(frame.seq + 1, messages);
            } else {
                frames += 1;
                assert_eq!(frame.seq, frames);
                assert!(frame.payload.iter().all(|&b| u64::from(b) == frames % 251));
            }
            if (frames, messages) == (FRAMES, MESSAGES as u64) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert!(ended.is_ok(), "{ended:?}");
    });
    outbox.close();
}
