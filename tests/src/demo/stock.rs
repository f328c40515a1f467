//! The same guest under stock `xl remus`, without its network buffer (Debian
//! builds `xl` without it): what it pauses, sends and detects.

use std::thread::sleep;
use std::time::{Duration, Instant};

use llm_dom0::control::PauseStatus;

use super::Options;
use crate::clients::now_ns;
use crate::clients::timeline::Marks;
use crate::lab::{BOOT_TIMEOUT, Lab, Link, Progress, guest};
use crate::measure::link_bytes;
use crate::report::{Quantiles, Run};
use crate::scenario::{Clients, Result, ScenarioError, wait};

/// How long a dead primary may go unnoticed before it counts as never noticed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for the first copy and two checkpoints; on an idle machine 25 s.
const FIRST_COPY: Duration = Duration::from_secs(240);
const PORT: u16 = 7799;
const SENDER_LOG: &str = "/var/log/stock-remus.log";
const RECEIVER_LOG: &str = "/var/log/stock-receive.log";

/// Host `from` is down and the guest runs on the other; afterwards neither runs it.
pub(super) fn run(lab: &Lab, options: &Options, from: usize, progress: &Progress) -> Result<Run> {
    let to = 1 - from;
    let step = progress.step("Stock xl remus: booting the lost host anew");
    lab.host(to).run(&format!("killall llm; sleep 1; xl destroy {}", guest::NAME))?;
    lab.host(from).start()?;
    lab.host(from).wait_ready(BOOT_TIMEOUT)?;
    step.done("ready");
    let step = progress.step("Stock xl remus: the same guest");
    lab.create(from, guest::PLAIN)?;
    step.done("answers");

    let interval_ms = options.interval.as_millis();
    let mut marks = Marks { started_ns: now_ns(), ..Marks::default() };
    let mut clients = Clients::start_all(lab)?;
    sleep(options.watch);
    // As in our own modes.
    clients.stop_rest(lab)?;
    let step = progress.step("Stock xl remus: protecting");
    marks.protecting_ns = Some(now_ns());
    // Whole words for the receiving side's shell; xl reads stdin and answers on stdout.
    let receive = format!("exec nc -l -p {PORT} -e xl -vvv migrate-receive -r");
    lab.host(to).spawn_detached(&receive, RECEIVER_LOG)?;
    let listens = format!("netstat -tln | grep -q ':{PORT} '");
    lab.host(to).wait_for(&listens, Duration::from_secs(20))?;
    let before = link_bytes(lab, to)?;
    let backup = Link::Replication.host_address(to + 1);
    let send = format!(
        "exec xl -vvv remus -Fdn -i {interval_ms} -s '' {} 'exec lab-agent pipe {backup}:{PORT}'",
        guest::PLAIN
    );
    lab.host(from).spawn_detached(&send, SENDER_LOG)?;
    // Its own log is all that tells of checkpoints.
    let count = format!("grep -c 'Checkpointed save' {SENDER_LOG}");
    let checkpoints = || -> Result<u64> {
        let text = lab.host(from).run(&count)?.text();
        Ok(text.trim().parse().unwrap_or(0))
    };
    wait("stock xl remus to make two checkpoints", FIRST_COPY, || {
        let made = checkpoints()?;
        let said = || {
            lab.host(from).run(&format!("tail -5 {SENDER_LOG}")).map_or_else(|e| e.to_string(), |o| o.text())
        };
        Ok((made >= 2, move || format!("{made}; it said {}", said())))
    })?;
    clients.add_rest(lab)?;
    marks.protected_ns = Some(now_ns());
    step.done("checkpoints");
    let watch = format!("llm watch {} --json --for {}ms", guest::PLAIN, options.watch.as_millis());
    let pauses = lab.host(from).check(&watch)?.text();
    let pauses: PauseStatus = serde_json::from_str(pauses.trim())
        .map_err(|source| ScenarioError::Status { host: from + 1, source })?;
    let epochs = checkpoints()?;
    let sent = link_bytes(lab, to)?.saturating_sub(before);

    let step = progress.step("Stock xl remus: the primary host is killed");
    lab.host(from).kill()?;
    let failed_ns = now_ns();
    marks.failed_ns = Some(failed_ns);
    let start = Instant::now();
    let mut detected = None;
    while detected.is_none() && start.elapsed() < PATIENCE {
        if lab.host(to).run(&format!("grep -q 'Remus Failover' {RECEIVER_LOG}"))?.success() {
            detected = Some(start.elapsed());
        }
        sleep(Duration::from_millis(200));
    }
    marks.ended_ns = now_ns();
    step.done(&detected.map_or_else(
        || format!("not noticed within {} s", PATIENCE.as_secs()),
        |after| format!("noticed after {} ms", after.as_millis()),
    ));
    // What the clients saw is told by their silence: there is nothing left to read values back from.
    let samples = clients.abandon(lab)?;

    let interval = u64::try_from(interval_ms).unwrap_or(u64::MAX);
    let mut run = Run::new("xl-remus", interval).with_failure("primary host killed", &marks);
    run.latencies(marks, samples);
    run.epochs_committed = Some(epochs);
    run.link_bytes = Some(sent);
    run.bytes_sent = Some(sent);
    run.pause_ms = Some(Quantiles { p50: pauses.p50_ms, p99: pauses.p99_ms });
    run.detect_ms = detected.map(|d| d.as_secs_f64() * 1e3);
    run.notes.push(
        "Stock xl remus as Debian ships it: no network buffer, so its latency is that of an unprotected guest with pauses, \
         and replies may leave that the backup does not know."
            .into(),
    );
    Ok(run)
}
