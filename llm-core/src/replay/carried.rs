//! Connections of a domain that was taken over on this host and is protected again: who protects it translates them now.
//!
//! The log of the new protection counts as the guest does, in inputs and notes alike; what the clients see is that and the
//! [`Carry`](crate::log::Carry) of the connection. So a second replay compares like with like, and adds the two differences.

use super::live::LINGER;
use crate::flow::{Direction, FlowKey, Packet, Translation, flags};
use crate::time::Instant;
use heapless::index_map::FnvIndexMap;

/// A connection that is handed over by a replay that has gone live ([`super::Replay::handed`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Which.
    pub key: FlowKey,
    /// What the peer sees is what the guest counts, plus this.
    pub translation: Translation,
    /// Behind the SYN of the guest's that the peer has seen, as the guest counts: with that number it is sent again, with
    /// another one it opens a new connection. Not known of a connection that was silent since an earlier take-over.
    pub opened: Option<u32>,
    /// It was given up: its peer was told, and hears nothing more of it.
    pub closed: bool,
}

/// What becomes of a packet of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Fate {
    /// It goes on.
    Passes,
    /// It goes on, and is of another connection than the one that was translated between these ports, which is forgotten.
    Opens(FlowKey),
    /// Its connection was given up.
    Drops,
}

#[derive(Clone, Debug)]
struct Entry {
    translation: Translation,
    opened: Option<u32>,
    closed: bool,
    fins: (bool, bool),
    forget_at: Option<Instant>,
}

/// The connections. `N` of them at most, a power of two.
#[derive(Debug)]
pub struct Carried<const N: usize> {
    flows: FnvIndexMap<FlowKey, Entry, N>,
}

impl<const N: usize> Default for Carried<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Carried<N> {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { flows: FnvIndexMap::new() }
    }

    /// Takes one in. False if there is no room, or it is no TCP connection.
    #[must_use]
    pub fn insert(&mut self, handed: &Handed, now: Instant) -> bool {
        let entry = Entry {
            translation: handed.translation,
            opened: handed.opened,
            closed: handed.closed,
            fins: (false, false),
            forget_at: handed.closed.then(|| now + LINGER),
        };
        handed.key.is_tcp() && self.flows.insert(handed.key, entry).is_ok()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Those that are translated.
    pub fn iter(&self) -> impl Iterator<Item = (&FlowKey, Translation)> {
        self.flows.iter().filter(|(_, entry)| !entry.closed).map(|(key, entry)| (key, entry.translation))
    }

    /// The guest has sent a packet. To be called once for each, in order, before it is noted.
    pub fn sent(&mut self, packet: &Packet, now: Instant) -> Fate {
        let Some(segment) = packet.segment() else { return Fate::Passes };
        let key = packet.key(Direction::FromGuest);
        let Some(entry) = self.flows.get_mut(&key) else { return Fate::Passes };
        if segment.has(flags::SYN) {
            if entry.closed || entry.opened.is_some_and(|opened| opened != segment.seq_end()) {
                self.flows.swap_remove(&key);
                return Fate::Opens(key);
            }
            if entry.opened.is_none() {
                // Old or new, nobody can tell: to a new one a difference does no harm.
                entry.opened = Some(segment.seq_end());
                (entry.fins, entry.forget_at) = ((false, false), None);
            }
        }
        if entry.closed {
            // A reset answers the peer by the peer's own number.
            return if segment.has(flags::RST) { Fate::Passes } else { Fate::Drops };
        }
        entry.fins.0 |= segment.has(flags::FIN);
        entry.end(segment.has(flags::RST), now);
        Fate::Passes
    }

    /// Makes a packet of the guest's fit for its peer. To be called after it is noted.
    pub fn outgoing(&self, frame: &mut [u8], packet: &Packet, partial: bool) {
        let entry = self.flows.get(&packet.key(Direction::FromGuest)).filter(|entry| !entry.closed);
        if let Some(entry) = entry {
            entry.translation.outgoing(frame, packet, partial);
        }
    }

    /// Makes a packet of a peer's fit for the guest. To be called before it is logged.
    pub fn incoming(&mut self, frame: &mut [u8], packet: &Packet, partial: bool, now: Instant) {
        let entry = self.flows.get_mut(&packet.key(Direction::ToGuest)).filter(|entry| !entry.closed);
        let (Some(segment), Some(entry)) = (packet.segment(), entry) else { return };
        entry.translation.incoming(frame, packet, partial);
        entry.fins.1 |= segment.has(flags::FIN);
        // A reset alone ends nothing: anybody could send it. If the guest heeds it, it says no more between these ports until
        // it opens another connection.
        entry.end(false, now);
    }

    /// Forgets a connection that has ended some time ago, and says which. To be called now and then, until there is none.
    pub fn forget(&mut self, now: Instant) -> Option<FlowKey> {
        let ended = |entry: &Entry| entry.forget_at.is_some_and(|at| now >= at);
        let key = self.flows.iter().find_map(|(key, entry)| ended(entry).then_some(*key))?;
        self.flows.swap_remove(&key);
        Some(key)
    }
}

impl Entry {
    fn end(&mut self, reset: bool, now: Instant) {
        if reset || self.fins == (true, true) {
            self.forget_at.get_or_insert(now + LINGER);
        }
    }
}
