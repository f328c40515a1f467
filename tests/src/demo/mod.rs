//! The main job, shown: a real guest on a real Xen host, its host killed, its
//! clients carried on. Beside it the same guest under stock `xl remus`.

mod failover;
mod soak;
mod stock;
mod takeover;

use std::fs;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::lab::{BOOT_TIMEOUT, Lab, Llm, Progress, guest};
use crate::report::{Fact, Report, Run, Verdict, table, utc};
use crate::scenario::{self, Result, ScenarioError};
use llm_core::replication::Mode;

pub use soak::{Soak, soak};

/// Time between two checkpoints that each mode is shown with.
#[must_use]
pub const fn usual_interval(mode: Mode) -> Duration {
    match mode {
        Mode::Llm => Duration::from_secs(2),
        _ => Duration::from_millis(200),
    }
}

/// What the reader of a report must know of the lab.
const EMULATED: &str = "Two real Xen hosts (Xen 4.17, Linux 6.1 Dom0) and a PVH guest, all under QEMU's software emulation on a \
    small machine: times are many times longer than on hardware, and only the comparison within a run means anything.";

/// How the demo is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab.
    pub name: String,
    /// The `llm` binary for the hosts.
    pub llm: Llm,
    /// Modes to show, with their times between two checkpoints.
    pub modes: Vec<(Mode, Duration)>,
    /// Time between two checkpoints of stock `xl remus`.
    pub interval: Duration,
    /// How long the clients are watched before protection, and while protected.
    pub watch: Duration,
    /// Also run stock `xl remus`, for comparison.
    pub stock: bool,
    /// More options for `llm protect`.
    pub protect: String,
}

impl Options {
    /// The demo as `cargo lab demo` runs it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            llm: Llm::Build,
            modes: [Mode::Llm, Mode::Remus].map(|mode| (mode, usual_interval(mode))).to_vec(),
            interval: Duration::from_millis(200),
            watch: Duration::from_secs(15),
            stock: true,
            protect: String::new(),
        }
    }
}

/// Boots a lab of its own, runs everything, prints the table and writes
/// `report.json` and `report.html`. Whether the promises held.
///
/// # Errors
/// When the demo could not be run to its end; logs and a capture are kept then, and named.
pub fn run(options: &Options) -> Result<bool> {
    let progress = Progress::new();
    let lab_options = crate::lab::Options {
        protect: options.protect.clone(),
        ..crate::lab::Options::of(&options.name, &options.llm, progress)
    };
    let lab = Lab::up(&lab_options)?;
    let folder = lab.paths().logs().with_file_name("demo");
    fs::create_dir_all(&folder).map_err(|e| ScenarioError::Broken(format!("{}: {e}", folder.display())))?;
    let pcap = folder.join("service.pcap");
    let capture = lab.capture(&pcap)?;
    let result = run_on(&lab, options, &progress);
    drop(capture);
    if !matches!(result, Ok((true, _))) {
        keep_logs(&lab, &folder);
        eprintln!("Logs of both hosts and {} are kept in {}", pcap.display(), folder.display());
    }
    let (held, runs) = result?;
    write_report(runs, folder)?;
    Ok(held)
}

fn run_on(lab: &Lab, options: &Options, progress: &Progress) -> Result<(bool, Vec<Run>)> {
    let step = progress.step("Creating the guest");
    lab.guest_create(0)?;
    step.done("answers HTTP and Redis");
    let (mut held, mut runs, mut from) = (true, Vec::new(), 0);
    for &(mode, interval) in &options.modes {
        if from != 0 || !runs.is_empty() {
            let step = progress.step(format!("Mode {mode}: booting the lost host anew"));
            // Its work is done; the guest stays.
            lab.host(from).run("killall llm; sleep 1")?;
            lab.host(1 - from).start()?;
            lab.host(1 - from).wait_ready(BOOT_TIMEOUT)?;
            step.done("ready");
        }
        let run = failover::run(lab, options, failover::Way { mode, interval, from })?;
        held &= run.verdict() == Verdict::Held;
        runs.push(run);
        from = 1 - from;
    }
    if options.stock {
        runs.push(stock::run(lab, options, 1 - from, progress)?);
    }
    Ok((held, runs))
}

fn write_report(runs: Vec<Run>, folder: PathBuf) -> Result<()> {
    let report = Report {
        title: "LLM: a guest survives the loss of its host".into(),
        generated: utc(SystemTime::now()),
        runs,
        summary: None,
        host: facts(),
        notes: vec![
            EMULATED.into(),
            "Latency is that of closed-loop clients (Redis writes and web requests together); downtime is the longest \
             gap between two replies of any one connection around the failure."
                .into(),
        ],
    };
    print!("{}", table(&report, std::io::stdout().is_terminal()));
    let files = report.write(&folder).map_err(|e| ScenarioError::Broken(e.to_string()))?;
    for file in files {
        println!("Written: {}", file.display());
    }
    Ok(())
}

/// The machine.
pub(crate) fn facts() -> Vec<Fact> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let fact = |name: &str, value: String| Fact { name: name.into(), value };
    vec![
        fact("Machine", format!("{cores} cores, {}", model.trim_start_matches([' ', '\t', ':']))),
        fact("Emulation", "QEMU, software emulation (TCG), one core a host".into()),
        fact("Guest", format!("PVH, 128 MiB, redis-server and nginx at {}", guest::ADDRESS)),
    ]
}

/// Copies what the hosts have logged; a dead host has its console log only.
pub(crate) fn keep_logs(lab: &Lab, folder: &std::path::Path) {
    for (index, number) in [(0, 1), (1, 2)] {
        let _ = fs::copy(lab.paths().console_log(number), folder.join(format!("host{number}.console.log")));
        let command = format!(
            "for f in {} {} /var/log/xen/*.log; do echo \"== $f\"; cat $f; done; xl list; llm status; ip -br link",
            scenario::BACKUP_LOG,
            scenario::PROTECT_LOG
        );
        if let Ok(output) = lab.host(index).run(&command) {
            let _ = fs::write(folder.join(format!("host{number}.log")), output.stdout);
        }
    }
}
