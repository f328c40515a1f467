//! The table at the end.

use super::Outcome;
use std::fmt;
use std::time::Duration;

/// A step that has run.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// What it came to.
    pub outcome: Outcome,
}

impl Row {
    /// In a word.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match (self.outcome.passed, self.outcome.failed) {
            (0, 0) => "skipped",
            (_, 0) => "passed",
            _ => "FAILED",
        }
    }
}

/// All steps that have run.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// In their order.
    pub rows: Vec<Row>,
}

impl Table {
    /// Checks that held and that did not, over all steps.
    #[must_use]
    pub fn sums(&self) -> (usize, usize) {
        self.rows.iter().fold((0, 0), |(p, f), row| (p + row.outcome.passed, f + row.outcome.failed))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10} {:<8} {:>8} {:>7} {:>7}", "step", "result", "seconds", "passed", "failed")?;
        for row in &self.rows {
            let Outcome { passed, failed, note } = &row.outcome;
            let seconds = row.took.as_secs_f64();
            write!(f, "{:<10} {:<8} {seconds:>8.0} {passed:>7} {failed:>7}", row.name, row.verdict())?;
            // A note of many lines was printed when it happened.
            match note.lines().next() {
                Some(first) => writeln!(f, "  {first}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, passed: usize, failed: usize, note: &str) -> Row {
        let outcome = Outcome { passed, failed, note: note.into() };
        Row { name: name.into(), took: Duration::from_secs(7), outcome }
    }

    #[test]
    fn sums_and_verdicts() {
        let rows =
            vec![row("lints", 1, 0, ""), row("format", 0, 0, "no rustfmt"), row("faults", 17, 2, "a\nb")];
        let table = Table { rows };
        assert_eq!(table.sums(), (18, 2));
        assert_eq!(table.rows.iter().map(Row::verdict).collect::<Vec<_>>(), ["passed", "skipped", "FAILED"]);
        let lines: Vec<String> = table.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines[1], "lints      passed          7       1       0");
        assert_eq!(lines[2], "format     skipped         7       0       0  no rustfmt");
        assert_eq!(lines[3], "faults     FAILED          7      17       2  a");
    }
}
