//! What the clients saw over time: phases, percentiles, throughput, downtime. All exact, from every sample.
//!
//! The clients are closed loops: one that waits sends nothing, so few slow samples stand for a long outage.
//! Percentiles therefore never replace [`Timeline::downtime`], which looks at the gaps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ClientKind;

/// One reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it came, on [`super::now_ns`]'s clock.
    pub t_ns: u64,
    /// Since its request was sent.
    pub latency_ns: u64,
    /// Whether it said yes.
    pub ok: bool,
    /// Whose.
    pub kind: ClientKind,
    /// On which connection.
    pub connection: u16,
}

/// When things happened, on [`super::now_ns`]'s clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// The clients were running.
    pub started_ns: u64,
    /// Protection was asked for.
    pub protecting_ns: Option<u64>,
    /// The first epoch was committed: protected from here on.
    pub protected_ns: Option<u64>,
    /// The fault was injected.
    pub failed_ns: Option<u64>,
    /// The clients were told to stop.
    pub ended_ns: u64,
}

/// A stretch of a run. A sample belongs to the phase its reply came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before protection was asked for.
    Unprotected,
    /// The first whole copy is under way.
    Protecting,
    /// Every epoch is committed to the backup.
    Protected,
    /// From the fault until every connection that goes on had its first reply.
    Failure,
    /// On the backup.
    After,
}

impl Phase {
    /// All, in order.
    pub const ALL: [Self; 5] =
        [Self::Unprotected, Self::Protecting, Self::Protected, Self::Failure, Self::After];

    /// A short name, also the one in the JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unprotected => "unprotected",
            Self::Protecting => "protecting",
            Self::Protected => "protected",
            Self::Failure => "failure",
            Self::After => "after",
        }
    }
}

/// Exact percentiles (nearest rank) of a set of durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentiles {
    /// How many.
    pub n: usize,
    /// The median, in nanoseconds like the rest.
    pub p50_ns: u64,
    /// 99 % are not above.
    pub p99_ns: u64,
    /// The largest.
    pub max_ns: u64,
}

impl Percentiles {
    /// Of `sorted`, ascending; `None` if it is empty.
    #[must_use]
    pub fn of(sorted: &[u64]) -> Option<Self> {
        Some(Self {
            n: sorted.len(),
            p50_ns: quantile(sorted, 0.5)?,
            p99_ns: quantile(sorted, 0.99)?,
            max_ns: *sorted.last()?,
        })
    }
}

/// The nearest-rank quantile (0 to 1) of ascending values: the smallest with at least that share not above it.
#[must_use]
pub fn quantile(sorted: &[u64], q: f64) -> Option<u64> {
    // The product may come out a hair above a whole number: 0.99 * 100 must be rank 99.
    let rank = (q.clamp(0.0, 1.0) * sorted.len() as f64 - 1e-9).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).checked_sub(1)?).copied()
}

/// Replies within a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    /// Positive replies.
    pub replies: u32,
    /// Of their latencies; `None` without replies.
    pub p50_ns: Option<u64>,
    /// The largest latency.
    pub max_ns: Option<u64>,
}

/// The outage as one connection saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Whose.
    pub kind: ClientKind,
    /// Which connection.
    pub connection: u16,
    /// Last reply before.
    pub from_ns: u64,
    /// First reply after; `None` if none ever came.
    pub to_ns: Option<u64>,
}

impl Gap {
    /// Its length, `None` if it never ended.
    #[must_use]
    pub fn length_ns(&self) -> Option<u64> {
        self.to_ns.map(|to| to - self.from_ns)
    }
}

/// All samples of a run, by time, and its marks.
#[derive(Debug, Clone)]
pub struct Timeline {
    samples: Vec<Sample>,
    marks: Marks,
    recovered_ns: Option<u64>,
}

impl Timeline {
    /// Replies in flight when the fault hits may still arrive; a gap may begin this much after the mark.
    pub const IN_FLIGHT_NS: u64 = 250_000_000;

    /// Orders the samples of all clients.
    #[must_use]
    pub fn new(marks: Marks, samples: impl IntoIterator<Item = Sample>) -> Self {
        let mut samples: Vec<Sample> = samples.into_iter().collect();
        samples.sort_by_key(|s| s.t_ns);
        let mut timeline = Self { samples, marks, recovered_ns: None };
        timeline.recovered_ns =
            timeline.gaps().iter().filter(|g| !g.kind.is_bulk()).filter_map(|g| g.to_ns).max();
        timeline
    }

    /// The marks given.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The samples, by time.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// When the last connection to go on had its first reply after the fault; bulk clients aside.
    #[must_use]
    pub fn recovered_ns(&self) -> Option<u64> {
        self.recovered_ns
    }

    /// The phases with their begin and end, in order; those that did not happen are left out.
    #[must_use]
    pub fn phases(&self) -> Vec<(Phase, u64, u64)> {
        let m = &self.marks;
        let begins = [Some(m.started_ns), m.protecting_ns, m.protected_ns, m.failed_ns, self.recovered_ns];
        let known: Vec<(Phase, u64)> =
            Phase::ALL.into_iter().zip(begins).filter_map(|(p, t)| Some((p, t?))).collect();
        let end_of = |i: usize| known.get(i + 1).map_or(m.ended_ns, |next| next.1);
        known.iter().enumerate().map(|(i, (phase, from))| (*phase, *from, end_of(i).max(*from))).collect()
    }

    /// Latencies of positive replies that came in `phase`, of one client or all, ascending.
    #[must_use]
    pub fn latencies(&self, phase: Phase, kind: Option<ClientKind>) -> Vec<u64> {
        self.latencies_of(phase, |k| kind.is_none_or(|wanted| wanted == k))
    }

    /// The same of some clients.
    #[must_use]
    pub fn latencies_of(&self, phase: Phase, wanted: impl Fn(ClientKind) -> bool) -> Vec<u64> {
        let mut all: Vec<u64> = self.samples_of(phase, wanted).map(|s| s.latency_ns).collect();
        all.sort_unstable();
        all
    }

    /// Positive replies that came in `phase`, of some clients.
    pub fn samples_of(
        &self,
        phase: Phase,
        wanted: impl Fn(ClientKind) -> bool,
    ) -> impl Iterator<Item = &Sample> {
        let span = self.phases().into_iter().find(|p| p.0 == phase);
        // The reply that ends the outage is its last, not the first of the time after.
        let within = move |t: u64| {
            span.is_some_and(|(_, from, to)| match phase {
                Phase::Failure => t >= from && t <= to,
                Phase::After => t > from && t <= to,
                _ => t >= from && t < to,
            })
        };
        self.samples.iter().filter(move |s| s.ok && wanted(s.kind) && within(s.t_ns))
    }

    /// Replies of one client in stretches of `width_ns` from the start mark to the end mark.
    #[must_use]
    pub fn buckets(&self, kind: ClientKind, width_ns: u64) -> Vec<Bucket> {
        let width = width_ns.max(1);
        let span = self.marks.ended_ns.saturating_sub(self.marks.started_ns);
        let count = usize::try_from(span.div_ceil(width)).unwrap_or(usize::MAX).min(1 << 20);
        let mut latencies: Vec<Vec<u64>> = vec![Vec::new(); count];
        for s in self.samples.iter().filter(|s| s.ok && s.kind == kind) {
            let Some(offset) = s.t_ns.checked_sub(self.marks.started_ns) else { continue };
            let at = usize::try_from(offset / width).unwrap_or(usize::MAX);
            if let Some(bucket) = latencies.get_mut(at) {
                bucket.push(s.latency_ns);
            }
        }
        let summary = |mut all: Vec<u64>| {
            all.sort_unstable();
            let replies = u32::try_from(all.len()).unwrap_or(u32::MAX);
            Bucket { replies, p50_ns: quantile(&all, 0.5), max_ns: all.last().copied() }
        };
        latencies.into_iter().map(summary).collect()
    }

    /// For each connection that was alive before the fault, the longest gap between two replies that spans
    /// it: it begins before the fault (or with a reply then in flight, see [`Self::IN_FLIGHT_NS`]) and ends
    /// after it. Empty without a fault.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let Some(failed) = self.marks.failed_ns else { return Vec::new() };
        let mut times: BTreeMap<(ClientKind, u16), Vec<u64>> = BTreeMap::new();
        for s in self.samples.iter().filter(|s| s.ok) {
            times.entry((s.kind, s.connection)).or_default().push(s.t_ns);
        }
        let gap = |((kind, connection), t): ((ClientKind, u16), Vec<u64>)| {
            // Alive before the fault, or it has nothing to say about it.
            t.first().filter(|first| **first <= failed)?;
            let last = *t.last()?;
            let spans = t.windows(2).map(|w| (w[0], w[1]));
            let spans = spans.filter(|(from, to)| *to > failed && *from <= failed + Self::IN_FLIGHT_NS);
            let longest = spans.max_by_key(|(from, to)| to - from);
            // No reply later than what may have been in flight: it never came back.
            let (from_ns, to_ns) = match longest {
                Some((from, to)) if last > failed + Self::IN_FLIGHT_NS => (from, Some(to)),
                _ => (last, None),
            };
            Some(Gap { kind, connection, from_ns, to_ns })
        };
        times.into_iter().filter_map(gap).collect()
    }

    /// The longest outage any connection saw; `None` if there was no fault, nobody to see it, or if a
    /// connection never came back. Bulk clients ([`ClientKind::is_bulk`]) do not count.
    #[must_use]
    pub fn downtime_ns(&self) -> Option<u64> {
        let gaps = self.gaps();
        let lengths: Option<Vec<u64>> =
            gaps.iter().filter(|g| !g.kind.is_bulk()).map(Gap::length_ns).collect();
        lengths?.into_iter().max()
    }
}

#[cfg(test)]
mod tests;
