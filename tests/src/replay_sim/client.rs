//! A client: connections one after the other, requests on them, and what it was told.

use super::app::{Reply, Request};
use super::guest;
use super::stack::{Setup, Stack, address};
use super::{MS, Nanos};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use std::collections::VecDeque;

const BUFFER: usize = 4096;
const FIRST_PORT: u16 = 40_000;

/// What is said on one connection.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    /// Time before it.
    pub(super) gap: Nanos,
    pub(super) requests: Vec<Request>,
    /// Requests without a reply yet, at most.
    pub(super) depth: usize,
    /// Time between a reply and the next request.
    pub(super) think: Nanos,
    /// It ends with a reset, with this many requests answered.
    pub(super) abort_at: Option<usize>,
    /// Over the same ports as the one before.
    pub(super) same_port: bool,
}

/// What a client saw.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fact {
    Asked(u32),
    Answered(u16, Reply),
    /// The connection was reset by the other side.
    Reset(u16),
}

/// One connection, as it is remembered to the end.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) port: u16,
    /// Requests, each with the place in the stream behind it.
    pub(super) asked: Vec<(u32, u32)>,
    /// Bytes acknowledged by the service's host.
    pub(super) acknowledged: u32,
}

struct Open {
    handle: SocketHandle,
    talk: Talk,
    sent: usize,
    answered: usize,
    next_at: Nanos,
    out: VecDeque<u8>,
    stream: VecDeque<u8>,
    closing: bool,
}

pub(super) struct Client {
    pub(super) stack: Stack,
    talks: VecDeque<Talk>,
    open: Option<Open>,
    next_at: Nanos,
    port: u16,
    old: Option<SocketHandle>,
    pub(super) accounts: Vec<Account>,
    pub(super) facts: Vec<Fact>,
    /// What came and is no reply.
    pub(super) garbled: Option<String>,
}

fn peer() -> [u8; 16] {
    address(guest::ADDRESS).to_ipv6_mapped().octets()
}

impl Client {
    pub(super) fn new(setup: Setup, talks: Vec<Talk>) -> Self {
        let next_at = talks.first().map_or(0, |talk| talk.gap);
        Self {
            stack: Stack::new(setup),
            talks: talks.into(),
            open: None,
            next_at,
            port: FIRST_PORT,
            old: None,
            accounts: Vec::new(),
            facts: Vec::new(),
            garbled: None,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.open.is_none() && self.talks.is_empty()
    }

    /// Runs once. What it sends.
    pub(super) fn step(&mut self, packet: Option<&[u8]>, now: Nanos) -> Vec<Vec<u8>> {
        if let Some(packet) = packet {
            self.stack.receive(packet, now);
        }
        if self.open.is_none() && now >= self.next_at {
            self.connect();
        }
        if let Some(open) = self.open.take() {
            self.open = self.go_on(open, now);
        }
        self.stack.send(now)
    }

    fn connect(&mut self) {
        let Some(talk) = self.talks.pop_front() else { return };
        match self.old.take() {
            Some(old) if talk.same_port => drop(self.stack.sockets.remove(old)),
            _ => self.port += 1,
        }
        // What was acknowledged of another connection between the same ports does not count for this one.
        self.stack.nic.forget(self.port, peer(), guest::PORT);
        let handle = self.stack.add_socket(BUFFER);
        self.stack.connect(handle, self.port, (address(guest::ADDRESS), guest::PORT));
        self.accounts.push(Account { port: self.port, asked: Vec::new(), acknowledged: 0 });
        self.open = Some(Open {
            handle,
            talk,
            sent: 0,
            answered: 0,
            next_at: 0,
            out: VecDeque::new(),
            stream: VecDeque::new(),
            closing: false,
        });
    }

    /// What is left of the connection.
    fn go_on(&mut self, mut open: Open, now: Nanos) -> Option<Open> {
        let account = self.accounts.last_mut().expect("one for each connection");
        let acknowledged = self.stack.nic.acknowledged(self.port, peer(), guest::PORT);
        account.acknowledged = account.acknowledged.max(acknowledged);
        let socket = self.stack.socket(open.handle);
        while socket.can_recv() {
            let _ = socket.recv(|bytes| {
                open.stream.extend(&*bytes);
                (bytes.len(), ())
            });
        }
        loop {
            match Reply::take(&mut open.stream) {
                Ok(Some(reply)) => {
                    let due = open.talk.requests.get(open.answered);
                    if due.is_none_or(|due| (due.client, due.id) != (reply.client, reply.id)) {
                        self.garbled.get_or_insert_with(|| format!("{reply:?} where {due:?} was due"));
                    }
                    open.answered += 1;
                    open.next_at = now + open.talk.think;
                    self.facts.push(Fact::Answered(self.port, reply));
                }
                Ok(None) => break,
                Err(text) => {
                    self.garbled.get_or_insert(text);
                    break;
                }
            }
        }
        let state = socket.state();
        let ended = match state {
            State::TimeWait => open.closing,
            State::Closed => {
                self.facts.push(Fact::Reset(self.port));
                true
            }
            _ => false,
        };
        if open.talk.abort_at.is_some_and(|at| open.answered >= at) && state == State::Established {
            socket.abort();
            return self.end(open, now);
        }
        if ended {
            return self.end(open, now);
        }
        if state == State::Established {
            let room = open.sent - open.answered < open.talk.depth && now >= open.next_at;
            if let Some(request) = open.talk.requests.get(open.sent).filter(|_| room) {
                open.out.extend(request.bytes());
                open.sent += 1;
                let before = account.asked.last().map_or(0, |(_, end)| *end);
                account.asked.push((request.id, before + u32::from(request.len)));
                self.facts.push(Fact::Asked(request.id));
            }
            while !open.out.is_empty() && socket.can_send() {
                let sent = socket.send_slice(open.out.make_contiguous()).unwrap_or(0);
                open.out.drain(..sent);
            }
            if open.answered == open.talk.requests.len() {
                socket.close();
                open.closing = true;
            }
        }
        Some(open)
    }

    /// The connection is over. What it was not asked is asked on the next one.
    fn end(&mut self, mut open: Open, now: Nanos) -> Option<Open> {
        self.old = Some(open.handle);
        open.talk.requests.drain(..open.sent);
        open.talk.abort_at = None;
        open.talk.same_port = false;
        if !open.talk.requests.is_empty() {
            self.talks.push_front(open.talk);
        }
        self.next_at = now + self.talks.front().map_or(0, |talk| talk.gap);
        None
    }

    /// When it wants to run although nothing comes.
    pub(super) fn wake_at(&mut self, now: Nanos) -> Option<Nanos> {
        let app = match &self.open {
            None if self.talks.is_empty() => None,
            None => Some(self.next_at),
            Some(open) => {
                let asks = open.sent < open.talk.requests.len()
                    && open.sent - open.answered < open.talk.depth
                    && self.stack.sockets.get::<smoltcp::socket::tcp::Socket<'_>>(open.handle).state()
                        == State::Established;
                asks.then_some(open.next_at)
            }
        };
        let at = [self.stack.wake_at(now), app].into_iter().flatten().min();
        at.map(|at| at.max(now + MS / 10))
    }
}
