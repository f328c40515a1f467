//! An end of a ring against a peer that writes anything into shared memory, also between two reads.
//!
//! The peer also makes honest steps, so that inputs get deep into a ring before it lies.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

use llm_core::ring::{
    Consumer, Field, Mapped, Memory, PAGE, Page, Producer, ReserveError, RingError, Wake, format, record_size,
};

use super::Input;

/// Pages of data: one, so that every ring wraps soon.
const DATA: usize = PAGE;

/// The first byte chooses our end, the next two the longest record; then come steps of both sides.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (ours, max) = (input.u8(), usize::from(input.u16()) % (DATA - 7));
    let mut pages = [Page::ZERO, Page::ZERO];
    let memory = Mapped::local(&mut pages).expect("a header page and a data page");
    format(&memory).expect("a good size");
    let hostile = Hostile::new(&memory, input.0);
    if ours & 1 == 0 {
        consume(&hostile, max);
    } else {
        produce(&hostile, max);
    }
}

fn consume(hostile: &Hostile<'_>, max: usize) {
    let mut honest = Producer::attach(hostile.memory, max).expect("a ring");
    // The peer may spoil the header before it is looked at.
    let Ok(mut consumer) = hostile.once(|| Consumer::attach(hostile, max)) else { return };
    let (mut held, mut released) = (0, 0);
    let mut copy = vec![0; max];
    while let Some(op) = hostile.step() {
        let result = match op & 7 {
            0..3 => hostile.once(|| consumer.next()).map(|record| {
                let Some(record) = record else { return };
                assert!(record.len() <= max, "longer than allowed");
                held += record_size(record.len());
                assert!(held <= DATA, "more than there is room for");
                let piece = record.read_at(usize::from(op), &mut copy);
                assert_eq!(piece, record.len().saturating_sub(op.into()).min(max));
                assert_eq!(record.copy_to(&mut copy).map(|copy| copy.len()), Some(record.len()));
                assert!(record.is_empty() || record.copy_to(&mut []).is_none());
            }),
            3 => {
                let _: Wake = hostile.once(|| consumer.release());
                released += std::mem::take(&mut held);
                Ok(())
            }
            4 => {
                released += std::mem::take(&mut held);
                hostile.once(|| consumer.wait()).map(|_| ())
            }
            5 => {
                if let Ok(Some(record)) = honest.reserve(hostile.u16() % (max + 1)) {
                    record.commit();
                }
                Ok(())
            }
            6 => {
                let _: Wake = honest.publish();
                Ok(())
            }
            _ => {
                hostile.lie();
                Ok(())
            }
        };
        if let Err(error) = result {
            assert_eq!(consumer.next().map(|_| ()), Err(error), "it has ended");
            assert_eq!(consumer.wait(), Err(error));
            assert_eq!(consumer.release(), Wake::Nobody);
            check_end(hostile, error);
            return;
        }
        assert_eq!(hostile.shown.get(), released as u64, "the index shown");
    }
}

fn produce(hostile: &Hostile<'_>, max: usize) {
    let mut honest = Consumer::attach(hostile.memory, max).expect("a ring");
    // The peer may spoil the header before it is looked at.
    let Ok(mut producer) = hostile.once(|| Producer::attach(hostile, max)) else { return };
    let (mut committed, mut published) = (0, 0);
    let bytes = vec![0x5a; max];
    while let Some(op) = hostile.step() {
        let result = match op & 7 {
            0..3 => {
                let len = hostile.u16() % (max + 2);
                let result = hostile.once(|| producer.reserve(len));
                result.map(|record| {
                    let Some(mut record) = record else { return };
                    assert!(len <= max, "longer than allowed");
                    assert!(record.write_at(0, &bytes[..len]).is_ok());
                    assert!(record.write_at(1, &bytes[..len]).is_err() || len == 0);
                    if op & 8 == 0 {
                        record.commit();
                        committed += record_size(len);
                        let freed = hostile.freed.get();
                        assert!(
                            (committed as u64).saturating_sub(freed) <= DATA as u64,
                            "over what is not released"
                        );
                    }
                })
            }
            3 => {
                let _: Wake = hostile.once(|| producer.publish());
                published = committed;
                Ok(())
            }
            4 => {
                published = committed;
                let len = hostile.u16() % (max + 1);
                hostile.once(|| producer.wait(len)).map(|_| ())
            }
            5 => {
                let _ = honest.next();
                Ok(())
            }
            6 => {
                let _: Wake = honest.release();
                Ok(())
            }
            _ => {
                hostile.lie();
                Ok(())
            }
        };
        match result {
            Err(ReserveError::TooLong { len, .. }) => assert!(len > max),
            Err(ReserveError::Ended(error)) => {
                let ended = Err(ReserveError::Ended(error));
                assert_eq!(producer.reserve(0).map(|_| ()), ended, "it has ended");
                assert_eq!(producer.wait(0).map(|_| ()), ended);
                assert_eq!(producer.publish(), Wake::Nobody);
                check_end(hostile, error);
                return;
            }
            Ok(()) => {}
        }
        assert_eq!(hostile.shown.get(), published as u64, "the index shown");
    }
}

/// The peer is told of a violation, and of nothing else.
fn check_end(hostile: &Hostile<'_>, error: RingError) {
    let innocent = matches!(error, RingError::Closed | RingError::Refused);
    assert_eq!(hostile.refused.get(), !innocent);
    assert_ne!(error, RingError::Exhausted, "so much has not gone through");
}

type Local<'a> = Mapped<std::marker::PhantomData<&'a mut [Page]>>;

/// Memory that changes whenever it is read.
#[derive(Debug)]
struct Hostile<'a> {
    memory: &'a Local<'a>,
    input: RefCell<Input<'a>>,
    /// The greatest consumer's index ever shown to the producer.
    freed: Cell<u64>,
    /// The index that our end has shown, and whether it has refused the peer.
    shown: Cell<u64>,
    refused: Cell<bool>,
    fields_read: [Cell<u8>; 8],
}

impl<'a> Hostile<'a> {
    fn new(memory: &'a Local<'a>, input: &'a [u8]) -> Self {
        let (freed, shown, refused) = Default::default();
        Self { memory, input: Input(input).into(), freed, shown, refused, fields_read: Default::default() }
    }

    fn step(&self) -> Option<u8> {
        let mut input = self.input.borrow_mut();
        (!input.is_empty()).then(|| input.u8())
    }

    fn u16(&self) -> usize {
        self.input.borrow_mut().u16().into()
    }

    /// What `call` returns; no field was read twice meanwhile.
    fn once<T>(&self, call: impl FnOnce() -> T) -> T {
        self.fields_read.iter().for_each(|count| count.set(0));
        let result = call();
        assert!(self.fields_read.iter().all(|count| count.get() <= 1), "a field is read twice");
        result
    }

    /// Writes something somewhere: any value or one near to what is there.
    fn lie(&self) {
        let mut input = self.input.borrow_mut();
        let kind = input.u8();
        if kind & 16 == 0 {
            let field = Field::ALL[usize::from(kind & 7)];
            let old = self.memory.load(field, Ordering::Relaxed);
            let value = match kind >> 6 {
                0 => input.u64(),
                1 => old.wrapping_add(u64::from(input.u8()) * 8),
                2 => old.wrapping_sub(u64::from(input.u8())),
                _ => u64::from(input.u8() & 3),
            };
            self.memory.store(field, value, Ordering::Relaxed);
        } else {
            let at = usize::from(input.u16()) % DATA;
            if kind & 32 == 0 {
                let word = u64::from(input.u16()) | u64::from(kind >> 7) << 33;
                self.memory.store_word(at & !7, word);
            } else {
                let count = usize::from(input.u8());
                self.memory.write(at, input.bytes(count));
            }
        }
    }
}

impl Memory for Hostile<'_> {
    fn data_len(&self) -> usize {
        self.memory.data_len()
    }

    fn load(&self, field: Field, order: Ordering) -> u64 {
        let count = &self.fields_read[field as usize];
        count.set(count.get() + 1);
        if self.step().is_some_and(|byte| byte & 15 == 15) {
            self.lie();
        }
        let value = self.memory.load(field, order);
        if field == Field::ConsumerIndex {
            self.freed.set(self.freed.get().max(value));
        }
        value
    }

    fn store(&self, field: Field, value: u64, order: Ordering) {
        match field {
            Field::ConsumerIndex | Field::ProducerIndex => self.shown.set(value),
            Field::ConsumerState | Field::ProducerState => self.refused.set(value == 2),
            _ => {}
        }
        self.memory.store(field, value, order);
    }

    fn fence(&self) {
        self.memory.fence();
    }

    fn load_word(&self, at: usize) -> u64 {
        if self.step().is_some_and(|byte| byte & 15 == 15) {
            self.lie();
        }
        self.memory.load_word(at)
    }

    fn store_word(&self, at: usize, word: u64) {
        self.memory.store_word(at, word);
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        self.memory.read(at, into);
    }

    fn write(&self, at: usize, from: &[u8]) {
        self.memory.write(at, from);
    }
}
