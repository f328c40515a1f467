//! All hosts in one queue of events, and the faults between them.

use super::backup::Backup;
use super::check::{Checker, Copy, Rule};
use super::client::{Client, Fact};
use super::guest::Guest;
use super::pipe::{Message, Pipe};
use super::plan::{FIRST_CLIENT, Fault, Moment, Plan};
use super::primary::{Primary, Snapshot};
use super::{MS, Nanos, Options, Summary, Violation};
use crate::sim::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A client that gets nowhere for so long never will. Its stack doubles the time until it sends again up to a minute.
const PATIENCE: Nanos = 70_000 * MS;
/// What is on its way when all is done arrives in this time.
const SETTLE: Nanos = 2_500 * MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Records and heartbeats.
    Log,
    /// Epochs.
    Bulk,
    /// To the primary.
    Back,
}

#[derive(Debug)]
pub(super) enum Event {
    Guest(Copy),
    Client(usize),
    ToClient(usize, Vec<u8>),
    ToService(Vec<u8>),
    Arrives(Link),
    Vif,
    Flush,
    Heartbeat,
    Suspend,
    CheckpointWritten,
    Resume(Rc<Snapshot>),
    LogCut { epoch: u64, limit: u64 },
    SendPiece(Message),
    GoOnAlone,
    Silence,
    Restore,
    ReplayTick,
    ProtectAgain,
    Fault(Fault),
}

impl Event {
    /// Whether it happens on the primary's host.
    const fn is_primarys(&self) -> bool {
        matches!(
            self,
            Self::Guest(Copy::Primary)
                | Self::Vif
                | Self::Flush
                | Self::Heartbeat
                | Self::Suspend
                | Self::CheckpointWritten
                | Self::Resume(_)
                | Self::LogCut { .. }
                | Self::SendPiece(_)
                | Self::GoOnAlone
                | Self::Arrives(Link::Back)
        )
    }
}

pub(super) struct World {
    seed: u64,
    pub(super) options: Options,
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) now: Nanos,
    queue: BTreeMap<(Nanos, u64), Event>,
    events: u64,
    pub(super) check: Checker,
    clients: Vec<Client>,
    pub(super) primary: Primary,
    pub(super) backup: Backup,
    pipes: [Pipe; 3],
    partitioned_until: Nanos,
    guest_at: [Option<Nanos>; 2],
    client_at: Vec<Option<Nanos>>,
    /// When each client got on the last time.
    progress: Vec<Nanos>,
    tied: Option<(Moment, u64, Nanos, Fault)>,
    /// Faults yet to come.
    faults: usize,
    pub(super) buf: Vec<u8>,
    /// Times that the copy was protected again.
    pub(super) again: u32,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut rng = Rng::new(seed);
        let mut plan = Plan::draw(&mut rng, options);
        if options.trace {
            println!("seed {seed}: {plan:?}");
        }
        let clients: Vec<Client> =
            plan.clients.drain(..).map(|(setup, talks)| Client::new(setup, talks)).collect();
        let check = Checker::new(plan.policy, !plan.random);
        let mut world = Self {
            seed,
            options: options.clone(),
            primary: Primary::new(Guest::new(plan.build)),
            backup: Backup::new(),
            rng,
            now: 0,
            queue: BTreeMap::new(),
            events: 0,
            check,
            client_at: vec![None; clients.len()],
            progress: vec![0; clients.len()],
            clients,
            pipes: Default::default(),
            partitioned_until: 0,
            guest_at: [None; 2],
            tied: plan.tied,
            faults: plan.faults.len(),
            plan,
            buf: Vec::new(),
            again: 0,
        };
        for (at, fault) in world.plan.faults.clone() {
            world.at(at, Event::Fault(fault));
        }
        for client in 0..world.clients.len() {
            world.wake_client(client, 0);
        }
        world.at(0, Event::Heartbeat);
        world.at(world.plan.interval / 4, Event::Suspend);
        world.wake_guest(Copy::Primary, 0);
        world
    }

    pub(super) fn run(mut self) -> Result<Summary, Violation> {
        let mut done_at = None;
        while self.check.broken.is_none()
            && let Some(entry) = self.queue.first_entry()
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            let idle = self.faults == 0
                && self.clients.iter().all(Client::is_done)
                && (self.backup.is_live() || !self.backup.taken_over);
            let end = if idle { *done_at.get_or_insert(at) + SETTLE } else { self.gets_on() + PATIENCE };
            if !idle {
                done_at = None;
            }
            if at >= end {
                self.end(idle);
                break;
            }
            self.take(event);
        }
        match self.check.broken.take() {
            None => Ok(self.check.summary),
            Some((rule, text)) => Err(Violation { seed: self.seed, at: self.now, rule, text }),
        }
    }

    /// When the client that is behind got on the last time.
    fn gets_on(&self) -> Nanos {
        let waiting = self.clients.iter().zip(&self.progress).filter(|(client, _)| !client.is_done());
        let last = self.progress.iter().max();
        waiting.map(|(_, at)| at).min().or(last).copied().unwrap_or(0)
    }

    fn end(&mut self, idle: bool) {
        if !idle && !self.check.may_differ() {
            let waiting: Vec<usize> =
                (0..self.clients.len()).filter(|client| !self.clients[*client].is_done()).collect();
            self.check.fail(Rule::Liveness, format!("clients {waiting:?} do not get on"));
        }
        let guest = self.backup.restored.as_ref().map_or(&self.primary.guest, |restored| &restored.guest);
        if let Some(text) = guest.garbled.clone() {
            self.check.fail(Rule::Contradiction, format!("the guest got {text}"));
        }
        let summary = &mut self.check.summary;
        summary.old_timestamps += self.clients.iter().map(|client| client.stack.nic.dropped.0).sum::<u64>();
        summary.early_acks += guest.stack.nic.dropped.1;
        let done = guest.service.done.clone();
        summary.requests += done.len() as u64;
        let accounts: Vec<_> =
            (0..).zip(&self.clients).map(|(client, state)| (client, state.accounts.clone())).collect();
        self.check.end(&done, &accounts);
    }

    fn take(&mut self, event: Event) {
        if event.is_primarys() {
            if !self.primary.works() {
                return;
            }
            if self.now < self.primary.frozen_until {
                let thaw = self.primary.frozen_until;
                self.at(thaw, event);
                return;
            }
        }
        match event {
            Event::Guest(copy) => {
                let due = &mut self.guest_at[copy as usize];
                if due.is_none_or(|due| due > self.now) {
                    return;
                }
                *due = None;
                match copy {
                    Copy::Primary => self.run_primary_guest(),
                    Copy::Restored => self.run_restored_guest(),
                }
            }
            Event::Client(client) => {
                if self.client_at[client] == Some(self.now) {
                    self.client_at[client] = None;
                    self.run_client(client, None);
                }
            }
            Event::ToClient(client, bytes) => self.run_client(client, Some(&bytes)),
            Event::ToService(bytes) => self.reach_service(bytes),
            Event::Arrives(link) => self.arrives(link),
            Event::Vif => self.read_vif(),
            Event::Flush => self.flush(false),
            Event::Heartbeat => self.flush(true),
            Event::Suspend => self.suspend(),
            Event::CheckpointWritten => self.checkpoint_written(),
            Event::Resume(snapshot) => self.resume(snapshot),
            Event::LogCut { epoch, limit } => self.log_cut(epoch, limit),
            Event::SendPiece(piece) => self.send(Link::Bulk, piece),
            Event::GoOnAlone => self.go_on_alone(),
            Event::Silence => self.silence(),
            Event::Restore => self.restore(),
            Event::ReplayTick => self.replay_tick(),
            Event::ProtectAgain => self.protect_again(),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    pub(super) fn at(&mut self, at: Nanos, event: Event) {
        self.events += 1;
        self.queue.insert((at, self.events), event);
    }

    /// A fault to come.
    pub(super) fn fault_at(&mut self, at: Nanos, fault: Fault) {
        self.faults += 1;
        self.at(at, Event::Fault(fault));
    }

    /// Nothing is left on the links, and no guest is due.
    pub(super) fn new_hosts(&mut self) {
        (self.pipes, self.guest_at) = (Default::default(), [None; 2]);
    }

    pub(super) fn trace(&self, text: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{:>12.3} ms  {}", self.now as f64 / MS as f64, text());
        }
    }

    pub(super) fn wake_guest(&mut self, copy: Copy, at: Nanos) {
        let due = &mut self.guest_at[copy as usize];
        if due.is_none_or(|due| at < due) {
            *due = Some(at);
            self.at(at, Event::Guest(copy));
        }
    }

    fn wake_client(&mut self, client: usize, at: Nanos) {
        if self.client_at[client].is_none_or(|due| at < due) {
            self.client_at[client] = Some(at);
            self.at(at, Event::Client(client));
        }
    }

    fn run_client(&mut self, client: usize, packet: Option<&[u8]>) {
        let state = &mut self.clients[client];
        let sent = state.step(packet, self.now);
        let number = u8::try_from(client).expect("few clients");
        // Where a reply has changed and its connection goes on, as the policy has it, the rest of it may not fit.
        if let Some(text) = state.garbled.take().filter(|_| !self.check.may_differ()) {
            self.check.fail(Rule::Contradiction, format!("client {client} got {text}"));
        }
        for fact in std::mem::take(&mut state.facts) {
            self.progress[client] = self.now;
            self.trace(|| format!("client {client}: {fact:?}"));
            match fact {
                Fact::Asked(id) => self.check.asked(number, id),
                Fact::Answered(port, reply) => self.check.answered(number, port, reply),
                Fact::Reset(port) => self.check.reset(number, port),
            }
        }
        for bytes in sent {
            self.check.client_sent(&bytes);
            self.over_net(Event::ToService, bytes);
        }
        if let Some(at) = self.clients[client].wake_at(self.now) {
            self.wake_client(client, at);
        }
    }

    /// Sends a packet to the client that it is for.
    pub(super) fn send_to_client(&mut self, bytes: Vec<u8>) {
        self.trace(|| format!("out: {}", super::describe(&bytes)));
        let client = usize::from(bytes[super::nic::IP + 19] - FIRST_CLIENT);
        self.over_net(|bytes| Event::ToClient(client, bytes), bytes);
    }

    fn over_net(&mut self, event: impl Fn(Vec<u8>) -> Event, bytes: Vec<u8>) {
        let net = self.plan.net;
        if self.rng.chance(net.twice) {
            let at = self.now + self.rng.range(net.latency.0, net.latency.1 * 3);
            self.at(at, event(bytes.clone()));
        }
        if !self.rng.chance(net.loss) {
            let at = self.now + self.rng.range(net.latency.0, net.latency.1);
            self.at(at, event(bytes));
        }
    }

    fn reach_service(&mut self, bytes: Vec<u8>) {
        if self.backup.is_live() {
            self.ingress_restored(bytes);
        } else if self.primary.works() && self.now >= self.primary.frozen_until {
            self.ingress(bytes);
        }
    }

    pub(super) fn send(&mut self, link: Link, message: Message) {
        let pipe = &mut self.pipes[link as usize];
        let at = pipe.send(message, self.now, &mut self.rng, self.plan.link, self.plan.link_loss);
        self.at(at, Event::Arrives(link));
    }

    fn arrives(&mut self, link: Link) {
        if self.now < self.partitioned_until {
            // Sent again until it passes.
            let at = self.partitioned_until + self.rng.range(0, 200 * MS);
            self.partition_over(link, at);
            return;
        }
        let Some(message) = self.pipes[link as usize].arrive() else { return };
        if link != Link::Back && self.backup.dead {
            return;
        }
        match message {
            Message::Log { records, sent } => self.on_log(&records, sent),
            Message::Piece { snapshot, index, of } => self.on_piece(snapshot, index, of),
            Message::Ack { have, echo } => self.on_ack(have, echo),
            Message::Committed(epoch) => self.on_committed(epoch),
            Message::Stop => {
                self.trace(|| "the primary stops".into());
                self.primary.stopped = true;
            }
        }
    }

    fn partition_over(&mut self, link: Link, at: Nanos) {
        self.at(at, Event::Arrives(link));
    }

    /// Something happened that a fault may be tied to.
    pub(super) fn moment(&mut self, moment: Moment) {
        if let Some((tied, count, late, fault)) = &mut self.tied
            && *tied == moment
        {
            *count -= 1;
            if *count == 0 {
                let (late, fault) = (*late, *fault);
                self.tied = None;
                self.faults += 1;
                if late == 0 {
                    self.fault(fault);
                } else {
                    self.at(self.now + late, Event::Fault(fault));
                }
            }
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.trace(|| format!("--- {fault:?}"));
        self.faults -= 1;
        match fault {
            Fault::KillPrimary if !self.backup.dead => {
                self.primary.dead = true;
                self.pipes[Link::Log as usize].cut(&mut self.rng);
                self.pipes[Link::Bulk as usize].cut(&mut self.rng);
            }
            Fault::KillBackup if !self.backup.taken_over => {
                self.backup.dead = true;
                self.pipes[Link::Back as usize].cut(&mut self.rng);
                let at = self.now + self.rng.range(300 * MS, 900 * MS);
                self.at(at, Event::GoOnAlone);
            }
            Fault::Freeze(time) => self.primary.frozen_until = self.now + time,
            Fault::Partition(time) => self.partitioned_until = self.now + time,
            Fault::KillPrimary | Fault::KillBackup => {}
        }
    }
}
