//! The backup, lost in every way.

use std::thread::sleep;
use std::time::Duration;

use super::{DETECT, LONG, OPTIONS, SOON, Tour};
use crate::clients::now_ns;
use crate::lab::guest;
use crate::scenario::{
    Clients, Result, backup_status, ensure, protect_exit, session_status, start_backup, wait, wait_primary,
    wait_session,
};

/// Ends `llm backup` on `host` with that signal; returns when it is gone.
pub(super) fn kill_backup(tour: &Tour<'_>, host: usize, signal: &str) -> Result<()> {
    let pid = backup_status(tour.lab, host)?.map_or(0, |b| b.pid);
    ensure(pid != 0, || "llm backup does not run".into())?;
    tour.lab.host(host).check(&format!("kill -{signal} {pid}"))?;
    tour.lab.host(host).wait_for(&format!("! kill -0 {pid}"), SOON)?;
    Ok(())
}

/// The guest does not run on `host`: of the copies received there, at most `copies` are left, and none has run.
fn never_ran(tour: &Tour<'_>, host: usize, copies: usize) -> Result<()> {
    let list = tour.lab.host(host).check("xl list")?.text();
    let domains = || list.lines().filter(|l| l.starts_with(guest::NAME));
    // State and time: suspended by its toolstack, or not yet made whole.
    let asleep = |l: &str| l.contains("--incoming") && l.ends_with(" 0.0");
    ensure(domains().all(asleep) && domains().count() <= copies, || {
        format!("more than a copy at rest: {list}")
    })
}

/// The `xl` of a killed `llm backup` has died with it: what is left is a copy at rest.
fn died_together(tour: &Tour<'_>, host: usize) -> Result<()> {
    tour.lab.host(host).wait_for("! pidof xl >/dev/null", SOON)?;
    never_ran(tour, host, 1)
}

/// Waits until the guest is protected once more by a session that began after the loss.
pub(super) fn protected_again(tour: &Tour<'_>, host: usize) -> Result<()> {
    wait_session(tour.lab, 1 - host, "protected", LONG)?;
    wait_primary(tour.lab, host, &["protected"], LONG)?;
    tour.epochs_go_on(host, 3)
}

/// `kill -9` of `llm backup`, and a new one.
pub(super) fn killed(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    kill_backup(tour, 1 - host, "KILL")?;
    died_together(tour, 1 - host)?;
    start_backup(tour.lab, 1 - host)?;
    protected_again(tour, host)?;
    // The old copy has gone when the new one came.
    never_ran(tour, 1 - host, 1)?;
    tour.judge(clients)
}

/// SIGTERM of `llm backup`: it says goodbye and leaves nothing.
pub(super) fn terminated(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    kill_backup(tour, 1 - host, "TERM")?;
    tour.no_copy(1 - host)?;
    wait_primary(tour.lab, host, &["backup-lost", "connecting"], SOON)?;
    start_backup(tour.lab, 1 - host)?;
    protected_again(tour, host)?;
    tour.judge(clients)
}

/// The policy `stop`: without a backup not a byte leaves.
pub(super) fn host_killed(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    tour.lab.host(1 - host).kill()?;
    wait_primary(tour.lab, host, &["backup-lost"], SOON)?;
    silent(&clients)?;
    tour.lab.host(1 - host).restart()?;
    wait_primary(tour.lab, host, &["backup-lost", "connecting"], SOON)?;
    start_backup(tour.lab, 1 - host)?;
    protected_again(tour, host)?;
    tour.judge(clients)
}

/// Output that was on its way has arrived; from then on nothing comes.
pub(super) fn silent(clients: &Clients) -> Result<()> {
    sleep(Duration::from_millis(500));
    let before = clients.snapshot();
    sleep(Duration::from_secs(5));
    let after = clients.snapshot();
    ensure(before.replies == after.replies, || {
        format!("{} replies came without a backup", after.replies - before.replies)
    })
}

/// The policy `go-on`: after a pause the guest answers without a backup, until there is one again.
pub(super) fn go_on(tour: &mut Tour<'_>) -> Result<()> {
    go_on_with(tour, OPTIONS)
}

/// As [`go_on`], of a guest that is protected with these options.
pub(super) fn go_on_with(tour: &mut Tour<'_>, options: &str) -> Result<()> {
    let options = format!("{options} --on-backup-loss go-on");
    let host = tour.protected(&options)?;
    let clients = tour.clients()?;
    let lost = now_ns();
    kill_backup(tour, 1 - host, "KILL")?;
    wait_primary(tour.lab, host, &["unprotected"], SOON)?;
    clients.wait_for_replies(now_ns(), SOON)?;
    let silence = Duration::from_nanos(now_ns() - lost);
    // The looks at the status, each a command in a busy host, cost about as much as what is measured.
    let most = DETECT * 3 + Duration::from_secs(4);
    ensure(silence < most, || format!("no replies for {silence:?}"))?;
    died_together(tour, 1 - host)?;
    start_backup(tour.lab, 1 - host)?;
    protected_again(tour, host)?;
    let session = session_status(tour.lab, 1 - host)?.unwrap_or_default();
    ensure(session.takeover.is_none(), || format!("a take-over happened: {session:?}"))?;
    tour.judge(clients)?;
    // Released without a backup: the policy lets it go.
    kill_backup(tour, 1 - host, "KILL")?;
    wait_primary(tour.lab, host, &["unprotected"], SOON)?;
    tour.lab.host(host).check(&format!("llm release {}", guest::NAME))?;
    let code = protect_exit(tour.lab, host, SOON)?;
    ensure(code == 0, || format!("llm protect ended with {code} after a release"))?;
    wait("the guest to be back on its bridge", SOON, || {
        let back = tour.on_its_bridge(host);
        Ok((back.is_ok(), move || format!("{back:?}")))
    })
}

/// Without a backup a release waits, and says so; by force the guest goes on.
pub(super) fn forced(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    kill_backup(tour, 1 - host, "KILL")?;
    wait_primary(tour.lab, host, &["backup-lost"], SOON)?;
    let refused = tour.lab.host(host).run(&format!("llm release {}", guest::NAME))?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure(!refused.success() && said.contains("--force"), || format!("release said {said:?}"))?;
    silent(&clients)?;
    tour.lab.host(host).check(&format!("llm release --force {}", guest::NAME))?;
    let code = protect_exit(tour.lab, host, LONG)?;
    tour.options = None;
    ensure(code == 0, || format!("llm protect ended with {code} after a release"))?;
    tour.on_its_bridge(host)?;
    tour.judge(clients)
}
