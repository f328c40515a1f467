//! The failover again and again, at other moments of an epoch, each time the
//! other way round: the host that was killed comes back as the backup.

use std::thread::sleep;
use std::time::Duration;

use crate::clients::now_ns;
use crate::clients::timeline::{Marks, Timeline};
use crate::lab::{BOOT_TIMEOUT, Lab, Llm, Progress};
use crate::scenario::{Clients, Result, ensure_held, protect, wait_session};

/// Moments of the kill, as parts of an interval after the look at the status that
/// precedes it: some fall into the pause, some into the transfer, some between.
const MOMENTS: [f64; 10] = [0.0, 0.37, 0.74, 0.11, 0.48, 0.85, 0.22, 0.59, 0.96, 0.33];

/// Repeats the failover `times` times in a lab of its own, with these options of `llm protect`; how often it held.
///
/// # Errors
/// When the lab fails; a failover that does not hold is counted and told, and ends the run.
pub fn soak(name: &str, llm: Llm, times: u32, options: &str) -> Result<u32> {
    let progress = Progress::new();
    let lab_options =
        crate::lab::Options { name: name.into(), llm, progress, ..crate::lab::Options::default() };
    let lab = Lab::up(&lab_options)?;
    lab.guest_create(0)?;
    let result = failovers(&lab, times, options, &progress);
    if !matches!(result, Ok(held) if held == times) {
        let folder = lab.paths().logs().with_file_name("soak");
        let _ = std::fs::create_dir_all(&folder);
        super::keep_logs(&lab, &folder);
        eprintln!("Logs of both hosts are kept in {}", folder.display());
    }
    result
}

/// The guest starts on the first host.
pub(crate) fn failovers(lab: &Lab, times: u32, options: &str, progress: &Progress) -> Result<u32> {
    for round in 0..times {
        let (from, to) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
        let moment = MOMENTS[round as usize % MOMENTS.len()];
        let step = progress.step(format!("Failover {} of {times}: host{} dies", round + 1, from + 1));
        let status = protect(lab, from, options)?;
        // Behind the first copy, which they would make last for minutes on an emulated host.
        let clients = Clients::start_all(lab)?;
        sleep(Duration::from_secs(6));
        // Anywhere within the real interval of this host.
        let interval =
            Duration::from_millis(status.real_interval_ms.clamp(status.interval_ms.max(200), 4000));
        sleep(interval.mul_f64(moment));
        lab.host(from).kill()?;
        let mut marks = Marks { failed_ns: Some(now_ns()), ..Marks::default() };
        let session = wait_session(lab, to, "running-here", Duration::from_secs(60))?;
        clients.wait_for_replies(now_ns(), Duration::from_secs(60))?;
        sleep(Duration::from_secs(2));
        marks.ended_ns = now_ns();
        let outcomes = clients.stop(lab)?;
        let samples = outcomes.iter().flat_map(|o| o.samples.clone());
        let downtime = Timeline::new(marks, samples).downtime_ns().unwrap_or(0);
        if let Err(error) = ensure_held(&outcomes) {
            step.done(&format!("NOT HELD: {error}"));
            return Ok(round);
        }
        step.done(&format!(
            "held; {} epochs, kill at {moment:.2} of an interval, downtime {} ms{}",
            session.epochs_committed,
            downtime / 1_000_000,
            session.takeover.and_then(|t| t.replay).map_or_else(String::new, |replay| format!(
                ", {} records replayed, {} connections carried, reset {:?}",
                replay.records, replay.carried, replay.resets
            ))
        ));
        // The former backup now is the primary; its llm backup has done its work.
        lab.host(to).run("killall llm; sleep 1")?;
        if round + 1 < times {
            lab.host(from).start()?;
            lab.host(from).wait_ready(BOOT_TIMEOUT)?;
        }
    }
    Ok(times)
}
