//! What protection costs a guest that nothing happens to: one boot of both hosts, mode after mode on the same guest.
//!
//! Each mode is measured between its first copy and its release, one measure after the other, so that none
//! disturbs another. The unprotected guest comes first and last: how far the two differ is how much the machine drifted.

mod latency;
mod run;

use std::time::Duration;

use crate::lab::Llm;
use llm_core::replication::Mode;

pub use run::run;

/// How the bench is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab.
    pub name: String,
    /// The `llm` binary for the hosts.
    pub llm: Llm,
    /// How long each measure takes.
    pub time: Duration,
    /// The modes beside the unprotected guest, with their times between two checkpoints.
    pub modes: Vec<(Mode, Duration)>,
}

impl Options {
    /// As `cargo lab bench llm` runs it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            llm: Llm::Build,
            time: Duration::from_secs(15),
            modes: vec![
                (Mode::Llm, Duration::from_secs(2)),
                (Mode::Remus, Duration::from_millis(200)),
                (Mode::Remus, Duration::from_secs(2)),
            ],
        }
    }
}
