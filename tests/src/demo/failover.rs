//! One run: clients, protection, the host killed, the clients carried on.

use std::thread::sleep;
use std::time::Duration;

use super::Options;
use super::takeover::{with_primary, with_session};
use crate::clients::now_ns;
use crate::clients::timeline::{Marks, Timeline};
use crate::lab::Lab;
use crate::measure::{HostClock, PauseLog, link_bytes, link_rtt};
use crate::report::{Live, Run, View};
use crate::scenario::{
    Clients, Result, primary_status, session_status, start_backup, start_protect, wait, wait_primary,
};
use llm_core::replication::Mode;

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
    let mut clients = Clients::start_all(lab)?;
    let mut view = Watch { live: Live::stderr(), started_ns: now_ns() };
    let mut marks = Marks { started_ns: view.started_ns, ..Marks::default() };
    view.watch(&clients, options.watch, "unprotected", || Ok((None, String::new())))?;

    // The others would make the first copy last for minutes on an emulated host.
    clients.stop_rest(lab)?;
    marks.protecting_ns = Some(now_ns());
    start_backup(lab, to)?;
    let before = link_bytes(lab, to)?;
    start_protect(lab, from, &format!("--mode {} --interval {}ms", way.mode, way.interval.as_millis()))?;
    view.until(&clients, "first copy", FIRST_COPY, || {
        let status = primary_status(lab, from)?;
        Ok(status.is_some_and(|s| s.state == "protected"))
    })?;
    clients.add_rest(lab)?;
    marks.protected_ns = Some(now_ns());
    let mut log = PauseLog::default();
    view.watch(&clients, options.watch, "protected", || {
        let asked_ns = now_ns();
        let status = primary_status(lab, from)?.unwrap_or_default();
        log.add(&status, asked_ns);
        let detail = format!("pause {:.0} ms, commit {:.0} ms", status.pause.p50_ms, status.commit_ms);
        Ok((Some(status.epochs_committed), detail))
    })?;
    let asked_ns = now_ns();
    let primary = wait_primary(lab, from, &["protected"], Duration::from_secs(10))?;
    log.add(&primary, asked_ns);
    let pauses = log.on(&HostClock::of(lab, from)?);
    let sent = link_bytes(lab, to)?.saturating_sub(before);

    lab.host(from).kill()?;
    let failed_ns = now_ns();
    marks.failed_ns = Some(failed_ns);
    view.live.event(Duration::from_nanos(failed_ns - view.started_ns), "the primary host is killed");
    view.until(&clients, "host dead", Duration::from_secs(120), || {
        // Replies that were on their way when the host died do not count.
        Ok(clients.silent(failed_ns + Timeline::IN_FLIGHT_NS).is_empty()
            && session_status(lab, to)?.is_some_and(|s| s.state == "running-here"))
    })?;
    view.watch(&clients, AFTER, "carried on", || Ok((None, String::new())))?;
    view.live.clear();
    marks.ended_ns = now_ns();
    let session = session_status(lab, to)?.unwrap_or_default();

    let interval_ms = u64::try_from(way.interval.as_millis()).unwrap_or(u64::MAX);
    let outcomes = clients.stop(lab)?;
    let mut run = Run::measured_with(&way.mode.to_string(), interval_ms, marks, outcomes, &pauses)
        .with_failure("primary host killed", &marks);
    run.link_rtt_ms = Some(rtt);
    run.link_bytes = Some(sent);
    run.notes.push(
        "The clients beyond the Redis writer and the web client rested during the first copy, which they would have \
         made last for minutes."
            .into(),
    );
    run = with_primary(run, &primary);
    run = with_session(run, &session, failed_ns);
    Ok(run)
}

/// The live view of a run.
struct Watch {
    live: Live<std::io::Stderr>,
    started_ns: u64,
}

impl Watch {
    /// Shows how it goes for a while; `look` is asked once a second for epochs and a word on them.
    fn watch(
        &mut self,
        clients: &Clients,
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
            self.show(clients, phase, seen.0, &seen.1);
            sleep(LOOK);
        }
        Ok(())
    }

    /// Shows how it goes until it is so.
    fn until(
        &mut self,
        clients: &Clients,
        phase: &str,
        timeout: Duration,
        mut look: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        wait(phase, timeout, || {
            self.show(clients, phase, None, "");
            let reached = look()?;
            Ok((reached, || "not yet".into()))
        })
    }

    fn show(&mut self, clients: &Clients, phase: &str, epochs: Option<u64>, detail: &str) {
        let now = now_ns();
        self.live.update(&View {
            elapsed: Duration::from_nanos(now - self.started_ns),
            phase,
            clients: clients.snapshot(),
            now_ns: now,
            epochs,
            detail,
        });
    }
}
