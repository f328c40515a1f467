//! The packet path measured without Xen: client, driver and guest in network namespaces, a real backup process in another.

pub mod backup;
pub mod fake_xl;
mod load;
pub mod primary;
mod world;

use std::time::Duration;

use crate::lab::Result;
use load::Latency;
use world::{World, failed};

/// One figure.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// Always `packet`.
    pub bench: &'static str,
    /// What stands between client and guest: `bridge`, or the driver in one of its modes.
    pub peer: String,
    /// What was done.
    pub load: &'static str,
    /// What was measured.
    pub measure: &'static str,
    /// Its value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// Connections of the load `flows`.
const FLOWS: usize = 10_000;

/// Measures the bridge and then each mode, `seconds` a load, and gives all figures to `tell` as they come.
///
/// # Errors
/// No root, no network namespaces, or a load that broke off.
pub fn run(seconds: f64, flows: usize, mut tell: impl FnMut(&Row)) -> Result<Vec<Row>> {
    let world = World::new()?;
    load::serve(&world.guest)?.map_err(failed("serve in the guest's place"))?;
    load::serve(&world.backup)?.map_err(failed("serve in the backup's place"))?;
    let mut rows = Vec::new();
    let mut all = |peer: &str, world: &World| -> Result<()> {
        let mut each = |row: Row| {
            tell(&row);
            rows.push(row);
        };
        measure(world, peer, seconds, flows, &mut each)
    };
    all("bridge", &world)?;
    for (mode, interval) in [("llm-paper", 2000), ("llm", 2000), ("remus", 200)] {
        let backup = world.start_backup()?;
        let mut primary = world.protect(mode, interval)?;
        all(mode, &world)?;
        if std::env::var_os("LLM_PACKET_STATUS").is_some() {
            eprintln!("{:#}", primary.status()?);
        }
        drop(primary);
        drop(backup);
    }
    Ok(rows)
}

/// The number of flows that the issue of many flows is measured with.
#[must_use]
pub const fn default_flows() -> usize {
    FLOWS
}

fn measure(world: &World, peer: &str, seconds: f64, flows: usize, each: &mut dyn FnMut(Row)) -> Result<()> {
    let lasts = Duration::from_secs_f64(seconds);
    let every = Duration::from_millis(1);
    let mut row = |load, measure, value, unit| {
        each(Row { bench: "packet", peer: peer.into(), load, measure, value, unit });
    };
    let mut delays = |load, latency: Latency| {
        row(load, "p50", latency.p50, "us");
        row(load, "p99", latency.p99, "us");
        row(load, "requests", latency.per_second, "1/s");
    };
    let step = |what| failed(what);
    delays("link", world.host.enter(|| load::link(every, lasts))?.map_err(step("measure the link"))?);
    delays("paced", world.client.enter(|| load::paced(every, lasts))?.map_err(step("send requests"))?);
    delays("busy", world.client.enter(|| load::busy(16, lasts))?.map_err(step("send requests at once"))?);
    if flows > 0 {
        delays("flows", world.client.enter(|| load::flows(flows, lasts))?.map_err(step("use many flows"))?);
    }
    row("upload", "throughput", world.client.enter(|| load::upload(lasts))?.map_err(step("upload"))?, "MB/s");
    row("download", "throughput", world.client.enter(|| load::download(lasts))?.map_err(step("download"))?, "MB/s");
    Ok(())
}
