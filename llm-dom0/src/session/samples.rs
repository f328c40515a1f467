//! Percentiles over the newest samples of a measured time.

use std::time::{Duration, Instant};

use crate::control::PauseStatus;

/// Samples kept: enough for a steady 99th percentile.
const KEPT: usize = 4096;

/// The newest samples of one quantity, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    ring: Vec<f64>,
    next: usize,
    count: u64,
    last: f64,
    max: f64,
}

impl Samples {
    /// Takes in a sample, in milliseconds.
    pub fn add(&mut self, ms: f64) {
        if self.ring.len() < KEPT {
            self.ring.push(ms);
        } else {
            self.ring[self.next] = ms;
        }
        self.next = (self.next + 1) % KEPT;
        self.count += 1;
        self.last = ms;
        self.max = self.max.max(ms);
    }

    /// The sample that a share `p` (0 to 1) of those kept does not exceed; 0 without samples.
    #[must_use]
    pub fn percentile(&self, p: f64) -> f64 {
        let mut sorted = self.ring.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (p * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// As `llm status` tells it.
    #[must_use]
    pub fn to_status(&self) -> PauseStatus {
        PauseStatus {
            count: self.count,
            last_ms: self.last,
            p50_ms: self.percentile(0.5),
            p99_ms: self.percentile(0.99),
            max_ms: self.max,
        }
    }
}

/// Makes pauses out of looks at a domain.
#[derive(Clone, Copy, Debug, Default)]
pub struct PauseMeter {
    since: Option<Instant>,
    /// When the last pause began or ended, or one was expected.
    changed: Option<Instant>,
}

impl PauseMeter {
    /// Shortest time between two looks.
    const PERIOD: Duration = Duration::from_micros(500);
    /// Part of a pause to which it is measured at each end. Each look costs a hypercall and a wake-up, so a long
    /// pause is not measured to half a millisecond.
    const PART: u32 = 16;

    /// Takes in a look; the length of the pause when one has ended.
    pub fn observe(&mut self, suspended: bool, at: Instant) -> Option<Duration> {
        if suspended != self.since.is_some() {
            self.changed = Some(at);
        }
        if suspended {
            self.since.get_or_insert(at);
            return None;
        }
        self.since.take().map(|since| at - since)
    }

    /// A pause may begin any time from now on.
    pub const fn expect(&mut self, at: Instant) {
        self.changed = Some(at);
    }

    /// Time to the next look.
    #[must_use]
    pub fn until_next(&self, at: Instant) -> Duration {
        let age = self.changed.map_or(Duration::MAX, |changed| at.saturating_duration_since(changed));
        (age / Self::PART).max(Self::PERIOD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let mut s = Samples::default();
        assert_eq!(s.percentile(0.5), 0.0);
        for i in 1..=100 {
            s.add(f64::from(i));
        }
        assert_eq!((s.percentile(0.5), s.percentile(0.99), s.percentile(1.0)), (50.0, 99.0, 100.0));
        for _ in 0..KEPT {
            s.add(7.0);
        }
        assert_eq!((s.percentile(0.01), s.max, s.count), (7.0, 100.0, KEPT as u64 + 100));
    }

    #[test]
    fn a_pause_lasts_from_the_first_look_to_the_next_running_one() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut meter = PauseMeter::default();
        assert_eq!(meter.observe(false, start), None);
        assert_eq!(meter.observe(true, start + ms(1)), None);
        assert_eq!(meter.observe(true, start + ms(2)), None);
        assert_eq!(meter.observe(false, start + ms(5)), Some(ms(4)));
        assert_eq!(meter.observe(false, start + ms(6)), None);
    }

    #[test]
    fn looks_come_further_apart_until_something_happens() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut meter = PauseMeter::default();
        meter.expect(start);
        assert_eq!(meter.until_next(start), Duration::from_micros(500));
        assert_eq!(meter.until_next(start + ms(160)), ms(10));
        meter.observe(true, start + ms(160));
        assert_eq!(meter.until_next(start + ms(160)), Duration::from_micros(500));
        meter.observe(true, start + ms(240));
        assert_eq!(meter.until_next(start + ms(240)), ms(5), "since it began");
        meter.observe(false, start + ms(320));
        assert_eq!(meter.until_next(start + ms(328)), Duration::from_micros(500));
    }
}
