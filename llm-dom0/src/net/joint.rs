//! The joint between a guest's vif and its bridge.

use super::bridge::{self, HOLDING_BRIDGE};
use super::error::{NEEDS_ROOT, NetError, check_name};
use super::hold::Limits;
use super::lanes::Lanes;
use super::learn::{Learnt, MacAddr};
use super::netlink::{Link, Netlink};
use super::pump::{Mark, Pump};
use super::recorder::Recorder;
use super::stats::{Counters, JointStats};
use super::sys::{PacketSocket, Tap};
use super::translations::Former;
use llm_core::time::Instant;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Which interfaces to join, and how much to hold.
#[derive(Clone, Debug)]
pub struct JointConfig {
    /// The guest's interface, `vif5.0` for instance. It is on the bridge, or isolated, or on no bridge.
    pub vif: String,
    /// The bridge that the guest belongs to.
    pub bridge: String,
    /// Name for the TAP, which must not exist yet: 15 bytes at most.
    pub tap: String,
    /// The guest's MAC address, if known; it keeps strangers behind the vif out of what is learnt.
    pub mac: Option<MacAddr>,
    /// Held bytes at which [`NetEvent::Pressure`] is reported. At twice as many, packets are dropped.
    pub soft_bytes: usize,
}

/// What a joint reports, from its own thread.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetEvent {
    /// The hold has reached the soft limit: checkpoint early. Once, until it has fallen below half of that limit.
    Pressure {
        /// Bytes held.
        held: usize,
    },
    /// The hold has fallen below half of the soft limit after [`Self::Pressure`].
    Relieved,
    /// The hold is full and the guest's packets are dropped. Once, until [`Self::Relieved`].
    Dropping,
    /// Packets were due and the lease was over. Once, until it is renewed.
    LeaseOver,
    /// The guest showed a new address: [`Joint::addresses`] has changed.
    AddressesChanged,
    /// The vif is down. The joint goes on once it is up.
    VifDown,
    /// The vif does not exist any more: the domain ended. Held packets are still released.
    VifGone,
    /// The joint has stopped by an error, and the guest is isolated.
    Failed {
        /// What happened.
        reason: String,
    },
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    No = 0,
    Isolate = 1,
    Rejoin = 2,
}

/// What the handle and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) vif_socket: PacketSocket,
    pub(super) counters: Counters,
    pub(super) addresses: Mutex<(Option<MacAddr>, Vec<Learnt>)>,
    limit: AtomicU64,
    log_limit: AtomicU64,
    lease_until: AtomicU64,
    lease_awaited: AtomicBool,
    log_awaited: AtomicBool,
    stop: AtomicU8,
    wake: OwnedFd,
}

/// Lets logged packets of a joint go.
#[derive(Clone, Debug)]
pub struct Releaser(Arc<Shared>);

impl Releaser {
    /// The backup has the log up to the number before `limit`: packets with lower numbers may leave, under the lease.
    pub fn acknowledge(&self, limit: u64) {
        self.0.log_limit.fetch_max(limit, Ordering::SeqCst);
        if self.0.log_awaited.load(Ordering::SeqCst) {
            self.0.wake();
        }
    }
}

/// A joined vif. Dropping it isolates the guest.
#[derive(Debug)]
pub struct Joint {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), NetError>>>,
}

impl Joint {
    /// Takes the vif off the bridge and joins the two, in the caller's network namespace. Nothing leaves until both
    /// [`Self::release`] and [`Self::lease`] allow it; what comes in goes to the guest at once.
    ///
    /// `mark` is called after every batch of packets read from the guest and gives the epoch that they belong to at the latest:
    /// its answer must never be lower than the epoch in which the guest may have sent what can be read by then. `events`
    /// gets what happens. Both are called by the joint's thread and must not wait.
    ///
    /// With a `recorder`, what goes in is logged, and what comes out and waits for the log may also leave by [`Releaser::acknowledge`].
    ///
    /// On an error the vif is back on the bridge if it was there.
    ///
    /// # Errors
    /// Names that do not exist or do not fit each other, or a failed system call; see [`NetError`].
    pub fn start(
        config: &JointConfig,
        recorder: Option<Box<dyn Recorder>>,
        mark: impl Fn() -> u64 + Send + 'static,
        events: impl FnMut(NetEvent) + Send + 'static,
    ) -> Result<Self, NetError> {
        Self::start_after(Former::default(), config, recorder, mark, events)
    }

    /// As [`Self::start`], of a vif that somebody else passes packets of until now, and with the translations of that one.
    ///
    /// # Errors
    /// As [`Self::start`], or the former one does not let go.
    pub fn start_after(
        former: Former<'_>,
        config: &JointConfig,
        recorder: Option<Box<dyn Recorder>>,
        mark: impl Fn() -> u64 + Send + 'static,
        events: impl FnMut(NetEvent) + Send + 'static,
    ) -> Result<Self, NetError> {
        check_name(&config.tap)?;
        let mut nl = bridge::open()?;
        let vif = bridge::find(&mut nl, &config.vif)?;
        let bridge = bridge::find_bridge(&mut nl, &config.bridge)?;
        check_position(&mut nl, &vif, &bridge)?;

        let failed = |what: &str, e| NetError::system(format!("{what} {}", config.vif), NEEDS_ROOT, e);
        let vif_socket =
            PacketSocket::tap().map_err(|e| failed("open a packet socket (Linux 4.20 or later) for", e))?;
        let tap = Tap::create(&config.tap).map_err(|e| {
            let hint =
                "load the kernel module `tun`, run as root, and see that no other driver has this domain";
            NetError::system(format!("make the TAP {} for {}", config.tap, config.vif), hint, e)
        })?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| failed("make an eventfd for", e.into()))?;
        let tap_link = bridge::find(&mut nl, &config.tap)?;
        bridge::set_up_tap(&mut nl, &tap_link, vif.mtu, &bridge)?;
        let holder = bridge::holding_bridge(&mut nl)?;

        let shared = Arc::new(Shared {
            vif_socket,
            counters: Counters::default(),
            addresses: Mutex::new((config.mac, Vec::new())),
            limit: AtomicU64::new(0),
            log_limit: AtomicU64::new(0),
            lease_until: AtomicU64::new(0),
            lease_awaited: AtomicBool::new(false),
            log_awaited: AtomicBool::new(false),
            stop: AtomicU8::new(Stop::No as u8),
            wake,
        });
        let pump = Pump::new(
            Arc::clone(&shared),
            tap,
            config,
            vif.index,
            Lanes::new(recorder, former.translations),
            Mark(Box::new(mark)),
            Box::new(events),
        )
        .map_err(|e| failed("make an epoll set for", e))?;
        // Read before the vif leaves the bridge: a packet seen by both is a duplicate, one seen by neither a loss.
        shared.vif_socket.attach(vif.index).map_err(|e| failed("read packets of", e))?;
        let was_held = (former.let_go)()?;
        // Only now it is certain where the vif is.
        let vif = bridge::find(&mut nl, &config.vif)?;
        let moved = bridge::enslave(&mut nl, &vif, &holder);
        let spawned = moved.and_then(|()| {
            let name = format!("net-{}", config.vif);
            thread::Builder::new()
                .name(name)
                .spawn(move || pump.run())
                .map_err(|e| failed("start a thread for", e))
        });
        match spawned {
            Ok(thread) => Ok(Self { shared, thread: Some(thread) }),
            Err(error) => {
                if was_held || vif.master == Some(bridge.index) {
                    bridge::enslave(&mut nl, &vif, &bridge)?;
                }
                Err(error)
            }
        }
    }

    /// Lets every packet go whose mark is below `limit`, now and later. `u64::MAX` lets everything through; a lower limit
    /// than before holds again from now on.
    pub fn release(&self, limit: u64) {
        self.shared.limit.store(limit, Ordering::SeqCst);
        self.shared.wake();
    }

    /// Lets packets go only before `until` on [`clock::now`](crate::clock::now). `u64::MAX` nanoseconds is for ever.
    pub fn lease(&self, until: Instant) {
        self.shared.lease_until.store(until.as_nanos(), Ordering::SeqCst);
        if self.shared.lease_awaited.load(Ordering::SeqCst) {
            self.shared.wake();
        }
    }

    /// For acknowledgements of the log, from any thread.
    #[must_use]
    pub fn releaser(&self) -> Releaser {
        Releaser(Arc::clone(&self.shared))
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> JointStats {
        self.shared.stats()
    }

    /// The guest's MAC address, if known, and those of its addresses that a backup should announce.
    #[must_use]
    pub fn addresses(&self) -> (Option<MacAddr>, Vec<Learnt>) {
        self.shared.addresses.lock().map(|a| a.clone()).unwrap_or_default()
    }

    /// Ends the joint. With `rejoin`, what limit and lease permit is sent, the vif returns to the bridge and the guest is on the network
    /// without the driver; otherwise it stays isolated. Packets still held are lost either way.
    ///
    /// # Errors
    /// The joint had failed, or the vif could not be moved: the guest is isolated then.
    pub fn stop(mut self, rejoin: bool) -> Result<JointStats, NetError> {
        self.end(if rejoin { Stop::Rejoin } else { Stop::Isolate })?;
        Ok(self.stats())
    }

    fn end(&mut self, how: Stop) -> Result<(), NetError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.stop.store(how as u8, Ordering::SeqCst);
        self.shared.wake();
        // A panic of the thread aborts the process; under a test's unwinding it is passed on.
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Joint {
    fn drop(&mut self) {
        if let Err(error) = self.end(Stop::Isolate) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a joint had failed before it was dropped"
            );
        }
    }
}

impl Shared {
    pub(super) fn limits(&self) -> Limits {
        Limits { mark: self.limit.load(Ordering::SeqCst), lsn: self.log_limit.load(Ordering::SeqCst) }
    }

    /// The lease is running.
    pub(super) fn may_send(&self) -> bool {
        crate::clock::now().as_nanos() < self.lease_until.load(Ordering::SeqCst)
    }

    /// Asks [`Joint::lease`] to wake the thread, and then looks again, so that no renewal in between is missed.
    pub(super) fn await_lease(&self) -> bool {
        self.lease_awaited.store(true, Ordering::SeqCst);
        self.may_send()
    }

    /// Whether [`Releaser::acknowledge`] has to wake the thread, which looks at the log's state once more after this.
    pub(super) fn await_log(&self, awaited: bool) {
        self.log_awaited.store(awaited, Ordering::SeqCst);
    }

    pub(super) fn lease_found(&self) {
        self.lease_awaited.store(false, Ordering::SeqCst);
    }

    pub(super) fn stop(&self) -> Stop {
        match self.stop.load(Ordering::SeqCst) {
            0 => Stop::No,
            2 => Stop::Rejoin,
            _ => Stop::Isolate,
        }
    }

    pub(super) fn wake_fd(&self) -> &OwnedFd {
        &self.wake
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the thread is awake already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub(super) fn clear_wake(&self) -> io::Result<()> {
        match rustix::io::read(&self.wake, &mut [0_u8; 8]) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn stats(&self) -> JointStats {
        self.counters.dropped_socket.fetch_add(self.vif_socket.take_drops(), Ordering::Relaxed);
        self.counters.snapshot()
    }
}

/// The vif is on the bridge, isolated or free, and nothing of its port would be lost.
fn check_position(nl: &mut Netlink, vif: &Link, bridge: &Link) -> Result<(), NetError> {
    if bridge.vlan_filtering {
        return Err(NetError::VlanFiltering { bridge: bridge.name.clone() });
    }
    match bridge::master_of(nl, vif)? {
        Some(m) if m.index != bridge.index && m.name != HOLDING_BRIDGE => {
            Err(NetError::OtherBridge { vif: vif.name.clone(), wanted: bridge.name.clone(), actual: m.name })
        }
        _ => Ok(()),
    }
}
