//! The thread of a joint: one epoll set over vif, TAP and commands.

use super::bridge;
use super::error::NetError;
use super::joint::{JointConfig, NetEvent, Shared, Stop};
use super::lanes::Lanes;
use super::learn::AddressBook;
use super::patience::{LOOK, Patience};
use super::stats::{add, set};
use super::sys::{PacketSocket, Received, Tap};
use super::vnet;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

/// Packets a side handles before the other has its turn.
const BUDGET: usize = 256;
/// Bytes that are read from the guest before they are noted and sent on: more would no longer be in the processor's cache then.
const BUDGET_BYTES: usize = 512 * 1024;

const VIF: u64 = 0;
const TAP: u64 = 1;
const WAKE: u64 = 2;
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The closure that gives the epoch of what was read.
pub(super) struct Mark(pub(super) Box<dyn Fn() -> u64 + Send>);

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

/// A packet for the guest that the vif had no room for yet.
#[derive(Debug)]
struct Inbox {
    buf: Box<[u8]>,
    pending: usize,
}

/// The state of the thread.
pub(super) struct Pump {
    shared: Arc<Shared>,
    tap: Tap,
    epoll: OwnedFd,
    hold: Lanes,
    inbox: Inbox,
    book: AddressBook,
    mark: Mark,
    events: Box<dyn FnMut(NetEvent) + Send>,
    vif: String,
    bridge: String,
    vif_index: u32,
    vif_present: bool,
    soft: usize,
    hard: usize,
    pressed: bool,
    dropping: bool,
    lease_over: bool,
    tap_full: bool,
    interest: (EventFlags, EventFlags),
    patience: Patience,
}

impl Pump {
    pub(super) fn new(
        shared: Arc<Shared>,
        tap: Tap,
        config: &JointConfig,
        vif_index: u32,
        lanes: Lanes,
        mark: Mark,
        events: Box<dyn FnMut(NetEvent) + Send>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &shared.vif_socket, EventData::new_u64(VIF), EventFlags::IN)?;
        epoll::add(&epoll, &tap, EventData::new_u64(TAP), EventFlags::IN)?;
        epoll::add(&epoll, shared.wake_fd(), EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Self {
            shared,
            tap,
            epoll,
            hold: lanes,
            inbox: Inbox { buf: vec![0; vnet::SLOT].into_boxed_slice(), pending: 0 },
            book: AddressBook::new(config.mac),
            mark,
            events,
            vif: config.vif.clone(),
            bridge: config.bridge.clone(),
            vif_index,
            vif_present: true,
            soft: config.soft_bytes,
            hard: config.soft_bytes.saturating_mul(2),
            pressed: false,
            dropping: false,
            lease_over: false,
            tap_full: false,
            interest: (EventFlags::IN, EventFlags::IN),
            patience: Patience::new(thread::available_parallelism().map_or(1, usize::from)),
        })
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) -> Result<(), NetError> {
        loop {
            match self.shared.stop() {
                Stop::No => {}
                Stop::Isolate => return Ok(()),
                Stop::Rejoin => return self.rejoin(),
            }
            if let Err(e) = self.turn() {
                let hint = "the guest is isolated; restart its protection, or run `llm release`";
                let error = NetError::system(format!("pass packets of {}", self.vif), hint, e);
                (self.events)(NetEvent::Failed { reason: chain(&error) });
                return Err(error);
            }
        }
    }

    /// Waits for something to do and does a bounded part of it.
    fn turn(&mut self) -> io::Result<()> {
        self.set_interest()?;
        let mut ready = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(WAKE) }; 3];
        let ready_now = self.wait(&mut ready)?;
        let events = ready.get(..ready_now).unwrap_or_default();
        let is_ready = |which| events.iter().any(|e| e.data.u64() == which);
        let (vif, tap, wake) = (is_ready(VIF), is_ready(TAP), is_ready(WAKE));
        if wake {
            self.shared.clear_wake()?;
        }
        if vif {
            self.collect()?;
        }
        self.tap_full &= !tap;
        self.release()?;
        if tap || (vif && self.inbox.pending > 0) {
            self.deliver()?;
        }
        self.flush_log();
        Ok(())
    }

    /// Waits for events, or until something can leave, and says how many there are. What has waited for an acknowledgement is seen
    /// without a wake-up while this thread looks.
    fn wait(&mut self, ready: &mut [epoll::Event]) -> io::Result<usize> {
        let start = Instant::now();
        if self.patience.looks() && !self.log_is_full() {
            self.shared.await_log(false);
            while start.elapsed() < LOOK {
                let found = self.poll(ready, Some(NOW))?;
                if found > 0 || self.due() {
                    self.patience.waited(start.elapsed());
                    return Ok(found);
                }
                // Whoever is waited for may be waiting for this processor.
                thread::yield_now();
            }
        }
        // Before the looks below, so that an acknowledgement is seen by them or wakes.
        self.shared.await_log(self.hold.awaits_log() || self.log_is_full());
        self.set_interest()?;
        // More than a turn's release may be due: then only look, do not wait.
        let found = self.poll(ready, self.due().then_some(NOW))?;
        self.patience.waited(start.elapsed());
        Ok(found)
    }

    /// The number of events there are, or comes after that time; none if a signal came.
    fn poll(&self, ready: &mut [epoll::Event], timeout: Option<Timespec>) -> io::Result<usize> {
        match epoll::wait(&self.epoll, ready, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(0),
            other => other.map_err(io::Error::from),
        }
    }

    /// Something can leave at once.
    fn due(&self) -> bool {
        !self.tap_full && self.hold.front(self.shared.limits()).is_some() && self.shared.may_send()
    }

    fn set_interest(&mut self) -> io::Result<()> {
        let out = |wanted, flags| if wanted { flags | EventFlags::OUT } else { flags };
        let vif = out(self.inbox.pending > 0, EventFlags::IN);
        let stopped = self.inbox.pending > 0 || self.log_is_full();
        let tap_in = if stopped { EventFlags::empty() } else { EventFlags::IN };
        let tap = out(self.tap_full, tap_in);
        if self.vif_present && vif != self.interest.0 {
            epoll::modify(&self.epoll, &self.shared.vif_socket, EventData::new_u64(VIF), vif)?;
        }
        if tap != self.interest.1 {
            epoll::modify(&self.epoll, &self.tap, EventData::new_u64(TAP), tap)?;
        }
        self.interest = (vif, tap);
        Ok(())
    }

    /// Takes what the guest sent into the hold. The mark is asked for after the last packet was
    /// read: asked before, it could be the mark of an epoch that ended in between.
    fn collect(&mut self) -> io::Result<usize> {
        let (mut read, mut bytes) = (0, 0);
        for _ in 0..BUDGET {
            if bytes >= BUDGET_BYTES {
                break;
            }
            let slot = self.hold.slot();
            match self.shared.vif_socket.receive(&mut slot[vnet::TAG..]) {
                Ok(received) => {
                    read += 1;
                    bytes += received.len;
                    self.take(received);
                }
                Err(e) => {
                    if self.read_failed(e)?.is_break() {
                        break;
                    }
                }
            }
        }
        if read > 0 {
            self.hold.stamp((self.mark.0)());
        }
        self.report_fill();
        Ok(read)
    }

    /// Makes a packet of what was read into the slot.
    fn take(&mut self, received: Received) {
        let counters = &self.shared.counters;
        if received.truncated || received.len <= vnet::HEADER {
            add(&counters.dropped_unreadable, 1);
            return;
        }
        let end = vnet::TAG + received.len;
        let slot = self.hold.slot();
        let tagged = received.tag.is_some_and(|tag| vnet::insert_tag(&mut slot[..end], tag));
        let start = if tagged { 0 } else { vnet::TAG };
        let packet = &mut slot[start..end];
        vnet::trim_header_hint(packet);
        add(&counters.egress_packets, 1);
        add(&counters.egress_bytes, packet.len());
        if self.book.observe(&packet[vnet::HEADER..]) {
            if let Ok(mut shared) = self.shared.addresses.lock() {
                *shared = (self.book.mac(), self.book.announceable());
            }
            (self.events)(NetEvent::AddressesChanged);
        }
        if self.hold.bytes() + (end - start) > self.hard {
            add(&counters.dropped_full, 1);
            if !std::mem::replace(&mut self.dropping, true) {
                (self.events)(NetEvent::Dropping);
            }
            return;
        }
        self.hold.push(start, end);
    }

    /// Breaks when there is nothing more to read.
    fn read_failed(&mut self, e: io::Error) -> io::Result<ControlFlow<()>> {
        match e.raw_os_error() {
            Some(libc::EAGAIN) => return Ok(ControlFlow::Break(())),
            Some(libc::EINTR) => {}
            // The packet's offload has no virtio-net form; the kernel has dropped it.
            Some(libc::EINVAL) => add(&self.shared.counters.dropped_unreadable, 1),
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                if bridge::exists(self.vif_index)? {
                    (self.events)(NetEvent::VifDown);
                } else if std::mem::replace(&mut self.vif_present, false) {
                    epoll::delete(&self.epoll, &self.shared.vif_socket)?;
                    (self.events)(NetEvent::VifGone);
                }
                return Ok(ControlFlow::Break(()));
            }
            _ => return Err(e),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Tells of the hold's filling and keeps the gauges.
    fn report_fill(&mut self) {
        let held = self.hold.bytes();
        let counters = &self.shared.counters;
        set(&counters.held_bytes, held);
        set(&counters.held_packets, self.hold.len());
        counters.held_peak_bytes.fetch_max(held as u64, Relaxed);
        if held >= self.soft && !self.pressed {
            self.pressed = true;
            (self.events)(NetEvent::Pressure { held });
        } else if held < self.soft / 2 && self.pressed {
            (self.pressed, self.dropping) = (false, false);
            (self.events)(NetEvent::Relieved);
        }
    }

    /// Sends what limit and lease permit, in order. Both are asked for every packet, so
    /// that a thread that stood still leaks one packet at most.
    fn release(&mut self) -> io::Result<()> {
        let counters = &self.shared.counters;
        for _ in 0..BUDGET {
            let Some((lane, packet)) = self.hold.front(self.shared.limits()) else { break };
            if !self.shared.may_send() && !self.shared.await_lease() {
                add(&counters.lease_waits, usize::from(!self.lease_over));
                if !std::mem::replace(&mut self.lease_over, true) {
                    (self.events)(NetEvent::LeaseOver);
                }
                break;
            }
            if std::mem::replace(&mut self.lease_over, false) {
                self.shared.lease_found();
            }
            match self.tap.send(packet) {
                Ok(()) => {
                    add(&counters.released_packets, 1);
                    add(&counters.released_bytes, packet.len());
                    if !self.shared.may_send() {
                        add(&counters.sent_late, 1);
                    }
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN) => {
                        self.tap_full = true;
                        break;
                    }
                    Some(libc::EBADFD | libc::EBADF) => return Err(e),
                    // A packet that the kernel finds wrong, no memory, or a TAP that somebody took down.
                    _ => add(&counters.dropped_egress, 1),
                },
            }
            self.hold.pop(lane);
        }
        self.report_fill();
        Ok(())
    }

    /// Passes what came in on to the guest.
    fn deliver(&mut self) -> io::Result<()> {
        for _ in 0..BUDGET {
            if self.inbox.pending == 0 {
                if self.log_is_full() {
                    break;
                }
                match self.tap.receive(&mut self.inbox.buf) {
                    Ok(n) => self.inbox.pending = n,
                    Err(e) if e.raw_os_error() == Some(libc::EINTR) => continue,
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EIO)) => break,
                    Err(e) => return Err(e),
                }
                let packet = &mut self.inbox.buf[..self.inbox.pending];
                vnet::trim_header_hint(packet);
                self.hold.take_in(packet);
            }
            if !forward(&self.shared.vif_socket, &self.inbox.buf[..self.inbox.pending], &self.shared) {
                break;
            }
            self.inbox.pending = 0;
        }
        Ok(())
    }

    fn log_is_full(&self) -> bool {
        self.hold.recorder.as_ref().is_some_and(|recorder| recorder.is_full())
    }

    fn flush_log(&mut self) {
        if let Some(recorder) = &mut self.hold.recorder {
            recorder.flush();
        }
    }

    /// Ends with the guest on its bridge. Both sides are looked at once more after the move: a packet that comes in
    /// meanwhile may then pass twice, rather than not at all.
    fn rejoin(&mut self) -> Result<(), NetError> {
        let mut nl = bridge::open()?;
        let vif = bridge::find(&mut nl, &self.vif)?;
        let bridge = bridge::find_bridge(&mut nl, &self.bridge)?;
        self.flush()?;
        bridge::enslave(&mut nl, &vif, &bridge)?;
        self.flush()
    }

    /// Passes on what is there, in both directions, for a bounded number of turns.
    fn flush(&mut self) -> Result<(), NetError> {
        for _ in 0..self.hard / vnet::SLOT + BUDGET {
            let turn =
                self.collect().and_then(|read| self.release().and_then(|()| self.deliver()).map(|()| read));
            let read = turn.map_err(|e| {
                NetError::system(format!("send the last packets of {}", self.vif), "look at its bridge", e)
            })?;
            if read == 0 && !self.due() {
                break;
            }
        }
        Ok(())
    }
}

/// Sends a packet to the guest; false if it has to wait.
fn forward(vif: &PacketSocket, packet: &[u8], shared: &Shared) -> bool {
    match vif.send(packet) {
        Ok(()) => {
            add(&shared.counters.ingress_packets, 1);
            add(&shared.counters.ingress_bytes, packet.len());
            true
        }
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => false,
        // The vif's queue is full, or it is down or gone: what a bridge does is to drop.
        Err(_) => {
            add(&shared.counters.dropped_ingress, 1);
            true
        }
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    text
}
