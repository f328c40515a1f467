//! All tests, one step after the other: what `cargo lab test` runs.
//!
//! A step that fails does not stop those after it, unless they cannot do without it.

mod commands;
mod fuzz;
mod labs;
mod table;

use crate::lab::{Llm, Progress};
use std::time::{Duration, Instant};

pub use table::{Row, Table};

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab that the lab's steps boot.
    pub name: String,
    /// The `llm` binary for the hosts.
    pub llm: Llm,
    /// Names of the steps to run; none means all but those that run only when named.
    pub only: Vec<String>,
    /// Leave the fuzzer out.
    pub skip_fuzz: bool,
    /// How long each fuzz target runs.
    pub fuzz_time: Duration,
}

impl Options {
    fn wants(&self, step: &Step) -> bool {
        let all = self.only.is_empty() && step.name != SOAK_LLM;
        let named = all || self.only.iter().any(|name| name == step.name);
        named && !(self.skip_fuzz && step.name == FUZZ)
    }
}

/// What a step came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Checks that held: the step itself, or each of its scenarios.
    pub passed: usize,
    /// Checks that did not.
    pub failed: usize,
    /// More about it: why it failed, or what was left out.
    pub note: String,
}

impl Outcome {
    fn passed(note: impl Into<String>) -> Self {
        Self { passed: 1, failed: 0, note: note.into() }
    }

    fn failed(note: impl Into<String>) -> Self {
        Self { passed: 0, failed: 1, note: note.into() }
    }

    /// Nothing was tried; the note says why.
    fn skipped(note: impl Into<String>) -> Self {
        Self { note: note.into(), ..Self::default() }
    }

    fn of(result: Result<String, String>) -> Self {
        result.map_or_else(Self::failed, Self::passed)
    }
}

struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Options) -> Outcome,
}

const FUZZ: &str = "fuzz";
/// Runs when it is asked for: all steps have to fit into an hour, and the demo has a failover in mode llm.
const SOAK_LLM: &str = "soak-llm";

/// In the order they run: what is quick to fail comes first.
const STEPS: &[Step] = &[
    Step { name: "packages", about: "Debian's packages, installed or unpacked", run: labs::packages },
    Step { name: "format", about: "cargo fmt --check", run: commands::format },
    Step { name: "lints", about: "cargo clippy, warnings are errors", run: commands::lints },
    Step { name: "tests", about: "cargo test, with root and the unikernel on Xen", run: commands::tests },
    Step { name: "stubdom", about: "the unikernel's own tests", run: commands::stubdom },
    Step { name: "counts", about: "instructions of hot paths, against the baseline", run: commands::counts },
    Step { name: FUZZ, about: "all fuzz targets", run: fuzz::run },
    Step { name: "faults", about: "faults that must be survived, on two Xen hosts", run: labs::faults },
    Step { name: "demo", about: "the main job, and stock xl remus beside it", run: labs::demo },
    Step { name: "soak", about: "failovers in a row, back and forth", run: labs::soak },
    Step {
        name: SOAK_LLM,
        about: "a failover in mode llm, with connections of the last moment",
        run: labs::soak_llm,
    },
];

/// Names of all steps, in their order.
pub fn step_names() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|step| step.name)
}

/// Runs the steps and prints a table and the last line `N passed, M failed`. Whether nothing failed and something passed.
pub fn run(options: &Options) -> bool {
    let wanted: Vec<&Step> = STEPS.iter().filter(|step| options.wants(step)).collect();
    let (begin, mut table) = (Instant::now(), Table::default());
    for (index, step) in wanted.iter().enumerate() {
        println!("\n=== {}/{} {}: {}", index + 1, wanted.len(), step.name, step.about);
        let start = Instant::now();
        let outcome = (step.run)(options);
        let row = Row { name: step.name.into(), took: start.elapsed(), outcome };
        println!("=== {}: {} ({:.0} s)", row.name, row.verdict(), row.took.as_secs_f64());
        let lost = step.name == "packages" && row.outcome.failed > 0;
        table.rows.push(row);
        if lost {
            println!("Without the packages nothing else can be tested");
            break;
        }
    }
    print!("\n{table}");
    println!("Took {:.1} minutes", begin.elapsed().as_secs_f64() / 60.0);
    let (passed, failed) = table.sums();
    println!("{passed} passed, {failed} failed");
    failed == 0 && passed > 0
}

fn progress() -> Progress {
    Progress::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(only: &[&str], skip_fuzz: bool) -> Options {
        Options {
            name: "none".into(),
            llm: Llm::Without,
            only: only.iter().map(|name| (*name).to_owned()).collect(),
            skip_fuzz,
            fuzz_time: Duration::from_secs(1),
        }
    }

    fn chosen(options: &Options) -> Vec<&'static str> {
        STEPS.iter().filter(|step| options.wants(step)).map(|step| step.name).collect()
    }

    #[test]
    fn all_steps_but_the_second_soak_run_unless_told_otherwise() {
        let unasked: Vec<_> = step_names().filter(|name| *name != SOAK_LLM).collect();
        assert_eq!(chosen(&options(&[], false)), unasked);
        assert_eq!(chosen(&options(&[SOAK_LLM], false)), [SOAK_LLM]);
        assert!(!chosen(&options(&[], true)).contains(&FUZZ));
        assert_eq!(chosen(&options(&["demo", "lints"], false)), ["lints", "demo"]);
    }
}
