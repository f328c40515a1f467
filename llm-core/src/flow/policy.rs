//! Which flows wait for what.

use super::key::{Direction, FlowKey, TCP, UDP};
use super::packet::{Packet, flags};
use heapless::Vec;
use heapless::index_map::FnvIndexMap;

/// Rules of one policy, at most.
pub const RULES_MAX: usize = 32;
/// First port that systems give to connections of their own (Linux: `ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;

/// What the output of a flow waits for, and what is logged of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Class {
    /// For the log: its inputs are logged and replayed, its output is noted by digests.
    Llm,
    /// As [`Self::Llm`], and the bytes of its output are logged as well.
    LlmBytes,
    /// For the commit of its epoch: its inputs are not logged, since its peer still has them.
    Remus,
}

/// Whose port a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Side {
    /// The guest's: a service of its own.
    Guest,
    /// The peer's: a service that the guest uses.
    Peer,
}

/// One rule. What is `None` fits everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Rule {
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// A port, and whose.
    pub port: Option<(Side, u16)>,
    /// What holds then.
    pub class: Class,
}

impl Rule {
    fn fits(&self, key: &FlowKey) -> bool {
        self.protocol.is_none_or(|protocol| protocol == key.protocol())
            && self.port.is_none_or(|(side, port)| {
                port == match side {
                    Side::Guest => key.guest_port(),
                    Side::Peer => key.peer_port(),
                }
            })
    }
}

/// Rules in order; the first that fits decides. Without one, a connection that the guest opened is
/// [`Class::Remus`], since nobody outside could be made to repeat it, and all else [`Class::Llm`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule, RULES_MAX>,
}

impl Policy {
    /// A policy of these rules; `None` if there are more than [`RULES_MAX`].
    #[must_use]
    pub fn new(rules: &[Rule]) -> Option<Self> {
        Vec::from_slice(rules).ok().map(|rules| Self { rules })
    }
}

/// Remembers who opened each flow, and so which class it has. `N` flows, a power of two; when
/// it is full, a flow that was not seen for long is forgotten, and judged by its ports if it comes again.
#[derive(Debug)]
pub struct Tracker<const N: usize> {
    policy: Policy,
    flows: FnvIndexMap<FlowKey, Known, N>,
    clock: u64,
    /// Where the search for a flow to forget goes on.
    hand: usize,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    class: Class,
    seen: u64,
}

/// Flows looked at to find one to forget.
const LOOKED_AT: usize = 16;

impl<const N: usize> Tracker<N> {
    /// Knows no flow yet.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self { policy, flows: FnvIndexMap::new(), clock: 0, hand: 0 }
    }

    /// The class of the flow that a packet belongs to.
    pub fn classify(&mut self, packet: &Packet, direction: Direction) -> Class {
        let key = packet.key(direction);
        let opens = packet.segment().is_some_and(|s| s.has(flags::SYN) && !s.has(flags::ACK));
        if !matches!(key.protocol(), TCP | UDP) || key.guest_port() == 0 && key.peer_port() == 0 {
            return self.ruled(&key).unwrap_or(Class::Llm);
        }
        self.clock += 1;
        let seen = self.clock;
        if let Some(known) = self.flows.get_mut(&key)
            && !opens
        {
            known.seen = seen;
            return known.class;
        }
        let class = self.ruled(&key).unwrap_or_else(|| {
            let by_guest = match (key.protocol(), opens) {
                // The first packet of a connection, or the first datagram seen.
                (TCP, true) => direction == Direction::FromGuest,
                (UDP, _) => {
                    direction == Direction::FromGuest && !is_service(key.guest_port(), key.peer_port())
                }
                // Begun before we looked.
                _ => is_service(key.peer_port(), key.guest_port()),
            };
            if by_guest { Class::Remus } else { Class::Llm }
        });
        self.remember(key, Known { class, seen });
        class
    }

    fn ruled(&self, key: &FlowKey) -> Option<Class> {
        self.policy.rules.iter().find(|rule| rule.fits(key)).map(|rule| rule.class)
    }

    fn remember(&mut self, key: FlowKey, known: Known) {
        if self.flows.len() == N && !self.flows.contains_key(&key) {
            let oldest = (0..LOOKED_AT)
                .filter_map(|i| self.flows.get_index((self.hand + i) % N))
                .min_by_key(|(_, known)| known.seen)
                .map(|(key, _)| *key);
            self.hand = (self.hand + LOOKED_AT) % N;
            if let Some(oldest) = oldest {
                self.flows.swap_remove(&oldest);
            }
        }
        // There is room now; without it the flow is judged anew each time.
        let _ = self.flows.insert(key, known);
    }
}

/// Whether, of two ports, the first looks like a service's and the second like one given to a client.
const fn is_service(port: u16, other: u16) -> bool {
    port < EPHEMERAL && other >= EPHEMERAL
}
