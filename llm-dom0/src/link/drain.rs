//! How fast a connection takes what is written to it.

use std::time::{Duration, Instant};

/// A write that takes longer has waited for the connection: what the kernel holds back is full.
const BLOCKED: Duration = Duration::from_micros(150);
/// Seconds of writing that count: older ones are forgotten.
const WINDOW: f64 = 20e-3;
/// Seconds of writing without which nothing is said.
const LEAST: f64 = 1e-3;

/// The rate at which a writer gets rid of its frames while it has some and the kernel takes no more than the connection does.
///
/// What the kernel takes before the first wait of a busy time says nothing of the connection, and is not counted.
#[derive(Debug, Default)]
pub(super) struct Drain {
    bytes: f64,
    seconds: f64,
    /// The frame in hand: since when, and its bytes.
    writing: Option<(Instant, u64)>,
    /// The writer has waited, and has not been idle since.
    full: bool,
}

impl Drain {
    /// The writer is given a frame.
    pub(super) fn begin(&mut self, now: Instant, bytes: u64) {
        self.writing = Some((now, bytes));
    }

    /// The writer is done with what it had in hand, if it had anything.
    pub(super) fn end(&mut self, now: Instant) {
        let Some((since, bytes)) = self.writing.take() else { return };
        let took = now.saturating_duration_since(since);
        if self.full {
            self.bytes += bytes as f64;
            self.seconds += took.as_secs_f64();
            if self.seconds > WINDOW {
                self.bytes *= WINDOW / self.seconds;
                self.seconds = WINDOW;
            }
        }
        self.full |= took >= BLOCKED;
    }

    /// The writer has nothing to write.
    pub(super) fn idle(&mut self) {
        self.full = false;
    }

    /// The connection is over: what was in hand says nothing.
    pub(super) fn broken(&mut self) {
        (self.writing, self.full) = (None, false);
    }

    /// Bytes a second, rather too many than too few; `None` while too little is known.
    pub(super) fn per_second(&self, now: Instant) -> Option<f64> {
        // A frame in hand is gone by now at best.
        let (since, bytes) = self.writing.unwrap_or((now, 0));
        let held = now.saturating_duration_since(since).as_secs_f64();
        let known = |bytes: f64, seconds: f64| (seconds >= LEAST).then(|| bytes / seconds);
        let with = known(self.bytes + bytes as f64, self.seconds + held);
        match (known(self.bytes, self.seconds), with) {
            (Some(without), Some(with)) => Some(without.min(with)),
            (without, with) => without.or(with),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_time_spent_writing() {
        let start = Instant::now();
        let at = |us: u64| start + Duration::from_micros(us);
        let mut drain = Drain::default();
        assert_eq!(drain.per_second(at(0)), None);
        // The kernel takes a lot at once; that is not the connection.
        drain.begin(at(0), 1_000_000);
        drain.end(at(100));
        drain.begin(at(100), 1000);
        assert_eq!(drain.per_second(at(600)), None, "too early");
        assert_eq!(drain.per_second(at(2100)), Some(500e3), "at most that");
        drain.end(at(2100));
        assert_eq!(drain.per_second(at(2100)), None, "a part of it may have been taken at once");
        drain.begin(at(2100), 4000);
        drain.end(at(6100));
        assert_eq!(drain.per_second(at(6100)), Some(1e6));
        // Nothing to write for a second, and then room in the kernel again.
        drain.idle();
        drain.begin(at(1_000_000), 1_000_000);
        drain.end(at(1_000_010));
        assert_eq!(drain.per_second(at(2_000_000)), Some(1e6));
        drain.begin(at(2_000_000), 1);
        drain.broken();
        assert_eq!(drain.per_second(at(9_000_000)), Some(1e6));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let start = Instant::now();
        let mut drain = Drain::default();
        let mut now = start;
        for (count, bytes) in [(100, 10_000), (100, 1000)] {
            for _ in 0..count {
                drain.begin(now, bytes);
                now += Duration::from_millis(1);
                drain.end(now);
            }
        }
        let rate = drain.per_second(now).expect("known");
        assert!((1e6..1.1e6).contains(&rate), "{rate}");
    }
}
