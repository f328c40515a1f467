//! The second stage: checkpoint streams over shaped links, with nothing compressed, by each method, and as `auto` chooses.

mod run;
mod table;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use super::corpus;
use super::stream::child::CompressWith;
use super::stream::input::{Input, RUN, Shape};
use crate::scenario::ScenarioError;
use run::{Carried, carry};
use table::{Row, print};
use world::World;

/// What to measure with.
#[derive(Debug)]
pub struct Options {
    /// Folder with `NAME-x.zst`; the committed pages if there is none.
    pub corpus: Option<PathBuf>,
    /// Those workloads only; all but `idle` if it is empty.
    pub only: Vec<String>,
    /// Links, in bits a second.
    pub links: Vec<u64>,
    /// Epochs of each round behind the first.
    pub epochs: usize,
    /// Pages of an epoch.
    pub pages: usize,
    /// Rounds, each with every way once.
    pub rounds: usize,
}

/// A link's rate as it is given: a number and `mbit` or `gbit`.
///
/// # Errors
/// It is something else.
pub fn parse_link(text: &str) -> Result<u64, String> {
    let unit = |name, bits: u64| Some(text.strip_suffix(name)?.parse::<u64>().ok()?.saturating_mul(bits));
    unit("mbit", 1_000_000)
        .or_else(|| unit("gbit", 1_000_000_000))
        .filter(|bits| *bits > 0)
        .ok_or_else(|| format!("`{text}` is no rate, as in 100mbit or 10gbit"))
}

/// The ways, of which the first is what the others are compared with.
const WAYS: [CompressWith; 4] =
    [CompressWith::None, CompressWith::Lz4, CompressWith::Zstd, CompressWith::Auto];

/// Runs the bench, prints its tables and writes its figures.
///
/// # Errors
/// No root, the pages cannot be read, an end failed, or the figures cannot be written.
pub fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut workloads = match &options.corpus {
        Some(folder) => corpus::load(folder)?,
        None => {
            println!("{}", corpus::NO_CORPUS);
            corpus::sample()
        }
    };
    let chosen = |name: &str| {
        if options.only.is_empty() { name != "idle" } else { options.only.iter().any(|o| o == name) }
    };
    workloads.retain(|w| chosen(&w.name));
    // The guest is twice an epoch, so that every page changes time and again.
    let epoch = options.pages.div_ceil(RUN) * RUN;
    let shape = Shape { guest: 2 * epoch, epoch };
    let mut rows = Vec::new();
    for &link in &options.links {
        let world = World::new(link)?;
        let rate = world.rate(Duration::from_secs(1))?;
        println!("\n# {} Mb/s, of which one connection carries {:.0}", link / 1_000_000, rate * 8e-6);
        let mut of_link = Vec::new();
        for workload in &workloads {
            let bytes = ((shape.guest + epoch * options.epochs) * 4096) as u64;
            let input = Input::new(workload, shape, bytes)?;
            let mut taken: [Vec<Carried>; WAYS.len()] = Default::default();
            for round in 0..options.rounds.max(1) {
                // Now in one order, now in the other.
                let order: Vec<usize> =
                    if round % 2 == 0 { (0..WAYS.len()).collect() } else { (0..WAYS.len()).rev().collect() };
                for at in order {
                    taken[at].push(carry(&world, &input, WAYS[at])?);
                }
            }
            for (way, taken) in WAYS.iter().zip(&taken) {
                of_link.push(
                    Row::new(*way, link, rate, &workload.name, &input, taken)
                        .ok_or_else(|| ScenarioError::Broken("an end has told of no epoch".into()))?,
                );
            }
        }
        print(&of_link);
        rows.extend(of_link);
    }
    println!("\n{}", super::write("link", &rows)?.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_numbers_with_units() {
        assert_eq!(parse_link("100mbit"), Ok(100_000_000));
        assert_eq!(parse_link("10gbit"), Ok(10_000_000_000));
        for bad in ["", "mbit", "10", "0gbit", "-1gbit", "10 gbit"] {
            assert!(parse_link(bad).is_err(), "{bad}");
        }
    }
}
