//! The modes, and the measures of each.

use std::fs;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant, SystemTime};

use super::{Options, latency};
use crate::demo::{facts, keep_logs};
use crate::lab::work::Work;
use crate::lab::{self, Lab, Progress, guest};
use crate::measure::{http_64k, link_bytes, link_rtt, sets, work};
use crate::report::{Bench, Quantiles, utc};
use crate::scenario::{Result, ScenarioError, ensure, primary_status, protect, protect_exit};

/// The guest's host, and its backup.
const HOST: usize = 0;
const BACKUP: usize = 1;
/// The reply to `llm release` waits for the end of a checkpoint.
const RELEASE: Duration = Duration::from_secs(60);

/// Boots a lab of its own, measures everything, prints the table and writes `bench/llm.json` and `bench/llm.html`.
/// Whether every figure could be taken.
///
/// # Errors
/// When the lab or a protection fails; a single figure that cannot be taken is no error.
pub fn run(options: &Options) -> Result<bool> {
    let progress = Progress::new();
    let lab = Lab::up(&lab::Options::of(&options.name, &options.llm, progress))?;
    let folder = lab.paths().logs().with_file_name("bench");
    fs::create_dir_all(&folder).map_err(|e| ScenarioError::Broken(format!("{}: {e}", folder.display())))?;
    let mut bench = Bench {
        title: "What protection costs a guest".into(),
        generated: utc(SystemTime::now()),
        host: facts(),
        notes: notes(),
        ..Bench::default()
    };
    let result = measure_all(&lab, options, &mut bench, &progress);
    if result.is_err() {
        keep_logs(&lab, &folder);
        eprintln!("Logs of both hosts are kept in {}", folder.display());
    }
    // What was measured until an error is worth a file as well.
    print!("{}", bench.table(std::io::stdout().is_terminal()));
    for file in bench.write(&folder, "llm").map_err(|e| ScenarioError::Broken(e.to_string()))? {
        println!("Written: {}", file.display());
    }
    result.map(|()| bench.is_whole())
}

fn notes() -> Vec<String> {
    [
        "Two real Xen hosts and a PVH guest, all under QEMU's software emulation, one virtual CPU a host: the guest, \
         its Dom0 and llm share it. Only the comparison within a run means anything.",
        "redis-set and http-64k are closed loops without a pause: SETs on four connections, 32 outstanding on each; \
         64 KiB bodies on eight keep-alive connections. They load the network, as HighNet of the paper does.",
        "work-cpu and work-memory are processes of the guest that count their own rounds: arithmetic alone, and 8 MiB \
         written page by page. They load the guest itself, as HighSys of the paper does.",
        "Latencies are those of a light load: two Redis writers (SETs alone), a web client, two typists. A request counts \
         as one that met a pause if it was open while the guest was suspended for a checkpoint.",
        "The first write to a page after a checkpoint traps into Xen, which seems to take milliseconds where nested paging is \
         emulated: work-memory is slowed by it far more than it would be on hardware.",
        "The last column measures the unprotected guest once more: how much the machine itself has drifted.",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn measure_all(lab: &Lab, options: &Options, bench: &mut Bench, progress: &Progress) -> Result<()> {
    let step = progress.step("Creating the guest");
    lab.guest_create(HOST)?;
    step.done("answers HTTP and Redis");
    let rtt = link_rtt(lab, HOST, BACKUP).map_err(|e| e.to_string());
    pair(bench, "link: round trip", "unprotected", rtt.map(Some));
    measure(lab, options, bench, "unprotected", progress)?;
    for &(mode, interval) in &options.modes {
        let name = format!("{mode}, {} ms", interval.as_millis());
        let step = progress.step(format!("{name}: first copy"));
        let start = Instant::now();
        protect(lab, HOST, &format!("--mode {mode} --interval {}ms", interval.as_millis()))?;
        bench.add("copy: first", &name, "ms", Ok(start.elapsed().as_secs_f64() * 1e3));
        step.done("protected");
        measure(lab, options, bench, &name, progress)?;
        let step = progress.step(format!("{name}: release"));
        lab.host(HOST).check(&format!("llm release {}", guest::NAME))?;
        let code = protect_exit(lab, HOST, RELEASE)?;
        ensure(code == 0, || format!("llm protect ended with {code} after its release"))?;
        step.done("the guest goes on unprotected");
    }
    measure(lab, options, bench, "unprotected again", progress)
}

/// All measures of a mode that stands.
fn measure(lab: &Lab, options: &Options, bench: &mut Bench, mode: &str, progress: &Progress) -> Result<()> {
    let step = progress.step(format!("{mode}: measuring"));
    let start = Instant::now();
    let before = primary_status(lab, HOST)?;
    let link = link_bytes(lab, BACKUP)?;
    latency::measure(lab, HOST, options.time, bench, mode);
    let mut add = |name: &str, unit: &str, value: Result<f64>| {
        bench.add(name, mode, unit, value.map_err(|e| e.to_string()));
    };
    add("throughput: redis-set", "SET/s", sets(lab, options.time));
    add("throughput: http-64k", "B/s", http_64k(lab, options.time));
    add("throughput: work-cpu", "rounds/s", work(lab, Work::Cpu, options.time));
    add("throughput: work-memory", "pages/s", work(lab, Work::Memory, options.time));
    if let Some(before) = before {
        let after = primary_status(lab, HOST)?.filter(|s| s.state == "protected").ok_or_else(|| {
            ScenarioError::Broken(format!("{mode}: the protection did not last through the measures"))
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let epochs = after.epochs_committed.saturating_sub(before.epochs_committed);
        let per_epoch = |n: u64| n as f64 / epochs.max(1) as f64;
        add("checkpoints: a second", "1/s", Ok(epochs as f64 / seconds));
        add("checkpoints: sent for each", "B", Ok(per_epoch(after.bytes_sent - before.bytes_sent)));
        let bytes = link_bytes(lab, BACKUP)?.saturating_sub(link);
        add("link: all bytes", "B/s", Ok(bytes as f64 / seconds));
    }
    step.done("done");
    Ok(())
}

/// A figure's p50 and p99; `Ok(None)` is left out.
pub(super) fn pair(
    bench: &mut Bench,
    name: &str,
    mode: &str,
    value: std::result::Result<Option<Quantiles>, String>,
) {
    let value = value.transpose();
    for (which, of) in [("p50", (|q| q.p50) as fn(Quantiles) -> f64), ("p99", |q| q.p99)] {
        if let Some(value) = value.clone() {
            bench.add(&format!("{name} {which}"), mode, "ms", value.map(of));
        }
    }
}
