//! Which method pays, and how much must be ahead of what is compressed. No clock, no thread: the figures come in.

use llm_core::frame::Method;

use super::{Compress, Level};

/// Weight of a new sample of speed and ratio.
const WEIGHT: f64 = 0.25;
/// How much longer than expected compressing may take without making the frame late.
const MARGIN: f64 = 1.5;
/// Seconds until a thread runs that was woken.
const WAKE: f64 = 100e-6;
/// How much quicker the backup is at decompressing than this end at compressing, at least. Measured: 2.3 to 8 times.
const BACKUP: f64 = 2.0;
/// A gain below this is left alone.
const GAIN: f64 = 1.05;
/// One in so many chances goes to a method by turns, so that all estimates stay fresh.
const PROBE: u32 = 24;

/// What is known of a method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Bytes in a second, by the clock on the wall: a processor that has no time is slow.
    pub speed: f64,
    /// Bytes out for each byte in.
    pub ratio: f64,
}

/// What to do with what waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// By what.
    pub level: Level,
    /// Bytes that must be ahead, and as many again for each byte compressed: then it is done before the link gets there.
    pub lead: Lead,
}

/// How much must be ahead of what is compressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lead {
    /// In any case, bytes.
    pub fixed: f64,
    /// For each byte.
    pub each: f64,
}

/// Keeps the estimates of a session, and decides by them.
#[derive(Clone, Debug)]
pub struct Rule {
    choice: Compress,
    features: u64,
    estimates: [Estimate; Level::ALL.len()],
    chances: u32,
}

impl Rule {
    /// A rule for a choice, and the features that both ends have.
    #[must_use]
    pub fn new(choice: Compress, features: u64) -> Self {
        // Of a slow machine; samples replace them soon.
        let guess = |speed| Estimate { speed, ratio: 0.6 };
        let estimates = [guess(300e6), guess(150e6), guess(80e6)];
        Self { choice, features: features & choice.features(), estimates, chances: 0 }
    }

    /// Whether anything may be compressed at all.
    #[must_use]
    pub fn may(&self) -> bool {
        self.features != 0
    }

    /// What is known of a level.
    #[must_use]
    pub fn estimate(&self, level: Level) -> Estimate {
        self.estimates[level as usize]
    }

    /// `bytes` were compressed to `packed` in `seconds`.
    pub fn sample(&mut self, level: Level, bytes: usize, packed: usize, seconds: f64) {
        let estimate = &mut self.estimates[level as usize];
        // By time, not by speed: one run that stood still must not be hidden by quick ones.
        let time = seconds / (bytes.max(1) as f64);
        estimate.speed = 1.0 / (1.0 / estimate.speed).mul_add(1.0 - WEIGHT, WEIGHT * time.max(1e-12));
        estimate.ratio += WEIGHT * ((packed as f64 / bytes.max(1) as f64).min(1.0) - estimate.ratio);
    }

    /// What to do, if the link drains `link` bytes a second.
    pub fn plan(&mut self, link: f64) -> Option<Plan> {
        let level = match self.choice {
            Compress::Never => None,
            Compress::By(Method::Lz4) => Some(Level::Lz4),
            Compress::By(Method::Zstd) => Some(Level::Zstd1),
            Compress::Auto => {
                self.chances = self.chances.wrapping_add(1);
                let turn = (self.chances / PROBE) as usize;
                if self.chances.is_multiple_of(PROBE) {
                    Level::ALL.get(turn % Level::ALL.len()).copied()
                } else {
                    self.best(link)
                }
            }
        };
        let level = level.filter(|level| level.method().feature() & self.features != 0)?;
        let each = MARGIN * link / self.estimate(level).speed;
        Some(Plan { level, lead: Lead { fixed: WAKE * link, each } })
    }

    /// The level by which most gets through in a second, if that is more than the link drains.
    fn best(&self, link: f64) -> Option<Level> {
        let allowed = |level: &Level| level.method().feature() & self.features != 0;
        let through = |level: Level| {
            let Estimate { speed, ratio } = self.estimate(level);
            // While a second's worth is compressed, the link drains what is ahead; and no more than its own rate comes out.
            let most = (link + speed * (1.0 - ratio)).min(link / ratio.max(0.01));
            // Each byte saved must save the link more time than the backup takes to decompress.
            let pays = (1.0 - ratio) / link > 1.0 / (BACKUP * speed);
            if pays { most } else { 0.0 }
        };
        let rated = Level::ALL.into_iter().filter(allowed).map(|level| (through(level), level));
        let best = rated.max_by(|a, b| a.0.total_cmp(&b.0));
        best.filter(|(through, _)| *through > GAIN * link).map(|(_, level)| level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule that knows what was measured of pages of a compiler, on one core.
    fn known(choice: Compress, features: u64) -> Rule {
        let mut rule = Rule::new(choice, features);
        for _ in 0..50 {
            rule.sample(Level::Lz4, 100_000, 62_000, 100_000.0 / 530e6);
            rule.sample(Level::Zstd1, 100_000, 49_000, 100_000.0 / 340e6);
            rule.sample(Level::Zstd3, 100_000, 45_000, 100_000.0 / 190e6);
        }
        rule
    }

    fn chosen(rule: &mut Rule, link: f64) -> Option<Level> {
        rule.plan(link).map(|plan| plan.level)
    }

    #[test]
    fn a_slow_link_gets_the_densest_and_a_fast_one_nothing() {
        let mut rule = known(Compress::Auto, 3);
        assert_eq!(chosen(&mut rule, 1e6), Some(Level::Zstd3));
        assert_eq!(chosen(&mut rule, 12e6), Some(Level::Zstd3), "100 Mb/s");
        assert_eq!(chosen(&mut rule, 118e6), Some(Level::Zstd1), "1 Gb/s");
        assert_eq!(chosen(&mut rule, 1200e6), None, "10 Gb/s");
    }

    #[test]
    fn only_what_both_have_is_chosen() {
        assert_eq!(chosen(&mut known(Compress::Auto, 1), 12e6), Some(Level::Lz4));
        assert_eq!(chosen(&mut known(Compress::Auto, 0), 12e6), None);
        assert!(!known(Compress::Auto, 0).may());
        assert_eq!(
            chosen(&mut known(Compress::By(Method::Zstd), 3), 5e9),
            Some(Level::Zstd1),
            "as it was told"
        );
        assert_eq!(chosen(&mut known(Compress::By(Method::Zstd), 1), 12e6), None);
        assert_eq!(chosen(&mut known(Compress::Never, 3), 12e6), None);
    }

    #[test]
    fn what_does_not_shrink_or_takes_too_long_is_left_alone() {
        let mut rule = known(Compress::Auto, 3);
        for level in Level::ALL {
            (0..50).for_each(|_| rule.sample(level, 100_000, 99_000, 1e-4));
        }
        assert_eq!(chosen(&mut rule, 12e6), None, "nothing to gain");
        let mut rule = known(Compress::Auto, 3);
        for level in Level::ALL {
            (0..50).for_each(|_| rule.sample(level, 100_000, 50_000, 0.1));
        }
        assert_eq!(chosen(&mut rule, 118e6), None, "a processor without time");
    }

    #[test]
    fn the_lead_is_longer_than_compressing_takes() {
        let mut rule = known(Compress::Auto, 3);
        let Plan { level, lead } = rule.plan(118e6).expect("1 Gb/s");
        let bytes = 200_000.0;
        let until_sent = (lead.fixed + lead.each * bytes) / 118e6;
        assert!(until_sent > 1.4 * bytes / rule.estimate(level).speed, "{until_sent}");
    }

    #[test]
    fn every_method_is_tried_again_now_and_then() {
        let mut rule = known(Compress::Auto, 3);
        let tried: Vec<_> = (0..4 * PROBE).filter_map(|_| chosen(&mut rule, 5e9)).collect();
        assert_eq!(tried, [Level::Zstd1, Level::Zstd3, Level::Lz4, Level::Zstd1]);
    }
}
