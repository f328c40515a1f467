//! The protected guest: a stack with the service on it.
//!
//! Sockets cannot be copied, so a checkpoint is a number of steps: the guest is deterministic, and doing the same steps
//! with the same packets at the same times makes the same guest.

use super::app::{Request, Service};
use super::stack::{Setup, Stack};
use super::{MS, Nanos};
use crate::sim::mix;
use llm_core::flow::{Packet, VNET_HEADER, flags};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{self, State};
use smoltcp::wire::IpAddress;
use std::collections::VecDeque;
use std::rc::Rc;

/// Port of the service.
pub(super) const PORT: u16 = 80;
/// Last byte of the guest's address.
pub(super) const ADDRESS: u8 = 1;
const SOCKETS: usize = 20;
/// Room for all that a client may have asked without a reply: what does not fit into the window would be dropped once and
/// taken in another time, and come in another order.
const BUFFER: usize = 16_384;

pub(super) type Bytes = Rc<[u8]>;

/// One run of the guest: when, by its own clock, and what it took out of its ring.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) clock: Nanos,
    pub(super) ring: Vec<Bytes>,
}

/// How the guest is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Build {
    pub(super) setup: Setup,
    pub(super) reply_max: u64,
    /// A request takes up to so long.
    pub(super) work_max: Nanos,
}

struct Slot {
    handle: SocketHandle,
    /// Which connection of this socket it is.
    life: u32,
    stream: VecDeque<u8>,
    out: VecDeque<u8>,
    /// Requests not answered yet.
    open: usize,
}

pub(super) struct Guest {
    build: Build,
    pub(super) stack: Stack,
    slots: Vec<Slot>,
    pub(super) service: Service,
    work: VecDeque<(usize, u32, Request)>,
    busy_until: Nanos,
    pub(super) steps: Vec<Step>,
    /// Something came that no client sends.
    pub(super) garbled: Option<String>,
}

impl Guest {
    pub(super) fn new(build: Build) -> Self {
        let mut stack = Stack::new(build.setup);
        let slots = (0..SOCKETS)
            .map(|_| {
                let handle = stack.add_socket(BUFFER);
                stack.listen(handle, PORT);
                Slot { handle, life: 0, stream: VecDeque::new(), out: VecDeque::new(), open: 0 }
            })
            .collect();
        let service = Service::new(build.reply_max);
        let (work, steps) = (VecDeque::new(), Vec::new());
        Self { build, stack, slots, service, work, busy_until: 0, steps, garbled: None }
    }

    /// The guest as it was after these steps.
    pub(super) fn restore(build: Build, steps: &[Step]) -> Self {
        let mut guest = Self::new(build);
        for step in steps {
            guest.step(step.clone());
        }
        guest
    }

    /// Runs once. What it sends.
    pub(super) fn step(&mut self, step: Step) -> Vec<Vec<u8>> {
        let clock = step.clock;
        let mut challenges = Vec::new();
        for packet in &step.ring {
            // One by one: what came first is worked on first.
            if self.knows_the_opener(packet) {
                challenges.extend(self.stack.nic.challenge(packet, clock));
                continue;
            }
            self.stack.receive(packet, clock);
            self.read(clock);
        }
        self.steps.push(step);
        while let Some((slot, life, request)) =
            self.work.front().copied().filter(|_| self.busy_until <= clock)
        {
            self.work.pop_front();
            let reply = self.service.answer(&request).bytes();
            let slot = &mut self.slots[slot];
            if slot.life == life {
                slot.out.extend(reply);
                slot.open -= 1;
            }
            self.begin_work(clock);
        }
        for at in 0..self.slots.len() {
            self.write(at);
        }
        let mut sent = self.stack.send(clock);
        sent.append(&mut challenges);
        for at in 0..self.slots.len() {
            self.recycle(at);
        }
        sent
    }

    /// Whether it is a SYN for a connection that is there already. smoltcp could give it to another socket.
    fn knows_the_opener(&self, packet: &[u8]) -> bool {
        let Some(parsed) = Packet::parse(&packet[VNET_HEADER..]) else { return false };
        let Some(segment) = parsed.segment().filter(|segment| segment.flags == flags::SYN) else {
            return false;
        };
        self.slots.iter().any(|slot| {
            let socket = self.stack.sockets.get::<tcp::Socket<'_>>(slot.handle);
            let remote = socket.remote_endpoint().map(|remote| {
                let IpAddress::Ipv4(address) = remote.addr;
                (address.to_ipv6_mapped().octets(), remote.port)
            });
            socket.state() != State::Closed && remote == Some((parsed.source, segment.source))
        })
    }

    fn begin_work(&mut self, clock: Nanos) {
        if let Some((.., request)) = self.work.front() {
            let word = u64::from(request.client) << 32 | u64::from(request.id);
            // Mostly quick, now and then slow.
            let long = mix(word).is_multiple_of(8);
            let time = mix(word ^ 7) % self.build.work_max;
            self.busy_until = clock + if long { time } else { time / 16 };
        }
    }

    fn read(&mut self, clock: Nanos) {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            let socket = self.stack.sockets.get_mut::<tcp::Socket<'_>>(slot.handle);
            if !socket.can_recv() {
                continue;
            }
            let _ = socket.recv(|bytes| {
                slot.stream.extend(&*bytes);
                (bytes.len(), ())
            });
            // The buffer is a ring: the rest may be at its front.
            let _ = socket.recv(|bytes| {
                slot.stream.extend(&*bytes);
                (bytes.len(), ())
            });
            let life = slot.life;
            loop {
                let slot = &mut self.slots[at];
                let request = match Request::take(&mut slot.stream) {
                    Ok(Some(request)) => request,
                    Ok(None) => break,
                    Err(text) => {
                        slot.stream.clear();
                        self.garbled.get_or_insert(text);
                        break;
                    }
                };
                slot.open += 1;
                self.work.push_back((at, life, request));
                if self.work.len() == 1 {
                    self.begin_work(clock);
                }
            }
        }
    }

    fn write(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        let socket = self.stack.sockets.get_mut::<tcp::Socket<'_>>(slot.handle);
        while !slot.out.is_empty() && socket.can_send() {
            let sent = socket.send_slice(slot.out.make_contiguous()).unwrap_or(0);
            slot.out.drain(..sent);
        }
        if socket.state() == State::CloseWait && slot.out.is_empty() && slot.open == 0 {
            socket.close();
        }
    }

    /// A socket whose connection is over waits for another one.
    fn recycle(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        let socket = self.stack.sockets.get_mut::<tcp::Socket<'_>>(slot.handle);
        if socket.state() == State::Closed {
            slot.life += 1;
            slot.stream.clear();
            slot.out.clear();
            slot.open = 0;
            let handle = slot.handle;
            self.stack.listen(handle, PORT);
        }
    }

    /// When it wants to run although nothing comes, by its own clock.
    pub(super) fn wake_at(&mut self, clock: Nanos) -> Option<Nanos> {
        let work = (!self.work.is_empty()).then_some(self.busy_until);
        let at = [self.stack.wake_at(clock), work].into_iter().flatten().min();
        at.map(|at| at.max(clock + MS / 10))
    }
}
