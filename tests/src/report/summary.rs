//! What many failovers came to together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Carried, Fidelity, Run, Verdict,
    figures::sum_fidelity,
    format::{NONE, bytes, count, millis},
};

/// Times of several failovers in milliseconds; each is that of a failover.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Spread {
    /// The shortest.
    pub min: f64,
    /// The one in the middle.
    pub median: f64,
    /// The longest.
    pub max: f64,
    /// All of them, ascending.
    pub all: Vec<f64>,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut all: Vec<f64> = values.collect();
        all.sort_by(f64::total_cmp);
        let (min, max) = (*all.first()?, *all.last()?);
        Some(Self { min, median: *all.get((all.len() - 1) / 2)?, max, all })
    }
}

/// The sums over all runs that were to keep the promise.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Failovers.
    pub failovers: u64,
    /// Those that held.
    pub held: u64,
    /// Writes the guest acknowledged.
    pub acked_writes: u64,
    /// Of those, the ones gone.
    pub lost_acked_writes: u64,
    /// Values that were never written so, or executed twice.
    pub wrong_values: u64,
    /// TCP connections that had to go on.
    pub connections: Carried,
    /// Those that did of all, from 0 to 1; `null` without connections.
    pub carried_share: Option<f64>,
    /// The same by client.
    pub connections_by_client: BTreeMap<String, Carried>,
    /// Connections that the backup reset because it could not carry them on, by its cause.
    pub resets_by_cause: BTreeMap<String, u64>,
    /// Connections that did not go on, and no cause was told.
    pub connections_unexplained: u64,
    /// Replayed reply bytes by workload; none in mode `remus`.
    pub fidelity: BTreeMap<String, Fidelity>,
    /// Of those that could be compared, the share that came out identical, by workload.
    pub fidelity_share: BTreeMap<String, f64>,
    /// Longest gap that a client saw.
    pub downtime_ms: Option<Spread>,
    /// The steps of the take-over.
    pub steps_ms: BTreeMap<String, Spread>,
}

impl Summary {
    /// Over runs of one mode.
    #[must_use]
    pub fn of(runs: &[Run]) -> Self {
        let runs: Vec<Run> = runs.iter().filter(|r| r.verdict() != Verdict::Untested).cloned().collect();
        let sum = |value: fn(&Run) -> Option<u64>| runs.iter().filter_map(value).sum::<u64>();
        let spread = |value: fn(&Run) -> Option<f64>| Spread::of(runs.iter().filter_map(value));
        let mut summary = Self {
            failovers: runs.len() as u64,
            held: runs.iter().filter(|r| r.verdict() == Verdict::Held).count() as u64,
            acked_writes: sum(|r| r.acked_writes),
            lost_acked_writes: sum(|r| r.lost_acked_writes),
            wrong_values: sum(|r| r.wrong_values),
            connections_unexplained: sum(Run::unexplained),
            fidelity: sum_fidelity(&runs),
            downtime_ms: spread(|r| r.downtime_ms),
            ..Self::default()
        };
        for run in &runs {
            for (client, one) in run.connections_by_client.iter().flatten() {
                *summary.connections_by_client.entry(client.clone()).or_default() += *one;
                summary.connections += *one;
            }
            for (cause, n) in run.connections_reset_by_cause.iter().flatten() {
                *summary.resets_by_cause.entry(cause.clone()).or_default() += n;
            }
        }
        let all = summary.connections;
        summary.carried_share = (all.total > 0).then(|| floor(all.carried as f64 / all.total as f64));
        let share = |(workload, f): (&String, &Fidelity)| Some((workload.clone(), floor(f.share()?)));
        summary.fidelity_share = summary.fidelity.iter().filter_map(share).collect();
        type Step = (&'static str, fn(&Run) -> Option<f64>);
        let steps: [Step; 4] = [
            ("detection", |r| r.detect_ms),
            ("take-over", |r| r.take_over_ms),
            ("replay", |r| r.replay_ms.map(|t| t.total)),
            ("go-live", |r| r.go_live_ms),
        ];
        summary.steps_ms =
            steps.into_iter().filter_map(|(name, value)| Some((name.to_owned(), spread(value)?))).collect();
        summary
    }
}

impl Summary {
    /// In words: what, and how much of it.
    #[must_use]
    pub fn lines(&self) -> Vec<(String, String)> {
        let part = |share: f64| format!("{:.2} %", share * 100.0);
        let connections = |c: &Carried| format!("{} of {} went on", count(c.carried), count(c.total));
        let mut lines = vec![
            ("failovers that held".into(), format!("{} of {}", self.held, self.failovers)),
            (
                "acknowledged writes lost, wrong values".into(),
                format!("{}, {} of {}", self.lost_acked_writes, self.wrong_values, count(self.acked_writes)),
            ),
            (
                "connections".into(),
                format!(
                    "{} ({}), {} reset with a cause, {} without one",
                    connections(&self.connections),
                    self.carried_share.map_or_else(|| NONE.into(), part),
                    self.resets_by_cause.values().sum::<u64>(),
                    self.connections_unexplained
                ),
            ),
        ];
        let resets = self.resets_by_cause.iter();
        lines.extend(resets.map(|(cause, n)| (format!("reset: {cause}"), count(*n))));
        let clients = self.connections_by_client.iter();
        lines.extend(clients.map(|(client, c)| (format!("connections, {client}"), connections(c))));
        let spread =
            |s: &Spread| format!("{} to {}, median {}", millis(s.min), millis(s.max), millis(s.median));
        lines.extend(self.downtime_ms.iter().map(|s| ("downtime".into(), spread(s))));
        lines.extend(self.steps_ms.iter().map(|(step, s)| (format!("of it {step}"), spread(s))));
        lines.extend(self.fidelity.iter().map(|(workload, f)| {
            let share = self.fidelity_share.get(workload).copied();
            let text = format!(
                "{} identical of {} compared",
                share.map_or_else(|| NONE.into(), part),
                bytes((f.identical + f.different) as f64)
            );
            (format!("replayed bytes, {workload}"), text)
        }));
        lines
    }
}

/// Never rounded up to all.
fn floor(share: f64) -> f64 {
    (share * 1e4).floor() / 1e4
}
