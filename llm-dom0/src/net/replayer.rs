//! The packet path of a domain that was taken over and has a log to be replayed.
//!
//! The vif hangs on the replay alone until the guest has done again what its clients have seen. Then a TAP takes its
//! place on the bridge, and packets are translated for as long as a connection needs it.

use super::announce::{Announcement, announce_repeatedly};
use super::bridge;
use super::error::NetError;
use super::learn::{Learnt, MacAddr};
use super::permit::Isolated;
use super::sys::{PacketSocket, Tap};
use super::vnet;
use llm_core::replay::{Action, Event, Handed, LogSource, Phase, Replay, Verdict};
use llm_core::time::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// `xl` makes the vif and starts the guest within this time, or never.
const VIF_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks for the vif and its carrier.
const LOOK: Duration = Duration::from_millis(2);
/// Longest sleep: how late a stop is seen.
const TICK: Duration = Duration::from_millis(100);
/// The TAP stays at least this long, until the last announcement of its place is out.
const ANNOUNCING: Duration = Duration::from_secs(5);
/// Room in the guest's ring is waited for this long; what does not fit then is given again later.
const RING: Duration = Duration::from_millis(20);
/// Packets of one side before the other has its turn.
const BUDGET: usize = 256;

/// Which interfaces, and what to announce.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// The domain. Its interface need not be there yet; the hotplug script tells of it ([`Isolated`]).
    pub domain: String,
    /// The run directory of the script.
    pub run_dir: PathBuf,
    /// The guest's hardware address, if known.
    pub mac: Option<MacAddr>,
    /// Its addresses, for the announcement.
    pub addresses: Vec<Learnt>,
}

/// What a replay reports, from its own thread.
#[derive(Clone, Copy, Debug)]
pub enum ReplayNews {
    /// The guest runs and its interface is connected: the replay begins.
    Begun,
    /// The guest talks with its peers.
    Live,
    /// Of the machine.
    Event(Event),
}

/// Tells a replay to end.
#[derive(Debug, Default)]
pub struct Ending(AtomicU8);

impl Ending {
    const REJOIN: u8 = 1;
    const HAND_OVER: u8 = 2;

    /// The vif goes to its bridge, and connections that need a translation break.
    pub fn rejoin(&self) {
        self.0.store(Self::REJOIN, Ordering::Relaxed);
    }

    /// Somebody else goes on with vif and translations, once the guest is live.
    pub fn hand_over(&self) {
        self.0.store(Self::HAND_OVER, Ordering::Relaxed);
    }

    fn rejoins(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::REJOIN
    }

    fn hands_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::HAND_OVER
    }
}

/// A replay on its way.
#[derive(Debug)]
pub struct Replayer<'a, const N: usize, L> {
    config: &'a ReplayConfig,
    place: Isolated,
    tap_name: String,
    machine: &'a mut Replay<N>,
    log: &'a L,
    vif: PacketSocket,
    tap: Tap,
    mtu: u32,
    live: Option<Instant>,
    buf: Box<[u8]>,
    answer: Box<[u8]>,
}

/// Makes the place where a vif is that nobody may hear yet. To be called before `xl` makes the vif.
///
/// # Errors
/// The bridge cannot be made.
pub fn prepare_isolation() -> Result<(), NetError> {
    bridge::holding_bridge(&mut bridge::open()?).map(drop)
}

impl<'a, const N: usize, L: LogSource> Replayer<'a, N, L> {
    /// Waits for the vif, takes it, and waits until the guest has connected to it. `None` if stopped meanwhile.
    ///
    /// # Errors
    /// There is no vif in time, or a system call failed.
    pub fn start(
        config: &'a ReplayConfig,
        machine: &'a mut Replay<N>,
        log: &'a L,
        stop: &Ending,
    ) -> Result<Option<Self>, NetError> {
        let failed = |what: &str, e| {
            NetError::system(format!("{what} domain {}", config.domain), "run as root, and see `xl list`", e)
        };
        let vif = PacketSocket::tap().map_err(|e| failed("open a packet socket for", e))?;
        let Some(place) = wait_for_vif(config, stop)? else { return Ok(None) };
        let link = bridge::find(&mut bridge::open()?, &place.vif)?;
        vif.attach(link.index).map_err(|e| failed("read packets of", e))?;
        let tap_name = tap_name(&place.vif);
        let tap = Tap::create(&tap_name).map_err(|e| failed("make a TAP for", e))?;
        if !wait_for_carrier(&place.vif, stop)? {
            return Ok(None);
        }
        let room = || vec![0; vnet::SLOT].into_boxed_slice();
        let (mtu, buf, answer) = (link.mtu, room(), room());
        Ok(Some(Self { config, place, tap_name, machine, log, vif, tap, mtu, live: None, buf, answer }))
    }

    /// Replays, and then translates until nothing is left to translate or `stop` says so. Afterwards the vif is a port of
    /// its bridge, or, if it is handed over, where it was: then the translations are returned.
    ///
    /// # Errors
    /// A system call failed. The vif may be isolated.
    pub fn run(
        mut self,
        stop: &Ending,
        mut news: impl FnMut(ReplayNews, &Replay<N>),
    ) -> Result<Option<Vec<Handed>>, NetError> {
        let now = crate::clock::now();
        self.machine.start(now);
        news(ReplayNews::Begun, self.machine);
        let mut forget_at = now;
        while !stop.rejoins() && !self.is_done() {
            if self.live.is_some() && stop.hands_over() {
                return self.hand_over().map(Some).map_err(|e| self.failed(e));
            }
            let now = crate::clock::now();
            self.act(now, &mut news)?;
            if self.live.is_some() && now >= forget_at {
                self.machine.forget(now);
                forget_at = now + Duration::from_secs(1);
            }
            self.wait(now).map_err(|e| self.failed(e))?;
            let now = crate::clock::now();
            self.collect(now).map_err(|e| self.failed(e))?;
            self.deliver(now).map_err(|e| self.failed(e))?;
        }
        bridge::rejoin(&self.place.vif, &self.place.bridge)?;
        // What came in by the TAP meanwhile.
        self.collect(crate::clock::now()).map_err(|e| self.failed(e))?;
        self.deliver(crate::clock::now()).map_err(|e| self.failed(e))?;
        Ok(None)
    }

    /// Passes what has come until now, and is done. What comes later is read by who asked for it.
    fn hand_over(&mut self) -> io::Result<Vec<Handed>> {
        self.collect(crate::clock::now())?;
        self.deliver(crate::clock::now())?;
        while let Some(len) = self.machine.part(&mut self.buf) {
            send_to_guest(&self.vif, self.buf.get(..len).unwrap_or_default());
        }
        Ok(self.machine.handed().collect())
    }

    /// Nothing is left to translate, nor to announce.
    fn is_done(&self) -> bool {
        self.machine.is_idle() && self.live.is_some_and(|since| crate::clock::now() >= since + ANNOUNCING)
    }

    fn failed(&self, e: io::Error) -> NetError {
        let hint = "the guest may be isolated: put its vif on its bridge by hand";
        NetError::system(format!("pass packets of {}", self.place.vif), hint, e)
    }

    /// Does all that the machine wants done.
    fn act(&mut self, now: Instant, news: &mut impl FnMut(ReplayNews, &Replay<N>)) -> Result<(), NetError> {
        while let Some(action) = self.machine.poll(self.log, &mut self.buf, now) {
            match action {
                Action::ToGuest(len) => send_to_guest(&self.vif, self.buf.get(..len).unwrap_or_default()),
                Action::ToPeers(len) => {
                    // A reset that gets lost is asked for again by its connection's next packet.
                    let _ = self.tap.send(self.buf.get(..len).unwrap_or_default());
                }
                Action::GoLive => {
                    self.go_live()?;
                    news(ReplayNews::Live, self.machine);
                }
                Action::Event(event) => news(ReplayNews::Event(event), self.machine),
            }
        }
        Ok(())
    }

    fn go_live(&mut self) -> Result<(), NetError> {
        let mut nl = bridge::open()?;
        let tap = bridge::find(&mut nl, &self.tap_name)?;
        let bridge = bridge::find_bridge(&mut nl, &self.place.bridge)?;
        bridge::set_up_tap(&mut nl, &tap, self.mtu, &bridge)?;
        self.live = Some(crate::clock::now());
        if let Some(mac) = self.config.mac {
            let announced = announce_repeatedly(Announcement {
                vif: self.tap_name.clone(),
                bridge: self.place.bridge.clone(),
                mac,
                addresses: self.config.addresses.clone(),
            });
            if let Err(error) = announced {
                tracing::warn!(%error, "the guest could not be announced; it will do so itself");
            }
        }
        Ok(())
    }

    fn wait(&self, now: Instant) -> io::Result<()> {
        let until = self.machine.poll_timeout(now).map_or(TICK, |at| at.since(now)).min(TICK);
        let timeout = Timespec { tv_sec: 0, tv_nsec: until.as_nanos().try_into().unwrap_or(100_000_000) };
        let mut fds = [PollFd::new(&self.vif, PollFlags::IN), PollFd::new(&self.tap, PollFlags::IN)];
        let watched = if self.live.is_some() { 2 } else { 1 };
        match poll(fds.get_mut(..watched).unwrap_or_default(), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes what the guest has sent to the machine.
    fn collect(&mut self, now: Instant) -> io::Result<()> {
        for _ in 0..BUDGET {
            let received = match self.vif.receive(self.buf.get_mut(vnet::TAG..).unwrap_or_default()) {
                Ok(received) => received,
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR | libc::EINVAL) => continue,
                    Some(libc::EAGAIN | libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => break,
                    _ => return Err(e),
                },
            };
            let end = vnet::TAG + received.len;
            if received.truncated || received.len <= vnet::HEADER {
                continue;
            }
            let Some(slot) = self.buf.get_mut(..end) else { continue };
            let tagged = received.tag.is_some_and(|tag| vnet::insert_tag(slot, tag));
            let packet = slot.get_mut(if tagged { 0 } else { vnet::TAG }..).unwrap_or_default();
            vnet::trim_header_hint(packet);
            match self.machine.from_guest(self.log, packet, &mut self.answer, now) {
                Verdict::Drop => {}
                Verdict::Forward => {
                    // As a bridge: what the other side has no room for is lost.
                    let _ = self.tap.send(packet);
                }
                Verdict::Answer(len) => {
                    send_to_guest(&self.vif, self.answer.get(..len).unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    /// Passes what came in on to the guest, once it is live.
    fn deliver(&mut self, now: Instant) -> io::Result<()> {
        for _ in 0..if self.live.is_some() { BUDGET } else { 0 } {
            let len = match self.tap.receive(&mut self.buf) {
                Ok(len) => len,
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN | libc::EIO) => break,
                    _ => return Err(e),
                },
            };
            let Some(packet) = self.buf.get_mut(..len) else { continue };
            vnet::trim_header_hint(packet);
            if self.machine.from_peer(packet, now) == Verdict::Forward {
                send_to_guest(&self.vif, packet);
            }
        }
        Ok(())
    }

    /// How far it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.machine.phase()
    }
}

/// Waits a little for room.
fn send_to_guest(vif: &PacketSocket, packet: &[u8]) {
    let Err(e) = vif.send(packet) else { return };
    if e.raw_os_error() == Some(libc::EAGAIN) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: RING.as_nanos().try_into().unwrap_or(20_000_000) };
        let _ = poll(&mut [PollFd::new(vif, PollFlags::OUT)], Some(&timeout));
        let _ = vif.send(packet);
    }
}

fn wait_for_vif(config: &ReplayConfig, stop: &Ending) -> Result<Option<Isolated>, NetError> {
    let begin = std::time::Instant::now();
    while !stop.rejoins() {
        if let Some(place) = Isolated::read(&config.run_dir, &config.domain) {
            return Ok(Some(place));
        }
        if begin.elapsed() > VIF_TIMEOUT {
            let what = format!("find the interface of domain {}", config.domain);
            let hint = "its configuration must name script=llm-vif, and xl must have made the interface: see its log";
            return Err(NetError::system(what, hint, io::ErrorKind::TimedOut));
        }
        std::thread::sleep(LOOK);
    }
    Ok(None)
}

/// The backend raises the carrier when the guest has connected, which it does once it runs.
fn wait_for_carrier(vif: &str, stop: &Ending) -> Result<bool, NetError> {
    let begin = std::time::Instant::now();
    let mut nl = bridge::open()?;
    while !bridge::find(&mut nl, vif)?.carrier {
        if begin.elapsed() > VIF_TIMEOUT {
            let hint = "see the guest's console: its network driver has not connected";
            return Err(NetError::system(
                format!("connect the guest to {vif}"),
                hint,
                io::ErrorKind::TimedOut,
            ));
        }
        if stop.rejoins() {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
    Ok(true)
}

/// Not the one that a protection would make for the same vif.
fn tap_name(vif: &str) -> String {
    let mut name = format!("llmr{}", vif.strip_prefix("vif").unwrap_or(vif));
    name.truncate(15);
    name
}
