//! Runs side by side.

use super::{
    Run,
    format::{bytes, millis},
    svg::{Anchor, Svg},
    table::per_epoch,
};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 230.0;
const LABELS: f64 = 120.0;

/// A quantity to compare: its name, its value in a run, and how to write it.
type Measure = (&'static str, fn(&Run) -> Option<f64>, fn(f64) -> String);

const MEASURES: [Measure; 5] = [
    ("Pause of the guest, median", |r| r.pause_ms.map(|q| q.p50), millis),
    ("Pause of the guest, p99", |r| r.pause_ms.map(|q| q.p99), millis),
    ("Sent per epoch", per_epoch, bytes),
    ("Detection", |r| r.detect_ms, millis),
    ("Downtime", |r| r.downtime_ms, millis),
];

/// Bars for what at least two runs measured; `None` if there is no such thing.
pub(super) fn bars(runs: &[Run]) -> Option<String> {
    const ROW: f64 = 20.0;
    const HEAD: f64 = 26.0;
    let shown: Vec<&Measure> =
        MEASURES.iter().filter(|m| runs.iter().filter(|r| m.1(r).is_some()).count() > 1).collect();
    if shown.is_empty() {
        return None;
    }
    let height = shown.len() as f64 * (HEAD + ROW * runs.len() as f64 + 8.0);
    let mut svg = Svg::new(WIDTH, height, "The runs side by side; shorter is better");
    let mut y = 0.0;
    for (name, value, write) in shown {
        svg.text("panel", (0.0, y + 17.0), Anchor::Start, name);
        y += HEAD;
        let largest = runs.iter().filter_map(value).fold(f64::MIN_POSITIVE, f64::max);
        for run in runs {
            svg.text("legend", (LEFT - 10.0, y + 14.0), Anchor::End, &run.name);
            match value(run) {
                Some(v) => {
                    let width = (v / largest * (WIDTH - LEFT - LABELS)).max(1.0);
                    let class = if run.is_stock() { "bar stock" } else { "bar" };
                    svg.rect(class, (LEFT, y + 3.0), (width, ROW - 6.0), "");
                    svg.text("legend", (LEFT + width + 8.0, y + 14.0), Anchor::Start, &write(v));
                }
                None => svg.text("tick", (LEFT, y + 14.0), Anchor::Start, "\u{2013}"),
            }
            y += ROW;
        }
        y += 8.0;
    }
    debug_assert!(y <= svg.height() + 0.5);
    Some(svg.finish())
}
