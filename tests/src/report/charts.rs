//! The pictures of one run.

use std::fmt::Write as _;

use super::{
    ClientSeries, Series, Span,
    format::{count, millis},
    svg::{Anchor, Scale, Svg, nice},
};
use crate::clients::{ClientKind, Phase};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
/// Connections drawn one by one.
const MAX_LANES: usize = 24;

/// How a reader calls the client.
pub(super) fn client_name(kind: ClientKind) -> &'static str {
    match kind {
        ClientKind::Redis => "Redis",
        ClientKind::RedisPipelined => "Redis, pipelined",
        ClientKind::Http => "Web",
        ClientKind::HttpNew => "Web, connecting",
        ClientKind::Http64k => "Web, 64 KiB",
        ClientKind::Echo => "Echo",
        ClientKind::Upload => "Upload",
        ClientKind::Download => "Download",
    }
}

pub(super) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Unprotected => "unprotected",
        Phase::Protecting => "first copy",
        Phase::Protected => "protected",
        Phase::Failure => "outage",
        Phase::After => "on the backup",
    }
}

/// Throughput and latency of every client over the run, on one time axis.
pub(super) fn course(series: &Series) -> String {
    const PANEL: f64 = 92.0;
    const STEP: f64 = PANEL + 34.0;
    const TOP: f64 = 48.0;
    let panels = series.clients.len() as f64 * 2.0;
    let bottom = TOP + panels * STEP;
    let mut svg = Svg::new(WIDTH, bottom + 24.0, "Throughput and latency over time, phases and fault marked");
    let x = Scale::linear((0.0, series.length_ms), (LEFT, WIDTH - RIGHT));
    bands(&mut svg, series, &x, (TOP - 6.0, bottom));
    let mut top = TOP;
    for client in &series.clients {
        throughput(&mut svg, series, client, &x, (top + 24.0, top + 24.0 + PANEL));
        top += STEP;
        latency(&mut svg, series, client, &x, (top + 24.0, top + 24.0 + PANEL));
        top += STEP;
    }
    for tick in x.ticks(12) {
        let text = format!("{} s", tick / 1000.0);
        svg.text("tick", (x.at(tick), bottom + 16.0), Anchor::Middle, &text);
    }
    svg.finish()
}

fn bands(svg: &mut Svg, series: &Series, x: &Scale, (top, bottom): (f64, f64)) {
    for span in &series.spans {
        let (from, to) = (x.at(span.from_ms), x.at(span.to_ms));
        let class = match span.phase {
            Phase::Protecting => "band-copy",
            Phase::Failure => "band-failure",
            _ => "band",
        };
        let name = phase_name(span.phase);
        let title = format!("{name}: {}", millis(span.to_ms - span.from_ms));
        svg.rect(class, (from, top), (to - from, bottom - top), &title);
        if span.from_ms > 0.0 {
            let class = if span.phase == Phase::Failure { "edge-failure" } else { "edge" };
            svg.line(class, (from, top), (from, bottom));
        }
        // Where the name has no room the numbered marks below the picture tell.
        if to - from > name.len() as f64 * 7.0 {
            svg.text("phase", ((from + to) / 2.0, 12.0), Anchor::Middle, name);
        }
    }
    let mut right = f64::MIN;
    for (i, event) in series.events.iter().enumerate() {
        let at = x.at(event.t_ms);
        // Marks that would cover each other step aside.
        let shown = at.max(right + 17.0).min(svg.width() - RIGHT);
        right = shown;
        svg.line("leader", (shown, 34.0), (at, top));
        let title = format!("{}: {}", seconds(event.t_ms), event.label);
        svg.circle("mark", (shown, 27.0), 8.0, &title);
        svg.text("mark-text", (shown, 30.5), Anchor::Middle, &(i + 1).to_string());
    }
}

/// A time of a run, in seconds.
pub(super) fn seconds(ms: f64) -> String {
    format!("{:.2} s", ms / 1000.0)
}

fn title(svg: &mut Svg, client: &ClientSeries, what: &str, top: f64) {
    let class = format!("panel {}", client.client.name());
    svg.text(&class, (LEFT, top - 9.0), Anchor::Start, &format!("{}: {what}", client_name(client.client)));
}

fn grid(svg: &mut Svg, y: &Scale, ticks: &[f64], name: impl Fn(f64) -> String) {
    for tick in ticks {
        let at = y.at(*tick);
        svg.line("grid", (LEFT, at), (svg.width() - RIGHT, at));
        svg.text("tick", (LEFT - 8.0, at + 4.0), Anchor::End, &name(*tick));
    }
}

fn throughput(svg: &mut Svg, series: &Series, client: &ClientSeries, x: &Scale, (top, bottom): (f64, f64)) {
    let per_second = 1000.0 / series.bucket_ms;
    let raw: Vec<f64> = client.replies.iter().map(|n| f64::from(*n) * per_second).collect();
    let mean = smooth(&raw, series);
    let highest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let top_mean = highest(&mut mean.iter().copied());
    let top_raw = highest(&mut raw.iter().copied());
    let rates = phase_rates(series, &raw);
    let lowest = rates.iter().map(|(_, rate)| *rate).filter(|rate| *rate > 0.0).fold(top_mean, f64::min);
    // Where the phases differ by far, a linear scale would show one of them only.
    let (y, what) = if top_mean > 12.0 * lowest {
        let y = Scale::log(((lowest / 2.0).max(1.0), top_raw), (bottom, top));
        (y, "replies a second, log scale (bars: each 100 ms, line: mean of 1 s)")
    } else {
        // A burst may not flatten everything else; it is cut off at the top edge.
        let max = top_raw.min(top_mean * 2.2).max(1.0);
        let step = nice(max / 3.0);
        let y = Scale::linear((0.0, (max / step).ceil() * step), (bottom, top));
        (y, "replies a second (bars: each 100 ms, line: mean of 1 s)")
    };
    title(svg, client, what, top);
    grid(svg, &y, &y.ticks(3), compact);
    let (mut area, mut line) = (String::new(), String::new());
    for (i, value) in raw.iter().enumerate() {
        let (from, to) = edges(series, x, i);
        if *value > 0.0 {
            let _ = write!(area, "M{from:.1} {bottom:.1}V{:.1}H{to:.1}V{bottom:.1}Z", y.at(*value));
        }
    }
    let mut last = None;
    for (i, value) in mean.iter().enumerate() {
        let (from, to) = edges(series, x, i);
        // A new phase begins a new line: the fault is an edge, not a slope.
        let phase = phase_at(series, i);
        let command = if last == Some(phase) { 'L' } else { 'M' };
        last = Some(phase);
        let _ = write!(line, "{command}{:.1} {:.1}", (from + to) / 2.0, y.at(*value));
    }
    let name = client.client.name();
    svg.path(&format!("area {name}"), &area);
    svg.path(&format!("curve {name}"), &line);
    for (span, rate) in rates {
        let (from, to) = (x.at(span.from_ms), x.at(span.to_ms));
        let text = format!("{} /s", count(rate.round() as u64));
        if to - from > text.len() as f64 * 7.0 {
            // Below the line where it runs along the top edge.
            let level = y.at(rate);
            let at = if level - top < 20.0 { level + 16.0 } else { level - 7.0 };
            svg.text("value", ((from + to) / 2.0, at), Anchor::Middle, &text);
        }
    }
}

/// The mean rate of each phase.
fn phase_rates(series: &Series, raw: &[f64]) -> Vec<(Span, f64)> {
    let rate = |span: &Span| {
        let middle = |i: usize| (i as f64 + 0.5) * series.bucket_ms;
        let within = |(i, _): &(usize, &f64)| (span.from_ms..span.to_ms).contains(&middle(*i));
        let mine: Vec<f64> = raw.iter().enumerate().filter(within).map(|(_, v)| *v).collect();
        (!mine.is_empty()).then(|| (*span, mine.iter().sum::<f64>() / mine.len() as f64))
    };
    series.spans.iter().filter_map(rate).collect()
}

/// The mean over half a second to each side, but not beyond the phase.
fn smooth(raw: &[f64], series: &Series) -> Vec<f64> {
    const SIDE: usize = 5;
    let phases: Vec<Option<Phase>> = (0..raw.len()).map(|i| phase_at(series, i)).collect();
    let mean = |i: usize| {
        let near = i.saturating_sub(SIDE)..(i + SIDE).min(raw.len());
        let same: Vec<f64> = near.filter(|j| phases[*j] == phases[i]).map(|j| raw[j]).collect();
        same.iter().sum::<f64>() / same.len().max(1) as f64
    };
    (0..raw.len()).map(mean).collect()
}

fn phase_at(series: &Series, bucket: usize) -> Option<Phase> {
    let middle = (bucket as f64 + 0.5) * series.bucket_ms;
    series.spans.iter().rev().find(|span| span.from_ms <= middle).map(|span: &Span| span.phase)
}

fn edges(series: &Series, x: &Scale, bucket: usize) -> (f64, f64) {
    let from = bucket as f64 * series.bucket_ms;
    (x.at(from), x.at(from + series.bucket_ms))
}

fn latency(svg: &mut Svg, series: &Series, client: &ClientSeries, x: &Scale, (top, bottom): (f64, f64)) {
    let known = || client.p50_ms.iter().chain(&client.max_ms).flatten().copied();
    let (min, max) = known().fold((f64::MAX, 0.0), |(a, b): (f64, f64), v| (a.min(v), b.max(v)));
    let y = Scale::log((min.min(max), max), (bottom, top));
    title(svg, client, "latency (line: median, bars: up to the largest, of each 100 ms)", top);
    grid(svg, &y, &y.ticks(0), decade);
    let (mut reach, mut line) = (String::new(), String::new());
    let mut joined = false;
    for (i, (p50, largest)) in client.p50_ms.iter().zip(&client.max_ms).enumerate() {
        let (&Some(p50), &Some(largest)) = (p50, largest) else { continue };
        let (from, to) = edges(series, x, i);
        let (low, high) = (y.at(p50), y.at(largest));
        let _ = write!(reach, "M{from:.1} {low:.1}V{high:.1}H{:.1}V{low:.1}Z", to.max(from + 0.8));
        // One missing bucket is the rhythm of the checkpoints, more is a hole.
        let hole = i >= 4 && client.p50_ms[i - 4..i].iter().all(Option::is_none);
        let command = if joined && !hole { 'L' } else { 'M' };
        joined = true;
        let _ = write!(line, "{command}{:.1} {low:.1}", (from + to) / 2.0);
    }
    let name = client.client.name();
    svg.path(&format!("area {name}"), &reach);
    svg.path(&format!("curve {name}"), &line);
}

/// Every reply of every connection around the fault: the outage is the hole.
pub(super) fn lanes(series: &Series) -> Option<String> {
    const LANE: f64 = 20.0;
    // The longest name of a client.
    const LEFT: f64 = 116.0;
    const TOP: f64 = 30.0;
    let (from, to) = series.lanes_ms?;
    let fault = series.spans.iter().find(|span| span.phase == Phase::Failure)?.from_ms;
    let shown = &series.lanes[..series.lanes.len().min(MAX_LANES)];
    let bottom = TOP + shown.len() as f64 * LANE;
    let label = "Replies of each connection around the fault";
    let mut svg = Svg::new(WIDTH, bottom + 30.0, label);
    let x = Scale::linear((from - fault, to - fault), (LEFT, WIDTH - RIGHT));
    for tick in x.ticks(9) {
        svg.line("grid", (x.at(tick), TOP), (x.at(tick), bottom));
        let text = if tick == 0.0 { "0".into() } else { format!("{:+} s", tick / 1000.0) };
        svg.text("tick", (x.at(tick), bottom + 18.0), Anchor::Middle, &text);
    }
    for event in series.events.iter().filter(|e| (from..=to).contains(&e.t_ms)) {
        let at = x.at(event.t_ms - fault);
        let number = series.events.iter().position(|e| e == event).map_or(0, |i| i + 1);
        svg.line(if event.t_ms == fault { "edge-failure" } else { "edge" }, (at, TOP - 6.0), (at, bottom));
        svg.circle("mark", (at, TOP - 14.0), 8.0, &format!("{}: {}", seconds(event.t_ms), event.label));
        svg.text("mark-text", (at, TOP - 10.5), Anchor::Middle, &number.to_string());
    }
    for (i, lane) in shown.iter().enumerate() {
        let top = TOP + i as f64 * LANE;
        let name = format!("{} {}", client_name(lane.client), lane.connection);
        svg.text("tick", (LEFT - 8.0, top + 14.0), Anchor::End, &name);
        let gap = (x.at(lane.gap_from_ms - fault), x.at(lane.gap_to_ms.unwrap_or(to) - fault));
        svg.rect("gap", (gap.0, top + 3.0), (gap.1 - gap.0, LANE - 6.0), "");
        let mut ticks = String::new();
        for t in &lane.replies_ms {
            let _ = write!(ticks, "M{:.1} {:.1}v{:.1}", x.at(t - fault), top + 3.0, LANE - 6.0);
        }
        svg.path(&format!("reply {}", lane.client.name()), &ticks);
        let text = lane.gap_to_ms.map_or_else(|| "never again".into(), |end| millis(end - lane.gap_from_ms));
        let middle = (gap.0 + gap.1) / 2.0;
        if gap.1 - gap.0 > text.len() as f64 * 7.0 + 8.0 {
            svg.text("gap-text", (middle, top + 14.0), Anchor::Middle, &text);
        }
    }
    Some(svg.finish())
}

/// Share of replies that came within a latency, by phase.
pub(super) fn distribution(client: &ClientSeries) -> String {
    let (width, height, left, bottom) = (460.0, 300.0, 44.0, 214.0);
    let label = format!("{}: distribution of latency by phase", client_name(client.client));
    let mut svg = Svg::new(width, height, &label);
    let values = || client.latency.iter().flat_map(|d| &d.points).map(|p| p.1);
    let (min, max) = values().fold((f64::MAX, 0.0), |(a, b): (f64, f64), v| (a.min(v), b.max(v)));
    let x = Scale::log((min.min(max), max), (left, width - RIGHT));
    let y = Scale::linear((0.0, 100.0), (bottom, 12.0));
    for tick in [0.0, 25.0, 50.0, 75.0, 100.0] {
        svg.line("grid", (left, y.at(tick)), (width - RIGHT, y.at(tick)));
        svg.text("tick", (left - 8.0, y.at(tick) + 4.0), Anchor::End, &format!("{tick} %"));
    }
    for tick in x.ticks(0) {
        svg.line("grid", (x.at(tick), 12.0), (x.at(tick), bottom));
        svg.text("tick", (x.at(tick), bottom + 17.0), Anchor::Middle, &decade(tick));
    }
    // Before and after often agree: the dotted line is drawn on top of the dashed.
    for (i, d) in client.latency.iter().enumerate().rev() {
        let class = format!("curve phase-{}", d.phase.name());
        let mut line = String::new();
        for (share, ms) in &d.points {
            let command = if line.is_empty() { 'M' } else { 'L' };
            let _ = write!(line, "{command}{:.1} {:.1}", x.at(*ms), y.at(*share));
        }
        svg.path(&class, &line);
        let at = |share: f64| d.points.iter().find(|p| p.0 >= share).map_or(0.0, |p| p.1);
        let row = bottom + 42.0 + i as f64 * 18.0;
        svg.line(&class, (left, row - 4.0), (left + 26.0, row - 4.0));
        svg.text("legend", (left + 34.0, row), Anchor::Start, phase_name(d.phase));
        let text = format!("p50 {}, p99 {}", millis(at(50.0)), millis(at(99.0)));
        svg.text("legend", (width - RIGHT, row), Anchor::End, &text);
    }
    svg.finish()
}

/// How often which time; `max_ms` is the same for all pictures that are to be compared. `what` says of what.
pub(super) fn histogram(what: &str, times_ms: &[f64], max_ms: f64) -> String {
    const BINS: usize = 40;
    let (width, height, left, bottom) = (460.0, 250.0, 44.0, 206.0);
    let mut svg = Svg::new(width, height, &format!("Histogram: {what}"));
    let mut bins = [0u32; BINS];
    for time in times_ms {
        let at = (time / max_ms * BINS as f64) as usize;
        bins[at.min(BINS - 1)] += 1;
    }
    let most = bins.iter().copied().max().unwrap_or(0);
    let x = Scale::linear((0.0, max_ms), (left, width - RIGHT));
    let y = Scale::linear((0.0, f64::from(most)), (bottom, 30.0));
    let whole = |ticks: Vec<f64>| ticks.into_iter().filter(|t| t.fract() == 0.0);
    for tick in whole(y.ticks(4)) {
        svg.line("grid", (left, y.at(tick)), (width - RIGHT, y.at(tick)));
        svg.text("tick", (left - 8.0, y.at(tick) + 4.0), Anchor::End, &compact(tick));
    }
    for tick in x.ticks(6) {
        svg.text("tick", (x.at(tick), bottom + 17.0), Anchor::Middle, &format!("{tick} ms"));
    }
    for (i, n) in bins.iter().enumerate().filter(|(_, n)| **n > 0) {
        let ends = [i, i + 1].map(|edge| edge as f64 * max_ms / BINS as f64);
        let (from, to) = (x.at(ends[0]), x.at(ends[1]));
        let title = format!("{n} of {} to {}", millis(ends[0]), millis(ends[1]));
        let top = y.at(f64::from(*n));
        svg.rect("bar", (from + 0.5, top), (to - from - 1.0, bottom - top), &title);
    }
    let mut sorted = times_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = |q: f64| sorted.get(((sorted.len() as f64 * q).ceil() as usize).max(1) - 1).copied();
    for (name, q, row) in [("p50", 0.5, 12.0), ("p99", 0.99, 25.0)] {
        let Some(value) = rank(q) else { continue };
        let at = x.at(value);
        svg.line("edge", (at, row - 9.0), (at, bottom));
        let (anchor, aside) = if at > width / 2.0 { (Anchor::End, -5.0) } else { (Anchor::Start, 5.0) };
        svg.text("legend", (at + aside, row), anchor, &format!("{name} {}", millis(value)));
    }
    svg.finish()
}

fn compact(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{} k", v / 1000.0),
        v => format!("{v}"),
    }
}

fn decade(ms: f64) -> String {
    if ms >= 999.0 {
        format!("{} s", (ms / 1000.0).round())
    } else {
        format!("{} ms", (ms * 1000.0).round() / 1000.0)
    }
}
