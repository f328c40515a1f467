//! The primary's right to release output, renewed by echoes of its own heartbeats.

use crate::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub(super) struct Lease {
    length: Duration,
    /// First and newest clock value sent to the backup.
    sent: Option<(u64, u64)>,
    /// Newest of them that came back.
    echo: Option<u64>,
}

/// An echo of something never sent.
#[derive(Debug)]
pub(super) struct FalseEcho;

impl Lease {
    pub(super) const fn new(length: Duration) -> Self {
        Self { length, sent: None, echo: None }
    }

    /// The value to send at `now`.
    pub(super) fn stamp(&mut self, now: Instant) -> u64 {
        let sent = now.as_nanos();
        self.sent = Some((self.sent.map_or(sent, |(first, _)| first), sent));
        sent
    }

    /// The backup heard what was sent at `echo`, so it cannot act before `echo` + detect.
    pub(super) fn renew(&mut self, echo: u64) -> Result<(), FalseEcho> {
        if self.sent.is_none_or(|(first, last)| !(first..=last).contains(&echo)) {
            return Err(FalseEcho);
        }
        self.echo = Some(self.echo.map_or(echo, |newest| newest.max(echo)));
        Ok(())
    }

    /// First instant at which nothing may be released; `None` before the first echo.
    pub(super) fn until(&self) -> Option<Instant> {
        self.echo.map(|echo| Instant::from_nanos(echo) + self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_renews_it() {
        let at = Instant::from_nanos;
        let mut lease = Lease::new(Duration::from_nanos(100));
        assert!(lease.renew(0).is_err());
        assert_eq!((lease.stamp(at(10)), lease.stamp(at(30))), (10, 30));
        assert!(lease.renew(9).is_err() && lease.renew(31).is_err());
        assert_eq!(lease.until(), None);
        lease.renew(30).unwrap();
        lease.renew(10).unwrap();
        assert_eq!(lease.until(), Some(at(130)), "a late echo takes nothing away");
    }
}
