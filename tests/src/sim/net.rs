//! Connections between the hosts, as TCP behaves: in order, nothing twice, delayed while
//! a path is cut, broken at any point, and each end learns of it in its own time.

use super::rng::Rng;
use super::{MS, Nanos, Side};
use llm_core::replication::{ConnectionId, EpochEnd, Path};

/// What one frame carries.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    /// An encoded message.
    Message(Vec<u8>),
    /// Bulk data: a piece of an epoch, or its end.
    Data { seq: u64, body: Body },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    Piece(u64),
    End(EpochEnd),
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) path: Path,
    pub(super) at_primary: ConnectionId,
    pub(super) at_backup: Option<ConnectionId>,
    /// Whether the process at each end (primary, backup) has it open.
    open: [bool; 2],
    /// What would arrive after this time at each end is lost.
    broken_at: [Nanos; 2],
    /// Arrival of the newest packet at each end: nothing overtakes it.
    newest: [Nanos; 2],
}

/// All connections ever made, and the state of the paths.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) connections: Vec<Connection>,
    /// Cut until this time: by path, by direction (towards primary, towards backup).
    cut: [[Nanos; 2]; 2],
    latency: [Nanos; 2],
}

const fn path(path: Path) -> usize {
    match path {
        Path::Control => 0,
        Path::Bulk => 1,
    }
}

impl Net {
    pub(super) const fn new(latency: [Nanos; 2]) -> Self {
        Self { connections: Vec::new(), cut: [[0; 2]; 2], latency }
    }

    pub(super) fn connect(&mut self, at_primary: ConnectionId, backup_is_there: bool) -> usize {
        self.connections.push(Connection {
            path: at_primary.path,
            at_primary,
            at_backup: None,
            open: [true, backup_is_there],
            broken_at: [Nanos::MAX; 2],
            newest: [0; 2],
        });
        self.connections.len() - 1
    }

    pub(super) fn cut(&mut self, on: Path, towards: Side, until: Nanos) {
        self.cut[path(on)][towards as usize] = until;
    }

    /// End of the cuts that stop a dial on this path, 0 if none does.
    pub(super) fn cut_until(&self, on: Path) -> Nanos {
        self.cut[path(on)][0].max(self.cut[path(on)][1])
    }

    pub(super) fn is_open(&self, connection: usize, side: Side) -> bool {
        self.connections[connection].open[side as usize]
    }

    pub(super) fn close(&mut self, connection: usize, side: Side) {
        self.connections[connection].open[side as usize] = false;
    }

    pub(super) fn delay(&self, on: Path, rng: &mut Rng) -> Nanos {
        let base = self.latency[path(on)];
        base + rng.range(0, base / 2 + MS / 10)
    }

    /// When a packet sent now arrives; `None` if it never does.
    pub(super) fn arrival(
        &mut self,
        connection: usize,
        to: Side,
        now: Nanos,
        rng: &mut Rng,
    ) -> Option<Nanos> {
        let on = self.connections[connection].path;
        let cut = self.cut[path(on)][to as usize];
        let mut at = now + self.delay(on, rng);
        if at < cut {
            // Sent again some time after the path is whole.
            at = cut.saturating_add(rng.range(0, 200 * MS));
        }
        let connection = &mut self.connections[connection];
        at = at.max(connection.newest[to as usize] + 1);
        connection.newest[to as usize] = at;
        (at < connection.broken_at[to as usize] && at != Nanos::MAX).then_some(at)
    }

    pub(super) fn arrives(&self, connection: usize, to: Side, at: Nanos) -> bool {
        at < self.connections[connection].broken_at[to as usize]
    }

    /// Breaks it: what is under way arrives up to a random point in each direction.
    pub(super) fn break_up(&mut self, connection: usize, now: Nanos, rng: &mut Rng) {
        for at in &mut self.connections[connection].broken_at {
            *at = (*at).min(now + rng.range(0, 60 * MS));
        }
    }
}
