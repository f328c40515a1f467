//! The course of a run, small enough to be kept in the report.

use serde::{Deserialize, Serialize};

use super::ms;
use crate::clients::{ClientKind, Phase, Timeline, timeline::quantile};

/// Width of a bucket.
const BUCKET_NS: u64 = 100_000_000;
/// Shown around the fault, before it and after the recovery.
const AROUND_NS: u64 = 1_500_000_000;
/// Shown after a fault that nobody recovered from.
const WITHOUT_RECOVERY_NS: u64 = 10_000_000_000;
/// Marks in a lane; closer ones cannot be told apart in the picture.
const LANE_STEPS: u64 = 1600;

/// Times count from the start mark, in milliseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Series {
    /// Width of the buckets.
    pub bucket_ms: f64,
    /// Length of the run.
    pub length_ms: f64,
    /// The phases in order.
    pub spans: Vec<Span>,
    /// Marked moments, by time.
    pub events: Vec<Event>,
    /// Each client's buckets and distributions.
    pub clients: Vec<ClientSeries>,
    /// The connections around the fault.
    pub lanes: Vec<Lane>,
    /// What the lanes show, from and to.
    pub lanes_ms: Option<(f64, f64)>,
    #[serde(skip)]
    started_ns: u64,
}

/// A phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Which.
    pub phase: Phase,
    /// Its begin.
    pub from_ms: f64,
    /// Its end.
    pub to_ms: f64,
}

/// A marked moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub t_ms: f64,
    /// What happened.
    pub label: String,
}

/// One client over time; the lists have an entry a bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientSeries {
    /// Which client.
    pub client: ClientKind,
    /// Positive replies.
    pub replies: Vec<u32>,
    /// Median latency, `null` without replies.
    pub p50_ms: Vec<Option<f64>>,
    /// Largest latency, `null` without replies.
    pub max_ms: Vec<Option<f64>>,
    /// Latency by phase.
    pub latency: Vec<Distribution>,
}

/// Latencies of a phase as points (share in percent, milliseconds) of their cumulative distribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Which phase.
    pub phase: Phase,
    /// How many replies.
    pub n: usize,
    /// The points, ascending.
    pub points: Vec<(f64, f64)>,
}

/// One connection around the fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// Whose.
    pub client: ClientKind,
    /// Which.
    pub connection: u16,
    /// Its replies, thinned where they cannot be told apart.
    pub replies_ms: Vec<f64>,
    /// The last reply before the fault.
    pub gap_from_ms: f64,
    /// The first after it; `null` if there was none.
    pub gap_to_ms: Option<f64>,
}

impl Series {
    /// Extracts it from a run's samples.
    #[must_use]
    pub fn of(timeline: &Timeline) -> Self {
        let marks = timeline.marks();
        let start = marks.started_ns;
        let rel = |t: u64| ms(t.saturating_sub(start));
        let spans: Vec<Span> = timeline
            .phases()
            .into_iter()
            .map(|(phase, from, to)| Span { phase, from_ms: rel(from), to_ms: rel(to) })
            .collect();
        let clients = ClientKind::ALL
            .into_iter()
            .filter(|kind| timeline.samples().iter().any(|s| s.kind == *kind))
            .map(|kind| client(timeline, kind))
            .collect();
        let window = marks.failed_ns.map(|failed| {
            let from = failed.saturating_sub(AROUND_NS).max(start);
            let to = timeline.recovered_ns().map_or(failed + WITHOUT_RECOVERY_NS, |t| t + AROUND_NS);
            (from, to.min(marks.ended_ns).max(from + 1))
        });
        let mut series = Self {
            bucket_ms: ms(BUCKET_NS),
            length_ms: rel(marks.ended_ns),
            spans,
            events: Vec::new(),
            clients,
            lanes: window.map(|window| lanes(timeline, window, &rel)).unwrap_or_default(),
            lanes_ms: window.map(|(from, to)| (rel(from), rel(to))),
            started_ns: start,
        };
        let marked = [
            (marks.protecting_ns, "protection begins"),
            (marks.protected_ns, "first epoch committed"),
            (marks.failed_ns, "the fault"),
            (timeline.recovered_ns(), "every connection goes on"),
        ];
        for (t, label) in marked {
            t.into_iter().for_each(|t| series.event(t, label));
        }
        series
    }

    /// Adds a marked moment, given on the clients' clock.
    pub fn event(&mut self, t_ns: u64, label: &str) {
        self.events.push(Event { t_ms: ms(t_ns.saturating_sub(self.started_ns)), label: label.into() });
        self.events.sort_by(|a, b| a.t_ms.total_cmp(&b.t_ms));
    }
}

fn client(timeline: &Timeline, kind: ClientKind) -> ClientSeries {
    let buckets = timeline.buckets(kind, BUCKET_NS);
    let phases = [Phase::Unprotected, Phase::Protected, Phase::After];
    let distribution = |phase| {
        let sorted = timeline.latencies(phase, Some(kind));
        let shares = (0..=99).map(f64::from).chain([99.5, 99.9, 100.0]);
        let points: Vec<(f64, f64)> =
            shares.filter_map(|share| Some((share, ms(quantile(&sorted, share / 100.0)?)))).collect();
        (!points.is_empty()).then_some(Distribution { phase, n: sorted.len(), points })
    };
    ClientSeries {
        client: kind,
        replies: buckets.iter().map(|b| b.replies).collect(),
        p50_ms: buckets.iter().map(|b| b.p50_ns.map(ms)).collect(),
        max_ms: buckets.iter().map(|b| b.max_ns.map(ms)).collect(),
        latency: phases.into_iter().filter_map(distribution).collect(),
    }
}

fn lanes(timeline: &Timeline, (from, to): (u64, u64), rel: &impl Fn(u64) -> f64) -> Vec<Lane> {
    let step = ((to - from) / LANE_STEPS).max(1);
    let lane = |gap: crate::clients::timeline::Gap| {
        let mine = |s: &&crate::clients::Sample| {
            s.ok && s.kind == gap.kind && s.connection == gap.connection && (from..=to).contains(&s.t_ns)
        };
        let mut last_step = None;
        let mut replies_ms = Vec::new();
        for s in timeline.samples().iter().filter(mine) {
            let at = (s.t_ns - from) / step;
            // The edges of the gap are what the picture is for: never thinned.
            let edge = s.t_ns == gap.from_ns || Some(s.t_ns) == gap.to_ns;
            if edge || last_step != Some(at) {
                replies_ms.push(rel(s.t_ns));
                last_step = Some(at);
            }
        }
        Lane {
            client: gap.kind,
            connection: gap.connection,
            replies_ms,
            gap_from_ms: rel(gap.from_ns),
            gap_to_ms: gap.to_ns.map(rel),
        }
    };
    timeline.gaps().into_iter().map(lane).collect()
}
