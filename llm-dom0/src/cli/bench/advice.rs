//! What the measured times mean for a protected domain.

use std::fmt::Write;

use serde::Serialize;

use super::codec::Codec;
use super::link::Link;

/// Of the time between two checkpoints, the share that the work on one may take: the rest is for what else a host does.
const SHARE: f64 = 0.7;
/// Times between checkpoints that are looked at, in milliseconds.
const INTERVALS_MS: [u32; 6] = [50, 100, 200, 500, 1000, 2000];
/// Pages that a guest changes in a second.
const RATES: [u32; 5] = [1_000, 10_000, 50_000, 100_000, 200_000];

/// What can be carried.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Advice {
    /// Nanoseconds a page: whichever of host, link and peer takes longest. The peer is taken for a host like this one.
    pub(super) page_ns: f64,
    /// Who that is: `encoding`, `link`, `decoding`.
    pub(super) slowest: &'static str,
    /// Changed pages a second that can be carried for ever.
    pub(super) pages_per_s: f64,
    /// What mode llm adds to a reply: a round trip of the link, in milliseconds. None if no link was measured.
    pub(super) llm_adds_ms: Option<f64>,
    /// For each interval and rate.
    pub(super) remus: Vec<Fit>,
}

/// One interval of mode remus, at one rate.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Fit {
    pub(super) interval_ms: u32,
    pub(super) pages_per_s: u32,
    /// Milliseconds from the pause to the commit, without the pause.
    pub(super) checkpoint_ms: f64,
    /// Whether that leaves enough of the interval.
    pub(super) fits: bool,
    /// What a reply waits for on average: half the interval and the checkpoint, in milliseconds.
    pub(super) adds_ms: f64,
}

impl Advice {
    pub(super) fn new(codec: &Codec, link: Option<&Link>) -> Self {
        // The driver takes a page out of the pipe, digests it for the epoch, encodes it and digests the frame; the backup decodes,
        // digests, and hands the page on.
        let frame_ns = codec.checksum_ns * codec.bytes_per_page / 4096.0;
        let sides = [
            ("encoding", codec.copy_ns + codec.checksum_ns + codec.encode_ns() + frame_ns),
            ("decoding", frame_ns + codec.decode_ns + codec.checksum_ns + codec.copy_ns),
            ("link", link.map_or(0.0, |link| codec.bytes_per_page / link.mb_per_s * 1e3)),
        ];
        let (slowest, page_ns) = sides.into_iter().fold(("", 0.0), |a, b| if b.1 > a.1 { b } else { a });
        let round_trip_ms = link.map(|link| link.round_trip_us_p50 / 1e3);
        let fit = |interval_ms: u32, pages_per_s: u32| {
            let pages = f64::from(pages_per_s) * f64::from(interval_ms) / 1e3;
            let checkpoint_ms = pages * page_ns / 1e6 + round_trip_ms.unwrap_or(0.0);
            Fit {
                interval_ms,
                pages_per_s,
                checkpoint_ms,
                fits: checkpoint_ms <= SHARE * f64::from(interval_ms),
                adds_ms: f64::from(interval_ms) / 2.0 + checkpoint_ms,
            }
        };
        Self {
            page_ns,
            slowest,
            pages_per_s: SHARE * 1e9 / page_ns,
            llm_adds_ms: round_trip_ms,
            remus: INTERVALS_MS.iter().flat_map(|i| RATES.iter().map(move |r| fit(*i, *r))).collect(),
        }
    }

    pub(super) fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "Together they carry {:.0} changed pages a second ({} takes longest: {:.0} ns a page).",
            self.pages_per_s, self.slowest, self.page_ns
        )?;
        writeln!(out, "\nWhat a reply waits for on average, in ms; - does not fit into the interval:")?;
        write!(out, "  {:<28}", "changed pages a second")?;
        RATES.iter().try_for_each(|rate| write!(out, "{rate:>9}"))?;
        for interval in INTERVALS_MS {
            write!(out, "\n  mode remus, interval {:<7}", format!("{interval}ms"))?;
            for fit in self.remus.iter().filter(|fit| fit.interval_ms == interval) {
                let cell = if fit.fits { format!("{:.1}", fit.adds_ms) } else { "-".into() };
                write!(out, "{cell:>9}")?;
            }
        }
        write!(out, "\n  {:<28}", "mode llm, any interval")?;
        for rate in RATES {
            // The interval that it runs with usually.
            let fits = self.remus.iter().any(|f| f.fits && f.pages_per_s == rate && f.interval_ms == 2000);
            let cell = match self.llm_adds_ms {
                _ if !fits => "-".into(),
                Some(ms) => format!("{ms:.2}"),
                None => "1 trip".into(),
            };
            write!(out, "{cell:>9}")?;
        }
        writeln!(
            out,
            "\nEach page that changes counts once an interval, so a longer interval carries more than this says. The pause of a checkpoint comes on top, and\n\
             mode llm has its replies wait for those pauses only now and then: `llm watch DOMAIN` measures them. The other host is taken to be as fast as this one."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::Width;
    use super::*;

    fn codec() -> Codec {
        let encode = vec![Width { name: "portable", ns: 600.0, used: true }];
        Codec {
            pages: 1024,
            bytes_per_page: 409.6,
            copy_ns: 100.0,
            checksum_ns: 200.0,
            decode_ns: 300.0,
            encode,
        }
    }

    fn link(mb_per_s: f64) -> Link {
        Link { peer: "a:1".into(), round_trip_us_p50: 500.0, round_trip_us_p99: 900.0, mb_per_s }
    }

    #[test]
    fn whoever_is_slowest_counts() {
        let advice = Advice::new(&codec(), Some(&link(1000.0)));
        assert_eq!((advice.slowest, advice.page_ns.round()), ("encoding", 920.0));
        assert_eq!(advice.llm_adds_ms, Some(0.5));
        let advice = Advice::new(&codec(), Some(&link(100.0)));
        assert_eq!((advice.slowest, advice.page_ns.round()), ("link", 4096.0));
        assert_eq!(advice.pages_per_s.round(), (0.7e9_f64 / 4096.0).round());
        assert_eq!(Advice::new(&codec(), None).llm_adds_ms, None);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let advice = Advice::new(&codec(), Some(&link(100.0)));
        let fit = |interval, rate| {
            advice.remus.iter().find(|f| (f.interval_ms, f.pages_per_s) == (interval, rate)).expect("a cell")
        };
        // 200 ms of 10 000 pages a second are 2000 pages, and 8.2 ms of the link.
        let small = fit(200, 10_000);
        assert!(small.fits && (small.checkpoint_ms - 8.7).abs() < 0.1 && (small.adds_ms - 108.7).abs() < 0.1);
        assert!(!fit(200, 200_000).fits);
        let mut text = String::new();
        advice.write(&mut text).expect("text");
        assert!(text.contains("108.7") && text.contains(" -"), "{text}");
    }
}
