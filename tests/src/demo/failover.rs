//! One run: clients, protection, the host killed, the clients carried on.

use std::thread::sleep;
use std::time::Duration;

use super::{Options, link_bytes};
use crate::clients::now_ns;
use crate::clients::timeline::{Marks, Timeline};
use crate::lab::Lab;
use crate::report::{Live, Quantiles, Run, View};
use crate::scenario::{
    Clients, Result, primary_status, session_status, start_backup, start_protect, wait, wait_primary,
};

/// Between two looks of the live view.
const LOOK: Duration = Duration::from_millis(250);
/// After the failure the clients are watched this long once they get replies again.
const AFTER: Duration = Duration::from_secs(8);

/// The guest runs on the first host; afterwards it runs on the second.
pub(super) fn run(lab: &Lab, options: &Options) -> Result<Run> {
    let clients = Clients::start(lab)?;
    let mut view = Watch { live: Live::stderr(), clients: &clients, started_ns: now_ns() };
    let mut marks = Marks { started_ns: view.started_ns, ..Marks::default() };
    view.watch(options.watch, "unprotected", || Ok((None, String::new())))?;

    marks.protecting_ns = Some(now_ns());
    start_backup(lab, 1)?;
    let before = link_bytes(lab, 1)?;
    start_protect(lab, 0, &format!("--interval {}ms", options.interval.as_millis()))?;
    view.until("first copy", Duration::from_secs(180), || {
        let status = primary_status(lab, 0)?;
        Ok(status.is_some_and(|s| s.state == "protected"))
    })?;
    marks.protected_ns = Some(now_ns());
    view.watch(options.watch, "protected", || {
        let status = primary_status(lab, 0)?.unwrap_or_default();
        let detail = format!("pause {:.0} ms, commit {:.0} ms", status.pause.p50_ms, status.commit_ms);
        Ok((Some(status.epochs_committed), detail))
    })?;
    let primary = wait_primary(lab, 0, &["protected"], Duration::from_secs(10))?;
    let sent = link_bytes(lab, 1)?.saturating_sub(before);

    lab.host(0).kill()?;
    let failed_ns = now_ns();
    marks.failed_ns = Some(failed_ns);
    view.live.event(Duration::from_nanos(failed_ns - view.started_ns), "the primary host is killed");
    view.until("host dead", Duration::from_secs(120), || {
        let (redis, http) = clients.last_replies();
        // Replies that were on their way when the host died do not count.
        Ok(redis.min(http) > failed_ns + Timeline::IN_FLIGHT_NS
            && session_status(lab, 1)?.is_some_and(|s| s.state == "running-here"))
    })?;
    view.watch(AFTER, "carried on", || Ok((None, String::new())))?;
    view.live.clear();
    marks.ended_ns = now_ns();
    let session = session_status(lab, 1)?.unwrap_or_default();

    let interval_ms = u64::try_from(options.interval.as_millis()).unwrap_or(u64::MAX);
    let outcomes = clients.stop(lab)?;
    let mut run =
        Run::measured("remus", interval_ms, marks, outcomes).with_failure("primary host killed", &marks);
    run.epochs_committed = Some(session.epochs_committed);
    run.pages_sent = Some(primary.pages_sent);
    run.bytes_raw = Some(primary.bytes_raw);
    run.bytes_sent = Some(primary.bytes_sent);
    run.link_bytes = Some(sent);
    run.pause_ms = Some(Quantiles { p50: primary.pause.p50_ms, p99: primary.pause.p99_ms });
    if let Some(takeover) = session.takeover {
        run.detect_ms = Some(takeover.detect_ms);
        let at = |ms: f64| failed_ns + (ms * 1e6) as u64;
        run.event(at(takeover.detect_ms), "the backup takes over");
        run.event(at(takeover.detect_ms + takeover.running_ms), "the guest runs on the backup");
        run.notes.push(format!(
            "Take-over: {:.0} ms of silence, {:.0} ms until xl had every committed epoch, {:.0} ms until the guest ran.",
            takeover.detect_ms, takeover.handover_ms, takeover.running_ms
        ));
    }
    run.notes.push(format!(
        "Real interval {} ms, {} epochs later than wanted, commit {:.1} ms after a checkpoint's end.",
        primary.real_interval_ms, primary.stretched, primary.commit_ms
    ));
    Ok(run)
}

/// The live view of a run.
struct Watch<'a> {
    live: Live<std::io::Stderr>,
    clients: &'a Clients,
    started_ns: u64,
}

impl Watch<'_> {
    /// Shows how it goes for a while; `look` is asked once a second for epochs and a word on them.
    fn watch(
        &mut self,
        time: Duration,
        phase: &str,
        mut look: impl FnMut() -> Result<(Option<u64>, String)>,
    ) -> Result<()> {
        let start = now_ns();
        let mut seen = (None, String::new());
        let mut looks = 0u32;
        while Duration::from_nanos(now_ns() - start) < time {
            if looks.is_multiple_of(4) {
                seen = look()?;
            }
            looks += 1;
            self.show(phase, seen.0, &seen.1);
            sleep(LOOK);
        }
        Ok(())
    }

    /// Shows how it goes until it is so.
    fn until(
        &mut self,
        phase: &str,
        timeout: Duration,
        mut look: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        wait(phase, timeout, || {
            self.show(phase, None, "");
            let reached = look()?;
            Ok((reached, || "not yet".into()))
        })
    }

    fn show(&mut self, phase: &str, epochs: Option<u64>, detail: &str) {
        let now = now_ns();
        self.live.update(&View {
            elapsed: Duration::from_nanos(now - self.started_ns),
            phase,
            clients: self.clients.snapshot(),
            now_ns: now,
            epochs,
            detail,
        });
    }
}
