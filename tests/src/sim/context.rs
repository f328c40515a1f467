//! What both hosts share: virtual time, the network, the checkers.

use super::check::Checker;
use super::net::{Net, Packet};
use super::plan::{Fault, Plan};
use super::rng::Rng;
use super::{MS, Nanos, Options, Side};
use llm_core::replication::ConnectionId;
use llm_core::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug)]
pub(super) enum Action {
    Deliver { connection: usize, to: Side, packet: Packet, late: bool },
    Broken { connection: usize, side: Side },
    Dialled { connection: ConnectionId, life: u32 },
    DialFailed { connection: ConnectionId, life: u32 },
    Wake { side: Side, life: u32, version: u32 },
    Guest,
    Read { life: u32 },
    Fault(Fault),
    Thaw(Side, u32),
    Start(Side, u32),
    Room,
    Heal,
    Halfway,
}

/// Whether a host and its service run.
#[derive(Debug)]
pub(super) struct State {
    pub(super) host_dead: bool,
    pub(super) service_runs: bool,
    /// Counts starts of the service; what was meant for an earlier one is dropped.
    pub(super) life: u32,
    pub(super) frozen: bool,
    pub(super) freezes: u32,
    pub(super) inbox: Vec<Action>,
    /// Of the newest wake-up; older ones do not count.
    pub(super) wake: u32,
}

impl State {
    pub(super) const fn new() -> Self {
        Self {
            host_dead: false,
            service_runs: true,
            life: 0,
            frozen: false,
            freezes: 0,
            inbox: Vec::new(),
            wake: 0,
        }
    }

    pub(super) const fn works(&self) -> bool {
        !self.host_dead && self.service_runs
    }
}

/// What both hosts share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) now: Nanos,
    order: u64,
    pub(super) queue: BTreeMap<(Nanos, u64), Action>,
    pub(super) rng: Rng,
    pub(super) net: Net,
    pub(super) check: Checker,
    pub(super) options: Options,
    drift: [i64; 2],
    pub(super) life: [u32; 2],
    pub(super) backup_host_dead: bool,
    pub(super) backup_serves: bool,
}

impl Context {
    pub(super) fn new(rng: Rng, options: &Options, plan: &Plan) -> Self {
        Self {
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            net: Net::new(plan.latency),
            check: Checker::default(),
            options: options.clone(),
            drift: plan.drift,
            life: [0; 2],
            backup_host_dead: false,
            backup_serves: true,
            rng,
        }
    }

    pub(super) fn at(&mut self, at: Nanos, action: Action) {
        self.order += 1;
        self.queue.insert((at.max(self.now), self.order), action);
    }

    pub(super) fn after(&mut self, gap: Nanos, action: Action) {
        self.at(self.now + gap, action);
    }

    pub(super) fn trace(&self, side: Side, text: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{:>10.3} {side:?}: {}", Duration::from_nanos(self.now).as_secs_f64() * 1e3, text());
        }
    }

    /// The host's own clock: an origin and a speed of its own.
    pub(super) fn clock(&self, side: Side) -> Instant {
        Instant::from_nanos(self.host_time(side, self.now))
    }

    fn host_time(&self, side: Side, at: Nanos) -> Nanos {
        let origin = [1_000_000 * MS, 77 * MS][side as usize];
        let shift = i128::from(at) * i128::from(self.drift[side as usize]) / 1_000_000;
        origin + u64::try_from(i128::from(at) + shift).expect("drift is below 1")
    }

    /// First true time at which the host's clock shows `at`.
    pub(super) fn true_time(&self, side: Side, at: Nanos) -> Nanos {
        let passed = i128::from(at.saturating_sub(self.host_time(side, 0)));
        u64::try_from(passed * 1_000_000 / (1_000_000 + i128::from(self.drift[side as usize])))
            .expect("small")
            + 1
    }

    pub(super) fn send(&mut self, connection: usize, from: Side, packet: Packet) {
        if !self.net.is_open(connection, from) {
            return;
        }
        let to = other(from);
        if let Some(at) = self.net.arrival(connection, to, self.now, &mut self.rng) {
            self.at(at, Action::Deliver { connection, to, packet, late: false });
        }
    }

    /// One end closes; the other reads what was sent before, then its end.
    pub(super) fn close(&mut self, connection: usize, side: Side) {
        if !self.net.is_open(connection, side) {
            return;
        }
        self.net.close(connection, side);
        let to = other(side);
        if let Some(at) = self.net.arrival(connection, to, self.now, &mut self.rng) {
            self.at(at, Action::Broken { connection, side: to });
        }
    }

    pub(super) fn dial(&mut self, connection: ConnectionId, time_out: Duration) {
        let time_out = u64::try_from(time_out.as_nanos()).expect("short");
        let life = self.life[Side::Primary as usize];
        let there_and_back =
            self.net.delay(connection.path, &mut self.rng) + self.net.delay(connection.path, &mut self.rng);
        let ready = self.net.cut_until(connection.path).max(self.now).saturating_add(there_and_back);
        if self.backup_host_dead || ready > self.now + time_out {
            self.after(time_out, Action::DialFailed { connection, life });
        } else if self.backup_serves {
            self.at(ready, Action::Dialled { connection, life });
        } else {
            self.at(ready, Action::DialFailed { connection, life });
        }
    }

    pub(super) fn stream_soon(&mut self) {
        let gap = self.rng.range(MS / 10, 12 * MS);
        self.after(gap, Action::Read { life: self.life[Side::Primary as usize] });
    }
}

const fn other(side: Side) -> Side {
    match side {
        Side::Primary => Side::Backup,
        Side::Backup => Side::Primary,
    }
}
