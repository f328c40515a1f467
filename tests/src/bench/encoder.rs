//! What encoding costs Dom0: by itself, and by a domain of its own, one after the other on the same guest.

use std::fs;
use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime};

use crate::demo::{facts, keep_logs};
use crate::lab::work::Work;
use crate::lab::{self, Lab, Llm, Progress, guest};
use crate::measure::work;
use crate::report::{Bench, utc};
use crate::scenario::{Result, ScenarioError, ensure, primary_status, protect, protect_exit};

/// The guest's host.
const HOST: usize = 0;
/// The reply to `llm release` waits for the end of a checkpoint.
const RELEASE: Duration = Duration::from_secs(60);
/// Ticks of a second in `/proc`, on every Linux of this architecture.
const TICKS: f64 = 100.0;

/// How the bench is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab.
    pub name: String,
    /// The `llm` binary for the hosts.
    pub llm: Llm,
    /// How long the guest writes memory, for each encoder.
    pub time: Duration,
}

/// Boots a lab of its own, measures, prints the table and writes `bench/encoder.json` and `bench/encoder.html`. Whether every
/// figure could be taken.
///
/// # Errors
/// When the lab or a protection fails.
pub fn run(options: &Options) -> Result<bool> {
    let progress = Progress::new();
    let lab = Lab::up(&lab::Options::of(&options.name, &options.llm, progress))?;
    let folder = lab.paths().logs().with_file_name("bench");
    fs::create_dir_all(&folder).map_err(|e| ScenarioError::Broken(format!("{}: {e}", folder.display())))?;
    let mut bench = Bench {
        title: "Encoding in Dom0, and in a domain of its own".into(),
        generated: utc(SystemTime::now()),
        host: facts(),
        notes: [
            "Two real Xen hosts and a PVH guest under QEMU's software emulation, one virtual CPU a host. The guest writes 8 MiB again \
             and again, and is checkpointed every 200 ms. Only columns compare.",
            "CPU time is that of the process `llm protect`, and of its thread that encodes or hands over; each by the clock ticks \
             of Dom0's kernel. That of the encoder's domain is Xen's own count.",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Bench::default()
    };
    let result = measure_all(&lab, options, &mut bench, &progress);
    if result.is_err() {
        keep_logs(&lab, &folder);
        eprintln!("Logs of both hosts are kept in {}", folder.display());
    }
    print!("{}", bench.table(std::io::stdout().is_terminal()));
    for file in bench.write(&folder, "encoder").map_err(|e| ScenarioError::Broken(e.to_string()))? {
        println!("Written: {}", file.display());
    }
    result.map(|()| bench.is_whole())
}

fn measure_all(lab: &Lab, options: &Options, bench: &mut Bench, progress: &Progress) -> Result<()> {
    let step = progress.step("Creating the guest");
    lab.guest_create(HOST)?;
    step.done("answers HTTP and Redis");
    for encoder in ["dom0", "stubdom"] {
        let step = progress.step(format!("{encoder}: first copy"));
        protect(lab, HOST, &format!("--interval 200ms --detect 2s --encoder {encoder}"))?;
        step.done("protected");
        let step = progress.step(format!("{encoder}: measuring"));
        measure(lab, options, bench, encoder)?;
        step.done("done");
        lab.host(HOST).check(&format!("llm release {}", guest::NAME))?;
        let code = protect_exit(lab, HOST, RELEASE)?;
        ensure(code == 0, || format!("llm protect ended with {code} after its release"))?;
    }
    Ok(())
}

/// What was spent until now, in seconds of CPU time, and what for.
struct Spent {
    process: f64,
    thread: f64,
    domain: f64,
    pages: u64,
    epochs: u64,
}

fn spent(lab: &Lab, encoder: &str) -> Result<Spent> {
    let status = primary_status(lab, HOST)?
        .filter(|s| s.state == "protected" && s.encoder.starts_with(encoder))
        .ok_or_else(|| ScenarioError::Broken(format!("{encoder} does not encode any more")))?;
    let host = lab.host(HOST);
    // The name in a `stat` of ours has no blank, so that fields count from the left.
    let ticks = |file: &str| -> Result<f64> {
        let command = format!("awk '{{ n += $14 + $15 }} END {{ print n + 0 }}' {file}");
        Ok(host.check(&command)?.text().trim().parse().unwrap_or(f64::NAN) / TICKS)
    };
    let pid = status.pid;
    let threads = format!("$(grep -l '^encode$' /proc/{pid}/task/*/comm | sed 's/comm$/stat/')");
    let domain =
        host.check(&format!("xl list llm-enc-{} 2>/dev/null | awk 'NR == 2 {{ print $6 }}'", guest::NAME))?;
    Ok(Spent {
        process: ticks(&format!("/proc/{pid}/stat"))?,
        thread: ticks(&threads)?,
        domain: domain.text().trim().parse().unwrap_or(0.0),
        pages: status.pages_sent,
        epochs: status.epochs_committed,
    })
}

fn measure(lab: &Lab, options: &Options, bench: &mut Bench, encoder: &str) -> Result<()> {
    let before = spent(lab, encoder)?;
    let written = work(lab, Work::Memory, options.time)?;
    let after = spent(lab, encoder)?;
    let status = primary_status(lab, HOST)?.unwrap_or_default();
    let pages = after.pages - before.pages;
    // Milliseconds for each thousand pages.
    let cost = |seconds: f64| {
        if pages == 0 { Err("no page was encoded".into()) } else { Ok(seconds * 1e6 / pages as f64) }
    };
    let mut add = |name: &str, unit: &str, value| bench.add(name, encoder, unit, value);
    add("pages: encoded", "pages", Ok(pages as f64));
    add("pages: a second", "pages/s", Ok(pages as f64 / options.time.as_secs_f64()));
    add("pages: written by the guest", "pages/s", Ok(written));
    add("checkpoints: committed", "epochs", Ok((after.epochs - before.epochs) as f64));
    add("cpu of llm protect: for 1000 pages", "ms", cost(after.process - before.process));
    add("cpu of its encoding thread: for 1000 pages", "ms", cost(after.thread - before.thread));
    add("cpu of the encoder's domain: for 1000 pages", "ms", cost(after.domain - before.domain));
    add("pause: guest p50", "ms", Ok(status.pause.p50_ms));
    add("pause: guest p99", "ms", Ok(status.pause.p99_ms));
    add("commit: behind the checkpoint's end", "ms", Ok(status.commit_ms));
    add("memory: copies of pages in Dom0", "B", Ok(status.shadow_bytes as f64));
    Ok(())
}
