//! The packet path measured without Xen: client, driver and guest in network namespaces, a real backup process in another.

pub mod backup;
pub mod fake_xl;
mod load;
pub mod primary;
mod world;

use std::fs;
use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime};

use crate::demo::facts;
use crate::lab::Paths;
use crate::report::{Bench, utc};
use crate::scenario::{Result, ScenarioError};
use load::Latency;
use world::{World, failed};

/// Connections of the load with many flows.
pub const FLOWS: usize = 10_000;
/// Connections of the load that always has requests under way.
const BUSY: usize = 16;

/// The kernel's bridge, by which everything else is measured.
const BRIDGE: &str = "bridge";
/// Modes of the driver, and milliseconds between their checkpoints.
const MODES: [(&str, u64); 3] = [("llm-paper", 2000), ("llm", 2000), ("remus", 200)];

/// Measures the bridge and then each mode, `time` a load; prints the table and writes the files. Whether every figure
/// could be taken.
///
/// # Errors
/// No root, no network namespaces, or a load that broke off.
pub fn run(time: Duration, flows: usize) -> Result<bool> {
    let mut bench = Bench {
        title: "The packet path without Xen".into(),
        generated: utc(SystemTime::now()),
        host: facts(),
        notes: notes(),
        ..Bench::default()
    };
    let result = measure_all(time, flows, &mut bench);
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
        "llm-paper releases everything at once, so it shows what the driver costs that stands between vif and bridge; llm adds to that the way \
         of the log to the backup and back.",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// As many connections as this process may have, with both ends of each in it, and at most `wanted`.
fn allowed(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }) {
        eprintln!("the limit of open files stays as it is: {error}");
    }
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    let room = files.map_or(wanted, |files| files.saturating_sub(1024) / 2);
    if room < wanted {
        println!("{room} connections instead of {wanted}: the limit of open files allows no more");
    }
    room.min(wanted)
}

fn measure_all(time: Duration, flows: usize, bench: &mut Bench) -> Result<()> {
    let flows = allowed(flows);
    let world = World::new()?;
    load::serve(&world.guest)?.map_err(failed("serve in the guest's place"))?;
    load::serve(&world.backup)?.map_err(failed("serve in the backup's place"))?;
    measure(&world, BRIDGE, time, flows, bench)?;
    for (mode, interval) in MODES {
        let backup = world.start_backup()?;
        let primary = world.protect(mode, interval)?;
        measure(&world, mode, time, flows, bench)?;
        drop(primary);
        drop(backup);
    }
    Ok(())
}

fn measure(world: &World, mode: &str, time: Duration, flows: usize, bench: &mut Bench) -> Result<()> {
    println!("Measuring: {mode}");
    let every = Duration::from_millis(1);
    let mut delays = |load: &str, latency: std::io::Result<Latency>| {
        let latency = latency.map_err(|e| e.to_string());
        let mut add = |what: &str, unit: &str, of: fn(&Latency) -> f64| {
            bench.add(&format!("{load}: {what}"), mode, unit, latency.as_ref().map(of).map_err(Clone::clone));
        };
        add("p50", "us", |l| l.p50);
        add("p99", "us", |l| l.p99);
        add("requests", "1/s", |l| l.per_second);
    };
    delays("link", world.host.enter(|| load::link(every, time))?);
    delays("paced", world.client.enter(|| load::paced(every, time))?);
    delays("busy", world.client.enter(|| load::busy(BUSY, time))?);
    // Each connection would wait for a checkpoint to be opened.
    if flows > 0 && mode != "remus" {
        delays("flows", world.client.enter(|| load::flows(flows, time))?);
    }
    let mut add = |name: &str, rate: std::io::Result<f64>| {
        bench.add(name, mode, "MB/s", rate.map_err(|e| e.to_string()));
    };
    add("upload", world.client.enter(|| load::upload(time))?);
    add("download", world.client.enter(|| load::download(time))?);
    Ok(())
}
