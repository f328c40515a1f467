//! Clients with real TCP, a guest that is checkpointed and replayed, and the hosts between them, on virtual time.
//!
//! A run is a seed: it draws clients and what they ask, times, links that lose, delay, repeat and reorder, and what goes
//! wrong; it drives the log, the retention and the replay of `llm-core` with toy drivers, and lets checkers watch that
//! know all sides at once. `LLM_SEED=n cargo test -p llm-tests --test replay_sim` runs one seed with a line per event,
//! `LLM_SEEDS=n` so many; `cargo lab sim` does the same.
//!
//! | file | what it is |
//! |---|---|
//! | `nic`, `stack` | smoltcp, with numbers and clocks as Linux has them |
//! | `app`, `guest`, `client` | the service, the guest, and who asks |
//! | `primary`, `backup`, `pipe` | the drivers, and the links between the hosts |
//! | `again` | protection and death of the host that took over |
//! | `plan`, `world`, `check` | what a seed draws, the queue of events, the checkers |

mod again;
mod app;
mod backup;
mod check;
mod client;
mod guest;
mod nic;
mod pipe;
mod plan;
mod primary;
mod stack;
mod world;

pub use check::Rule;

use llm_core::flow::{Packet, VNET_HEADER, flags};
use llm_core::replay::Faults;

/// True time, or a host's clock, in nanoseconds.
pub type Nanos = u64;

const MS: Nanos = 1_000_000;

/// What is switched off, to see the checkers bite, and how to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// In the replay.
    pub faults: Faults,
    /// Output leaves when it is made.
    pub release_at_once: bool,
    /// Output leaves without a lease.
    pub ignore_lease: bool,
    /// An input goes from the log when it was delivered before the checkpoint, be it in the ring or not.
    pub drop_delivered: bool,
    /// The copy is protected again so often after its host died, and its host dies as well.
    pub again: u32,
    /// What was translated before is forgotten when the copy is protected again.
    pub forget_carry: bool,
    /// Print a line per event.
    pub trace: bool,
}

impl Options {
    /// With a part of it off, a guest that is not deterministic would hide what follows; and a copy of a copy is made from
    /// its steps, which know no chance.
    const fn replay_faults_off(&self) -> bool {
        !(self.again > 0 || self.faults.no_pacing || self.faults.no_translation || self.faults.no_shift)
    }
}

/// A broken rule, with what is needed to look into it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// When, in true time.
    pub at: Nanos,
    /// What.
    pub rule: Rule,
    /// In detail.
    pub text: String,
}

/// What happened in a run; sums over runs show that a test tested something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Requests done by the guest that is left.
    pub requests: u64,
    /// Replies that clients got.
    pub replies: u64,
    /// Packets that the primary let out.
    pub released: u64,
    /// Epochs committed.
    pub commits: u64,
    /// Inputs dropped from the log.
    pub dropped: u64,
    /// Take-overs.
    pub take_overs: u64,
    /// Of them, those whose guest could not be expected to do the same again.
    pub exempt: u64,
    /// Connections carried over.
    pub carried: u64,
    /// Connections given up.
    pub resets: u64,
    /// Replies told to have come out otherwise.
    pub divergences: u64,
    /// Reply bytes that came out as released.
    pub compared: u64,
    /// Waits of a replay that ended by time-out.
    pub stalls: u64,
    /// Segments that clients dropped for their timestamps, and the guest for what they acknowledged.
    pub old_timestamps: u64,
    /// See above.
    pub early_acks: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.replies += other.replies;
        self.released += other.released;
        self.commits += other.commits;
        self.dropped += other.dropped;
        self.take_overs += other.take_overs;
        self.exempt += other.exempt;
        self.carried += other.carried;
        self.resets += other.resets;
        self.divergences += other.divergences;
        self.compared += other.compared;
        self.stalls += other.stalls;
        self.old_timestamps += other.old_timestamps;
        self.early_acks += other.early_acks;
    }
}

/// Runs `seed` to its end.
///
/// # Errors
/// The first rule that was broken.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Violation> {
    world::World::new(seed, options).run()
}

/// A packet in a line.
fn describe(bytes: &[u8]) -> String {
    let Some(packet) = bytes.get(VNET_HEADER..).and_then(Packet::parse) else { return "no packet".into() };
    let Some(segment) = packet.segment() else { return "no segment".into() };
    let last = |address: [u8; 16]| address[15];
    let set: String = [(flags::SYN, 'S'), (flags::FIN, 'F'), (flags::RST, 'R'), (flags::ACK, 'A')]
        .into_iter()
        .filter(|(flag, _)| segment.has(*flag))
        .map(|(_, name)| name)
        .collect();
    format!(
        "{}:{} > {}:{} {set} seq {} len {} ack {} window {} ts {:?}",
        last(packet.source),
        segment.source,
        last(packet.destination),
        segment.destination,
        segment.seq,
        segment.payload_len(),
        segment.ack,
        segment.window,
        segment.timestamp.map(|timestamp| timestamp.value),
    )
}
