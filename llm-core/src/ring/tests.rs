use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering;
use std::boxed::Box;
use std::collections::VecDeque;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use embedded_io::{Read, Write};
use proptest::prelude::*;

use super::*;
use crate::page::vectors;

/// Memory of this program, of any size, that counts how often each field and word is read.
#[derive(Debug)]
struct Counting {
    fields: [Cell<u64>; 8],
    data: RefCell<Vec<u8>>,
    fields_read: [Cell<usize>; 8],
    words_read: Cell<usize>,
}

impl Counting {
    fn new(data_len: usize) -> Self {
        let memory = Self {
            fields: Default::default(),
            data: vec![0; data_len].into(),
            fields_read: Default::default(),
            words_read: Cell::new(0),
        };
        format(&memory).expect("a good size");
        memory
    }

    fn ends(&self, max: usize) -> (Producer<&Self>, Consumer<&Self>) {
        (Producer::attach(self, max).expect("a ring"), Consumer::attach(self, max).expect("a ring"))
    }

    fn poke(&self, field: Field, value: u64) {
        self.fields[field as usize].set(value);
    }

    fn peek(&self, field: Field) -> u64 {
        self.fields[field as usize].get()
    }

    /// What `call` returns; no field and not more than one word was read twice meanwhile.
    fn once<T>(&self, call: impl FnOnce() -> T) -> T {
        self.fields_read.iter().for_each(|count| count.set(0));
        self.words_read.set(0);
        let result = call();
        assert!(self.fields_read.iter().all(|count| count.get() <= 1), "a field is read twice");
        assert!(self.words_read.get() <= 1, "a length is read twice");
        result
    }
}

impl Memory for Counting {
    fn data_len(&self) -> usize {
        self.data.borrow().len()
    }

    fn load(&self, field: Field, _: Ordering) -> u64 {
        let count = &self.fields_read[field as usize];
        count.set(count.get() + 1);
        self.peek(field)
    }

    fn store(&self, field: Field, value: u64, _: Ordering) {
        self.poke(field, value);
    }

    fn fence(&self) {}

    fn load_word(&self, at: usize) -> u64 {
        self.words_read.set(self.words_read.get() + 1);
        let mut word = [0; 8];
        word.copy_from_slice(&self.data.borrow()[at..at + 8]);
        u64::from_le_bytes(word)
    }

    fn store_word(&self, at: usize, word: u64) {
        self.data.borrow_mut()[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        let data = self.data.borrow();
        let bytes = data[at..].iter().chain(data.iter());
        into.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn write(&self, at: usize, from: &[u8]) {
        let mut data = self.data.borrow_mut();
        let (start, end) = data.split_at_mut(at);
        end.iter_mut().chain(start).zip(from).for_each(|(to, from)| *to = *from);
    }
}

fn put<M: Memory>(producer: &mut Producer<M>, bytes: &[u8]) -> bool {
    match producer.reserve(bytes.len()).expect("an open ring") {
        Some(mut record) => {
            record.write_at(0, bytes).expect("room");
            record.commit();
            true
        }
        None => false,
    }
}

fn take<M: Memory>(consumer: &mut Consumer<M>) -> Option<Vec<u8>> {
    let record = consumer.next().expect("an open ring")?;
    let mut copy = vec![0; record.len()];
    Some(record.copy_to(&mut copy).expect("room").to_vec())
}

#[test]
fn the_document_shows_what_the_code_writes() {
    let mut pages = vec![Page([0xaa; PAGE]), Page::ZERO, Page::ZERO];
    pages[0] = Page::ZERO;
    format(&Mapped::local(&mut pages).unwrap()).unwrap();
    assert_eq!(pages[0].0[..], vectors::hex("ring-new"));

    pages.truncate(2);
    let memory = Mapped::local(&mut pages).unwrap();
    format(&memory).unwrap();
    let mut producer = Producer::attach(&memory, 100).unwrap();
    let mut consumer = Consumer::attach(&memory, 100).unwrap();
    assert!(put(&mut producer, b"hello") && put(&mut producer, b""));
    assert_eq!(producer.publish(), Wake::Nobody);
    assert_eq!(take(&mut consumer).unwrap(), b"hello");
    assert_eq!(consumer.release(), Wake::Nobody);
    assert_eq!(take(&mut consumer).unwrap(), b"");
    // Only asked for, without a release.
    memory.store(Field::ConsumerWant, 25, Ordering::Relaxed);
    let want = vectors::hex("ring-used");
    assert_eq!([&pages[0].0[..], &pages[1].0[..24]].concat(), want);

    // And the other way: what the document shows is read.
    let mut pages: Vec<Page> = vec![Page::ZERO, Page::ZERO];
    for (to, from) in pages.iter_mut().flat_map(|page| &mut page.0).zip(&want) {
        *to = *from;
    }
    let memory = Mapped::local(&mut pages).unwrap();
    let mut consumer = Consumer::attach(&memory, 5).unwrap();
    assert_eq!(take(&mut consumer).unwrap(), b"hello");
    assert_eq!(take(&mut consumer).unwrap(), b"");
    assert!(take(&mut consumer).is_none());
}

#[test]
fn fields_lie_on_lines_of_their_own() {
    let lines = |field: Field| field.offset() / 128;
    let often = [lines(Field::ProducerIndex), lines(Field::ConsumerIndex)];
    let seldom = [lines(Field::ProducerWant), lines(Field::ConsumerWant)];
    let all = [often, seldom].concat();
    assert!(all.iter().all(|line| all.iter().filter(|other| *other == line).count() == 1));
}

#[test]
fn other_memory_is_no_ring() {
    let memory = Counting::new(64);
    let attach = |memory: &Counting, max| Producer::attach(memory, max).map(|_| ()).unwrap_err();
    assert_eq!(attach(&memory, 57), AttachError::MaxRecord { max: 57, data_len: 64 });
    assert!(matches!(attach(&memory, usize::MAX), AttachError::MaxRecord { .. }));
    assert!(Consumer::attach(&memory, 56).is_ok());

    memory.poke(Field::DataLen, 4096);
    assert_eq!(attach(&memory, 8), AttachError::OtherDataLen { got: 4096, want: 64 });
    memory.poke(Field::Identity, u64::from_le_bytes(*b"LLMR\x02\0\0\0"));
    assert_eq!(attach(&memory, 8), AttachError::Version { got: 2, reserved: 0 });
    memory.poke(Field::Identity, u64::from_le_bytes(*b"LLMR\x01\0\x01\0"));
    assert_eq!(attach(&memory, 8).to_string(), "Bad ring: reserved bits 0x1 in its header");
    memory.poke(Field::Identity, 0);
    assert_eq!(attach(&memory, 8), AttachError::Magic([0; 4]));

    for len in [0, 8, 60, MAX_DATA + 8] {
        let memory = Counting { data: vec![0; len].into(), ..Counting::new(16) };
        assert_eq!(format(&memory), Err(AttachError::DataLen(len)));
        assert_eq!(attach(&memory, 0), AttachError::DataLen(len));
    }
    assert!(Mapped::local(&mut [Page::ZERO]).is_none() && Mapped::local(&mut []).is_none());
}

#[test]
fn records_wrap_and_fill_the_ring() {
    let memory = Counting::new(40);
    let (mut producer, mut consumer) = memory.ends(32);
    for round in 0..50_u8 {
        // 13 bytes take 24, 1 byte takes 16: full to the last byte.
        assert!(put(&mut producer, &[round; 13]) && put(&mut producer, &[round]));
        assert!(!put(&mut producer, b""));
        assert!(take(&mut consumer).is_none(), "nothing is published yet");
        let _ = producer.publish();
        assert_eq!(take(&mut consumer).unwrap(), [round; 13]);
        assert!(!put(&mut producer, b""), "nothing is released yet");
        let _ = consumer.release();
        assert!(put(&mut producer, &[round; 16]), "exactly what was released");
        assert_eq!(take(&mut consumer).unwrap(), [round]);
        let _ = producer.publish();
        assert_eq!(take(&mut consumer).unwrap(), [round; 16]);
        let _ = consumer.release();
    }
    let error = producer.reserve(33).unwrap_err();
    assert_eq!(error, ReserveError::TooLong { len: 33, max: 32 });
    assert_eq!(producer.wait(usize::MAX).unwrap_err(), ReserveError::TooLong { len: usize::MAX, max: 32 });
    assert!(put(&mut producer, &[1; 32]), "the ring goes on");
}

#[test]
fn a_reservation_counts_only_when_it_is_committed() {
    let memory = Counting::new(64);
    let (mut producer, mut consumer) = memory.ends(40);
    // Dropped.
    producer.reserve(8).unwrap().unwrap().write_at(0, b"as never").unwrap();

    let mut record = producer.reserve(40).unwrap().unwrap();
    assert_eq!((record.len(), record.is_empty(), record.written()), (40, false, 0));
    assert_eq!(record.write_at(39, b"ab"), Err(Full));
    assert_eq!(record.write_at(usize::MAX, b"a"), Err(Full));
    record.write_all(b"front and ").unwrap();
    record.write_all(b"more").unwrap();
    assert_eq!(record.write_all(&[0; 27]), Err(Full));
    record.write_at(0, b"F").unwrap();
    record.commit_front(14);
    let _ = producer.publish();

    let record = consumer.next().unwrap().unwrap();
    assert_eq!((record.len(), record.is_empty()), (14, false));
    assert_eq!(record.copy_to(&mut [0; 13]), None);
    let (mut reader, mut piece, mut all) = (record.reader(), [0; 4], Vec::new());
    while let Ok(count @ 1..) = reader.read(&mut piece) {
        all.extend_from_slice(&piece[..count]);
    }
    assert_eq!(all, b"Front and more");
    let mut end = [0; 8];
    assert_eq!((record.read_at(10, &mut end), &end[..4]), (4, &b"more"[..]));
    assert_eq!(record.read_at(15, &mut end), 0);
    assert_eq!(record.read_at(usize::MAX, &mut end), 0);
    assert!(consumer.next().unwrap().is_none());
}

#[test]
fn only_who_sleeps_is_notified() {
    let memory = Counting::new(64);
    let (mut producer, mut consumer) = memory.ends(8);
    put(&mut producer, &[1; 8]);
    assert_eq!(producer.publish(), Wake::Nobody, "nobody has asked");
    assert_eq!(producer.publish(), Wake::Nobody, "there is nothing new");
    assert_eq!(consumer.wait(), Ok(Wait { wake: Wake::Nobody, sleep: false }), "there is a record");
    take(&mut consumer);
    assert_eq!(consumer.wait(), Ok(Wait { wake: Wake::Nobody, sleep: true }));
    put(&mut producer, &[2; 8]);
    assert_eq!(producer.publish(), Wake::Peer);
    put(&mut producer, &[3; 8]);
    assert_eq!(producer.publish(), Wake::Nobody, "it is awake by now");

    // Four records fill it. The wait publishes the last two.
    put(&mut producer, &[4; 8]);
    put(&mut producer, &[5; 8]);
    assert!(producer.reserve(0).unwrap().is_none());
    assert_eq!(producer.wait(8), Ok(Wait { wake: Wake::Nobody, sleep: true }));
    take(&mut consumer);
    assert_eq!(consumer.release(), Wake::Nobody, "half of the ring is wanted");
    assert_eq!(producer.wait(8), Ok(Wait { wake: Wake::Nobody, sleep: false }), "but not needed");
    take(&mut consumer);
    assert_eq!(consumer.release(), Wake::Peer);
    take(&mut consumer);
    assert_eq!(consumer.release(), Wake::Nobody);

    // A wait gives back what was consumed, and says whom that wakes.
    while put(&mut producer, &[6; 8]) {}
    assert!(producer.wait(8).unwrap().sleep);
    while take(&mut consumer).is_some() {}
    assert_eq!(consumer.wait(), Ok(Wait { wake: Wake::Peer, sleep: true }));
    put(&mut producer, &[7; 8]);
    assert_eq!(producer.wait(8), Ok(Wait { wake: Wake::Peer, sleep: false }));
}

#[test]
fn a_closed_ring_is_read_to_its_end() {
    let memory = Counting::new(64);
    let (mut producer, mut consumer) = memory.ends(8);
    put(&mut producer, b"last");
    assert_eq!(producer.close(), Wake::Peer);
    assert!(!consumer.wait().unwrap().sleep);
    assert_eq!(take(&mut consumer).unwrap(), b"last");
    assert_eq!(consumer.wait(), Err(RingError::Closed));
    assert_eq!(consumer.next().unwrap_err(), RingError::Closed);
    assert_eq!(memory.peek(Field::ConsumerState), 0, "the peer is not to blame");

    let memory = Counting::new(64);
    let (mut producer, consumer) = memory.ends(56);
    put(&mut producer, &[0; 20]);
    assert_eq!(consumer.close(), Wake::Peer);
    assert!(producer.reserve(0).unwrap().is_some(), "it did not have to look");
    assert_eq!(producer.reserve(50).unwrap_err(), ReserveError::Ended(RingError::Closed));
    assert_eq!(producer.wait(0).unwrap_err(), ReserveError::Ended(RingError::Closed));
    assert_eq!(producer.publish(), Wake::Nobody);
}

/// A consumer that has seen one record, and the memory, in which `spoil` has been at work; how it ends.
fn consumer_ends(spoil: impl FnOnce(&Counting)) -> RingError {
    let memory = Counting::new(64);
    let (mut producer, mut consumer) = memory.ends(16);
    put(&mut producer, &[1; 16]);
    let _ = producer.publish();
    take(&mut consumer);
    let _ = consumer.release();
    spoil(&memory);
    let error = memory.once(|| consumer.next().unwrap_err());
    assert_eq!(consumer.next().unwrap_err(), error, "it has ended");
    assert_eq!(consumer.wait().unwrap_err(), error);
    assert_eq!(consumer.release(), Wake::Nobody);
    if error != RingError::Refused {
        assert_eq!(producer.wait(0), Ok(Wait { wake: Wake::Nobody, sleep: false }));
        assert_eq!(producer.reserve(16).map(|_| ()), Ok(()));
        put(&mut producer, &[1; 16]);
        let mut full = || producer.reserve(16).map(|record| record.map(Reservation::commit));
        let refused = core::iter::from_fn(|| Some(full())).take(4).find_map(Result::err);
        assert_eq!(refused, Some(ReserveError::Ended(RingError::Refused)), "the peer is told");
        assert_eq!(consumer.close(), Wake::Peer);
        assert_eq!(memory.peek(Field::ConsumerState), 2);
    }
    error
}

#[test]
fn a_bad_producer_ends_the_ring() {
    use Index::Producer as index;
    let at = |got| RingError::Index { index, got, min: 24, max: 24 + 64 };
    for bad in [0, 16, 23, 24 + 72, 1 << 32, u64::MAX, u64::MAX - 7] {
        assert_eq!(consumer_ends(|memory| memory.poke(Field::ProducerIndex, bad)), at(bad));
    }
    let unaligned = RingError::Unaligned { index, got: 33 };
    assert_eq!(consumer_ends(|memory| memory.poke(Field::ProducerIndex, 33)), unaligned);
    assert_eq!(consumer_ends(|memory| memory.poke(Field::ProducerState, 3)), RingError::State(3));
    assert_eq!(consumer_ends(|memory| memory.poke(Field::ProducerState, 2)), RingError::Refused);

    let record = |word: u64, have: u64| {
        move |memory: &Counting| {
            memory.store_word(24, word);
            memory.poke(Field::ProducerIndex, 24 + have);
        }
    };
    let too_long = |len| RingError::TooLong { at: 24, len, max: 16 };
    assert_eq!(consumer_ends(record(17, 64)), too_long(17));
    assert_eq!(consumer_ends(record(u32::MAX.into(), 64)), too_long(u32::MAX));
    assert_eq!(consumer_ends(record(16, 16)), RingError::Torn { at: 24, size: 24, have: 16 });
    assert_eq!(consumer_ends(record(1, 8)), RingError::Torn { at: 24, size: 16, have: 8 });
    assert_eq!(consumer_ends(record(1 << 32, 64)), RingError::Reserved { at: 24, got: 1 });
}

#[test]
fn a_bad_consumer_ends_the_ring() {
    let index = Index::Consumer;
    for (bad, want) in [
        (16, RingError::Index { index, got: 16, min: 24, max: 48 }),
        (56, RingError::Index { index, got: 56, min: 24, max: 48 }),
        (u64::MAX, RingError::Index { index, got: u64::MAX, min: 24, max: 48 }),
        (25, RingError::Unaligned { index, got: 25 }),
    ] {
        let memory = Counting::new(64);
        let (mut producer, mut consumer) = memory.ends(48);
        put(&mut producer, &[1; 16]);
        let _ = producer.publish();
        take(&mut consumer);
        let _ = consumer.release();
        put(&mut producer, &[2; 16]);
        let _ = producer.publish();
        // Looks, and remembers 24.
        assert!(producer.reserve(48).unwrap().is_none());
        memory.poke(Field::ConsumerIndex, bad);
        assert_eq!(memory.once(|| producer.reserve(48).map(|_| ())), Err(ReserveError::Ended(want)));
        assert_eq!(producer.reserve(0).map(|_| ()), Err(ReserveError::Ended(want)));
        assert_eq!(memory.once(|| producer.wait(0)), Err(ReserveError::Ended(want)));
        assert_eq!(producer.publish(), Wake::Nobody);
        assert_eq!(consumer.next().unwrap_err(), RingError::Refused);
    }
}

#[test]
fn wishes_of_the_peer_cannot_be_wrong() {
    let memory = Counting::new(64);
    let (mut producer, mut consumer) = memory.ends(8);
    for want in [0, 1, 7, 1 << 63, u64::MAX] {
        memory.poke(Field::ConsumerWant, want);
        memory.poke(Field::ProducerWant, want);
        put(&mut producer, b"a");
        let _ = memory.once(|| producer.publish());
        assert_eq!(take(&mut consumer).unwrap(), b"a");
        let _ = memory.once(|| consumer.release());
    }
}

#[test]
fn positions_do_not_wrap() {
    let memory = Counting::new(64);
    let mut producer = Producer::attach(&memory, 8).unwrap();
    let mut consumer = Consumer::attach(&memory, 8).unwrap();
    let last = u64::MAX - 71;
    memory.poke(Field::ConsumerIndex, last);
    memory.poke(Field::ProducerIndex, last);
    producer.set_place(last);
    consumer.set_place(last);
    assert!(put(&mut producer, b"a"));
    let _ = producer.publish();
    assert_eq!(take(&mut consumer).unwrap(), b"a");
    assert_eq!(producer.reserve(0).unwrap_err(), ReserveError::Ended(RingError::Exhausted));
    assert_eq!(consumer.next().unwrap_err(), RingError::Refused);
}

#[test]
fn errors_say_what_is_wrong() {
    let (index, got) = (Index::Consumer, 9);
    assert_eq!(
        RingError::Index { index, got, min: 0, max: 8 }.to_string(),
        "Bad ring: consumer's index 9, not between 0 and 8"
    );
    assert_eq!(
        RingError::Torn { at: 8, size: 24, have: 16 }.to_string(),
        "Bad ring: record at position 8 takes 24 bytes, 16 are published"
    );
    assert_eq!(
        AttachError::Magic(*b"ELF\0").to_string(),
        "No ring: it starts with [45, 4c, 46, 00], not [4c, 4c, 4d, 52]"
    );
}

#[derive(Clone, Debug)]
enum Op {
    Put(usize),
    Publish,
    ProducerWait(usize),
    Take,
    Release,
    ConsumerWait,
}

fn op(max: usize) -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..=max).prop_map(Op::Put),
        2 => Just(Op::Publish),
        1 => (0..=max).prop_map(Op::ProducerWait),
        4 => Just(Op::Take),
        2 => Just(Op::Release),
        1 => Just(Op::ConsumerWait),
    ]
}

/// Does what `ops` say with both ends, beside a model of queues.
fn follow_model<M: Memory>(memory: &M, max: usize, ops: &[Op]) {
    let data_len = memory.data_len();
    format(memory).unwrap();
    let (mut producer, mut consumer) =
        (Producer::attach(memory, max).unwrap(), Consumer::attach(memory, max).unwrap());
    let (mut committed, mut published) = (VecDeque::<Vec<u8>>::new(), VecDeque::<Vec<u8>>::new());
    // Bytes that are not released, and of these consumed ones.
    let (mut used, mut consumed) = (0, 0);
    let (mut producer_sleeps, mut consumer_sleeps) = (None, false);
    let mut next = 0_u8;
    for op in ops {
        let (mut told_consumer, mut told_producer) = (Wake::Nobody, Wake::Nobody);
        match *op {
            Op::Put(len) => {
                producer_sleeps = None;
                next = next.wrapping_add(1);
                let bytes: Vec<u8> = (0..len).map(|i| next.wrapping_add(i as u8)).collect();
                let fits = used + record_size(len) <= data_len;
                assert_eq!(put(&mut producer, &bytes), fits);
                if fits {
                    used += record_size(len);
                    committed.push_back(bytes);
                }
            }
            Op::Publish => {
                told_consumer = producer.publish();
                published.append(&mut committed);
            }
            Op::ProducerWait(len) => {
                let wait = producer.wait(len).unwrap();
                told_consumer = wait.wake;
                published.append(&mut committed);
                assert_eq!(wait.sleep, used + record_size(len) > data_len);
                producer_sleeps = wait.sleep.then_some(record_size(len).max(data_len / 2));
            }
            Op::Take => {
                consumer_sleeps = false;
                let want = published.pop_front();
                consumed += want.as_ref().map_or(0, |bytes| record_size(bytes.len()));
                assert_eq!(take(&mut consumer), want);
            }
            Op::Release => {
                told_producer = consumer.release();
                used -= core::mem::take(&mut consumed);
            }
            Op::ConsumerWait => {
                let wait = consumer.wait().unwrap();
                told_producer = wait.wake;
                used -= core::mem::take(&mut consumed);
                assert_eq!(wait.sleep, published.is_empty());
                consumer_sleeps = wait.sleep;
            }
        }
        if consumer_sleeps && !published.is_empty() {
            assert_eq!(told_consumer, Wake::Peer, "the consumer sleeps on");
            consumer_sleeps = false;
        }
        if producer_sleeps.is_some_and(|room| data_len - used >= room) {
            assert_eq!(told_producer, Wake::Peer, "the producer sleeps on");
            producer_sleeps = None;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn small_rings_follow_the_model(units in 2_usize..12, share in 0_usize..=100, ops in prop::collection::vec(op(1000), 0..200)) {
        let memory = Counting::new(units * UNIT);
        let max = (units - 1) * UNIT * share / 100;
        let ops: Vec<Op> = ops.into_iter().map(|op| match op {
            Op::Put(len) => Op::Put(len % (max + 1)),
            Op::ProducerWait(len) => Op::ProducerWait(len % (max + 1)),
            op => op,
        }).collect();
        follow_model(&memory, max, &ops);
    }

    #[test]
    fn pages_follow_the_model(data in 1_usize..4, ops in prop::collection::vec(op(4088), 0..60)) {
        let mut pages: Box<[Page]> = vec![Page::ZERO; data + 1].into();
        follow_model(&Mapped::local(&mut pages).unwrap(), 4088, &ops);
    }
}
