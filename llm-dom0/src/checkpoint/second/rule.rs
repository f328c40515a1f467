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

/// How much of a stall that was seen is still expected after one look without a run.
const CALM: f64 = 0.8;
/// A stall that is longer says no more.
const STALL_MAX: f64 = 10.0;

/// What is known of a method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Bytes in a second of processor time.
    pub speed: f64,
    /// Bytes out for each byte in.
    pub ratio: f64,
}

/// What to do with what waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// By what.
    pub level: Level,
    /// Bytes that must be ahead: then it is done before the link gets there.
    pub lead: Lead,
    /// To know how it does; it need not be the best.
    pub probe: bool,
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
    /// Time on the wall for each second of processor time: how busy the processors are with what goes first.
    stall: f64,
    chances: u32,
}

impl Rule {
    /// A rule for a choice, and the features that both ends have.
    #[must_use]
    pub fn new(choice: Compress, features: u64) -> Self {
        // What was measured of a compiler's pages on one machine; samples replace it soon.
        let guess = |speed, ratio| Estimate { speed, ratio };
        let estimates = [guess(450e6, 0.62), guess(300e6, 0.5), guess(170e6, 0.45)];
        Self { choice, features: features & choice.features(), estimates, stall: 1.0, chances: 0 }
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

    /// `bytes` were compressed to `packed` in `cpu` seconds of processor time and `wall` seconds on the wall.
    pub fn sample(&mut self, level: Level, bytes: usize, packed: usize, cpu: f64, wall: f64) {
        let estimate = &mut self.estimates[level as usize];
        let bytes = bytes.max(1) as f64;
        estimate.speed += WEIGHT * (bytes / cpu.max(1e-9) - estimate.speed);
        estimate.ratio += WEIGHT * ((packed as f64 / bytes).min(1.0) - estimate.ratio);
        self.stall += WEIGHT * ((wall / cpu.max(1e-9)).clamp(1.0, STALL_MAX) - self.stall);
    }

    /// Nothing was compressed: whatever kept the processors busy may be over.
    pub fn calm(&mut self) {
        self.stall = 1.0 + (self.stall - 1.0) * CALM;
    }

    /// What to do, if the link drains `link` bytes a second.
    pub fn plan(&mut self, link: f64) -> Option<Plan> {
        let mut probe = false;
        let level = match self.choice {
            Compress::Never => None,
            Compress::By(Method::Lz4) => Some(Level::Lz4),
            Compress::By(Method::Zstd) => Some(Level::Zstd1),
            Compress::Auto => {
                self.chances = self.chances.wrapping_add(1);
                let turn = (self.chances / PROBE) as usize;
                probe = self.chances.is_multiple_of(PROBE);
                if probe { Level::ALL.get(turn % Level::ALL.len()).copied() } else { self.best(link) }
            }
        };
        let level = level.filter(|level| level.method().feature() & self.features != 0)?;
        let each = MARGIN * link * self.stall / self.estimate(level).speed;
        Some(Plan { level, lead: Lead { fixed: WAKE * link, each }, probe })
    }

    /// The level by which most gets through in a second, if that is more than the link drains.
    fn best(&self, link: f64) -> Option<Level> {
        let allowed = |level: &Level| level.method().feature() & self.features != 0;
        let through = |level: Level| {
            let Estimate { speed, ratio } = self.estimate(level);
            // While a second's worth is compressed, the link drains what is ahead; and no more than its own rate comes out.
            let most = (link + speed / self.stall * (1.0 - ratio)).min(link / ratio.max(0.01));
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
        (0..50).for_each(|_| sample(&mut rule, 1.0, [0.62, 0.49, 0.45]));
        rule
    }

    /// A sample of each level; `stall` is time on the wall for each second of processor time.
    fn sample(rule: &mut Rule, stall: f64, ratios: [f64; 3]) {
        for ((level, speed), ratio) in Level::ALL.into_iter().zip([530e6, 340e6, 190e6]).zip(ratios) {
            let cpu = 100_000.0 / speed;
            rule.sample(level, 100_000, (100_000.0 * ratio) as usize, cpu, cpu * stall);
        }
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
    fn what_does_not_shrink_is_left_alone_and_a_busy_processor_needs_more_ahead() {
        let mut rule = known(Compress::Auto, 3);
        (0..50).for_each(|_| sample(&mut rule, 1.0, [0.99; 3]));
        assert_eq!(chosen(&mut rule, 12e6), None, "nothing to gain");
        let mut rule = known(Compress::Auto, 3);
        let needed = |rule: &mut Rule| rule.plan(12e6).map_or(0.0, |plan| plan.lead.each);
        let calm = needed(&mut rule);
        (0..50).for_each(|_| sample(&mut rule, 8.0, [0.62, 0.49, 0.45]));
        let busy = needed(&mut rule);
        assert!(busy > 5.0 * calm, "a processor without time: {busy} and {calm}");
        (0..30).for_each(|_| rule.calm());
        assert!(needed(&mut rule) < 1.1 * calm, "that passes");
    }

    #[test]
    fn the_lead_is_longer_than_compressing_takes() {
        let mut rule = known(Compress::Auto, 3);
        let Plan { level, lead, .. } = rule.plan(118e6).expect("1 Gb/s");
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
