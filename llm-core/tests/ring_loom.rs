//! Hand-over, wake-up and close of the ring under all interleavings and stale reads, by loom.
//!
//! The ring knows memory by a trait, so the very code of both ends runs here, on loom's atomics. What these
//! tests would notice is shown by memory that forgets a fence or weakens an order.

use std::process::Command;
use std::sync::Arc as StdArc;
use std::sync::atomic::Ordering::{self, Relaxed, SeqCst};

use llm_core::ring::{Consumer, Field, Memory, Producer, RingError, Wait, Wake, format};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, fence};
use loom::sync::{Arc, Notify};
use loom::thread;

/// What the memory does not do as it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Flaw {
    #[default]
    None,
    NoFence,
    /// Stores of this field are relaxed.
    Store(Field),
    /// Loads of this field are relaxed.
    Load(Field),
}

/// A ring on loom's memory: a relaxed load may return any value that the orders allow, and a word that one end
/// writes while the other reads it, by these orders, is an error.
#[derive(Debug)]
struct Loomed {
    fields: [AtomicU64; 8],
    words: Vec<Word>,
    flaw: Flaw,
}

#[derive(Debug)]
struct Word {
    value: AtomicU64,
    /// Finds accesses that are not ordered.
    access: UnsafeCell<()>,
}

// SAFETY: the cell holds nothing; loom checks the accesses, which is what it is there for.
unsafe impl Sync for Word {}

impl Word {
    fn new() -> Self {
        Self { value: AtomicU64::new(0), access: UnsafeCell::new(()) }
    }
}

impl Loomed {
    fn new(words: usize, flaw: Flaw) -> Self {
        let fields = std::array::from_fn(|_| AtomicU64::new(0));
        let memory = Self { fields, words: (0..words).map(|_| Word::new()).collect(), flaw };
        format(&memory).expect("a good size");
        memory
    }
}

impl Memory for Loomed {
    fn data_len(&self) -> usize {
        self.words.len() * 8
    }

    fn load(&self, field: Field, order: Ordering) -> u64 {
        self.fields[field as usize].load(if self.flaw == Flaw::Load(field) { Relaxed } else { order })
    }

    fn store(&self, field: Field, value: u64, order: Ordering) {
        let order = if self.flaw == Flaw::Store(field) { Relaxed } else { order };
        self.fields[field as usize].store(value, order);
    }

    fn fence(&self) {
        if self.flaw != Flaw::NoFence {
            fence(SeqCst);
        }
    }

    fn load_word(&self, at: usize) -> u64 {
        let word = &self.words[at / 8];
        word.access.with(|_| word.value.load(Relaxed))
    }

    fn store_word(&self, at: usize, word: u64) {
        let to = &self.words[at / 8];
        to.access.with_mut(|_| to.value.store(word, Relaxed));
    }

    // Payloads are whole words here.
    fn read(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.load_word(at).to_le_bytes());
    }

    fn write(&self, at: usize, from: &[u8]) {
        self.store_word(at, u64::from_le_bytes(from.try_into().expect("a word")));
    }
}

/// The ring, and a channel each way, which remembers a notification.
#[derive(Debug)]
struct Link {
    memory: Loomed,
    to_consumer: Notify,
    to_producer: Notify,
}

fn notify(channel: &Notify, wake: Wake) {
    if wake.peer() {
        channel.notify();
    }
}

fn send(link: &Link, producer: &mut Producer<&Loomed>, value: u64, publish: bool) {
    loop {
        if let Some(mut record) = producer.reserve(8).expect("an open ring") {
            record.write_at(0, &value.to_le_bytes()).expect("room");
            record.commit();
            break;
        }
        let Wait { wake, sleep } = producer.wait(8).expect("an open ring");
        notify(&link.to_consumer, wake);
        if sleep {
            link.to_producer.wait();
        }
    }
    if publish {
        notify(&link.to_consumer, producer.publish());
    }
}

/// The next value; `None` when the ring was closed.
fn receive(link: &Link, consumer: &mut Consumer<&Loomed>, release: bool) -> Option<u64> {
    loop {
        match consumer.next() {
            Ok(Some(record)) => {
                let mut value = [0; 8];
                record.copy_to(&mut value).expect("a word");
                if release {
                    notify(&link.to_producer, consumer.release());
                }
                return Some(u64::from_le_bytes(value));
            }
            Err(RingError::Closed) => return None,
            Err(error) => panic!("{error}"),
            Ok(None) => {}
        }
        match consumer.wait() {
            Ok(Wait { wake, sleep }) => {
                notify(&link.to_producer, wake);
                if sleep {
                    link.to_consumer.wait();
                }
            }
            Err(RingError::Closed) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends `records` records through a ring of `words` words, a batch at a time, and closes it.
fn hand_over(words: usize, records: u64, batch: u64, preemptions: usize, flaw: Flaw) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    let runs = StdArc::new(std::sync::atomic::AtomicU64::new(0));
    let count = runs.clone();
    model.check(move || {
        count.fetch_add(1, Relaxed);
        let memory = Loomed::new(words, flaw);
        let link = Arc::new(Link { memory, to_consumer: Notify::new(), to_producer: Notify::new() });
        let peer = link.clone();
        let thread = thread::spawn(move || {
            let mut producer = Producer::attach(&peer.memory, 8).expect("a ring");
            for value in 1..=records {
                send(&peer, &mut producer, value, value % batch == 0);
            }
            notify(&peer.to_consumer, producer.close());
        });
        let mut consumer = Consumer::attach(&link.memory, 8).expect("a ring");
        for value in 1..=records {
            assert_eq!(receive(&link, &mut consumer, value % batch == 0), Some(value), "lost, stale or torn");
        }
        assert_eq!(receive(&link, &mut consumer, true), None);
        thread.join().expect("the producer ends");
    });
    println!("{words} words, {records} records in batches of {batch}: {} runs", runs.load(Relaxed));
}

#[test]
fn every_record_arrives_and_nobody_sleeps_for_ever() {
    // One record at a time: both ends sleep again and again.
    hand_over(2, 3, 1, 2, Flaw::None);
    // Room for two.
    hand_over(4, 3, 1, 2, Flaw::None);
    // Batches, that wrap.
    hand_over(6, 4, 2, 2, Flaw::None);
}

#[test]
fn a_consumer_that_closes_wakes_the_producer() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let memory = Loomed::new(2, Flaw::None);
        let link = Arc::new(Link { memory, to_consumer: Notify::new(), to_producer: Notify::new() });
        let peer = link.clone();
        let thread = thread::spawn(move || {
            let mut producer = Producer::attach(&peer.memory, 8).expect("a ring");
            let closed = loop {
                match producer.reserve(8) {
                    Ok(Some(record)) => record.commit(),
                    Ok(None) => match producer.wait(8) {
                        Ok(wait) if wait.sleep => peer.to_producer.wait(),
                        Ok(_) => {}
                        Err(error) => break error,
                    },
                    Err(error) => break error,
                }
            };
            assert_eq!(closed, RingError::Closed.into());
        });
        let consumer = Consumer::attach(&link.memory, 8).expect("a ring");
        notify(&link.to_producer, consumer.close());
        thread.join().expect("the producer ends");
    });
}

/// The flaws that must be found, by number.
const FLAWS: [Flaw; 5] = [
    Flaw::NoFence,
    Flaw::Store(Field::ProducerIndex),
    Flaw::Load(Field::ProducerIndex),
    Flaw::Store(Field::ConsumerIndex),
    Flaw::Load(Field::ConsumerIndex),
];

const FLAW: &str = "LLM_LOOM_FLAW";

/// What is run by `missing_fences_and_weak_orders_are_found`.
#[test]
#[ignore = "fails, as it must"]
fn flawed() {
    let number = std::env::var(FLAW).expect("the number of a flaw");
    let flaw: usize = number.parse().expect("a number");
    hand_over(2, 3, 1, 2, FLAWS[flaw]);
}

/// In processes of their own: loom aborts on some of what it finds.
#[test]
fn missing_fences_and_weak_orders_are_found() {
    for (number, flaw) in FLAWS.iter().enumerate() {
        let mut test = Command::new(std::env::current_exe().expect("this program"));
        test.args(["--exact", "flawed", "--ignored", "--nocapture"]).env(FLAW, number.to_string());
        let output = test.output().expect("this program runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let found = ["deadlock", "Causality violation"].iter().find(|word| said.contains(*word));
        assert!(!output.status.success() && found.is_some(), "{flaw:?}: {}\n{said}", output.status);
        println!("{flaw:?}: {}", found.unwrap_or(&""));
    }
}
