//! Both replication machines on virtual time, over a network and on hosts that fail.
//!
//! A run is a seed: it draws times, clock speeds, latencies and faults, drives the real
//! machines with toy drivers, and lets independent checkers watch. `LLM_SEED=n cargo test
//! -p llm-tests --test pair` runs one seed with a line per event.

mod backup_host;
mod check;
mod context;
mod net;
mod plan;
mod primary_host;
mod rng;
mod world;

pub use check::{Rule, Violation};
pub use rng::Rng;
pub(crate) use rng::mix;

/// True time, or a host's clock, in nanoseconds.
pub type Nanos = u64;

const MS: Nanos = 1_000_000;

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Primary,
    Backup,
}

/// What is wrong with the toy drivers, to see the checkers bite, and how to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The primary's driver lets output go when its epoch is closed, not when committed.
    pub ignore_commit: bool,
    /// The primary's driver does not ask for the lease.
    pub ignore_lease: bool,
    /// The backup's driver does not compare digests.
    pub ignore_digest: bool,
    /// The backup's clock runs at twice its speed, far beyond what the lease's margin covers.
    pub fast_clock: bool,
    /// Policy to go on without a backup; then no partitions are drawn.
    pub go_on: bool,
    /// Print a line per event.
    pub trace: bool,
}

/// What happened in a run; sums over runs show that a test tested something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Epochs handed over on the backup.
    pub commits: u64,
    /// Outputs that left the primary.
    pub released: u64,
    /// Take-overs.
    pub take_overs: u64,
    /// Domains stopped on the primary because the backup runs them.
    pub stops: u64,
    /// Bulk connections resumed in the middle of a session.
    pub resumes: u64,
    /// Sessions begun after the first.
    pub new_sessions: u64,
    /// Times the lease was lost and came back.
    pub lease_gaps: u64,
    /// Releases that the backup agreed to.
    pub agreed_releases: u64,
    /// Times the primary went on without protection.
    pub unprotected: u64,
    /// Late messages of dead connections that were turned away.
    pub stale: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.commits += other.commits;
        self.released += other.released;
        self.take_overs += other.take_overs;
        self.stops += other.stops;
        self.resumes += other.resumes;
        self.new_sessions += other.new_sessions;
        self.lease_gaps += other.lease_gaps;
        self.agreed_releases += other.agreed_releases;
        self.unprotected += other.unprotected;
        self.stale += other.stale;
    }
}

/// Runs `seed` to its end.
///
/// # Errors
/// The first rule that was broken.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Violation> {
    world::World::new(seed, options).run()
}
