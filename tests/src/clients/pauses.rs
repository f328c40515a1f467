//! Which requests met a pause of the guest.

use super::Sample;

/// Stretches in which the guest stood still, on the clients' clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pauses {
    /// Begin and end, by begin.
    spans: Vec<(u64, u64)>,
    /// How far their ends may be off, in nanoseconds.
    slack_ns: u64,
    /// Later ones are not known.
    until_ns: u64,
}

impl Pauses {
    /// Of begins and ends that may be off by `slack_ns`: all that were over at `until_ns`.
    #[must_use]
    pub fn new(mut spans: Vec<(u64, u64)>, slack_ns: u64, until_ns: u64) -> Self {
        spans.sort_unstable();
        Self { spans, slack_ns, until_ns }
    }

    /// Whether all pauses are known that the request can have met.
    #[must_use]
    pub const fn cover(&self, sample: &Sample) -> bool {
        sample.t_ns <= self.until_ns
    }

    /// How far begins and ends may be off, in nanoseconds.
    #[must_use]
    pub const fn slack_ns(&self) -> u64 {
        self.slack_ns
    }

    /// Whether none is known; then nothing can be told apart.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Lengths of those that began within a stretch of time, in nanoseconds.
    #[must_use]
    pub fn lengths(&self, from_ns: u64, to_ns: u64) -> Vec<u64> {
        let within = self.spans.iter().filter(|(began, _)| (from_ns..to_ns).contains(began));
        within.map(|(began, ended)| ended.saturating_sub(*began)).collect()
    }

    /// Whether the request was open during a pause, or may have been.
    #[must_use]
    pub fn meet(&self, sample: &Sample) -> bool {
        let (sent, came) = (sample.t_ns.saturating_sub(sample.latency_ns), sample.t_ns);
        // They do not overlap each other: only the last that began in time can still be going on.
        let began = self.spans.partition_point(|(began, _)| began.saturating_sub(self.slack_ns) <= came);
        let last = began.checked_sub(1).and_then(|i| self.spans.get(i));
        last.is_some_and(|(_, ended)| ended.saturating_add(self.slack_ns) >= sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::ClientKind;

    fn open(sent: u64, came: u64) -> Sample {
        Sample { t_ns: came, latency_ns: came - sent, ok: true, kind: ClientKind::Echo, connection: 0 }
    }

    #[test]
    fn a_request_meets_a_pause_at_either_end_within_or_around_it() {
        let pauses = Pauses::new(vec![(500, 600), (100, 200)], 0, 800);
        for (sent, came, met) in [
            (0, 99, false),
            (0, 100, true),
            (120, 130, true),
            (50, 300, true),
            (200, 300, true),
            (201, 499, false),
            (250, 550, true),
            (601, 700, false),
            (0, 900, true),
        ] {
            assert_eq!(pauses.meet(&open(sent, came)), met, "{sent} to {came}");
        }
        assert!(!Pauses::default().meet(&open(0, 900)));
        assert!(pauses.cover(&open(0, 800)) && !pauses.cover(&open(0, 801)), "a pause may have been since");
    }

    #[test]
    fn clocks_that_are_not_known_well_make_pauses_longer() {
        let pauses = Pauses::new(vec![(100, 200)], 10, 800);
        assert!(pauses.meet(&open(0, 91)) && pauses.meet(&open(209, 300)));
        assert!(!pauses.meet(&open(0, 89)) && !pauses.meet(&open(211, 300)));
        assert_eq!(pauses.lengths(0, 100), Vec::<u64>::new());
        assert_eq!(pauses.lengths(100, 101), [100]);
    }
}
