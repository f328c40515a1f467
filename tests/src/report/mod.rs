//! What a run showed, as JSON, as a page, as a table and live.
//!
//! The JSON is `{"runs": [...]}` with further keys beside; times are milliseconds, sizes bytes. A value that
//! was not measured is `null`, never zero. `detect_ms` and `downtime_ms` are `null` as well if it never
//! happened: [`Run::failure`] says whether there was anything to detect, and how long the run watched. What only
//! some runs can measure (from [`Run::latency_by_client`] to [`Run::replay_fidelity`]) has no key in the others.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::clients::{
    Broken, ClientKind, Marks, Outcome, Pauses, Phase, Sample, Timeline, timeline::Percentiles,
};

mod bars;
mod bench;
mod bench_page;
mod charts;
mod compare;
mod figures;
mod format;
mod html;
mod json;
mod live;
mod measures;
mod picture;
mod series;
mod summary;
mod svg;
mod table;

pub use bench::{Bench, Row};
pub use format::utc;
pub use live::{Live, View};
pub use measures::{Carried, ClientLatency, Fidelity, ReplayTimes};
pub use picture::{Bars, picture};
pub use series::{ClientSeries, Distribution, Event, Lane, Series, Span};
pub use summary::{Spread, Summary};
pub use table::table;

/// A report that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("Cannot write {path}: check the folder and the space on its disk")]
pub struct WriteError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A fact about the machine, for the reader of the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// For instance `Xen`.
    pub name: String,
    /// For instance `4.17.5`.
    pub value: String,
}

/// Everything a demo or a soak has to say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// When it was written, as [`utc`] gives it.
    pub generated: String,
    /// What they came to together; only of failovers in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// The runs, in order.
    pub runs: Vec<Run>,
    /// The machine and the versions.
    pub host: Vec<Fact>,
    /// What a reader must know to judge the numbers.
    pub notes: Vec<String>,
}

/// Two percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// 99 % are not above.
    pub p99: f64,
}

impl Quantiles {
    /// Of durations in nanoseconds, in any order; `None` if there are none.
    #[must_use]
    pub fn of(mut durations_ns: Vec<u64>) -> Option<Self> {
        durations_ns.sort_unstable();
        quantiles(&durations_ns)
    }
}

/// The fault of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What was done, for instance `primary host killed`.
    pub what: String,
    /// How long the run went on to watch after it.
    pub watched_ms: f64,
}

/// One run. `None` is: not measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Run {
    /// `remus`, `llm`, or `xl-remus` for the stock toolstack.
    pub mode: String,
    /// The name shown; the mode and the interval unless set.
    pub name: String,
    /// Time between two checkpoints.
    pub interval_ms: Option<u64>,
    /// Checkpoints the backup acknowledged whole.
    pub epochs_committed: Option<u64>,
    /// Page records sent.
    pub pages_sent: Option<u64>,
    /// The toolstack's stream before encoding.
    pub bytes_raw: Option<u64>,
    /// The same after encoding.
    pub bytes_sent: Option<u64>,
    /// All that crossed the link, framing and heartbeats included.
    pub link_bytes: Option<u64>,
    /// How long the guest stood still for a checkpoint.
    pub pause_ms: Option<Quantiles>,
    /// Latency of the clients while protected: of the Redis writer and the web client, which every run has.
    pub latency_ms: Option<Quantiles>,
    /// Latency of the same clients before protection.
    pub latency_unprotected_ms: Option<Quantiles>,
    /// From the fault to the decision to take over.
    pub detect_ms: Option<f64>,
    /// Longest gap between two replies around the fault, over all connections.
    pub downtime_ms: Option<f64>,
    /// Writes the guest acknowledged.
    pub acked_writes: Option<u64>,
    /// Of those, the ones gone.
    pub lost_acked_writes: Option<u64>,
    /// Values that were never written so, or executed twice.
    pub wrong_values: Option<u64>,
    /// TCP connections that did not go on.
    pub connections_broken: Option<u64>,
    /// The fault, if there was one.
    pub failure: Option<Failure>,
    /// Every pause.
    pub pauses_ms: Vec<f64>,
    /// The broken connections one by one.
    pub broken: Vec<Broken>,
    /// What the clients found, in words.
    pub findings: Vec<String>,
    /// Remarks on this run.
    pub notes: Vec<String>,
    /// The course of the run, for the pictures.
    pub series: Option<Series>,
    /// Latencies of each client, by [`ClientKind::name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_by_client: Option<BTreeMap<String, ClientLatency>>,
    /// How much of them is the price of protection: protected less unprotected, percentile by percentile. The
    /// pauses of the checkpoints show in p99; [`Run::pause_ms`] has them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_latency_ms: Option<BTreeMap<String, Quantiles>>,
    /// Round trip on the link between the hosts, which a reply of mode `llm` waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_rtt_ms: Option<Quantiles>,
    /// TCP connections that had to go on. Of those made for one request only the ones that the fault found open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_total: Option<u64>,
    /// The same by client, by [`ClientKind::name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_by_client: Option<BTreeMap<String, Carried>>,
    /// Of those, the ones that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_carried: Option<u64>,
    /// Connections that the backup reset because it could not carry them on, by its cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_reset_by_cause: Option<BTreeMap<String, u64>>,
    /// From the decision to take over until the copy is ready to replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_over_ms: Option<f64>,
    /// The replay of the log, step by step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_ms: Option<ReplayTimes>,
    /// From the end of the replay until the guest is in the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_live_ms: Option<f64>,
    /// What the replayed guest sent, beside what the dead one had sent, by the service's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_fidelity: Option<BTreeMap<u16, Fidelity>>,
}

/// Whether a run kept the promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing lost, nothing wrong, every connection went on.
    Held,
    /// What was not so.
    Broken(Vec<String>),
    /// There was no fault or no client: nothing can be said.
    Untested,
}

impl Run {
    /// A run of which only the mode is known; the caller fills in what was measured.
    #[must_use]
    pub fn new(mode: &str, interval_ms: u64) -> Self {
        Self {
            mode: mode.into(),
            name: format!("{mode}, {interval_ms} ms"),
            interval_ms: Some(interval_ms),
            ..Self::default()
        }
    }

    /// A run with all that its clients saw. The driver's numbers are still to be filled in.
    #[must_use]
    pub fn measured(mode: &str, interval_ms: u64, marks: Marks, outcomes: Vec<Outcome>) -> Self {
        Self::measured_with(mode, interval_ms, marks, outcomes, &Pauses::default())
    }

    /// The same where the pauses of the guest are known one by one.
    #[must_use]
    pub fn measured_with(
        mode: &str,
        interval_ms: u64,
        marks: Marks,
        outcomes: Vec<Outcome>,
        pauses: &Pauses,
    ) -> Self {
        let mut run = Self::new(mode, interval_ms);
        let sum = |count: fn(&Outcome) -> u64| Some(outcomes.iter().map(count).sum());
        run.acked_writes = sum(|o| o.acked_writes);
        run.lost_acked_writes = sum(|o| o.lost_acked_writes);
        run.wrong_values = sum(|o| o.wrong_values);
        run.connections_broken = sum(|o| o.broken.len() as u64);
        run.count_connections(&marks, &outcomes);
        let mut samples = Vec::new();
        for mut outcome in outcomes {
            run.broken.append(&mut outcome.broken);
            run.findings.append(&mut outcome.findings);
            samples.append(&mut outcome.samples);
        }
        let timeline = run.latencies(marks, samples);
        run.sort_by_pauses(&timeline, pauses);
        run.downtime_ms = timeline.downtime_ns().map(ms);
        run
    }

    /// Fills in the latencies and the course of the run from its clients' replies.
    pub fn latencies(&mut self, marks: Marks, samples: Vec<Sample>) -> Timeline {
        let timeline = Timeline::new(marks, samples);
        let basic = |phase| quantiles(&timeline.latencies_of(phase, ClientKind::is_basic));
        self.latency_ms = basic(Phase::Protected);
        self.latency_unprotected_ms = basic(Phase::Unprotected);
        self.latencies_by_client(&timeline);
        self.series = Some(Series::of(&timeline));
        timeline
    }

    /// States the fault; `watched_ms` is taken from the fault's mark to the end of the run.
    #[must_use]
    pub fn with_failure(mut self, what: &str, marks: &Marks) -> Self {
        self.failure = marks.failed_ns.map(|failed| Failure {
            what: what.into(),
            watched_ms: ms(marks.ended_ns.saturating_sub(failed)),
        });
        self
    }

    /// Takes all pauses, in nanoseconds, and their percentiles.
    #[must_use]
    pub fn with_pauses(mut self, pauses_ns: &[u64]) -> Self {
        let mut sorted = pauses_ns.to_vec();
        sorted.sort_unstable();
        self.pause_ms = quantiles(&sorted);
        self.pauses_ms = pauses_ns.iter().copied().map(ms).collect();
        self
    }

    /// Marks a moment (on the clients' clock) in the pictures.
    pub fn event(&mut self, t_ns: u64, label: &str) {
        if let Some(series) = &mut self.series {
            series.event(t_ns, label);
        }
    }

    /// Whether it is the stock toolstack, there for comparison.
    #[must_use]
    pub fn is_stock(&self) -> bool {
        self.mode.starts_with("xl")
    }

    /// Whether the promise was kept.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let counts = [
            (self.lost_acked_writes, "acknowledged writes lost"),
            (self.wrong_values, "wrong values"),
            (self.unexplained(), "connections broken"),
        ];
        if self.failure.is_none() || counts.iter().all(|(count, _)| count.is_none()) {
            return Verdict::Untested;
        }
        let mut faults: Vec<String> = counts
            .into_iter()
            .filter_map(|(count, what)| match count {
                Some(0) => None,
                Some(n) => Some(format!("{n} {what}")),
                None => Some(format!("{what}: not measured")),
            })
            .collect();
        if self.acked_writes.unwrap_or(0) == 0 {
            faults.push("no write was acknowledged".into());
        }
        if self.downtime_ms.is_none() {
            faults.push("service did not come back on every connection".into());
        }
        if faults.is_empty() { Verdict::Held } else { Verdict::Broken(faults) }
    }
}

impl Report {
    /// The JSON text.
    #[must_use]
    pub fn json(&self) -> String {
        json::text(self)
    }

    /// The self-contained page: no script, no other resource.
    #[must_use]
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// Writes `report.json` and `report.html` into `folder`, creating it, and returns both paths.
    ///
    /// # Errors
    /// [`WriteError`] with the path.
    pub fn write(&self, folder: &Path) -> Result<[PathBuf; 2], WriteError> {
        fs::create_dir_all(folder).map_err(|source| WriteError { path: folder.into(), source })?;
        Ok([put(folder, "report.json", &self.json())?, put(folder, "report.html", &self.html())?])
    }
}

/// Writes a file whole, or not at all: a reader may be watching.
fn put(folder: &Path, name: &str, text: &str) -> Result<PathBuf, WriteError> {
    let path = folder.join(name);
    let part = folder.join(format!("{name}.part"));
    let written = fs::write(&part, text).and_then(|()| fs::rename(&part, &path));
    written.map(|()| path.clone()).map_err(|source| WriteError { path, source })
}

/// Nanoseconds in milliseconds, to the microsecond.
pub(crate) fn ms(ns: u64) -> f64 {
    (ns as f64 / 1e3).round() / 1e3
}

fn quantiles(sorted: &[u64]) -> Option<Quantiles> {
    Percentiles::of(sorted).map(|p| Quantiles { p50: ms(p.p50_ns), p99: ms(p.p99_ns) })
}
