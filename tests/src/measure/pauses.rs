//! The guest's pauses one by one, as `llm status` tells the newest of them.

use std::collections::BTreeMap;

use llm_dom0::control::PrimaryStatus;

use super::HostClock;
use crate::clients::Pauses;

/// All pauses told so far; each status repeats some.
#[derive(Debug, Clone, Default)]
pub struct PauseLog {
    spans: BTreeMap<u64, u64>,
    until_ns: u64,
}

impl PauseLog {
    /// Takes in what a status tells that was asked for at `asked_ns` on the clients' clock.
    pub fn add(&mut self, status: &PrimaryStatus, asked_ns: u64) {
        self.spans.extend(status.pauses.iter().map(|p| (p.began_ns, p.length_ns)));
        self.until_ns = asked_ns;
    }

    /// On the clients' clock.
    #[must_use]
    pub fn on(&self, clock: &HostClock) -> Pauses {
        let span = |(began, length): (&u64, &u64)| {
            (clock.to_client(*began), clock.to_client(began.saturating_add(*length)))
        };
        Pauses::new(self.spans.iter().map(span).collect(), clock.slack_ns(), self.until_ns)
    }
}
