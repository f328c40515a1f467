//! The host's clock, as the core's machines want it.

use llm_core::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now, on `CLOCK_BOOTTIME`: it never steps back and, unlike
/// `CLOCK_MONOTONIC`, goes on while the host is suspended, so a lease cannot
/// outlive a sleep.
#[must_use]
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    Instant::from_nanos(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    #[test]
    fn goes_forward() {
        let a = super::now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(super::now().since(a).as_millis() >= 2);
    }
}
