//! One run: clients, protection, the host killed, the clients carried on.

use std::thread::sleep;
use std::time::Duration;

use super::Options;
use crate::clients::now_ns;
use crate::clients::timeline::{Marks, Timeline};
use crate::lab::Lab;
use crate::measure::{link_bytes, link_rtt};
use crate::report::{Fidelity, Live, Quantiles, ReplayTimes, Run, View};
use crate::scenario::{
    Clients, Result, primary_status, session_status, start_backup, start_protect, wait, wait_primary,
};
use llm_core::replication::Mode;
use llm_dom0::control::{FidelityStatus, ReplayStatus};

/// Between two looks of the live view.
const LOOK: Duration = Duration::from_millis(250);
/// Time for the first copy: 25 s on an idle machine, and more than 100 s on a busy one.
const FIRST_COPY: Duration = Duration::from_secs(300);
/// After the failure the clients are watched this long once they get replies again.
const AFTER: Duration = Duration::from_secs(8);

/// How the guest is protected, and which way the failover goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) mode: Mode,
    pub(super) interval: Duration,
    /// Index of the host that the guest runs on, and dies with.
    pub(super) from: usize,
}

/// The guest runs on one host; afterwards it runs on the other.
pub(super) fn run(lab: &Lab, options: &Options, way: Way) -> Result<Run> {
    let (from, to) = (way.from, 1 - way.from);
    let rtt = link_rtt(lab, from, to)?;
    let clients = Clients::start(lab)?;
    let mut view = Watch { live: Live::stderr(), clients: &clients, started_ns: now_ns() };
    let mut marks = Marks { started_ns: view.started_ns, ..Marks::default() };
    view.watch(options.watch, "unprotected", || Ok((None, String::new())))?;

    marks.protecting_ns = Some(now_ns());
    start_backup(lab, to)?;
    let before = link_bytes(lab, to)?;
    start_protect(lab, from, &format!("--mode {} --interval {}ms", way.mode, way.interval.as_millis()))?;
    view.until("first copy", FIRST_COPY, || {
        let status = primary_status(lab, from)?;
        Ok(status.is_some_and(|s| s.state == "protected"))
    })?;
    marks.protected_ns = Some(now_ns());
    view.watch(options.watch, "protected", || {
        let status = primary_status(lab, from)?.unwrap_or_default();
        let detail = format!("pause {:.0} ms, commit {:.0} ms", status.pause.p50_ms, status.commit_ms);
        Ok((Some(status.epochs_committed), detail))
    })?;
    let primary = wait_primary(lab, from, &["protected"], Duration::from_secs(10))?;
    let sent = link_bytes(lab, to)?.saturating_sub(before);

    lab.host(from).kill()?;
    let failed_ns = now_ns();
    marks.failed_ns = Some(failed_ns);
    view.live.event(Duration::from_nanos(failed_ns - view.started_ns), "the primary host is killed");
    view.until("host dead", Duration::from_secs(120), || {
        let (redis, http) = clients.last_replies();
        // Replies that were on their way when the host died do not count.
        Ok(redis.min(http) > failed_ns + Timeline::IN_FLIGHT_NS
            && session_status(lab, to)?.is_some_and(|s| s.state == "running-here"))
    })?;
    view.watch(AFTER, "carried on", || Ok((None, String::new())))?;
    view.live.clear();
    marks.ended_ns = now_ns();
    let session = session_status(lab, to)?.unwrap_or_default();

    let interval_ms = u64::try_from(way.interval.as_millis()).unwrap_or(u64::MAX);
    let outcomes = clients.stop(lab)?;
    let mut run = Run::measured(&way.mode.to_string(), interval_ms, marks, outcomes)
        .with_failure("primary host killed", &marks);
    run.link_rtt_ms = Some(rtt);
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
        if let Some(replay) = takeover.replay {
            run.event(at(takeover.detect_ms + replay.live_ms), "the log is replayed, clients are served");
            run = with_replay(run, &replay);
        }
    }
    run.notes.push(format!(
        "Real interval {} ms, {} epochs later than wanted, commit {:.1} ms after a checkpoint's end.",
        primary.real_interval_ms, primary.stretched, primary.commit_ms
    ));
    Ok(run)
}

/// What the backup says of its replay.
fn with_replay(mut run: Run, replay: &ReplayStatus) -> Run {
    let total = replay.probing_ms + replay.walking_ms + replay.catching_up_ms;
    run.take_over_ms = Some(replay.begun_ms);
    run.replay_ms = Some(ReplayTimes {
        probe: replay.probing_ms,
        walk: replay.walking_ms,
        catch_up: replay.catching_up_ms,
        total,
    });
    run.go_live_ms = Some((replay.live_ms - replay.begun_ms - total).max(0.0));
    let fidelity = |s: &FidelityStatus| {
        (s.port, Fidelity { identical: s.identical, different: s.different, unknown: s.unknown })
    };
    run.replay_fidelity = Some(replay.services.iter().map(fidelity).collect());
    run.notes.push(told(replay));
    run.with_resets(replay.resets.iter().map(|(cause, count)| (cause.clone(), u64::from(*count))).collect())
}

/// The replay in words.
fn told(replay: &ReplayStatus) -> String {
    let (mut same, mut all) = (0, 0);
    for service in &replay.services {
        same += service.identical;
        all += service.identical + service.different + service.unknown;
    }
    format!(
        "Replay: {} records; begun {:.0} ms after the decision, probing {:.0} ms, walking {:.0} ms, catching up {:.0} ms, live after {:.0} ms. \
         {} connections go on, reset: {:?}. {same} of {all} reply bytes came out identical, {} waits timed out.",
        replay.records,
        replay.begun_ms,
        replay.probing_ms,
        replay.walking_ms,
        replay.catching_up_ms,
        replay.live_ms,
        replay.carried,
        replay.resets,
        replay.stalls
    )
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
