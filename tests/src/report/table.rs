//! The table of runs: the same cells for the terminal and the page.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Fidelity, Quantiles, ReplayTimes, Report, Run, Verdict,
    format::{NONE, bytes, count, millis},
    measures::workload,
};
use crate::clients::ClientKind;

/// One line of the table.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) label: String,
    /// A cell a run.
    pub(super) cells: Vec<Cell>,
}

/// One value as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// How a value is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
}

pub(super) fn plain(text: Option<String>) -> Cell {
    Cell { text: text.unwrap_or_else(|| NONE.into()), tone: Tone::Plain }
}

fn pair(q: Option<Quantiles>) -> Cell {
    plain(q.map(|q| format!("{} / {}", millis(q.p50), millis(q.p99))))
}

/// Must be zero.
fn fault(n: Option<u64>) -> Cell {
    match n {
        None => plain(None),
        Some(0) => Cell { text: "0".into(), tone: Tone::Good },
        Some(n) => Cell { text: count(n), tone: Tone::Bad },
    }
}

/// A time that is missing because it never came is not the same as one not measured.
fn after_failure(run: &Run, value: Option<f64>) -> Cell {
    match (value, &run.failure) {
        (Some(value), _) => plain(Some(millis(value))),
        (None, Some(failure)) => {
            Cell { text: format!("never (in {})", millis(failure.watched_ms)), tone: Tone::Bad }
        }
        (None, None) => plain(None),
    }
}

/// Bytes sent per committed epoch.
pub(super) fn per_epoch(run: &Run) -> Option<f64> {
    let epochs = run.epochs_committed.filter(|n| *n > 0)?;
    Some(run.bytes_sent? as f64 / epochs as f64)
}

fn saved(run: &Run) -> Option<String> {
    let (raw, sent) = (run.bytes_raw?, run.bytes_sent.filter(|n| *n > 0)?);
    Some(format!("{:.1} : 1", raw as f64 / sent as f64))
}

fn verdict(run: &Run) -> Cell {
    match run.verdict() {
        Verdict::Held => Cell { text: "\u{2713} held".into(), tone: Tone::Good },
        Verdict::Broken(_) => Cell { text: "\u{2717} broken".into(), tone: Tone::Bad },
        Verdict::Untested => plain(None),
    }
}

/// All lines that have a value in some run.
pub(super) fn lines(runs: &[Run]) -> Vec<Line> {
    type Show = fn(&Run) -> Cell;
    let all: [(&str, Show); 26] = [
        ("promise", verdict),
        ("lost acknowledged writes", |r| fault(r.lost_acked_writes)),
        ("wrong values", |r| fault(r.wrong_values)),
        ("connections broken", |r| fault(r.unexplained())),
        ("connections carried on", carried),
        ("connections reset, with a cause", |r| plain(r.connections_reset_by_cause.as_ref().map(causes))),
        ("acknowledged writes", |r| plain(r.acked_writes.map(count))),
        // Without clients nobody can say whether service came back.
        (
            "downtime",
            |r| if r.acked_writes.is_none() { plain(None) } else { after_failure(r, r.downtime_ms) },
        ),
        ("detection", |r| after_failure(r, r.detect_ms)),
        ("take-over", |r| plain(r.take_over_ms.map(millis))),
        ("replay: probe, walk, catch-up", |r| plain(r.replay_ms.map(steps))),
        ("replay", |r| plain(r.replay_ms.map(|t| millis(t.total)))),
        ("go-live", |r| plain(r.go_live_ms.map(millis))),
        ("latency unprotected p50 / p99", |r| pair(r.latency_unprotected_ms)),
        ("latency protected p50 / p99", |r| pair(r.latency_ms)),
        ("pause p50 / p99", |r| pair(r.pause_ms)),
        ("round trip of the link p50 / p99", |r| pair(r.link_rtt_ms)),
        ("interval", |r| plain(r.interval_ms.map(|n| format!("{n} ms")))),
        ("epochs committed", |r| plain(r.epochs_committed.map(count))),
        ("pages sent", |r| plain(r.pages_sent.map(count))),
        ("stream, raw", |r| plain(r.bytes_raw.map(|n| bytes(n as f64)))),
        ("stream, sent", |r| plain(r.bytes_sent.map(|n| bytes(n as f64)))),
        ("reduction", |r| plain(saved(r))),
        ("sent per epoch", |r| plain(per_epoch(r).map(bytes))),
        ("all on the link", |r| plain(r.link_bytes.map(|n| bytes(n as f64)))),
        ("fault", |r| plain(r.failure.as_ref().map(|f| f.what.clone()))),
    ];
    let line =
        |(label, show): (&str, Show)| Line { label: label.into(), cells: runs.iter().map(show).collect() };
    let known = |line: &Line| line.cells.iter().any(|cell| cell.text != NONE);
    all.into_iter().map(line).chain(by_client(runs)).chain(by_port(runs)).filter(known).collect()
}

/// How late each client's replies are, and how much of it is the price.
fn by_client(runs: &[Run]) -> Vec<Line> {
    type Show = fn(&Run, &str) -> Option<Quantiles>;
    let shows: [(&str, Show); 5] = [
        ("added", |r, client| r.added_latency_ms.as_ref()?.get(client).copied()),
        ("protected", |r, client| r.latency_by_client.as_ref()?.get(client)?.protected),
        ("unprotected", |r, client| r.latency_by_client.as_ref()?.get(client)?.unprotected),
        ("no pause met", |r, client| r.latency_by_client.as_ref()?.get(client)?.no_pause_met),
        ("pause met", |r, client| r.latency_by_client.as_ref()?.get(client)?.pause_met),
    ];
    let line = |client: ClientKind, (what, show): (&str, Show)| Line {
        label: format!("{client}: {what} p50 / p99"),
        cells: runs.iter().map(|run| pair(show(run, client.name()))).collect(),
    };
    ClientKind::ALL.into_iter().flat_map(|client| shows.map(|show| line(client, show))).collect()
}

/// How faithful the replay was, for each service.
fn by_port(runs: &[Run]) -> Vec<Line> {
    let ports: BTreeSet<u16> = runs
        .iter()
        .filter_map(|run| run.replay_fidelity.as_ref())
        .flat_map(BTreeMap::keys)
        .copied()
        .collect();
    let cell = |run: &Run, port| plain(run.replay_fidelity.as_ref().and_then(|f| f.get(&port)).map(fidelity));
    let line = |port| Line {
        label: format!("replayed bytes, {}", workload(port)),
        cells: runs.iter().map(|run| cell(run, port)).collect(),
    };
    ports.into_iter().map(line).collect()
}

fn fidelity(f: &Fidelity) -> String {
    let [identical, different, unknown] = [f.identical, f.different, f.unknown].map(|n| bytes(n as f64));
    format!("{identical} identical, {different} different, {unknown} unknown")
}

/// A connection that is missing here must have a cause.
fn carried(run: &Run) -> Cell {
    let (Some(carried), Some(total)) = (run.connections_carried, run.connections_total) else {
        return plain(None);
    };
    let share = carried as f64 / total.max(1) as f64 * 100.0;
    let tone = match run.unexplained() {
        Some(0) if carried == total => Tone::Good,
        Some(0) => Tone::Plain,
        _ => Tone::Bad,
    };
    // Never rounded up to all of them.
    let share = (share * 10.0).floor() / 10.0;
    Cell { text: format!("{} of {} ({share} %)", count(carried), count(total)), tone }
}

fn causes(by_cause: &BTreeMap<String, u64>) -> String {
    let list: Vec<String> = by_cause.iter().map(|(cause, n)| format!("{} {cause}", count(*n))).collect();
    if list.is_empty() { "0".into() } else { list.join(", ") }
}

fn steps(t: ReplayTimes) -> String {
    [t.probe, t.walk, t.catch_up].map(millis).join(", ")
}

/// The table for a terminal, with colours if `colour`. More than four runs are shown one a line.
#[must_use]
pub fn table(report: &Report, colour: bool) -> String {
    let lines = lines(&report.runs);
    let mut grid: Vec<Vec<Cell>> = Vec::new();
    let head = |text: &str| Cell { text: text.into(), tone: Tone::Plain };
    if report.runs.len() <= 4 {
        grid.push(std::iter::once(head("")).chain(report.runs.iter().map(|r| head(&r.name))).collect());
        for line in &lines {
            grid.push(std::iter::once(head(&line.label)).chain(line.cells.iter().cloned()).collect());
        }
    } else {
        let shown =
            ["promise", "acknowledged writes", "downtime", "detection", "latency protected p50 / p99"];
        let lines: Vec<&Line> = lines.iter().filter(|line| shown.contains(&line.label.as_str())).collect();
        grid.push(std::iter::once(head("")).chain(lines.iter().map(|line| head(&line.label))).collect());
        for (i, run) in report.runs.iter().enumerate() {
            let cells = lines.iter().map(|line| line.cells[i].clone());
            grid.push(std::iter::once(head(&run.name)).chain(cells).collect());
        }
    }
    draw(&grid, colour)
}

/// Names in the first column, and a head in the first line.
pub(super) fn draw(grid: &[Vec<Cell>], colour: bool) -> String {
    let columns = grid.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        grid.iter().filter_map(|row| row.get(c)).map(|cell| cell.text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let rule = "\u{2500}".repeat(widths.iter().sum::<usize>() + 3 * columns.saturating_sub(1));
    let mut out = String::new();
    for (r, row) in grid.iter().enumerate() {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let fill = " ".repeat(widths[c] - cell.text.chars().count());
            let text = match (colour, r, cell.tone) {
                (true, 0, _) => format!("\x1b[1m{}\x1b[0m", cell.text),
                (true, _, Tone::Good) => format!("\x1b[32m{}\x1b[0m", cell.text),
                (true, _, Tone::Bad) => format!("\x1b[1;31m{}\x1b[0m", cell.text),
                _ => cell.text.clone(),
            };
            // Names to the left, values to the right.
            let (before, after) = if c == 0 { ("", fill.as_str()) } else { (fill.as_str(), "") };
            let gap = if c == 0 { "" } else { "   " };
            line.push_str(&format!("{gap}{before}{text}{after}"));
        }
        out.push_str(line.trim_end());
        out.push('\n');
        if r == 0 {
            out.push_str(&rule);
            out.push('\n');
        }
    }
    out
}
