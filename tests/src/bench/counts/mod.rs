//! Instructions of the core's hot paths, counted by Valgrind and held against a baseline that is committed
//! (docs/adr/0010): `cargo lab bench counts`, and a step of `cargo lab test`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::lab::command::run as run_program;
use crate::lab::{self, LabError, Paths, Progress};

pub mod cases;

use cases::{CASES, Case};

/// Growth of a count that is too much, as a share of the baseline.
const GROWTH: f64 = 0.05;
/// In the workspace.
const BASELINE: &str = "tests/src/bench/counts/baseline.json";

/// Counting failed.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// The lab's helpers failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The program says something else than expected.
    #[error("Valgrind counted nothing of case `{case}`: {said}")]
    Nothing {
        /// The case.
        case: &'static str,
        /// The end of what was said.
        said: String,
    },
    /// The baseline is damaged, or missing.
    #[error("Cannot use the baseline {BASELINE}: {0}; `cargo lab bench counts --renew` writes a new one")]
    Baseline(String),
    /// The results cannot be kept.
    #[error(transparent)]
    Write(#[from] super::Error),
}

/// The committed file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Baseline {
    /// Words for who opens the file.
    #[serde(default)]
    about: String,
    /// The compiler that it is of: another one makes other instructions.
    rustc: String,
    /// Instructions for each unit of a case.
    counts: BTreeMap<String, f64>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    bench: &'static str,
    name: &'static str,
    per: &'static str,
    /// Instructions for each unit; none if this processor cannot run the case.
    instructions: Option<f64>,
    baseline: Option<f64>,
}

impl Row {
    /// Instructions compared with the baseline.
    fn ratio(&self) -> Option<f64> {
        Some(self.instructions? / self.baseline?)
    }

    /// What is wrong with it.
    fn complaint(&self) -> Option<String> {
        match (self.instructions, self.baseline) {
            (Some(_), None) => Some(format!("{}: not in the baseline", self.name)),
            (Some(now), Some(then)) if now > then * (1.0 + GROWTH) => {
                Some(format!("{}: {now:.1} instructions a {}, {then:.1} before", self.name, self.per))
            }
            _ => None,
        }
    }
}

/// What counting came to.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Cases that were counted.
    pub counted: usize,
    /// What is wrong, a line each.
    pub complaints: Vec<String>,
    /// Cases that this processor cannot run.
    pub absent: Vec<&'static str>,
}

/// Counts all cases, prints a table, and compares with the baseline; or, to `renew`, makes them the baseline.
///
/// # Errors
///
/// Valgrind or the program cannot be run, or the baseline cannot be used.
pub fn run(renew: bool) -> Result<Counted, CountError> {
    let paths = Paths::new("counts");
    let progress = Progress::new();
    lab::install_valgrind(&progress)?;
    let file = paths.workspace.join(BASELINE);
    let rustc = rustc(&paths)?;
    let baseline = if renew { Baseline::default() } else { read(&file)? };
    if !renew && baseline.rustc != rustc {
        return Err(CountError::Baseline(format!("it is of {}, and this is {rustc}", baseline.rustc)));
    }
    let program = lab::build_program("llm-tests", "counts", &progress)?;
    let mut rows = Vec::new();
    for case in CASES {
        let instructions = count(&program, case)?;
        let baseline = baseline.counts.get(case.name).copied();
        rows.push(Row { bench: "counts", name: case.name, per: case.per, instructions, baseline });
    }
    print(&rows);
    println!("{}", super::write("counts", &rows)?.display());
    if renew {
        let counts = rows.iter().filter_map(|row| Some((row.name.to_owned(), row.instructions?))).collect();
        write(&file, &Baseline { about: ABOUT.into(), rustc, counts })?;
        println!("Written: {}", file.display());
    }
    Ok(verdict(&rows, renew))
}

const ABOUT: &str = "Instructions for each page or record, by Valgrind on Debian 12, of the release build with this compiler. \
     `cargo lab bench counts --renew` writes this file: after a change of the compiler, or when more instructions are meant to be \
     (then the commit says why), or when there are fewer, so that they stay so.";

fn verdict(rows: &[Row], renewed: bool) -> Counted {
    Counted {
        counted: rows.iter().filter(|row| row.instructions.is_some()).count(),
        complaints: if renewed { Vec::new() } else { rows.iter().filter_map(Row::complaint).collect() },
        absent: rows.iter().filter(|row| row.instructions.is_none()).map(|row| row.name).collect(),
    }
}

/// The compiler that cargo uses here, as it names itself.
fn rustc(paths: &Paths) -> Result<String, LabError> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = run_program(Command::new(rustc).arg("--version").current_dir(&paths.workspace))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split(" (").next().unwrap_or_default().trim().to_owned())
}

fn read(file: &Path) -> Result<Baseline, CountError> {
    let text = fs::read_to_string(file).map_err(|e| CountError::Baseline(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| CountError::Baseline(e.to_string()))
}

fn write(file: &Path, baseline: &Baseline) -> Result<(), CountError> {
    let text = serde_json::to_string_pretty(baseline).map_err(io::Error::other);
    let written = text.and_then(|text| fs::write(file, text + "\n"));
    written.map_err(|e| CountError::Baseline(e.to_string()))
}

/// Instructions for each unit. Only what [`counted_from_here`] calls is counted.
fn count(program: &PathBuf, case: &Case) -> Result<Option<f64>, CountError> {
    let mut command = Command::new("valgrind");
    command.args([
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--toggle-collect=*counted_from_here*",
    ]);
    let output = run_program(command.arg(program).arg(case.name))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if out.trim() == ABSENT {
        return Ok(None);
    }
    let collected = collected(&err);
    let units = out.trim().parse::<f64>().ok();
    match (collected, units) {
        (Some(collected @ 1..), Some(units)) => Ok(Some((collected as f64 / units * 10.0).round() / 10.0)),
        _ => Err(CountError::Nothing { case: case.name, said: lab::command::tail(&err, 5) }),
    }
}

/// The number in callgrind's line `Collected : N`.
fn collected(stderr: &str) -> Option<u64> {
    let line = stderr.lines().find_map(|line| line.split_once("Collected :"))?.1;
    line.split_whitespace().next()?.parse().ok()
}

fn print(rows: &[Row]) {
    println!("| instructions | | now | baseline | ratio |\n|---|---|---:|---:|---:|");
    let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.1}"));
    for row in rows {
        let ratio = row.ratio().map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}"));
        let (now, then) = (number(row.instructions), number(row.baseline));
        println!("| {} | a {} | {now} | {then} | {ratio} |", row.name, row.per);
    }
}

/// What the program says of a case that this processor cannot run.
const ABSENT: &str = "absent";

/// The program that is counted: does one case twice, the second time under the counter. False if there is no such case.
#[must_use]
pub fn run_case(name: &str) -> bool {
    let Some(case) = CASES.iter().find(|case| case.name == name) else { return false };
    match case.make() {
        None => println!("{ABSENT}"),
        Some(mut work) => {
            (work.pass)();
            let done = counted_from_here(&mut *work.pass);
            std::hint::black_box(done);
            println!("{}", work.units);
        }
    }
    true
}

/// Valgrind counts while this runs, and finds it by its name.
#[inline(never)]
pub fn counted_from_here(pass: &mut dyn FnMut() -> usize) -> usize {
    // Something is left to do behind the call: it must not become a jump.
    std::hint::black_box(pass())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(instructions: Option<f64>, baseline: Option<f64>) -> Row {
        Row { bench: "counts", name: "a", per: "page", instructions, baseline }
    }

    #[test]
    fn growth_of_more_than_a_twentieth_is_too_much() {
        assert_eq!(row(Some(104.9), Some(100.0)).complaint(), None);
        assert_eq!(row(Some(50.0), Some(100.0)).complaint(), None);
        assert!(row(Some(105.1), Some(100.0)).complaint().is_some_and(|c| c.contains("105.1")));
        assert!(row(Some(1.0), None).complaint().is_some_and(|c| c.contains("not in the baseline")));
        assert_eq!(row(None, Some(1.0)).complaint(), None);
        let rows = [row(Some(200.0), Some(100.0)), row(None, Some(1.0))];
        let counted = verdict(&rows, false);
        assert_eq!((counted.counted, counted.complaints.len(), counted.absent), (1, 1, vec!["a"]));
        assert!(verdict(&rows, true).complaints.is_empty());
    }

    #[test]
    fn the_baseline_has_every_case_and_no_other() {
        let baseline = read(&Paths::new("").workspace.join(BASELINE)).expect("a sound baseline");
        let names: Vec<_> = baseline.counts.keys().map(String::as_str).collect();
        let mut wanted: Vec<_> = CASES.iter().map(|case| case.name).collect();
        wanted.sort_unstable();
        assert_eq!(names, wanted);
        assert!(baseline.counts.values().all(|count| *count > 1.0));
    }

    #[test]
    fn callgrinds_number_is_found() {
        let said = "==7== \n==7== Events    : Ir\n==7== Collected : 12345\n==7== \n";
        assert_eq!(collected(said), Some(12345));
        assert_eq!(collected("==7== Collected :"), None);
    }
}
