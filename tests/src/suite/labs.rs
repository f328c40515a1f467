//! The steps that need real Xen hosts.

use super::{Options, Outcome, progress};
use crate::lab::{self, Lab, Paths};
use crate::{demo as main_job, faults as fault_tour};
use std::time::Duration;

/// Failovers of the short soak; `cargo lab soak` runs as many as one likes.
const SOAK: u32 = 2;

pub(super) fn packages(options: &Options) -> Outcome {
    match Lab::prepare(&Paths::new(&options.name), &progress()) {
        Ok(()) => Outcome::passed(""),
        Err(error) => broken(&error),
    }
}

pub(super) fn faults(options: &Options) -> Outcome {
    let lab = Lab::up(&lab::Options {
        name: options.name.clone(),
        llm: options.llm.clone(),
        progress: progress(),
        ..lab::Options::default()
    });
    let lab = match lab {
        Ok(lab) => lab,
        Err(error) => return broken(&error),
    };
    let summary = fault_tour::run(&lab, None, 2);
    let names: Vec<&str> = summary.failed.iter().map(|(name, _)| *name).collect();
    Outcome { passed: summary.passed.len(), failed: summary.failed.len(), note: names.join(", ") }
}

pub(super) fn demo(options: &Options) -> Outcome {
    again_once(|| demo_once(options))
}

pub(super) fn soak(options: &Options) -> Outcome {
    again_once(|| soak_once(options))
}

/// A run that does not hold is told, and tried once more: emulated hosts on two cores stall now and then.
fn again_once(run: impl Fn() -> Outcome) -> Outcome {
    let first = run();
    if first.failed == 0 {
        return first;
    }
    println!("Not held ({}): once more", first.note);
    let mut second = run();
    second.note = format!("second attempt, the first: {}; {}", first.note, second.note);
    second
}

fn demo_once(options: &Options) -> Outcome {
    let options = main_job::Options {
        llm: options.llm.clone(),
        watch: Duration::from_secs(10),
        ..main_job::Options::new(&options.name)
    };
    match main_job::run(&options) {
        Ok(true) => Outcome::passed(""),
        Ok(false) => Outcome::failed("a promise was broken: see the demo's table"),
        Err(error) => broken(&error),
    }
}

fn soak_once(options: &Options) -> Outcome {
    match main_job::soak(&options.name, options.llm.clone(), SOAK) {
        Ok(held) => Outcome {
            passed: held as usize,
            failed: SOAK.saturating_sub(held) as usize,
            note: format!("{held} of {SOAK} failovers held"),
        },
        Err(error) => broken(&error),
    }
}

/// Says at once what went wrong; the table comes much later.
fn broken(error: &dyn std::error::Error) -> Outcome {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    println!("{text}");
    Outcome::failed(text)
}
