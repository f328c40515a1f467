//! What only some runs measure: mode `llm`'s replay, the connections' fate, the clients one by one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Quantiles, Run, ms, quantiles};
use crate::clients::{Cause, ClientKind, Marks, Outcome, Pauses, Phase, Sample, Timeline};
use crate::lab::{guest, pattern, sink};

/// Where the time between take-over and go-live went, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ReplayTimes {
    /// Asking the copy for the state of its connections.
    pub probe: f64,
    /// Going through the log.
    pub walk: f64,
    /// Waiting until the copy has done all that the log told it.
    pub catch_up: f64,
    /// All of it.
    pub total: f64,
}

/// Bytes that the copy sent in the replay, beside what the dead primary had sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fidelity {
    /// The same.
    pub identical: u64,
    /// Others.
    pub different: u64,
    /// Nothing to compare with: the primary's were not known.
    pub unknown: u64,
}

impl Fidelity {
    /// The identical ones of those that could be compared, from 0 to 1; `None` if there were none.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        let compared = self.identical + self.different;
        (compared > 0).then(|| self.identical as f64 / compared as f64)
    }
}

impl std::ops::AddAssign for Fidelity {
    fn add_assign(&mut self, other: Self) {
        self.identical += other.identical;
        self.different += other.different;
        self.unknown += other.unknown;
    }
}

/// What is served on a port of the lab's guest.
pub(super) fn workload(port: u16) -> String {
    let name = match port {
        guest::HTTP => "web",
        guest::REDIS => "Redis",
        pattern::ECHO_PORT => "echo",
        sink::PORT => "upload",
        pattern::HTTP_PORT => "download",
        _ => return format!("port {port}"),
    };
    format!("{name} (port {port})")
}

/// A client's latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ClientLatency {
    /// While protected.
    pub protected: Option<Quantiles>,
    /// Before protection.
    pub unprotected: Option<Quantiles>,
    /// Of the protected ones, those of requests that no pause of the guest fell into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_pause_met: Option<Quantiles>,
    /// The others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_met: Option<Quantiles>,
    /// How many the others are of all, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_met_share: Option<f64>,
}

/// Connections of a client that had to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Carried {
    /// All of them.
    pub total: u64,
    /// Those that did.
    pub carried: u64,
}

impl std::ops::AddAssign for Carried {
    fn add_assign(&mut self, other: Self) {
        self.total += other.total;
        self.carried += other.carried;
    }
}

impl ClientLatency {
    /// How much later protected replies come: percentile less percentile.
    #[must_use]
    pub fn added(&self) -> Option<Quantiles> {
        let (with, without) = (self.protected?, self.unprotected?);
        // To the microsecond, as both are.
        let less = |a: f64, b: f64| ((a - b) * 1e3).round() / 1e3;
        Some(Quantiles { p50: less(with.p50, without.p50), p99: less(with.p99, without.p99) })
    }
}

impl Run {
    /// Fills in the latencies of each kind of client.
    pub(super) fn latencies_by_client(&mut self, timeline: &Timeline) {
        let of = |phase, kind| quantiles(&timeline.latencies(phase, Some(kind)));
        let latency = |kind| ClientLatency {
            protected: of(Phase::Protected, kind),
            unprotected: of(Phase::Unprotected, kind),
            ..ClientLatency::default()
        };
        let all = ClientKind::ALL.map(|kind| (kind.name().to_owned(), latency(kind)));
        let known = |l: &ClientLatency| l.protected.is_some() || l.unprotected.is_some();
        let by_client: BTreeMap<_, _> = all.into_iter().filter(|(_, l)| known(l)).collect();
        let added: BTreeMap<_, _> =
            by_client.iter().filter_map(|(name, l)| Some((name.clone(), l.added()?))).collect();
        self.latency_by_client = (!by_client.is_empty()).then_some(by_client);
        self.added_latency_ms = (!added.is_empty()).then_some(added);
    }

    /// Counts the connections that had to go on, and those that did.
    pub(super) fn count_connections(&mut self, marks: &Marks, outcomes: &[Outcome]) {
        let mut by_client: BTreeMap<String, Carried> = BTreeMap::new();
        let mut all = Carried::default();
        for outcome in outcomes {
            let total = had_to_go_on(marks, outcome);
            let one = Carried { total, carried: total.saturating_sub(outcome.broken.len() as u64) };
            *by_client.entry(outcome.kind.name().into()).or_default() += one;
            all += one;
        }
        self.connections_by_client = Some(by_client);
        self.connections_total = Some(all.total);
        self.connections_carried = Some(all.carried);
    }

    /// Tells requests that met a pause from those that did not, and takes the pauses themselves.
    pub(super) fn sort_by_pauses(&mut self, timeline: &Timeline, pauses: &Pauses) {
        if pauses.is_empty() {
            return;
        }
        self.notes.push(format!(
            "Which requests met a pause is known to {:.1} ms: so far the clocks may be apart.",
            ms(pauses.slack_ns())
        ));
        for kind in ClientKind::ALL {
            let Some(latency) = self.latency_by_client.as_mut().and_then(|all| all.get_mut(kind.name()))
            else {
                continue;
            };
            let mine = timeline.samples_of(Phase::Protected, |k| k == kind).filter(|s| pauses.cover(s));
            let (met, free): (Vec<_>, Vec<_>) = mine.partition(|s| pauses.meet(s));
            let share = met.len() as f64 / (met.len() + free.len()).max(1) as f64;
            let of = |samples: Vec<&Sample>| Quantiles::of(samples.iter().map(|s| s.latency_ns).collect());
            latency.pause_met_share = Some((share * 1e4).round() / 1e4);
            (latency.pause_met, latency.no_pause_met) = (of(met), of(free));
        }
        let marks = timeline.marks();
        if let (Some(from), Some(to)) = (marks.protected_ns, marks.failed_ns) {
            let lengths = pauses.lengths(from, to);
            self.pause_ms = Quantiles::of(lengths.clone());
            self.pauses_ms = lengths.into_iter().map(ms).collect();
        }
    }

    /// States how many connections were reset on purpose, and why. Those are not held against the run, and its
    /// downtime is that of the connections that went on.
    #[must_use]
    pub fn with_resets(mut self, by_cause: BTreeMap<String, u64>) -> Self {
        self.connections_reset_by_cause = Some(by_cause);
        if self.downtime_ms.is_none() && self.unexplained() == Some(0) {
            let lanes = self.series.iter().flat_map(|s| &s.lanes).filter(|l| !l.client.is_bulk());
            let gaps = lanes.filter_map(|l| Some(l.gap_to_ms? - l.gap_from_ms));
            self.downtime_ms = gaps.max_by(f64::total_cmp);
        }
        self
    }

    /// Connections reset on purpose, with a cause.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.connections_reset_by_cause.iter().flat_map(BTreeMap::values).sum()
    }

    /// Broken connections beyond those that were reset with a cause: only a reset can have one.
    #[must_use]
    pub fn unexplained(&self) -> Option<u64> {
        let reset = self.broken.iter().filter(|b| matches!(b.cause, Cause::Reset(_))).count() as u64;
        Some(self.connections_broken?.saturating_sub(reset.min(self.resets())))
    }
}

/// Lasting connections count as they are; of those made for one request, the ones that the fault found open and
/// the ones that broke.
fn had_to_go_on(marks: &Marks, outcome: &Outcome) -> u64 {
    if outcome.kind != ClientKind::HttpNew {
        return u64::from(outcome.connections);
    }
    let open = |failed: u64| {
        let spans = outcome.samples.iter().filter(|s| s.t_ns - s.latency_ns <= failed && failed <= s.t_ns);
        spans.count() as u64
    };
    marks.failed_ns.map_or(0, open) + outcome.broken.len() as u64
}
