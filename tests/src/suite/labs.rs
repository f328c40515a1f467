//! The steps that need real Xen hosts.

use super::{Options, Outcome, progress};
use crate::lab::{self, Lab, Paths};
use crate::{demo as main_job, faults as fault_tour, scenario};
use llm_core::replication::Mode;
use std::time::Duration;

/// Failovers of the short soaks, of which the demo has two more; `cargo lab soak` runs as many as one likes.
const SOAK: u32 = 1;

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
    let summary = fault_tour::run(&lab, fault_tour::Pick::Short, 2);
    let names: Vec<&str> = summary.failed.iter().map(|(name, _)| *name).collect();
    Outcome { passed: summary.passed.len(), failed: summary.failed.len(), note: names.join(", ") }
}

pub(super) fn demo(options: &Options) -> Outcome {
    let options = main_job::Options {
        llm: options.llm.clone(),
        watch: Duration::from_secs(10),
        ..main_job::Options::new(&options.name)
    };
    match again_once(|| main_job::run(&options)) {
        Ok(true) => Outcome::passed(""),
        Ok(false) => Outcome::failed("a promise was broken: see the demo's table"),
        Err(error) => broken(&error),
    }
}

pub(super) fn soak(options: &Options) -> Outcome {
    soak_in(options, Mode::Remus, SOAK)
}

pub(super) fn soak_llm(options: &Options) -> Outcome {
    soak_in(options, Mode::Llm, SOAK)
}

fn soak_in(options: &Options, mode: Mode, times: u32) -> Outcome {
    let soak = main_job::Soak {
        name: options.name.clone(),
        llm: options.llm.clone(),
        times,
        mode,
        interval: main_job::usual_interval(mode),
        protect: String::new(),
    };
    match again_once(|| main_job::soak(&soak)) {
        Ok(held) => Outcome {
            passed: held as usize,
            failed: times.saturating_sub(held) as usize,
            note: format!("{held} of {times} failovers held"),
        },
        Err(error) => broken(&error),
    }
}

/// A run that ended by a time-out or an error of the lab is told, and tried once more: emulated hosts on two cores stall
/// now and then. One that broke a promise is not.
fn again_once<T>(run: impl Fn() -> scenario::Result<T>) -> scenario::Result<T> {
    let first = run();
    match first {
        Err(error) if error.may_pass() => {
            println!("Did not come to its end ({error}): once more");
            run()
        }
        other => other,
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
