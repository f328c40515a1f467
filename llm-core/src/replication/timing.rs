//! The times of a session, and everything derived from them.

use crate::time::Duration;

/// Shortest detect time.
pub const DETECT_MIN: Duration = Duration::from_millis(100);
/// Longest detect time.
pub const DETECT_MAX: Duration = Duration::from_secs(60);
/// Shortest heartbeat period.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(1);
/// Shortest checkpoint interval.
pub const INTERVAL_MIN: Duration = Duration::from_millis(1);
/// Longest checkpoint interval.
pub const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// A lost heartbeat must not look like a lost peer: this many fit into the detect time.
const HEARTBEATS_PER_DETECT: u32 = 4;

/// Times agreed in Hello, in whole milliseconds; both sides hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Timing {
    interval_ms: u32,
    detect_ms: u32,
    heartbeat_ms: u32,
}

impl Timing {
    /// Checks and keeps the three times. Parts of a millisecond are dropped;
    /// without `heartbeat` it is a tenth of `detect`.
    ///
    /// # Errors
    /// A time outside its bounds, or fewer than four heartbeats in `detect`.
    pub fn new(
        interval: Duration,
        detect: Duration,
        heartbeat: Option<Duration>,
    ) -> Result<Self, TimingError> {
        let ms = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
        let heartbeat = heartbeat.unwrap_or(detect / 10);
        Self::from_millis(ms(interval), ms(detect), ms(heartbeat))
    }

    /// The same from the numbers of a Hello.
    ///
    /// # Errors
    /// As [`Timing::new`].
    pub fn from_millis(interval_ms: u32, detect_ms: u32, heartbeat_ms: u32) -> Result<Self, TimingError> {
        let timing = Self { interval_ms, detect_ms, heartbeat_ms };
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&timing.interval()) {
            return Err(TimingError::Interval { ms: interval_ms });
        }
        if !(DETECT_MIN..=DETECT_MAX).contains(&timing.detect()) {
            return Err(TimingError::Detect { ms: detect_ms });
        }
        if timing.heartbeat() < HEARTBEAT_MIN || timing.heartbeat() * HEARTBEATS_PER_DETECT > timing.detect()
        {
            return Err(TimingError::Heartbeat { ms: heartbeat_ms, detect_ms });
        }
        Ok(timing)
    }

    /// Wanted time from one checkpoint to the next.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms as u64)
    }

    /// Silence on both paths after which the backup takes over.
    #[must_use]
    pub const fn detect(&self) -> Duration {
        Duration::from_millis(self.detect_ms as u64)
    }

    /// Period of heartbeats on each path, both ways.
    #[must_use]
    pub const fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms as u64)
    }

    /// How much sooner the primary's lease ends than the backup may act: a fifth of
    /// `detect`, for clocks of different speed and for packets on their way out.
    #[must_use]
    pub fn margin(&self) -> Duration {
        self.detect() / 5
    }

    /// How long an echoed heartbeat lets the primary release output, from its sending.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.detect() - self.margin()
    }

    /// Silence after which the primary gives up one connection and dials anew: half
    /// of `detect`, so that a new one can still renew the lease.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.detect() / 2
    }

    /// Silence after which the backup drops a copy that has no committed epoch yet: it could
    /// not take over, and a first copy keeps both hosts busy.
    #[must_use]
    pub fn first_copy_patience(&self) -> Duration {
        self.detect() * 5
    }

    /// Silence after which the backup drops a connection that nobody replaced.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.detect() * 2
    }

    /// A machine called this much later than it asked for did not run meanwhile (a
    /// frozen or overloaded host): it reads what has queued up before it judges silence.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.heartbeat() * 2
    }

    /// Wait before the first attempt to connect again; doubled up to [`Timing::retry_max`].
    #[must_use]
    pub fn retry_min(&self) -> Duration {
        self.heartbeat() / 2
    }

    /// Longest wait between two attempts to connect.
    #[must_use]
    pub fn retry_max(&self) -> Duration {
        self.detect()
    }

    /// How long the primary waits for the answer to a release.
    #[must_use]
    pub fn release_wait(&self) -> Duration {
        self.detect() * 2
    }

    pub(super) const fn millis(&self) -> (u32, u32, u32) {
        (self.interval_ms, self.detect_ms, self.heartbeat_ms)
    }
}

/// A time that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimingError {
    /// Interval outside [`INTERVAL_MIN`]..=[`INTERVAL_MAX`].
    Interval {
        /// As given.
        ms: u32,
    },
    /// Detect time outside [`DETECT_MIN`]..=[`DETECT_MAX`].
    Detect {
        /// As given.
        ms: u32,
    },
    /// Heartbeat under [`HEARTBEAT_MIN`] or over a quarter of the detect time.
    Heartbeat {
        /// As given.
        ms: u32,
        /// The detect time it was given with.
        detect_ms: u32,
    },
}

impl core::fmt::Display for TimingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Interval { ms } => {
                write!(
                    f,
                    "checkpoint interval of {ms} ms is not between {INTERVAL_MIN:?} and {INTERVAL_MAX:?}"
                )
            }
            Self::Detect { ms } => {
                write!(f, "detect time of {ms} ms is not between {DETECT_MIN:?} and {DETECT_MAX:?}")
            }
            Self::Heartbeat { ms, detect_ms } => write!(
                f,
                "heartbeat of {ms} ms is not between {HEARTBEAT_MIN:?} and a quarter of the detect time of {detect_ms} ms"
            ),
        }
    }
}

impl core::error::Error for TimingError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_times_keep_their_order() {
        let ms = Duration::from_millis;
        for (detect, heartbeat) in [(100, 1), (100, 25), (1000, 100), (60_000, 15_000)] {
            let t = Timing::new(ms(200), ms(detect), Some(ms(heartbeat))).unwrap();
            assert!(t.lease() + t.margin() == t.detect());
            assert!(t.silence() < t.lease(), "a new connection must be able to save the lease");
            assert!(t.heartbeat() * 2 <= t.silence());
            assert!(t.retry_min() > Duration::ZERO && t.retry_min() < t.retry_max());
        }
    }

    #[test]
    fn bounds_are_checked() {
        assert_eq!(Timing::from_millis(0, 1000, 100), Err(TimingError::Interval { ms: 0 }));
        assert_eq!(Timing::from_millis(200, 99, 10), Err(TimingError::Detect { ms: 99 }));
        assert_eq!(Timing::from_millis(200, 60_001, 10), Err(TimingError::Detect { ms: 60_001 }));
        assert_eq!(
            Timing::from_millis(200, 1000, 251),
            Err(TimingError::Heartbeat { ms: 251, detect_ms: 1000 })
        );
        assert!(Timing::from_millis(u32::MAX, u32::MAX, u32::MAX).is_err());
        let t = Timing::new(Duration::from_millis(200), Duration::from_secs(1), None).unwrap();
        assert_eq!(t.heartbeat(), Duration::from_millis(100));
    }
}
