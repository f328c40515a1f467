//! The server's machine: two rings of this domain's memory, granted to Dom0, and an event channel.

use crate::arch::event::{self, Port};
use crate::arch::memory::Frames;
use crate::arch::page::SharedPage;
use crate::arch::ring::RingPages;
use crate::arena::Arena;
use crate::grants::{Grants, Ref};
use crate::messages::{self, Backlog, Message};
use crate::server::{Event, Offer, Platform};
use crate::service::{Copies, Service};
use crate::store::Line;
use crate::wait::{self, MS};
use core::sync::atomic::Ordering;
use llm_core::ring::{self, Field, Mapped, Memory};
use llm_core::service::{MAX_BATCH, MAX_LOG, MAX_REQUEST};

/// Data pages of each ring: 256 KiB, twice the longest answer and more.
pub const RING_PAGES: usize = 64;

/// The domain that the driver runs in.
pub const DOM0: u16 = 0;

/// An index that no ring can have.
const NONSENSE: u64 = 0x7777_7777_7777_7777;

/// Nanoseconds that xenstore has for each step of a reply.
const STORE_PATIENCE: u64 = 10_000 * MS;

/// The line to xenstore.
#[derive(Debug)]
pub struct StoreLine(pub Port);

impl Line for StoreLine {
    fn notify(&mut self) {
        // A port that Xen does not know was never given: then no reply comes, and that is reported.
        let _ = event::send(self.0);
    }

    fn wait(&mut self) -> bool {
        let deadline = wait::now() + STORE_PATIENCE;
        loop {
            match wait::wait(&[self.0], deadline) {
                Ok(true) => return true,
                Ok(false) if wait::now() < deadline => {}
                _ => return false,
            }
        }
    }
}

/// What is offered now.
#[derive(Debug)]
struct Granted {
    request: Option<Ref>,
    answer: Option<Ref>,
    port: Option<Port>,
}

/// The machine of a domain that a toolstack has made.
#[derive(Debug)]
pub struct Kernel {
    frames: Frames,
    grants: Grants<SharedPage>,
    request: RingPages,
    answer: RingPages,
    store: Port,
    granted: Granted,
    /// Where events go.
    tell: fn(Event),
    /// Notifications until nonsense is written into the ring of answers, if that is wanted.
    until_fault: Option<u32>,
}

/// Buffers and copies of the service, and room for a request, out of `arena`, of which nothing is left. `None` if
/// there is not enough.
pub fn service(arena: &mut Arena) -> Option<(Service<'static>, &'static mut [u8])> {
    let request = arena.take_bytes(MAX_REQUEST)?;
    let batch = arena.take_bytes(MAX_BATCH)?;
    let log = arena.take_bytes(MAX_LOG)?;
    let copies = arena.take(arena.left())?;
    Some((Service::new(Copies::new(copies), batch, log), request))
}

/// Pages for one ring out of `arena`; `None` if there are not enough.
pub fn ring(arena: &mut Arena) -> Option<RingPages> {
    RingPages::new(arena.take(1 + RING_PAGES)?)
}

impl Kernel {
    /// With nothing offered. `store` is xenstore's port.
    #[must_use]
    pub const fn new(
        frames: Frames,
        grants: Grants<SharedPage>,
        (request, answer): (RingPages, RingPages),
        store: Port,
        tell: fn(Event),
    ) -> Self {
        let granted = Granted { request: None, answer: None, port: None };
        Self { frames, grants, request, answer, store, granted, tell, until_fault: None }
    }

    /// Lets the ring of answers go wrong after so many notifications: what a driver must survive.
    #[must_use]
    pub const fn with_ring_fault(self, notifications: u32) -> Self {
        Self { until_fault: Some(notifications), ..self }
    }
}

/// Grants all pages of a ring, and returns the first grant.
fn grant(grants: &mut Grants<SharedPage>, frames: Frames, ring: &RingPages) -> Result<Ref, &'static str> {
    ring::format(&ring.memory()).map_err(|_| "A ring's pages are no ring")?;
    // A page without a frame would be one beyond the domain's last.
    let frames = ring.pages().map(|page| frames.get(page).unwrap_or(u64::MAX));
    grants.grant(DOM0, frames).map_err(|_| "The grant table has no room for the rings")
}

impl Platform for Kernel {
    type Memory = Mapped<()>;

    fn offer(&mut self) -> Result<Offer, &'static str> {
        let request = grant(&mut self.grants, self.frames, &self.request)?;
        self.granted.request = Some(request);
        let answer = grant(&mut self.grants, self.frames, &self.answer)?;
        self.granted.answer = Some(answer);
        let port = event::alloc_unbound(DOM0).map_err(|_| "Xen gives no event channel")?;
        self.granted.port = Some(port);
        Ok(Offer { request, answer, pages: RING_PAGES, port: port.0 })
    }

    fn rings(&mut self) -> (Self::Memory, Self::Memory) {
        (self.request.memory(), self.answer.memory())
    }

    fn retire(&mut self) -> bool {
        let Self { granted, grants, .. } = self;
        if let Some(port) = granted.port.take() {
            // Its bit must not stay for the next channel of that number.
            let _ = event::close(port);
            wait::take(&[port]);
        }
        for (first, count) in [
            (&mut granted.request, self.request.pages().len()),
            (&mut granted.answer, self.answer.pages().len()),
        ] {
            if first.is_some_and(|first| grants.end(first, count)) {
                *first = None;
            }
        }
        granted.request.is_none() && granted.answer.is_none()
    }

    fn notify(&mut self) {
        match &mut self.until_fault {
            Some(0) => self.answer.memory().store(Field::ProducerIndex, NONSENSE, Ordering::Release),
            Some(left) => *left -= 1,
            None => {}
        }
        if let Some(port) = self.granted.port {
            // A driver that has not bound the channel hears nothing, and is not waited for either.
            let _ = event::send(port);
        }
    }

    fn wait(&mut self, ms: Option<u32>) {
        let deadline = ms.map_or(0, |ms| wait::now() + u64::from(ms) * MS);
        let ports = [self.store, self.granted.port.unwrap_or(self.store)];
        // Both ports are this domain's own; were they not, the loop would look again at once.
        let _ = wait::wait(&ports, deadline);
    }

    fn tell(&mut self, event: Event) {
        (self.tell)(event);
    }

    fn message(&mut self) -> Option<Message> {
        let (oldest, lost) = messages::with(|backlog| (backlog.take(), backlog.take_lost()));
        if lost > 0 {
            // There is a place for this now, behind what is older.
            (self.tell)(Event::Lost(lost));
        }
        oldest.or_else(|| messages::with(Backlog::take))
    }
}
