//! A host's clock beside the clients' one.

use crate::lab::Lab;
use crate::scenario::{Result, ScenarioError};

/// Questions asked; the one with the quickest answer counts.
const ASKED: usize = 20;

/// How a host's `CLOCK_BOOTTIME` translates to the clients' clock. Both run apart, so it is taken anew for each measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostClock {
    /// The clients' clock when the host's was at `host_ns`.
    client_ns: u64,
    host_ns: u64,
    /// How far that may be off.
    slack_ns: u64,
}

impl HostClock {
    /// Compares the clocks.
    ///
    /// # Errors
    /// As the lab's.
    pub fn of(lab: &Lab, host: usize) -> Result<Self> {
        let looks = lab.host(host).clock(ASKED)?;
        let clocks = looks.into_iter().map(|(asked, told, answered)| Self::between(asked, told, answered));
        let best = clocks.min_by_key(|clock| clock.slack_ns);
        best.ok_or_else(|| ScenarioError::Broken(format!("host{}: its clock was not asked", host + 1)))
    }

    /// What was told in between was so at some time in between.
    const fn between(asked: u64, told: u64, answered: u64) -> Self {
        let slack_ns = answered.saturating_sub(asked) / 2;
        Self { client_ns: asked + slack_ns, host_ns: told, slack_ns }
    }

    /// How far translated times may be off.
    #[must_use]
    pub const fn slack_ns(&self) -> u64 {
        self.slack_ns
    }

    /// A time of the host's on the clients' clock.
    #[must_use]
    pub const fn to_client(&self, host_ns: u64) -> u64 {
        if host_ns >= self.host_ns {
            self.client_ns.saturating_add(host_ns - self.host_ns)
        } else {
            self.client_ns.saturating_sub(self.host_ns - host_ns)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_the_comparison_translate() {
        let clock = HostClock::between(1000, 50, 1100);
        assert_eq!(clock.slack_ns(), 50);
        assert_eq!([50, 60, 20, 0].map(|t| clock.to_client(t)), [1050, 1060, 1020, 1000]);
    }
}
