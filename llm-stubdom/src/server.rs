//! The main loop: comes together with a driver, serves it over two rings, parts from it, and sleeps whenever there is
//! nothing to do.

use crate::grants::Ref;
use crate::handshake::{Handshake, State, Step, node};
use crate::messages::Message;
use crate::service::{Counts, Failure, Output, Service};
use crate::shared::Shared;
use crate::store::{Fired, Line, Refusal, Store, StoreError, Tx};
use core::fmt::{self, Write};
use heapless::String;
use llm_core::ring::{AttachError, Consumer, Memory, Producer, ReserveError, RingError, Wake};
use llm_core::service::{Answer, BadRequest, MAX_ANSWER, MAX_REQUEST, VERSION};

/// What the loop needs of the machine.
pub trait Platform {
    /// The memory of a ring.
    type Memory: Memory;

    /// Makes both rings new, grants them to the driver, and makes an event channel for it.
    ///
    /// # Errors
    /// The machine does not give them; the kernel cannot go on.
    fn offer(&mut self) -> Result<Offer, &'static str>;

    /// The rings last offered: that of requests, that of answers.
    fn rings(&mut self) -> (Self::Memory, Self::Memory);

    /// Takes grants and event channel back; false while the driver has something mapped.
    fn retire(&mut self) -> bool;

    /// Notifies the driver.
    fn notify(&mut self);

    /// Sleeps until the driver or xenstore has something to say, or for `ms` milliseconds if that is not `None`.
    fn wait(&mut self, ms: Option<u32>);

    /// Tells whoever reads the kernel's log.
    fn tell(&mut self, event: Event);

    /// Takes the oldest message that waits for the driver's log.
    fn message(&mut self) -> Option<Message>;
}

/// What a driver must know of the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// First grant of the ring of requests.
    pub request: Ref,
    /// First grant of the ring of answers.
    pub answer: Ref,
    /// Data pages of each.
    pub pages: usize,
    /// Event channel.
    pub port: u32,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The rings are granted and the nodes written.
    Offered,
    /// A driver is connected.
    Connected,
    /// It has begun a session.
    Begun {
        /// Copies of pages that are kept.
        copies: u32,
    },
    /// The rings are used no more.
    Parted {
        /// Why; none if it was the driver's state.
        why: Option<Ended>,
        /// What was done.
        counts: Counts,
    },
    /// So many messages for the driver's log found no place to wait.
    Lost(u32),
    /// A toolstack asks the domain to end.
    Shutdown,
}

/// Why rings are used no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A ring has ended.
    Ring(RingError),
    /// A request made no sense.
    Request(BadRequest),
    /// An answer was too long for the ring, which cannot be.
    TooLong,
    /// The driver's state changed, or the domain was asked to end, while an answer waited for room.
    Interrupted,
    /// Xenstore failed while an answer waited for room.
    Store(StoreError),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Request(error) => error.fmt(f),
            Self::TooLong => f.write_str("an answer was too long for the ring"),
            Self::Interrupted => f.write_str("the driver left without reading"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

/// Why the kernel cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// Xenstore is of no use.
    Store(StoreError),
    /// The machine does not give what is needed.
    Machine(&'static str),
    /// The memory offered is none for a ring.
    Attach(AttachError),
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Machine(what) => f.write_str(what),
            Self::Attach(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Fatal {}

impl From<StoreError> for Fatal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
mod tests;

/// Tokens of the watches.
const DRIVER: u8 = 1;
const SHUTDOWN: u8 = 2;

/// Milliseconds until grants that are in use are tried again.
const RETIRE_MS: u32 = 100;
/// Requests handled before their room is given back.
const RELEASE: u32 = 16;
/// How often a transaction is tried that others disturb.
const TRIES: u32 = 100;

/// The ends of both rings.
#[derive(Debug)]
struct Rings<M> {
    requests: Consumer<M>,
    answers: Producer<M>,
}

/// The loop and all that it owns.
#[derive(Debug)]
pub struct Server<'a, P: Platform, S, L> {
    platform: P,
    store: Store<S, L>,
    service: Service<'a>,
    /// A request, once it was copied out of the ring.
    request: &'a mut [u8],
    handshake: Handshake,
    driver: Option<State>,
    rings: Option<Rings<P::Memory>>,
    fired: Fired,
}

impl<'a, P: Platform, S: Shared, L: Line> Server<'a, P, S, L> {
    /// A server that has not offered anything. `request` is room for [`MAX_REQUEST`] bytes.
    pub fn new(platform: P, store: Store<S, L>, service: Service<'a>, request: &'a mut [u8]) -> Self {
        let (handshake, fired) = (Handshake::new(), Fired::default());
        Self { platform, store, service, request, handshake, driver: None, rings: None, fired }
    }

    /// Serves one driver after the other, until a toolstack asks the domain to end.
    ///
    /// # Errors
    /// [`Fatal`].
    pub fn run(&mut self) -> Result<(), Fatal> {
        self.store.watch(node::DRIVER_STATE, DRIVER)?;
        self.store.watch(node::SHUTDOWN, SHUTDOWN)?;
        loop {
            self.fired.add(self.store.fired()?);
            // Tokens that are not ours go as well: nobody would ever look at them.
            let fired = core::mem::take(&mut self.fired);
            if fired.has(SHUTDOWN) && self.is_asked_to_end()? {
                self.platform.tell(Event::Shutdown);
                return Ok(());
            }
            if fired.has(DRIVER) {
                self.driver = self.value(node::DRIVER_STATE)?;
            }
            let step = self.handshake.next(self.driver);
            let ms = match step {
                Step::Wait => self.serve()?,
                step => self.carry_out(step)?,
            };
            // Steps and answers talk to xenstore, and may have met events.
            self.fired.add(self.store.fired()?);
            match ms {
                Next::Again => {}
                _ if is_news(self.fired) => {}
                Next::Sleep => self.platform.wait(None),
                Next::Later => self.platform.wait(Some(RETIRE_MS)),
            }
        }
    }

    fn carry_out(&mut self, step: Step) -> Result<Next, Fatal> {
        match step {
            Step::Wait => return Ok(Next::Sleep),
            Step::Offer => {
                let offer = self.platform.offer().map_err(Fatal::Machine)?;
                self.publish(&offer)?;
                self.platform.tell(Event::Offered);
            }
            Step::Connect => {
                let (requests, answers) = self.platform.rings();
                self.rings = Some(Rings {
                    requests: Consumer::attach(requests, MAX_REQUEST).map_err(Fatal::Attach)?,
                    answers: Producer::attach(answers, MAX_ANSWER).map_err(Fatal::Attach)?,
                });
                self.platform.tell(Event::Connected);
            }
            Step::Close => self.part(None),
            Step::Retire => {
                if !self.platform.retire() {
                    return Ok(Next::Later);
                }
            }
        }
        self.handshake = self.handshake.done(step);
        if step != Step::Offer {
            self.store.write(Tx::NONE, node::STATE, &self.handshake.own().value())?;
        }
        Ok(Next::Again)
    }

    /// Works on what is in the rings.
    fn serve(&mut self) -> Result<Next, Fatal> {
        let Some(rings) = &mut self.rings else { return Ok(Next::Sleep) };
        let mut out = Answers {
            ring: &mut rings.answers,
            platform: &mut self.platform,
            store: &mut self.store,
            fired: &mut self.fired,
        };
        let served = serve(&mut rings.requests, &mut self.service, self.request, &mut out);
        match served {
            Ok(()) => Ok(Next::Sleep),
            Err(Ended::Store(error)) => Err(error.into()),
            Err(why) => {
                self.part(Some(why));
                self.handshake = self.handshake.done(Step::Close);
                self.store.write(Tx::NONE, node::STATE, &self.handshake.own().value())?;
                Ok(Next::Again)
            }
        }
    }

    fn part(&mut self, why: Option<Ended>) {
        if let Some(Rings { requests, answers }) = self.rings.take() {
            // The driver may sleep in either ring.
            let _: (Wake, Wake) = (requests.close(), answers.close());
            self.platform.notify();
        }
        self.platform.tell(Event::Parted { why, counts: self.service.counts() });
        self.service.end();
    }

    /// Writes all nodes of an offer, together with the state that tells of it.
    fn publish(&mut self, offer: &Offer) -> Result<(), Fatal> {
        let nodes = [
            (node::VERSION, u64::from(VERSION)),
            (node::COPIES, self.service.capacity() as u64),
            (node::PAGES, offer.pages as u64),
            (node::REQUEST_REF, offer.request.0.into()),
            (node::ANSWER_REF, offer.answer.0.into()),
            (node::PORT, offer.port.into()),
            (node::STATE, State::Initialised as u64),
        ];
        for _ in 0..TRIES {
            let tx = self.store.begin()?;
            for (path, number) in nodes {
                let mut text = String::<20>::new();
                // Twenty digits hold any number.
                let _ = write!(text, "{number}");
                self.store.write(tx, path, text.as_bytes())?;
            }
            match self.store.commit(tx) {
                Err(StoreError::Refused(Refusal::Again)) => {}
                done => return Ok(done?),
            }
        }
        Err(StoreError::Refused(Refusal::Again).into())
    }

    fn value(&mut self, path: &str) -> Result<Option<State>, StoreError> {
        match self.store.read(Tx::NONE, path) {
            Ok(value) => Ok(State::from_value(value)),
            Err(StoreError::Refused(Refusal::NoEntry)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the toolstack wants the domain to end; if so, tells that it will.
    fn is_asked_to_end(&mut self) -> Result<bool, StoreError> {
        let asked = match self.store.read(Tx::NONE, node::SHUTDOWN) {
            Ok(value) => matches!(value, b"poweroff" | b"halt"),
            Err(StoreError::Refused(Refusal::NoEntry)) => false,
            Err(error) => return Err(error),
        };
        if asked {
            self.store.write(Tx::NONE, node::SHUTDOWN, b"")?;
        }
        Ok(asked)
    }
}

/// Whether a watch of ours has fired.
const fn is_news(fired: Fired) -> bool {
    fired.has(DRIVER) || fired.has(SHUTDOWN)
}

/// What the loop does next.
enum Next {
    /// Looks again.
    Again,
    /// Sleeps until it is woken.
    Sleep,
    /// Sleeps for a short time.
    Later,
}

/// Handles all requests that there are.
fn serve<M: Memory, O: Output<Error = Ended> + Publish>(
    requests: &mut Consumer<M>,
    service: &mut Service<'_>,
    request: &mut [u8],
    out: &mut O,
) -> Result<(), Ended> {
    let mut held = 0;
    loop {
        match requests.next().map_err(Ended::Ring)? {
            Some(record) => {
                // The copy is what is parsed; the driver may change the record at any time.
                let bytes = record.copy_to(request).ok_or(Ended::TooLong)?;
                service.handle(bytes, out).map_err(|failure| match failure {
                    Failure::Request(error) => Ended::Request(error),
                    Failure::Output(error) => error,
                })?;
                held += 1;
                if held % RELEASE == 0 {
                    out.wake(requests.release());
                    out.publish();
                }
            }
            None => {
                service.idle(out)?;
                if let Some(copies) = service.take_begun() {
                    out.tell(Event::Begun { copies });
                }
                out.messages()?;
                out.publish();
                let wait = requests.wait().map_err(Ended::Ring)?;
                out.wake(wait.wake);
                if wait.sleep {
                    return Ok(());
                }
            }
        }
    }
}

/// Shows answers to the driver, and tells of the work.
trait Publish {
    fn publish(&mut self);
    fn wake(&mut self, wake: Wake);
    fn tell(&mut self, event: Event);
    /// Hands over messages for the driver's log, as far as no answer would have to wait for their room.
    fn messages(&mut self) -> Result<(), Ended>;
}

/// The ring of answers, with what is needed to wait for room in it.
struct Answers<'s, P: Platform, S, L> {
    ring: &'s mut Producer<P::Memory>,
    platform: &'s mut P,
    store: &'s mut Store<S, L>,
    fired: &'s mut Fired,
}

impl<P: Platform, S: Shared, L: Line> Publish for Answers<'_, P, S, L> {
    fn publish(&mut self) {
        let wake = self.ring.publish();
        self.wake(wake);
    }

    fn wake(&mut self, wake: Wake) {
        if wake.peer() {
            self.platform.notify();
        }
    }

    fn tell(&mut self, event: Event) {
        self.platform.tell(event);
    }

    fn messages(&mut self) -> Result<(), Ended> {
        // Room for the longest answer is left, or the message waits here.
        while self.ring.reserve(MAX_ANSWER).map_err(ended)?.is_some()
            && let Some(message) = self.platform.message()
        {
            self.answer(&[&Answer::Message.head(), &message])?;
        }
        Ok(())
    }
}

/// Why the ring has no room for an answer, now or ever.
fn ended(error: ReserveError) -> Ended {
    match error {
        ReserveError::Ended(error) => Ended::Ring(error),
        ReserveError::TooLong { .. } => Ended::TooLong,
    }
}

impl<P: Platform, S: Shared, L: Line> Output for Answers<'_, P, S, L> {
    type Error = Ended;

    fn answer(&mut self, parts: &[&[u8]]) -> Result<(), Ended> {
        let len = parts.iter().map(|part| part.len()).sum();
        loop {
            if let Some(mut room) = self.ring.reserve(len).map_err(ended)? {
                let mut at = 0;
                for part in parts {
                    room.write_at(at, part).map_err(|_| Ended::TooLong)?;
                    at += part.len();
                }
                room.commit();
                return Ok(());
            }
            let wait = self.ring.wait(len).map_err(ended)?;
            self.wake(wait.wake);
            if wait.sleep {
                // A driver that is gone gives no room: its state in xenstore, or the toolstack, ends the wait.
                self.fired.add(self.store.fired().map_err(Ended::Store)?);
                if is_news(*self.fired) {
                    return Err(Ended::Interrupted);
                }
                self.platform.wait(None);
            }
        }
    }
}
