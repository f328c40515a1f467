//! Proof at boot, in the first domain of a host, that what a driver will use works: memory, time, events, grants, and
//! the service over its rings. This domain is its own peer, so nothing else is needed.

use crate::arch::event::{self, Port};
use crate::arch::grant;
use crate::arch::hypercall::Refused;
use crate::arch::machine::Machine;
use crate::arch::ring::RingPages;
use crate::arena::Arena;
use crate::grants::{GrantError, Grants};
use crate::kernel;
use crate::service::{Failure as ServiceFailure, Output, Service};
use crate::wait::{self, MS};
use core::fmt;
use llm_core::frame::{HEADER, Header};
use llm_core::page::PAGE;
use llm_core::ring::{self, Consumer, Mapped, Memory, Producer};
use llm_core::service::{Answer, Begin, FRAME_HEAD, MAX_ANSWER, MAX_REQUEST, Request};

/// The first domain's number.
const OWN: u16 = 0;
/// Pages that are encoded.
const PAGES: u64 = 32;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Pages mapped and tried.
    pages: usize,
    /// Nanoseconds slept when ten milliseconds were asked for.
    slept: u64,
    /// Frames that the service made of [`PAGES`] pages sent twice.
    frames: u32,
    /// Bytes of them.
    bytes: usize,
    /// Nanoseconds for each page.
    each: u64,
    /// Copies of pages that a service would have room for.
    copies: usize,
}

impl Report {
    /// Copies of pages that a service would have room for.
    #[must_use]
    pub const fn copies(&self) -> usize {
        self.copies
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pages, slept, frames, bytes, each, .. } = self;
        write!(f, "{pages} pages hold what is written, 10 ms of sleep took {} us, ", slept / 1000)?;
        write!(
            f,
            "event and grant came through, {PAGES} pages twice became {frames} frames of {bytes} bytes, "
        )?;
        write!(f, "{each} ns each")
    }
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Xen refused a hypercall.
    Refused(&'static str, Refused),
    /// A page was not granted.
    Grant(GrantError),
    /// Something else than expected.
    Wrong(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(what, error) => write!(f, "{what}: {error}"),
            Self::Grant(error) => error.fmt(f),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl core::error::Error for Failure {}

fn check(right: bool, what: &'static str) -> Result<(), Failure> {
    if right { Ok(()) } else { Err(Failure::Wrong(what)) }
}

/// Tries all of it.
///
/// # Errors
/// [`Failure`] names the first step that went wrong.
pub fn run(machine: Machine) -> Result<Report, Failure> {
    let Machine { grants, frames, mut arena, .. } = machine;
    let pages = arena.left();
    try_memory(&mut arena)?;
    let slept = try_events()?;

    let mut grants = Grants::new(grants);
    let wrong = Failure::Wrong("no memory for the rings");
    let (request, answer) = (kernel::ring(&mut arena).ok_or(wrong)?, kernel::ring(&mut arena).ok_or(wrong)?);
    let frame = |ring: &RingPages| frames.get(ring.pages().start).unwrap_or(u64::MAX);
    let refs = grants.grant(OWN, [frame(&request), frame(&answer)]).map_err(Failure::Grant)?;
    let attach = |_| Failure::Wrong("a ring's pages are no ring");
    ring::format(&request.memory()).map_err(attach)?;
    let refused = |error| Failure::Refused("copying between granted pages", error);
    let second = crate::grants::Ref(refs.0 + 1);
    // The copy makes a ring of the second one as well.
    grant::copy_own(refs, second, PAGE as u16).map_err(refused)?;
    check(Consumer::attach(answer.memory(), MAX_ANSWER).is_ok(), "a granted page was not copied")?;
    check(grants.end(refs, 2), "grants could not be ended")?;
    let gone = grant::copy_own(refs, second, PAGE as u16).is_err();
    check(gone, "a page was copied although its grant had ended")?;

    let (service, buffer) = kernel::service(&mut arena).ok_or(wrong)?;
    let copies = service.capacity();
    ring::format(&answer.memory()).map_err(attach)?;
    let start = wait::now();
    let (frames, bytes) = try_service(service, buffer, &request, &answer)?;
    let each = (wait::now() - start) / (2 * PAGES);
    Ok(Report { pages, slept, frames, bytes, each, copies })
}

/// Writes to each page, then reads all of them.
fn try_memory(arena: &mut Arena) -> Result<(), Failure> {
    let pages = arena.take(arena.left()).unwrap_or_default();
    for (number, page) in pages.iter_mut().enumerate() {
        page.0[..8].copy_from_slice(&number.to_le_bytes());
        page.0[PAGE - 1] = 0xa5;
    }
    let mut numbers = pages.iter().enumerate();
    let right = numbers.all(|(number, page)| page.0[..8] == number.to_le_bytes() && page.0[PAGE - 1] == 0xa5);
    *arena = Arena::new(pages);
    check(right, "a page of memory does not hold what is written")
}

/// Sends an event from one port of this domain to another; returns how long a sleep without an event takes.
fn try_events() -> Result<u64, Failure> {
    let step = |what| move |error| Failure::Refused(what, error);
    let near = event::alloc_unbound(crate::abi::SELF).map_err(step("making an event channel"))?;
    let far = event::bind_interdomain(crate::abi::SELF, near).map_err(step("binding an event channel"))?;
    // Both ends are pending from being bound, or not: either way they are clear behind this.
    wait::take(&[near, far]);
    let poll = |ports: &[Port], ms| wait::wait(ports, wait::now() + ms * MS).map_err(step("polling"));
    let start = wait::now();
    check(!poll(&[near], 10)?, "an event came that nobody sent")?;
    let slept = wait::now() - start;
    check(slept >= 10 * MS, "polling ended before its deadline")?;
    event::send(far).map_err(step("sending an event"))?;
    check(poll(&[far, near], 1000)?, "an event was lost")?;
    check(!wait::take(&[near, far]), "an event came twice")?;
    event::close(far).map_err(step("closing an event channel"))?;
    event::close(near).map_err(step("closing an event channel"))?;
    Ok(slept)
}

/// The ring of answers, which is never full here.
struct Answers(Producer<Mapped<()>>);

impl Output for Answers {
    type Error = Failure;

    fn answer(&mut self, parts: &[&[u8]]) -> Result<(), Failure> {
        put(&mut self.0, parts)
    }
}

fn put<M: Memory>(ring: &mut Producer<M>, parts: &[&[u8]]) -> Result<(), Failure> {
    let wrong = Failure::Wrong("a ring has no room");
    let len = parts.iter().map(|part| part.len()).sum();
    let mut room = ring.reserve(len).map_err(|_| wrong)?.ok_or(wrong)?;
    let mut at = 0;
    for part in parts {
        room.write_at(at, part).map_err(|_| wrong)?;
        at += part.len();
    }
    room.commit();
    let _ = ring.publish();
    Ok(())
}

/// Sends pages through both rings twice, the second time with a byte changed; returns frames and their bytes.
fn try_service(
    mut service: Service<'_>,
    buffer: &mut [u8],
    request: &RingPages,
    answer: &RingPages,
) -> Result<(u32, usize), Failure> {
    let attach = |_| Failure::Wrong("a ring could not be attached");
    let mut driver = Producer::attach(request.memory(), MAX_REQUEST).map_err(attach)?;
    let mut requests = Consumer::attach(request.memory(), MAX_REQUEST).map_err(attach)?;
    let mut answers = Answers(Producer::attach(answer.memory(), MAX_ANSWER).map_err(attach)?);
    let mut frames = Consumer::attach(answer.memory(), MAX_ANSWER).map_err(attach)?;
    let wrong = Failure::Wrong("a request could not be sent");
    let mut written = [0; 2 * PAGE];
    let mut ask = |request: Request<'_>| {
        put(&mut driver, &[request.write(&mut written).ok_or(wrong)?])?;
        let record = requests.next().ok().flatten().ok_or(wrong)?;
        let bytes = record.copy_to(buffer).ok_or(wrong)?;
        service.handle(bytes, &mut answers).map_err(|failure| match failure {
            ServiceFailure::Request(_) => Failure::Wrong("a request was not understood"),
            ServiceFailure::Output(failure) => failure,
        })?;
        let _ = requests.release();
        Ok(())
    };
    ask(Request::Begin(Begin { copies: u32::MAX, batch_seq: 1, log_seq: 1, lsn: 1 }))?;
    let mut page = [0; PAGE];
    for round in 0..2 {
        for pfn in 0..PAGES {
            // Noise, so that the first round goes out as it is and the second as differences.
            let mut state = pfn + 1;
            page.fill_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            });
            page[100] ^= round;
            ask(Request::Page { pfn, page: &page })?;
        }
    }
    ask(Request::Flush(7))?;

    let (mut count, mut bytes) = (0, 0);
    while let Some(record) = frames.next().map_err(|_| Failure::Wrong("the ring of answers has ended"))? {
        let mut head = [0; FRAME_HEAD + HEADER];
        record.read_at(0, &mut head);
        let kind = head.first_chunk().copied().and_then(Answer::from_head);
        if kind == Some(Answer::Frame) {
            let header = head[FRAME_HEAD..].first_chunk().and_then(Header::parse);
            let header = header.ok_or(Failure::Wrong("a frame has a bad header"))?;
            count += 1;
            check(header.seq == u64::from(count), "a frame has another number")?;
            bytes += record.len() - FRAME_HEAD;
        }
    }
    check(service.counts().pages == 2 * PAGES, "not all pages were encoded")?;
    Ok((count, bytes))
}
