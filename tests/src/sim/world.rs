//! Both hosts in one queue of actions, and the faults between them.

use super::backup_host::BackupHost;
use super::check::{Rule, Violation};
use super::context::{Action, Context, State};
use super::plan::{Fault, Plan};
use super::primary_host::{OUTPUT_GAP, PrimaryHost};
use super::rng::Rng;
use super::{MS, Nanos, Options, Side, Summary};
use llm_core::replication::{Path, PrimaryPhase};

#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    ctx: Context,
    plan: Plan,
    primary: PrimaryHost,
    backup: BackupHost,
    /// Commits seen when half of the healed time had passed.
    halfway: u64,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut rng = Rng::new(seed);
        let mut plan = Plan::draw(&mut rng, options);
        if options.fast_clock {
            plan.drift[Side::Backup as usize] = 1_000_000;
        }
        let mut ctx = Context::new(rng, options, &plan);
        let mut config = PrimaryHost::config(ctx.rng.next() | 1, plan.timing);
        config.on_backup_loss = plan.policy;
        let primary = PrimaryHost::new(config, plan.slow_egress, &ctx);
        if options.trace {
            println!("seed {seed}: {plan:?}");
        }
        for (at, fault) in std::mem::take(&mut plan.faults) {
            ctx.at(at, Action::Fault(fault));
        }
        ctx.at(plan.heal_at, Action::Heal);
        ctx.at(0, Action::Guest);
        let mut world = Self { seed, ctx, plan, primary, backup: BackupHost::new(), halfway: 0 };
        world.settle(Side::Primary);
        world
    }

    pub(super) fn run(mut self) -> Result<Summary, Violation> {
        // Long enough for a silent death, a refusal that has to pass, and a new session.
        let settle = 12 * u64::try_from(self.plan.timing.detect().as_nanos()).expect("short") + 500 * MS;
        let end = self.plan.heal_at + settle;
        self.ctx.at(self.plan.heal_at + settle * 3 / 4, Action::Halfway);
        while self.ctx.check.broken.is_none()
            && let Some(entry) = self.ctx.queue.first_entry().filter(|entry| entry.key().0 <= end)
        {
            let ((at, _), action) = entry.remove_entry();
            self.ctx.now = at;
            self.take(action);
        }
        if self.ctx.check.broken.is_none() {
            self.check_liveness();
        }
        match self.ctx.check.broken.take() {
            None => Ok(self.ctx.check.summary),
            Some((rule, text)) => Err(Violation { seed: self.seed, at: self.ctx.now, rule, text }),
        }
    }

    fn state(&mut self, side: Side) -> &mut State {
        match side {
            Side::Primary => &mut self.primary.state,
            Side::Backup => &mut self.backup.state,
        }
    }

    fn take(&mut self, action: Action) {
        let side = match &action {
            Action::Deliver { to, .. } => *to,
            Action::Broken { side, .. } | Action::Wake { side, .. } => *side,
            Action::Dialled { .. } | Action::DialFailed { .. } | Action::Guest | Action::Read { .. } => {
                Side::Primary
            }
            Action::Room => Side::Backup,
            Action::Fault(fault) => return self.fault(*fault),
            Action::Thaw(side, freeze) => return self.thaw(*side, Some(*freeze)),
            Action::Start(side, life) => return self.start(*side, *life),
            Action::Heal => return self.heal(),
            Action::Halfway => {
                self.halfway = self.ctx.check.summary.commits;
                return;
            }
        };
        let state = self.state(side);
        if state.frozen {
            state.inbox.push(action);
        } else if !state.host_dead {
            self.handle(side, action);
        }
    }

    fn handle(&mut self, side: Side, action: Action) {
        let ctx = &mut self.ctx;
        let works = match side {
            Side::Primary => self.primary.state.works(),
            Side::Backup => self.backup.state.works(),
        };
        match action {
            Action::Guest => {
                self.primary.guest(works);
                let gap = ctx.rng.range(MS, OUTPUT_GAP);
                ctx.after(gap, Action::Guest);
            }
            _ if !works => return,
            Action::Deliver { connection, to, packet, late } => {
                if !ctx.net.arrives(connection, to, ctx.now) && !late {
                    return;
                }
                let gone = match side {
                    Side::Primary => !self.primary.current.contains(&Some(connection)),
                    Side::Backup => {
                        ctx.net.connections[connection].at_backup.is_some()
                            && !self.backup.current.contains(&Some(connection))
                    }
                };
                if late && !gone {
                    // A connection in use delivers nothing twice.
                    return;
                }
                if !late && ctx.rng.chance(3) {
                    let gap = ctx.rng.range(MS, 800 * MS);
                    let packet = packet.clone();
                    ctx.after(gap, Action::Deliver { connection, to, packet, late: true });
                }
                match side {
                    Side::Primary => self.primary.receive(connection, &packet, ctx),
                    Side::Backup => self.backup.receive(connection, &packet, ctx),
                }
            }
            Action::Broken { connection, side } => match side {
                Side::Primary => self.primary.broken(connection, ctx),
                Side::Backup => self.backup.broken(connection, ctx),
            },
            Action::Dialled { connection, life } if life == self.primary.state.life => {
                let there = self.backup.state.works();
                self.primary.dialled(connection, there, ctx);
            }
            Action::DialFailed { connection, life } if life == self.primary.state.life => {
                self.primary.dial_failed(connection, ctx);
            }
            Action::Read { life } if life == self.primary.state.life => self.primary.read_on(ctx),
            Action::Wake { side, life, version } => {
                let state = self.state(side);
                if state.life != life || state.wake != version {
                    return;
                }
                match side {
                    Side::Primary => self.primary.on_time(&self.ctx),
                    Side::Backup => self.backup.on_time(&self.ctx),
                }
            }
            Action::Room => self.backup.set_backlog(false, ctx),
            _ => {}
        }
        self.settle(side);
    }

    /// Lets the driver of `side` finish, and plans its next wake-up.
    fn settle(&mut self, side: Side) {
        if !self.state(side).works() || self.state(side).frozen {
            return;
        }
        let wake_at = match side {
            Side::Primary => {
                self.primary.settle(&mut self.ctx);
                self.primary.wake_at()
            }
            Side::Backup => {
                self.backup.settle(&mut self.ctx);
                self.backup.wake_at()
            }
        };
        let state = self.state(side);
        state.wake += 1;
        let (life, version) = (state.life, state.wake);
        if let Some(at) = wake_at {
            let late = self.ctx.rng.range(0, 3 * MS);
            let at = self.ctx.true_time(side, at).max(self.ctx.now) + late;
            self.ctx.at(at, Action::Wake { side, life, version });
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.ctx.trace(Side::Primary, || format!("--- {fault:?}"));
        let now = self.ctx.now;
        match fault {
            Fault::Break(path) => self.break_path(path),
            Fault::Cut(path, towards, time) => self.ctx.net.cut(path, towards, now + time),
            Fault::Partition(time) => {
                for path in Path::ALL {
                    self.ctx.net.cut(path, Side::Primary, now + time);
                    self.ctx.net.cut(path, Side::Backup, now + time);
                }
            }
            Fault::Freeze(side, time) => {
                let state = self.state(side);
                if !state.host_dead && !state.frozen {
                    state.frozen = true;
                    state.freezes += 1;
                    let freeze = state.freezes;
                    self.ctx.after(time, Action::Thaw(side, freeze));
                }
            }
            Fault::KillHost(side) => {
                let state = self.state(side);
                state.host_dead = true;
                if side == Side::Backup {
                    self.ctx.backup_host_dead = true;
                    self.ctx.check.backup_died();
                }
            }
            Fault::KillService(side, time) => self.kill_service(side, time),
            Fault::Backlog(time) => {
                if self.backup.state.works() && !self.backup.state.frozen {
                    self.backup.set_backlog(true, &self.ctx);
                    self.ctx.after(time, Action::Room);
                }
            }
            Fault::Corrupt => self.primary.corrupt_next = true,
            Fault::Release if self.primary_acts() => {
                self.primary.release(&self.ctx);
                self.settle(Side::Primary);
            }
            Fault::Fail if self.primary_acts() => {
                self.primary.fail(&mut self.ctx);
                self.settle(Side::Primary);
            }
            Fault::Leave(time) => {
                if self.backup.state.works() && !self.backup.state.frozen {
                    self.backup.leave(&self.ctx);
                    self.settle(Side::Backup);
                    self.kill_service(Side::Backup, time);
                }
            }
            Fault::Release | Fault::Fail => {}
        }
    }

    const fn primary_acts(&self) -> bool {
        self.primary.state.works() && !self.primary.state.frozen
    }

    /// Each end finds out in its own time, or by what it sends.
    fn break_path(&mut self, path: Path) {
        let newest = self.ctx.net.connections.iter().rposition(|connection| connection.path == path);
        let Some(connection) = newest else { return };
        let ctx = &mut self.ctx;
        ctx.net.break_up(connection, ctx.now, &mut ctx.rng);
        for side in [Side::Primary, Side::Backup] {
            if ctx.rng.chance(80) {
                let gap = ctx.rng.range(0, 300 * MS);
                ctx.after(gap, Action::Broken { connection, side });
            }
        }
    }

    fn kill_service(&mut self, side: Side, time: Nanos) {
        let state = self.state(side);
        if !state.works() {
            return;
        }
        state.service_runs = false;
        state.life += 1;
        let life = state.life;
        state.inbox.retain(|action| matches!(action, Action::Guest));
        self.ctx.life[side as usize] = life;
        // The system closes what the process had open.
        for connection in 0..self.ctx.net.connections.len() {
            self.ctx.close(connection, side);
        }
        match side {
            Side::Primary => self.primary.forget(),
            Side::Backup => {
                self.ctx.backup_serves = false;
                self.backup.forget(&mut self.ctx);
            }
        }
        self.ctx.after(time, Action::Start(side, life));
    }

    fn start(&mut self, side: Side, life: u32) {
        let state = self.state(side);
        if state.host_dead || state.service_runs || state.life != life {
            return;
        }
        if state.frozen {
            self.ctx.after(50 * MS, Action::Start(side, life));
            return;
        }
        state.service_runs = true;
        match side {
            Side::Primary => self.primary.begin_session(&mut self.ctx),
            Side::Backup => self.ctx.backup_serves = true,
        }
        self.settle(side);
    }

    /// Goes on with what queued up: in order on each connection, in any order otherwise.
    fn thaw(&mut self, side: Side, freeze: Option<u32>) {
        let state = self.state(side);
        if !state.frozen || freeze.is_some_and(|freeze| freeze != state.freezes) {
            return;
        }
        state.frozen = false;
        let mut inbox = std::mem::take(&mut state.inbox);
        self.ctx.trace(side, || format!("--- thaws with {} waiting", inbox.len()));
        if side == Side::Backup {
            self.backup.thawed = self.ctx.clock(Side::Backup).as_nanos();
        }
        while !inbox.is_empty() {
            let at = usize::try_from(self.ctx.rng.range(0, inbox.len() as u64)).expect("an index");
            let first = key(&inbox[at])
                .and_then(|wanted| inbox.iter().position(|action| key(action) == Some(wanted)))
                .unwrap_or(at);
            let action = inbox.remove(first);
            if !self.state(side).host_dead {
                self.handle(side, action);
            }
        }
        self.settle(side);
    }

    fn heal(&mut self) {
        self.ctx.trace(Side::Primary, || "--- all heals".to_owned());
        for path in Path::ALL {
            self.ctx.net.cut(path, Side::Primary, 0);
            self.ctx.net.cut(path, Side::Backup, 0);
        }
        for side in [Side::Primary, Side::Backup] {
            self.thaw(side, None);
            let life = self.state(side).life;
            self.start(side, life);
        }
        if self.backup.state.works() {
            self.backup.set_backlog(false, &self.ctx);
            self.settle(Side::Backup);
        }
    }

    /// What must be true some time after everything that can heal has healed.
    fn check_liveness(&mut self) {
        let [primary, backup] = [self.primary.state.works(), self.backup.state.works()];
        let machine = &self.primary.machine;
        let phase = machine.phase();
        let runs = self.ctx.check.runs();
        let check = &mut self.ctx.check;
        let commits = check.summary.commits;
        let mut must = |holds: bool, what: &str| {
            if !holds {
                check.fail(Rule::Liveness, format!("{what} (primary {phase:?})"));
            }
        };
        if runs && primary && backup {
            must(!self.primary.domain_runs(), "the backup runs the domain, the primary has not stopped it");
        } else if primary && backup && phase == PrimaryPhase::Active && self.primary.domain_runs() {
            must(commits > self.halfway, "commits have not resumed");
            must(machine.backup_lost().is_none(), "the lease has not come back");
        } else if primary && backup && phase == PrimaryPhase::Releasing {
            must(false, "the release is not answered");
        } else if !primary && backup {
            must(!self.backup.protects(), "the backup waits for a dead primary");
        } else if primary && !backup && phase == PrimaryPhase::Active && machine.closed().is_some() {
            must(machine.backup_lost().is_some(), "the dead backup is not noticed");
        }
    }
}

const fn key(action: &Action) -> Option<usize> {
    match action {
        Action::Deliver { connection, .. } | Action::Broken { connection, .. } => Some(*connection),
        _ => None,
    }
}
