//! The failover again and again, at other moments of an epoch, each time the
//! other way round: the host that was killed comes back as the backup.

use std::fs;
use std::io::IsTerminal as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use super::takeover::{with_primary, with_session};
use super::{EMULATED, facts, keep_logs};
use crate::clients::now_ns;
use crate::clients::timeline::Marks;
use crate::lab::{BOOT_TIMEOUT, Lab, Llm, Progress};
use crate::measure::{HostClock, PauseLog};
use crate::report::{Report, Run, Summary, Verdict, table, utc};
use crate::scenario::{Clients, Result, ScenarioError, protect, session_status, wait_primary, wait_session};
use llm_core::replication::Mode;

/// Moments of the kill, as parts of an interval after the look at the status that
/// precedes it: some fall into the pause, some into the transfer, some between.
const MOMENTS: [f64; 10] = [0.0, 0.37, 0.74, 0.11, 0.48, 0.85, 0.22, 0.59, 0.96, 0.33];
/// The clients work so long before the moment is waited for.
const BEFORE: Duration = Duration::from_secs(6);
/// The last connections are this old when the host dies.
const LATE: Duration = Duration::from_millis(300);

/// How the soak is run.
#[derive(Clone, Debug)]
pub struct Soak {
    /// Name of the lab.
    pub name: String,
    /// The `llm` binary for the hosts.
    pub llm: Llm,
    /// How many failovers.
    pub times: u32,
    /// How the guest is protected.
    pub mode: Mode,
    /// Time between two checkpoints.
    pub interval: Duration,
    /// More options for `llm protect`.
    pub protect: String,
}

/// Repeats the failover in a lab of its own, and writes `soak/report.json` and `soak/report.html`; how often it held.
/// One that does not hold is told, its logs are kept, and the next one follows.
///
/// # Errors
/// When the lab fails, or a guest does not come back; the report then has what was seen until that.
pub fn soak(options: &Soak) -> Result<u32> {
    let progress = Progress::new();
    let lab_options = crate::lab::Options {
        protect: options.protect.clone(),
        ..crate::lab::Options::of(&options.name, &options.llm, progress)
    };
    let lab = Lab::up(&lab_options)?;
    lab.guest_create(0)?;
    let folder = lab.paths().logs().with_file_name("soak");
    let mut runs = Vec::new();
    let result = failovers(&lab, options, &folder, &progress, &mut runs);
    if result.is_err() {
        keep(&lab, &folder.join("ended"));
    }
    let held = runs.iter().filter(|run| run.verdict() == Verdict::Held).count();
    write_report(runs, options, &folder)?;
    result?;
    Ok(u32::try_from(held).unwrap_or(u32::MAX))
}

/// The guest starts on the first host.
fn failovers(
    lab: &Lab,
    options: &Soak,
    folder: &Path,
    progress: &Progress,
    runs: &mut Vec<Run>,
) -> Result<()> {
    for round in 0..options.times {
        let (from, to) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
        let name = format!("Failover {} of {}: host{} dies", round + 1, options.times, from + 1);
        let step = progress.step(&name);
        let mut run = failover(lab, options, from, MOMENTS[round as usize % MOMENTS.len()])?;
        run.name = format!("{}: host{} dies", round + 1, from + 1);
        step.done(&told(&run));
        if run.verdict() != Verdict::Held {
            keep(lab, &folder.join(format!("failover-{}", round + 1)));
        }
        runs.push(run);
        // The former backup now is the primary; its llm backup has done its work.
        lab.host(to).run("killall llm; sleep 1")?;
        if round + 1 < options.times {
            lab.host(from).start()?;
            lab.host(from).wait_ready(BOOT_TIMEOUT)?;
        }
    }
    Ok(())
}

/// One of them; `moment` is a part of the interval.
fn failover(lab: &Lab, options: &Soak, from: usize, moment: f64) -> Result<Run> {
    let to = 1 - from;
    let interval_ms = u64::try_from(options.interval.as_millis()).unwrap_or(u64::MAX);
    let status = protect(lab, from, &format!("--mode {} --interval {interval_ms}ms", options.mode))?;
    // Behind the first copy, which they would make last for minutes on an emulated host.
    let mut clients = Clients::start_all(lab)?;
    let started_ns = now_ns();
    sleep(BEFORE);
    let mut log = PauseLog::default();
    let asked_ns = now_ns();
    let primary = wait_primary(lab, from, &["protected"], Duration::from_secs(10))?;
    log.add(&primary, asked_ns);
    let pauses = log.on(&HostClock::of(lab, from)?);
    // Anywhere within the real interval of this host.
    let interval = Duration::from_millis(status.real_interval_ms.clamp(status.interval_ms.max(200), 4000));
    sleep(interval.mul_f64(moment));
    clients.add_late(lab)?;
    sleep(LATE);
    lab.host(from).kill()?;
    let failed_ns = now_ns();
    wait_session(lab, to, "running-here", Duration::from_secs(60))?;
    clients.wait_for_replies(now_ns(), Duration::from_secs(60))?;
    sleep(Duration::from_secs(2));
    let marks = Marks {
        started_ns,
        protecting_ns: None,
        protected_ns: Some(started_ns),
        failed_ns: Some(failed_ns),
        ended_ns: now_ns(),
    };
    let session = session_status(lab, to)?.unwrap_or_default();
    let outcomes = clients.stop(lab)?;
    let mut run = Run::measured_with(&options.mode.to_string(), interval_ms, marks, outcomes, &pauses)
        .with_failure("primary host killed", &marks);
    run.notes.push(format!("The host died at {moment:.2} of an interval."));
    run = with_primary(run, &primary);
    Ok(with_session(run, &session, failed_ns))
}

/// A failover in a line.
fn told(run: &Run) -> String {
    let verdict = match run.verdict() {
        Verdict::Held => "held".into(),
        Verdict::Broken(faults) => format!("NOT HELD: {}", faults.join(", ")),
        Verdict::Untested => "untested".into(),
    };
    let count = |n: Option<u64>| n.unwrap_or(0);
    format!(
        "{verdict}; {} epochs, downtime {}, {} of {} connections went on, reset {:?}",
        count(run.epochs_committed),
        run.downtime_ms.map_or_else(|| "unknown".into(), |ms| format!("{ms:.0} ms")),
        count(run.connections_carried),
        count(run.connections_total),
        run.connections_reset_by_cause.clone().unwrap_or_default(),
    )
}

fn keep(lab: &Lab, folder: &Path) {
    if fs::create_dir_all(folder).is_ok() {
        keep_logs(lab, folder);
        eprintln!("Logs of both hosts are kept in {}", folder.display());
    }
}

fn write_report(runs: Vec<Run>, options: &Soak, folder: &Path) -> Result<()> {
    let report = Report {
        title: format!("Mode {}: {} failovers in a row", options.mode, runs.len()),
        generated: utc(SystemTime::now()),
        summary: Some(Summary::of(&runs)),
        runs,
        host: facts(),
        notes: vec![
            EMULATED.into(),
            "The full mix of clients starts behind each first copy; a Redis writer and a typist connect just before the \
             host dies, so that no checkpoint knows them. Their connections are numbered from 100."
                .into(),
        ],
    };
    print!("{}", table(&report, std::io::stdout().is_terminal()));
    for (what, how) in report.summary.iter().flat_map(Summary::lines) {
        println!("{what}: {how}");
    }
    for file in report.write(folder).map_err(|e| ScenarioError::Broken(e.to_string()))? {
        println!("Written: {}", file.display());
    }
    Ok(())
}
