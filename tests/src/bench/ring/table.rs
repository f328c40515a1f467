//! The figures as rows and as tables.

use std::fmt::Write as _;

use serde::Serialize;

use super::load::Figures;

/// What was measured of a peer with records of one size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    bench: &'static str,
    peer: String,
    record_bytes: usize,
    /// Bytes that went there and came back, in 10^6 a second; `null` if it could not be taken, and so below.
    mb_per_s: Option<f64>,
    round_trip_us_p50: Option<f64>,
    round_trip_us_p99: Option<f64>,
}

impl Row {
    pub(super) fn new(peer: &str, record_bytes: usize, figures: Option<Figures>) -> Self {
        // A nanosecond, and as many digits of the rate.
        let rounded = |of: fn(&Figures) -> f64| figures.as_ref().map(|f| (of(f) * 1e3).round() / 1e3);
        Self {
            bench: "ring",
            peer: peer.to_owned(),
            record_bytes,
            mb_per_s: rounded(|f| f.mb_per_s),
            round_trip_us_p50: rounded(|f| f.round_trip_us_p50),
            round_trip_us_p99: rounded(|f| f.round_trip_us_p99),
        }
    }

    pub(super) const fn is_whole(&self) -> bool {
        self.mb_per_s.is_some()
    }
}

/// The median of each figure for records of `size` bytes; `None` if there is none.
pub(super) fn median(taken: &[Figures], size: usize) -> Option<Figures> {
    let of = |figure: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = taken.iter().filter(|f| f.record_bytes == size).map(figure).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Figures {
        record_bytes: size,
        mb_per_s: of(|f| f.mb_per_s)?,
        round_trip_us_p50: of(|f| f.round_trip_us_p50)?,
        round_trip_us_p99: of(|f| f.round_trip_us_p99)?,
    })
}

/// A figure of a row.
type Get = fn(&Row) -> Option<f64>;

/// A table for each figure: a line a peer, a column a size, as Markdown.
pub(super) fn table(rows: &[Row]) -> String {
    let figures: [(&str, Get); 3] = [
        ("MB/s", |row| row.mb_per_s),
        ("us, p50", |row| row.round_trip_us_p50),
        ("us, p99", |row| row.round_trip_us_p99),
    ];
    let (mut sizes, mut peers) = (Vec::new(), Vec::new());
    for row in rows {
        if !sizes.contains(&row.record_bytes) {
            sizes.push(row.record_bytes);
        }
        if !peers.contains(&row.peer.as_str()) {
            peers.push(&row.peer);
        }
    }
    let mut text = String::new();
    for (unit, get) in figures {
        let head: String = sizes.iter().map(|size| format!(" {size} |")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n| {unit} |{head}\n|---|{}", "---:|".repeat(sizes.len()));
        for peer in &peers {
            let mine = rows.iter().filter(|row| row.peer == *peer);
            let cells: String = mine.map(|row| format!(" {} |", shown(get(row)))).collect();
            let _ = writeln!(text, "| {peer} |{cells}");
        }
    }
    text
}

fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn figures(record_bytes: usize, mb_per_s: f64) -> Figures {
        Figures { record_bytes, mb_per_s, round_trip_us_p50: 2.0, round_trip_us_p99: 3.25 }
    }

    #[test]
    fn the_median_is_of_one_size() {
        let taken = [figures(64, 3.0), figures(256, 100.0), figures(64, 1.0), figures(64, 2.0)];
        assert_eq!(median(&taken, 64), Some(figures(64, 2.0)));
        assert_eq!(median(&taken, 1024), None);
    }

    #[test]
    fn what_could_not_be_taken_is_a_dash_and_null() {
        let rows = [
            Row::new("llm", 64, Some(figures(64, 1234.5678))),
            Row::new("llm", 256, None),
            Row::new("tcp", 64, Some(figures(64, 12.34))),
            Row::new("tcp", 256, None),
        ];
        let text = table(&rows);
        assert!(
            text.contains("| MB/s | 64 | 256 |\n|---|---:|---:|\n| llm | 1235 | - |\n| tcp | 12.3 | - |\n"),
            "{text}"
        );
        assert!(text.contains("| us, p99 | 64 | 256 |\n|---|---:|---:|\n| llm | 3.25 | - |"), "{text}");
        assert!(rows[0].is_whole() && !rows[1].is_whole());
        assert_eq!(
            serde_json::json!(rows[1]),
            serde_json::json!({ "bench": "ring", "peer": "llm", "record_bytes": 256, "mb_per_s": null,
                "round_trip_us_p50": null, "round_trip_us_p99": null })
        );
        assert_eq!(serde_json::json!(rows[0])["mb_per_s"], 1234.568);
    }
}
