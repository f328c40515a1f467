//! Runs side by side.

use super::{
    Run,
    bars::{self, Bar, Panel},
    format::{bytes, millis},
    table::per_epoch,
};

/// A quantity to compare: its name, its value in a run, and how to write it.
type Measure = (&'static str, fn(&Run) -> Option<f64>, fn(f64) -> String);

const MEASURES: [Measure; 9] = [
    ("Latency, unprotected, median", |r| r.latency_unprotected_ms.map(|q| q.p50), millis),
    ("Latency, protected, median", |r| r.latency_ms.map(|q| q.p50), millis),
    ("Latency, protected, p99", |r| r.latency_ms.map(|q| q.p99), millis),
    ("Round trip of the link, median", |r| r.link_rtt_ms.map(|q| q.p50), millis),
    ("Pause of the guest, median", |r| r.pause_ms.map(|q| q.p50), millis),
    ("Pause of the guest, p99", |r| r.pause_ms.map(|q| q.p99), millis),
    ("Sent per epoch", per_epoch, bytes),
    ("Detection", |r| r.detect_ms, millis),
    ("Downtime", |r| r.downtime_ms, millis),
];

/// Bars for what at least two runs measured; `None` if there is no such thing.
pub(super) fn bars(runs: &[Run]) -> Option<String> {
    let shown = MEASURES.iter().filter(|m| runs.iter().filter(|r| m.1(r).is_some()).count() > 1);
    let panel = |(name, value, write): &Measure| Panel {
        name: (*name).into(),
        legend: Vec::new(),
        bars: runs
            .iter()
            .map(|run| {
                let class = if run.is_stock() { "bar stock" } else { "bar" };
                let value = value(run);
                Bar::whole(&run.name, class, value, value.map_or_else(String::new, write))
            })
            .collect(),
    };
    let panels: Vec<Panel> = shown.map(panel).collect();
    (!panels.is_empty()).then(|| bars::draw(&panels, "The runs side by side; shorter is better"))
}
