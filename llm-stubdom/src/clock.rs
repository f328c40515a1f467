//! Time since Xen booted, as Xen shows it to each domain: a time, the time stamp counter of the
//! moment when it was taken, and the counter's speed.

use crate::abi::shared::{TIME_SCALE, TIME_SYSTEM, TIME_TSC, TIME_VERSION};
use crate::shared::Shared;

/// One reading of what Xen shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeInfo {
    /// Nanoseconds since Xen booted, at `tsc`.
    system: u64,
    tsc: u64,
    /// Nanoseconds a shifted tick, in 2^-32.
    mul: u32,
    /// Bits that ticks are shifted to the left.
    shift: i8,
}

impl TimeInfo {
    /// Reads the time of the first virtual CPU out of its `struct shared_info`.
    pub fn read<S: Shared>(info: &S) -> Self {
        loop {
            let version = info.load32(TIME_VERSION);
            let (mut tsc, mut system, mut scale) = ([0; 8], [0; 8], [0; 8]);
            info.read(TIME_TSC, &mut tsc);
            info.read(TIME_SYSTEM, &mut system);
            info.read(TIME_SCALE, &mut scale);
            // Odd: Xen was writing. Another one: it has written meanwhile.
            if version.is_multiple_of(2) && info.load32(TIME_VERSION) == version {
                let [a, b, c, d, shift, ..] = scale;
                return Self {
                    system: u64::from_le_bytes(system),
                    tsc: u64::from_le_bytes(tsc),
                    mul: u32::from_le_bytes([a, b, c, d]),
                    shift: shift.cast_signed(),
                };
            }
        }
    }

    /// Nanoseconds since Xen booted when the time stamp counter is `tsc`.
    #[must_use]
    pub fn nanos(&self, tsc: u64) -> u64 {
        // A counter that stands behind counts as equal, so that time does not jump.
        let ticks = u128::from(tsc.saturating_sub(self.tsc));
        let by = u32::from(self.shift.unsigned_abs()).min(63);
        let ticks = if self.shift < 0 { ticks >> by } else { ticks << by };
        let nanos = ticks.saturating_mul(u128::from(self.mul)) >> 32;
        self.system.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::TestPage;

    fn page(version: u32, tsc: u64, system: u64, mul: u32, shift: i8) -> TestPage {
        let page = TestPage::new();
        page.store32(TIME_VERSION, version);
        page.write(TIME_TSC, &tsc.to_le_bytes());
        page.write(TIME_SYSTEM, &system.to_le_bytes());
        page.store32(TIME_SCALE, mul);
        page.write(TIME_SCALE + 4, &[shift.cast_unsigned()]);
        page
    }

    #[test]
    fn ticks_become_nanoseconds() {
        // 2 GHz: half a nanosecond a tick.
        let time = TimeInfo::read(&page(2, 1000, 5_000_000, 1 << 31, 0));
        assert_eq!(time.nanos(1000), 5_000_000);
        assert_eq!(time.nanos(3000), 5_001_000);
        assert_eq!(time.nanos(999), 5_000_000, "not before it was taken");
        // The same speed, shifted both ways.
        assert_eq!(TimeInfo::read(&page(2, 0, 0, 1 << 31, -1)).nanos(4000), 1000);
        assert_eq!(TimeInfo::read(&page(2, 0, 0, 1 << 31, 1)).nanos(1000), 1000);
        assert_eq!(TimeInfo::read(&page(0, 0, u64::MAX, u32::MAX, 127)).nanos(u64::MAX), u64::MAX);
    }
}
