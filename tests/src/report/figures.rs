//! Pictures over all runs: where the downtime went, latency by client, what became of connections and replies.

use std::collections::BTreeMap;

use super::{
    Fidelity, Quantiles, Run,
    bars::{self, Bar, Panel, Part},
    charts::client_name,
    format::{bytes, count, millis},
    measures::workload,
};
use crate::clients::ClientKind;

/// A picture with its heading and what to say below it.
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) svg: String,
    pub(super) caption: &'static str,
}

/// All pictures that the runs have the figures for; latencies only if `few`.
pub(super) fn all(runs: &[Run], few: bool) -> Vec<Figure> {
    let latencies = if few { latencies(runs) } else { None };
    [downtime(runs), latencies, connections(runs), fidelity(runs)].into_iter().flatten().collect()
}

const STEPS: [(&str, &str); 5] = [
    ("part-1", "detection"),
    ("part-2", "take-over"),
    ("part-3", "replay"),
    ("part-4", "go-live"),
    ("part-5", "until the last client had its reply"),
];

/// Where the downtime of a run went; what no step accounts for is the clients' own time.
fn steps(run: &Run) -> Option<(f64, [f64; 5])> {
    let (whole, detect) = (run.downtime_ms?, run.detect_ms?);
    let replay = run.replay_ms.map_or(0.0, |t| t.total);
    let known = [detect, run.take_over_ms.unwrap_or(0.0), replay, run.go_live_ms.unwrap_or(0.0)];
    let [a, b, c, d] = known;
    Some((whole, [a, b, c, d, (whole - known.iter().sum::<f64>()).max(0.0)]))
}

fn downtime(runs: &[Run]) -> Option<Figure> {
    let bar = |run: &Run| {
        let (whole, steps) = steps(run)?;
        let part = |((class, name), value): (&(&'static str, &str), f64)| Part {
            class,
            value,
            title: format!("{name}: {}", millis(value)),
        };
        Some(Bar {
            label: run.name.clone(),
            parts: STEPS.iter().zip(steps).map(part).collect(),
            text: millis(whole),
        })
    };
    let bars: Vec<Bar> = runs.iter().filter_map(bar).collect();
    let legend = STEPS.map(|(class, name)| (class, name.to_owned())).to_vec();
    let panel = Panel { name: "Downtime".into(), legend, bars };
    (!panel.bars.is_empty()).then(|| Figure {
        name: "Where the downtime went",
        svg: bars::draw(&[panel], "Downtime of each run by its steps"),
        caption: "The whole bar is what the slowest client saw; the steps are the backup's own times.",
    })
}

/// The way up to p50, and from there to p99.
fn quantile_bar(label: String, q: Quantiles) -> Bar {
    let part =
        |class, value, title: &str, end| Part { class, value, title: format!("{title} {}", millis(end)) };
    Bar {
        label,
        parts: vec![part("part-1", q.p50, "p50", q.p50), part("part-light", q.p99 - q.p50, "p99", q.p99)],
        text: format!("{} / {}", millis(q.p50), millis(q.p99)),
    }
}

fn latencies(runs: &[Run]) -> Option<Figure> {
    let panel = |kind: ClientKind| {
        let of = |run: &Run| {
            let latency = run.latency_by_client.as_ref()?.get(kind.name()).copied()?;
            let rows = [
                ("unprotected", latency.unprotected),
                ("protected", latency.protected),
                ("no pause met", latency.no_pause_met),
                ("pause met", latency.pause_met),
            ];
            let bar = |(what, q): (&str, Option<Quantiles>)| {
                Some(quantile_bar(format!("{}: {what}", run.name), q?))
            };
            Some(rows.into_iter().filter_map(bar).collect())
        };
        let bars: Vec<Bar> = runs.iter().filter_map(of).flat_map(|bars: Vec<Bar>| bars).collect();
        let legend = vec![("part-1", "up to p50".to_owned()), ("part-light", "up to p99".to_owned())];
        Panel { name: client_name(kind).into(), legend, bars }
    };
    let panels: Vec<Panel> =
        ClientKind::ALL.into_iter().map(panel).filter(|panel| !panel.bars.is_empty()).collect();
    (!panels.is_empty()).then(|| Figure {
        name: "Latency by client",
        svg: bars::draw(&panels, "Latency of each client, p50 and p99, unprotected and protected"),
        caption: "A request met a pause if it was open while the guest was suspended for a checkpoint.",
    })
}

fn connections(runs: &[Run]) -> Option<Figure> {
    let mut by_client: BTreeMap<&str, super::Carried> = BTreeMap::new();
    for (client, one) in runs.iter().filter_map(|run| run.connections_by_client.as_ref()).flatten() {
        *by_client.entry(client).or_default() += *one;
    }
    let bar = |kind: ClientKind| {
        let one = by_client.get(kind.name()).filter(|one| one.total > 0)?;
        let part = |class, value: u64, title: &str| Part {
            class,
            value: value as f64,
            title: format!("{} {title}", count(value)),
        };
        Some(Bar {
            label: client_name(kind).into(),
            parts: vec![
                part("part-good", one.carried, "went on"),
                part("part-bad", one.total - one.carried, "did not"),
            ],
            text: format!("{} of {}", count(one.carried), count(one.total)),
        })
    };
    let bars: Vec<Bar> = ClientKind::ALL.into_iter().filter_map(bar).collect();
    let legend = vec![("part-good", "went on".to_owned()), ("part-bad", "did not".to_owned())];
    (!bars.is_empty()).then(|| Figure {
        name: "Connections by client",
        svg: bars::draw(
            &[Panel { name: "Connections, all runs".into(), legend, bars }],
            "Connections that had to go on, by client",
        ),
        caption: "TCP connections that the fault found open. Causes of those that did not go on are in the table.",
    })
}

fn fidelity(runs: &[Run]) -> Option<Figure> {
    let sum = sum_fidelity(runs);
    let bar = |(workload, f): (&String, &Fidelity)| {
        let all = f.identical + f.different + f.unknown;
        let part = |class, value: u64, title: &str| Part {
            class,
            value: value as f64 / all.max(1) as f64,
            title: format!("{} {title}", bytes(value as f64)),
        };
        let parts = vec![
            part("part-good", f.identical, "identical"),
            part("part-bad", f.different, "different"),
            part("part-light", f.unknown, "not comparable"),
        ];
        let text = f.share().map_or_else(
            || "nothing to compare".into(),
            |share| {
                let compared = bytes((f.identical + f.different) as f64);
                format!("{:.1} % of {compared}", (share * 1000.0).floor() / 10.0)
            },
        );
        Bar { label: workload.clone(), parts, text }
    };
    let bars: Vec<Bar> = sum.iter().map(bar).collect();
    let legend = vec![
        ("part-good", "identical".to_owned()),
        ("part-bad", "different".to_owned()),
        ("part-light", "not comparable".to_owned()),
    ];
    (!bars.is_empty()).then(|| Figure {
        name: "Replay fidelity by workload",
        svg: bars::draw(
            &[Panel { name: "Replayed reply bytes, all runs".into(), legend, bars }],
            "Share of replayed reply bytes that are identical, by workload",
        ),
        caption: "Reply bytes that the copy sent again in the replay, beside those that clients had.",
    })
}

/// By workload, over all runs.
pub(super) fn sum_fidelity(runs: &[Run]) -> BTreeMap<String, Fidelity> {
    let mut sum: BTreeMap<String, Fidelity> = BTreeMap::new();
    for (port, one) in runs.iter().filter_map(|run| run.replay_fidelity.as_ref()).flatten() {
        *sum.entry(workload(*port)).or_default() += *one;
    }
    sum
}
