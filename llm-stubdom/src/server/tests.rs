use super::*;
use crate::arch::ring::RingPages;
use crate::service::Copies;
use crate::shared::testing::TestPage;
use crate::store::testing::{Daemon, Turns, honest};
use llm_core::log::{Entry, Flags, RecordKind};
use llm_core::page::PAGE;
use llm_core::ring::{Mapped, Page, format};
use llm_core::service::{ANSWER_HEAD, Answer, Begin, MAX_BATCH, MAX_LOG, Request};
use llm_core::time::Instant;
use std::boxed::Box;
use std::cell::RefCell;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

const DATA_PAGES: usize = 64;

/// The driver's ends of the rings.
struct Driver {
    requests: Producer<Mapped<()>>,
    answers: Consumer<Mapped<()>>,
    got: Vec<Vec<u8>>,
}

impl Driver {
    /// Sends if there is room.
    fn send(&mut self, request: &Request<'_>) -> bool {
        let mut bytes = vec![0; MAX_REQUEST];
        self.send_raw(request.write(&mut bytes).unwrap())
    }

    fn send_raw(&mut self, bytes: &[u8]) -> bool {
        let Some(mut room) = self.requests.reserve(bytes.len()).unwrap() else { return false };
        room.write_at(0, bytes).unwrap();
        room.commit();
        let _ = self.requests.publish();
        true
    }

    /// Reads all that is there; false if there was nothing.
    fn read(&mut self) -> bool {
        let before = self.got.len();
        while let Ok(Some(record)) = self.answers.next() {
            let mut bytes = vec![0; record.len()];
            record.copy_to(&mut bytes).unwrap();
            self.got.push(bytes);
        }
        let _ = self.answers.release();
        self.got.len() > before
    }

    fn has(&self, answer: Answer) -> usize {
        self.got.iter().filter(|got| got.first_chunk::<ANSWER_HEAD>() == Some(&answer.head())).count()
    }
}

type Script = fn(&mut World) -> bool;

/// Everything but the server. Each wait of the server lets xenstored and the driver do something.
struct World {
    daemon: Rc<RefCell<Daemon>>,
    request: RingPages,
    answer: RingPages,
    driver: Option<Driver>,
    /// What the driver does next; a step that returns true is over.
    script: Vec<Script>,
    /// Grants: none, granted, or in use by the driver.
    granted: bool,
    mapped: bool,
    offers: u32,
    sent: u64,
    events: Rc<RefCell<Vec<Event>>>,
    /// What each event left for the driver's log.
    messages: Vec<Message>,
}

impl World {
    fn node(&self, path: &str) -> Option<Vec<u8>> {
        self.daemon.borrow().nodes.get(path).cloned()
    }

    fn is(&self, state: State) -> bool {
        self.node(node::STATE) == Some(state.value().to_vec())
    }

    fn put(&mut self, state: State) {
        self.daemon.borrow_mut().put(node::DRIVER_STATE, &state.value());
    }

    /// Maps the rings once they are offered.
    fn connect(&mut self) -> bool {
        if !self.is(State::Initialised) {
            return false;
        }
        assert!(self.granted);
        assert_eq!(self.node(node::PAGES), Some(b"64".to_vec()));
        assert_eq!(self.node(node::REQUEST_REF), Some(b"8".to_vec()));
        assert_eq!(self.node(node::ANSWER_REF), Some(b"73".to_vec()));
        assert_eq!(self.node(node::PORT), Some(b"5".to_vec()));
        self.driver = Some(Driver {
            requests: Producer::attach(self.request.memory(), MAX_REQUEST).unwrap(),
            answers: Consumer::attach(self.answer.memory(), MAX_ANSWER).unwrap(),
            got: Vec::new(),
        });
        self.mapped = true;
        self.put(State::Connected);
        true
    }

    fn begin(&mut self) -> bool {
        let begin = Begin { copies: 100, batch_seq: 1, log_seq: 1, lsn: 1 };
        self.driver.as_mut().unwrap().send(&Request::Begin(begin))
    }

    fn leave(&mut self) -> bool {
        self.driver = None;
        self.mapped = false;
        self.put(State::Closed);
        true
    }

    fn power_off(&mut self) -> bool {
        self.daemon.borrow_mut().put(node::SHUTDOWN, b"poweroff");
        true
    }
}

impl Platform for Rc<RefCell<World>> {
    type Memory = Mapped<()>;

    fn offer(&mut self) -> Result<Offer, &'static str> {
        let mut world = self.borrow_mut();
        assert!(!world.granted, "granted twice");
        world.granted = true;
        world.offers += 1;
        format(&world.request.memory()).unwrap();
        format(&world.answer.memory()).unwrap();
        Ok(Offer { request: Ref(8), answer: Ref(73), pages: DATA_PAGES, port: 5 })
    }

    fn rings(&mut self) -> (Self::Memory, Self::Memory) {
        let world = self.borrow();
        (world.request.memory(), world.answer.memory())
    }

    fn retire(&mut self) -> bool {
        let mut world = self.borrow_mut();
        world.granted &= world.mapped;
        !world.granted
    }

    fn notify(&mut self) {}

    fn wait(&mut self, ms: Option<u32>) {
        let mut world = self.borrow_mut();
        let daemon = world.daemon.clone();
        let mut progress = daemon.borrow_mut().step();
        while daemon.borrow_mut().step() {}
        if let Some(step) = world.script.first().copied()
            && step(&mut world)
        {
            world.script.remove(0);
            progress = true;
        }
        assert!(
            progress || ms.is_some() || world.sent > 0,
            "sleeps for ever; events: {:?}, left: {}",
            world.events.borrow(),
            world.script.len()
        );
    }

    fn tell(&mut self, event: Event) {
        let mut world = self.borrow_mut();
        world.messages.push(Message::from_slice(kinds(&[event])[0].as_bytes()).unwrap());
        world.events.borrow_mut().push(event);
    }

    fn message(&mut self) -> Option<Message> {
        let mut world = self.borrow_mut();
        (!world.messages.is_empty()).then(|| world.messages.remove(0))
    }
}

fn leak(pages: usize) -> &'static mut [Page] {
    Box::leak(vec![Page::ZERO; pages].into_boxed_slice())
}

/// Runs the server with this driver, and returns what it told and how often it offered rings.
fn run(seed: u64, script: &[Script]) -> (Vec<Event>, u32) {
    let page = TestPage::new();
    let daemon = Rc::new(RefCell::new(Daemon::new(page.clone(), seed, honest)));
    let events = Rc::new(RefCell::new(Vec::new()));
    let world = Rc::new(RefCell::new(World {
        daemon: daemon.clone(),
        request: RingPages::new(leak(1 + DATA_PAGES)).unwrap(),
        answer: RingPages::new(leak(1 + DATA_PAGES)).unwrap(),
        driver: None,
        script: script.to_vec(),
        granted: false,
        mapped: false,
        offers: 0,
        sent: 0,
        events: events.clone(),
        messages: Vec::new(),
    }));
    let (mut batch, mut log) = (vec![0; MAX_BATCH], vec![0; MAX_LOG]);
    let service = Service::new(Copies::new(leak(200)), &mut batch, &mut log);
    let mut request = vec![0; MAX_REQUEST];
    let store = Store::new(page, Turns(daemon));
    let mut server = Server::new(world.clone(), store, service, &mut request);
    assert_eq!(server.run(), Ok(()));
    assert!(world.borrow().script.is_empty(), "{} steps are left", world.borrow().script.len());
    assert_eq!(world.borrow().node(node::SHUTDOWN), Some(Vec::new()), "it says that it ends");
    let offers = world.borrow().offers;
    (events.take(), offers)
}

/// Kinds of events, for short.
fn kinds(events: &[Event]) -> Vec<&'static str> {
    let kind = |event: &Event| match event {
        Event::Offered => "offered",
        Event::Connected => "connected",
        Event::Begun { .. } => "begun",
        Event::Lost(_) => "lost",
        Event::Parted { why: None, .. } => "parted",
        Event::Parted { why: Some(_), .. } => "failed",
        Event::Shutdown => "shutdown",
    };
    events.iter().map(kind).collect()
}

#[test]
fn serves_one_driver_after_the_other() {
    let ask: Script = |world| {
        let driver = world.driver.as_mut().unwrap();
        let entry = Entry {
            kind: RecordKind::Input,
            epoch: 1,
            time: Instant::from_nanos(1),
            vif: 0,
            flags: Flags::NONE,
            packet: b"packet",
        };
        driver.send(&Request::Page { pfn: 9, page: &[1; PAGE] })
            && driver.send(&Request::Log(entry))
            && driver.send(&Request::Flush(77))
    };
    let answered: Script = |world| {
        let driver = world.driver.as_mut().unwrap();
        driver.read();
        let counts = [Answer::Ready, Answer::Frame, Answer::Flushed].map(|answer| driver.has(answer));
        assert!(counts[0] <= 1 && counts[1] <= 2 && counts[2] <= 1);
        counts == [1, 2, 1]
    };
    // A driver that goes on with nothing but its state changed back, as a new one at the same place does.
    let renew: Script = |world| {
        world.driver = None;
        world.put(State::Initialising);
        true
    };
    let still_mapped: Script = |world| {
        assert!(!world.is(State::Closed));
        world.is(State::Closing) && world.granted && !std::mem::take(&mut world.mapped).eq(&false)
    };
    for seed in 0..20 {
        let (events, offers) = run(
            seed,
            &[
                World::connect,
                World::begin,
                ask,
                answered,
                renew,
                still_mapped,
                World::connect,
                World::begin,
                ask,
                answered,
                World::leave,
                World::power_off,
            ],
        );
        let told = kinds(&events);
        let session = ["offered", "connected", "begun", "parted"];
        assert_eq!((&told[..8], told.last()), (&[session, session].concat()[..], Some(&"shutdown")));
        // The last offer may come before the end, or not.
        assert!((2..=3).contains(&offers));
    }
}

#[test]
fn a_request_without_sense_ends_the_session_and_not_the_kernel() {
    let nonsense: Script = |world| world.driver.as_mut().unwrap().send_raw(b"nonsense");
    let seen: Script = |world| {
        let ended = world.is(State::Closing) || world.is(State::Closed);
        if ended {
            let driver = world.driver.as_mut().unwrap();
            while driver.answers.next().is_ok_and(|record| record.is_some()) {}
            assert_eq!(driver.answers.next().unwrap_err(), RingError::Closed);
        }
        ended
    };
    let (events, offers) = run(
        1,
        &[World::connect, World::begin, nonsense, seen, World::leave, World::connect, World::power_off],
    );
    assert_eq!(kinds(&events)[..5], ["offered", "connected", "begun", "failed", "offered"]);
    assert!(matches!(events[3], Event::Parted { why: Some(Ended::Request(_)), .. }), "{:?}", events[3]);
    assert_eq!(offers, 2);
}

/// More answers than fit: the server waits for room, and none is lost.
#[test]
fn a_slow_driver_is_waited_for() {
    let flood: Script = |world| {
        while world.sent < 400 {
            let mut page = [0; PAGE];
            page.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 7 + i * i / 3) as u8 | 1);
            page[..8].copy_from_slice(&world.sent.to_le_bytes());
            let pfn = 1000 + world.sent;
            if !world.driver.as_mut().unwrap().send(&Request::Page { pfn, page: &page }) {
                break;
            }
            world.sent += 1;
        }
        // One answer at a time, and seldom.
        let driver = world.driver.as_mut().unwrap();
        if let Ok(Some(record)) = driver.answers.next() {
            let mut bytes = vec![0; record.len()];
            record.copy_to(&mut bytes).unwrap();
            driver.got.push(bytes);
        }
        let _ = driver.answers.release();
        world.sent == 400
    };
    let end: Script = |world| world.driver.as_mut().unwrap().send(&Request::Flush(5));
    let answered: Script = |world| {
        let driver = world.driver.as_mut().unwrap();
        driver.read();
        driver.has(Answer::Flushed) == 1
    };
    let (events, _) = run(2, &[World::connect, World::begin, flood, end, answered, World::power_off]);
    assert_eq!(kinds(&events), ["offered", "connected", "begun", "shutdown"]);
}

/// A driver that is gone gives no room, and its state says so.
#[test]
fn a_driver_that_leaves_a_full_ring_is_not_waited_for() {
    let fill: Script = |world| {
        let page: [u8; PAGE] = core::array::from_fn(|i| (i * 31 + i * i / 5) as u8);
        let driver = world.driver.as_mut().unwrap();
        let before = world.sent;
        while driver.send(&Request::Page { pfn: 1 << 40, page: &page }) {
            world.sent += 1;
        }
        // Until the server takes nothing in any more: both rings are full.
        world.sent == before && before > 100
    };
    let leave: Script = |world| {
        world.sent = 0;
        world.leave()
    };
    let (events, _) = run(3, &[World::connect, World::begin, fill, leave, World::connect, World::power_off]);
    assert_eq!(kinds(&events)[..5], ["offered", "connected", "begun", "failed", "offered"]);
    assert!(matches!(events[3], Event::Parted { why: Some(Ended::Interrupted), .. }), "{:?}", events[3]);
}

/// Messages wait for a driver, and go to it in order, whatever it asks for.
#[test]
fn messages_reach_the_driver() {
    let told: Script = |world| {
        let driver = world.driver.as_mut().unwrap();
        driver.read();
        let messages: Vec<_> =
            driver.got.iter().filter_map(|got| got.strip_prefix(&Answer::Message.head())).collect();
        let expected = [&b"offered"[..], b"connected", b"begun"];
        assert!(expected.starts_with(&messages), "{messages:?}");
        messages == expected
    };
    run(4, &[World::connect, World::begin, told, World::leave, World::power_off]);
}

/// A driver that reads nothing leaves no room for messages, once answers might need it.
#[test]
fn messages_leave_room_for_any_answer() {
    let flood: Script = |world| {
        // Many times what the ring holds, long ones.
        world.messages = vec![Message::from_slice(&[9; 200]).unwrap(); 4000];
        true
    };
    let full: Script = |world| {
        let before = world.messages.len();
        world.sent = 1;
        world.begin();
        // Asked again and again, and nothing goes any more.
        world.messages.len() == before && before < 4000
    };
    let ask: Script = |world| world.driver.as_mut().unwrap().send(&Request::Echo(&[5; 60_000]));
    let answered: Script = |world| {
        let left = world.messages.len();
        assert!(left > 1000, "most of them still wait");
        let driver = world.driver.as_mut().unwrap();
        let mut echoed = 0;
        while let Ok(Some(record)) = driver.answers.next() {
            echoed += usize::from(record.len() == ANSWER_HEAD + 60_000);
        }
        // Nothing was given back before, so the echo went into room that was left for it.
        echoed == 1
    };
    let read: Script = |world| {
        world.driver.as_mut().unwrap().read();
        world.begin();
        world.messages.is_empty()
    };
    run(5, &[World::connect, flood, World::begin, full, ask, answered, read, World::leave, World::power_off]);
}
