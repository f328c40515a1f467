//! Figures that are not those of a failover: a value for each measure and mode, as JSON, as a table and as a page.

use std::{fs, path::Path, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    Fact, WriteError, bench_page, format, json,
    table::{Cell, draw, plain},
};

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured, for instance `redis-set`.
    pub bench: String,
    /// How the guest was protected meanwhile.
    pub mode: String,
    /// The value; `null` if it could not be taken: [`Row::note`] says why.
    pub value: Option<f64>,
    /// For instance `ms` or `1/s`.
    pub unit: String,
    /// The value as a share of the first mode's, which is the unprotected one.
    pub of_unprotected: Option<f64>,
    /// Why there is no value, or what a reader must know of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// All figures of one run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Bench {
    /// The heading.
    pub title: String,
    /// When it was written, as [`super::utc`] gives it.
    pub generated: String,
    /// The figures, in the order they were taken.
    pub rows: Vec<Row>,
    /// The machine and the versions.
    pub host: Vec<Fact>,
    /// What a reader must know to judge the numbers.
    pub notes: Vec<String>,
}

/// A measure with its values, one a mode.
pub(super) struct Measure<'a> {
    pub(super) bench: &'a str,
    /// In the order of [`Bench::modes`]; `None` where there is no row.
    pub(super) rows: Vec<Option<&'a Row>>,
}

impl Bench {
    /// Adds a figure, or the reason why there is none.
    pub fn add(&mut self, bench: &str, mode: &str, unit: &str, value: Result<f64, String>) {
        // Nothing is compared with a mode that is protected itself.
        let first = self.rows.first().map_or(mode, |row| row.mode.as_str()).to_owned();
        let first =
            self.rows.iter().find(|row| row.bench == bench && row.mode == first).and_then(|r| r.value);
        let (value, note) = match value {
            Ok(value) => (Some(value), String::new()),
            Err(note) => (None, note),
        };
        let share = value.zip(first).filter(|(_, first)| *first > 0.0);
        self.rows.push(Row {
            bench: bench.into(),
            mode: mode.into(),
            value,
            unit: unit.into(),
            of_unprotected: share.map(|(value, first)| (value / first * 1e4).round() / 1e4),
            note,
        });
    }

    /// Whether every figure could be taken.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.rows.iter().all(|row| row.value.is_some())
    }

    /// The modes, in the order they ran.
    pub(super) fn modes(&self) -> Vec<&str> {
        unique(self.rows.iter().map(|row| row.mode.as_str()))
    }

    /// The measures with their values side by side.
    pub(super) fn measures(&self) -> Vec<Measure<'_>> {
        let modes = self.modes();
        let measure = |bench| {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.bench == bench).collect();
            let of = |mode: &&str| rows.iter().copied().find(|row| row.mode == *mode);
            Measure { bench, rows: modes.iter().map(of).collect() }
        };
        let names = unique(self.rows.iter().map(|row| row.bench.as_str()));
        let subjects = unique(names.iter().copied().map(subject));
        let kinds = unique(names.iter().copied().map(kind));
        let place = |list: &[&str], name: &str| list.iter().position(|one| *one == name);
        let mut sorted = names;
        // What is told of the same subject stands together, though some of it comes with a later mode only.
        sorted.sort_by_key(|name| (place(&kinds, kind(name)), place(&subjects, subject(name))));
        sorted.into_iter().map(measure).collect()
    }

    /// The table for a terminal: a line a measure, a column a mode.
    #[must_use]
    pub fn table(&self, colour: bool) -> String {
        let first = |name: &str| std::iter::once(plain(Some(name.into())));
        let head = first("").chain(self.modes().into_iter().map(|mode| plain(Some(mode.into()))));
        let line = |m: &Measure<'_>| -> Vec<Cell> {
            first(m.bench).chain(m.rows.iter().map(|row| plain(row.map(shown)))).collect()
        };
        let lines = self.measures();
        let grid: Vec<_> = std::iter::once(head.collect()).chain(lines.iter().map(line)).collect();
        draw(&grid, colour)
    }

    /// The JSON text.
    #[must_use]
    pub fn json(&self) -> String {
        json::text(self)
    }

    /// The self-contained page.
    #[must_use]
    pub fn html(&self) -> String {
        bench_page::page(self)
    }

    /// Writes `NAME.json` and `NAME.html` into `folder`, creating it, and returns both paths.
    ///
    /// # Errors
    /// [`WriteError`] with the path.
    pub fn write(&self, folder: &Path, name: &str) -> Result<[PathBuf; 2], WriteError> {
        fs::create_dir_all(folder).map_err(|source| WriteError { path: folder.into(), source })?;
        Ok([
            super::put(folder, &format!("{name}.json"), &self.json())?,
            super::put(folder, &format!("{name}.html"), &self.html())?,
        ])
    }
}

/// What measures of a kind have in common: what stands before the colon of their names.
pub(super) fn kind(bench: &str) -> &str {
    bench.split(':').next().unwrap_or(bench)
}

/// The kind and whose measure it is, without the percentile or a condition.
fn subject(bench: &str) -> &str {
    let whole = bench.split(',').next().unwrap_or(bench);
    whole.strip_suffix(" p50").or_else(|| whole.strip_suffix(" p99")).unwrap_or(whole)
}

fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    names.for_each(|name| {
        if !seen.contains(&name) {
            seen.push(name);
        }
    });
    seen
}

/// A value, and what share of the first mode's it is where a share says something.
pub(super) fn shown(row: &Row) -> String {
    let Some(value) = row.value else { return "not taken".into() };
    let text = amount(value, &row.unit);
    match row.of_unprotected {
        Some(share) if row.unit != "%" && (share - 1.0).abs() > 1e-9 => {
            format!("{text} ({})", times(share))
        }
        _ => text,
    }
}

/// A share of the unprotected value: small ones in percent, large ones as a factor.
fn times(share: f64) -> String {
    match share {
        _ if share >= 3.0 => format!("\u{d7}{share:.1}"),
        _ if share >= 0.1 => format!("{:.0} %", share * 100.0),
        _ => format!("{:.2} %", share * 100.0),
    }
}

/// A value with its unit.
pub(super) fn amount(value: f64, unit: &str) -> String {
    match unit {
        "ms" => format::millis(value),
        "B" => format::bytes(value),
        "B/s" => format!("{}/s", format::bytes(value)),
        "%" => format!("{value:.1} %"),
        _ if value >= 100.0 => format!("{} {unit}", format::count(value.round() as u64)),
        _ => format!("{value:.1} {unit}"),
    }
}
