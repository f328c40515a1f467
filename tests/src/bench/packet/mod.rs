//! The packet path measured without Xen: client, driver and guest in network namespaces, a real backup process in another.

pub mod backup;
mod counters;
pub mod fake_xl;
mod load;
mod measured;
mod overload;
pub mod primary;
mod world;

use std::fs;
use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime};

use crate::demo::facts;
use crate::lab::Paths;
use crate::report::{Bench, utc};
use crate::scenario::{Result, ScenarioError};
use measured::Measured;
use world::{World, failed};

/// Connections of the load with many flows.
pub const FLOWS: usize = 10_000;
/// Connections of the load that always has requests under way.
const BUSY: usize = 16;

/// The kernel's bridge, by which everything else is measured.
const BRIDGE: &str = "bridge";
/// The bridge, and then the link: what a reply would take that waits for a round trip and for nothing else.
const BRIDGE_AND_LINK: &str = "bridge + link";
/// Modes of the driver, and milliseconds between their checkpoints.
const MODES: [(&str, u64); 3] = [("llm-paper", 2000), ("llm", 2000), ("remus", 200)];

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long each load lasts.
    pub time: Duration,
    /// Connections of the load with many flows.
    pub flows: usize,
    /// These modes besides the bridge; all if there are none.
    pub modes: Vec<String>,
    /// These loads; all if there are none.
    pub loads: Vec<String>,
}

impl Options {
    fn has_mode(&self, mode: &str) -> bool {
        self.modes.is_empty() || self.modes.iter().any(|m| m == mode)
    }

    fn has_load(&self, load: &str) -> bool {
        self.loads.is_empty() || self.loads.iter().any(|l| l == load)
    }
}

/// Measures the bridge and then each mode; prints the table and writes the files. Whether every figure
/// could be taken.
///
/// # Errors
/// No root, no network namespaces, or a load that broke off.
pub fn run(options: &Options) -> Result<bool> {
    let mut bench = Bench {
        title: "The packet path without Xen".into(),
        generated: utc(SystemTime::now()),
        host: facts(),
        notes: notes(),
        ..Bench::default()
    };
    let result = measure_all(options, &mut bench);
    print!("{}", bench.table(std::io::stdout().is_terminal()));
    let folder = Paths::new("bench").workspace.join("target/lab/bench");
    fs::create_dir_all(&folder).map_err(|e| ScenarioError::Broken(format!("{}: {e}", folder.display())))?;
    for file in bench.write(&folder, "packet").map_err(|e| ScenarioError::Broken(e.to_string()))? {
        println!("Written: {}", file.display());
    }
    result.map(|()| bench.is_whole())
}

fn notes() -> Vec<String> {
    [
        "Client, host, guest and backup are network namespaces of one machine, joined by veth; driver and backup are the \
         real ones. What stands for xl writes a checkpoint of 500 changed pages, and the guest is never paused.",
        "link is a request of 64 bytes to the backup's namespace and its reply; paced is one to the guest each millisecond; busy has 16 \
         connections with one always under way; flows takes its turn on many connections.",
        "bridge + link: a request to the guest over the bridge and then one over the link, their times added.",
        "overload: a thread sends datagrams of 1400 bytes to the guest as fast as it can, while four connections have numbers echoed. Datagrams          not counted are those that neither arrived nor are in a counter of the kernel (interfaces, the TAP's queue, the guest's socket).",
        "llm-paper releases everything at once, so it shows what the driver costs that stands between vif and bridge; llm adds to that the way \
         of the log to the backup and back.",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// As many connections as this process may have, with both ends of each in it, and at most `wanted`.
fn allowed(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const OTHERS: usize = 1024;
    let needed = u64::try_from(2 * wanted + OTHERS).ok();
    let most = getrlimit(Resource::Nofile).maximum;
    // Root may have more.
    let raised = needed.filter(|needed| most.is_some_and(|most| most < *needed));
    for limit in [raised, most].into_iter().flatten() {
        if setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).is_ok() {
            break;
        }
    }
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    let room = files.map_or(wanted, |files| files.saturating_sub(OTHERS) / 2);
    if room < wanted {
        println!("{room} connections instead of {wanted}: the limit of open files allows no more");
    }
    room.min(wanted)
}

fn measure_all(options: &Options, bench: &mut Bench) -> Result<()> {
    let options = &Options { flows: allowed(options.flows), ..options.clone() };
    let world = World::new()?;
    load::serve(&world.guest)?.map_err(failed("serve in the guest's place"))?;
    load::serve(&world.backup)?.map_err(failed("serve in the backup's place"))?;
    overload::serve(&world)?.map_err(failed("serve in the guest's place"))?;
    Measured { world: &world, mode: BRIDGE, driver: None, options, bench }.all()?;
    for (mode, interval) in MODES.into_iter().filter(|(mode, _)| options.has_mode(mode)) {
        let backup = world.start_backup()?;
        let primary = world.protect(mode, interval)?;
        Measured { world: &world, mode, driver: Some((&primary, &backup)), options, bench }.all()?;
        drop(primary);
        drop(backup);
    }
    aims(bench);
    Ok(())
}

/// What is aimed at, from the figures: how much more than the bridge and one round trip of the link a request takes, and how much
/// longer among many flows than alone.
fn aims(bench: &mut Bench) {
    for (mode, _) in MODES.into_iter().filter(|(mode, _)| *mode != "remus") {
        let value = |bench: &Bench, name: &str, mode: &str| {
            bench.rows.iter().find(|row| row.bench == name && row.mode == mode).and_then(|row| row.value)
        };
        let bridge = value(bench, "paced: p50", BRIDGE).zip(value(bench, "link: p50", BRIDGE));
        if let Some((paced, (bridge, link))) = value(bench, "paced: p50", mode).zip(bridge) {
            bench.add("paced: p50 beyond bridge and link, aim 60", mode, "us", Ok(paced - bridge - link));
        }
        let flows = value(bench, "flows: p50", mode).zip(value(bench, "one flow: p50", mode));
        if let Some((many, one)) = flows {
            bench.add("flows: p50 as a share of one flow's", mode, "%", Ok(many / one * 100.0));
        }
    }
}
