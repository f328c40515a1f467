//! A connection between the hosts, as TCP behaves: in order, nothing twice, delayed by loss and by partitions, cut off
//! at any point by the death of a host.

use super::Nanos;
use super::primary::Snapshot;
use crate::sim::Rng;
use std::collections::VecDeque;
use std::rc::Rc;

#[derive(Clone, Debug)]
pub(super) enum Message {
    /// Records of the log, maybe none: that is a heartbeat.
    Log {
        records: Vec<u8>,
        sent: Nanos,
    },
    /// A part of an epoch.
    Piece {
        snapshot: Rc<Snapshot>,
        index: u64,
        of: u64,
    },
    /// The backup has the log up to `have`, and what was sent at `echo`.
    Ack {
        have: u64,
        echo: Nanos,
    },
    Committed(u64),
    /// The backup runs the domain.
    Stop,
}

#[derive(Debug, Default)]
pub(super) struct Pipe {
    waiting: VecDeque<Message>,
    newest: Nanos,
}

impl Pipe {
    /// When the message arrives, if nothing comes between.
    pub(super) fn send(
        &mut self,
        message: Message,
        now: Nanos,
        rng: &mut Rng,
        latency: (Nanos, Nanos),
        loss: u64,
    ) -> Nanos {
        let again = if rng.chance(loss) { 60 * super::MS } else { 0 };
        self.newest = self.newest.max(now + rng.range(latency.0, latency.1) + again);
        self.waiting.push_back(message);
        self.newest
    }

    pub(super) fn arrive(&mut self) -> Option<Message> {
        self.waiting.pop_front()
    }

    /// The sender is dead: some of what it sent arrives, and the rest does not.
    pub(super) fn cut(&mut self, rng: &mut Rng) {
        let left = rng.range(0, self.waiting.len() as u64 + 1);
        self.waiting.truncate(usize::try_from(left).expect("few"));
    }
}
