//! The primary: released, killed, frozen; and the guest's own end.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use super::backup::kill_backup;
use super::frames::Frames;
use super::{DETECT, LONG, OPTIONS, SOON, Tour, nothing_left};
use crate::clients::now_ns;
use crate::lab::guest;
use crate::scenario::{Result, ensure, protect_exit, start_backup, wait_primary, wait_session};

/// `llm release`: nobody notices, nothing is left.
pub(super) fn release(tour: &mut Tour<'_>) -> Result<()> {
    released_by(tour, |_| format!("llm release {}", guest::NAME))
}

/// SIGTERM of `llm protect` is a release.
pub(super) fn terminate(tour: &mut Tour<'_>) -> Result<()> {
    released_by(tour, |pid| format!("kill -TERM {pid}"))
}

/// Released by the command that `how` makes of the process id of `llm protect`.
fn released_by(tour: &mut Tour<'_>, how: impl Fn(u32) -> String) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    let pid = wait_primary(tour.lab, host, &["protected"], SOON)?.pid;
    tour.lab.host(host).check(&how(pid))?;
    let code = protect_exit(tour.lab, host, LONG)?;
    tour.options = None;
    ensure(code == 0, || format!("llm protect ended with {code}"))?;
    tour.on_its_bridge(host)?;
    wait_session(tour.lab, 1 - host, "discarded", SOON)?;
    tour.no_copy(1 - host)?;
    tour.lab.host(host).wait_for("! pidof xl >/dev/null", SOON)?;
    tour.judge(clients)
}

/// `kill -9` of `llm protect`: the backup takes over, the copy left behind is isolated.
pub(super) fn killed(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    kill_protect(tour, host)?;
    tour.take_over(host)?;
    clients.wait_for_replies(now_ns(), LONG)?;
    let links = tour.lab.host(host).check("ip -o link")?.text();
    let on_bridge = links.lines().any(|l| l.contains(" vif") && l.contains("master xenbr0"));
    ensure(!on_bridge, || format!("the copy left behind is on the network: {links}"))?;
    tour.clear(host)?;
    tour.judge(clients)
}

/// Ends `llm protect` on `host` with SIGKILL.
pub(super) fn kill_protect(tour: &Tour<'_>, host: usize) -> Result<()> {
    let pid = wait_primary(tour.lab, host, &["protected"], SOON)?.pid;
    tour.lab.host(host).check(&format!("kill -KILL {pid}"))?;
    Ok(())
}

/// A primary that cannot go on says so: the backup does not wait for silence, and the copy left behind is destroyed.
pub(super) fn path_lost(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let clients = tour.clients()?;
    // The driver's end of the packet path, taken away by somebody.
    let delete = "tap=$(ip -o link | sed -n 's/^[0-9]*: \\(llm[0-9][^:@]*\\).*/\\1/p') && ip link del $tap";
    tour.lab.host(host).check(delete)?;
    tour.take_over(host)?;
    let session = wait_session(tour.lab, 1 - host, "running-here", SOON)?;
    let waited = session.takeover.map_or(f64::MAX, |t| t.detect_ms);
    ensure(waited < DETECT.as_secs_f64() * 500.0, || {
        format!("the backup waited for {waited:.0} ms of silence")
    })?;
    let code = protect_exit(tour.lab, host, SOON)?;
    ensure(code == 6, || format!("llm protect ended with {code}"))?;
    let gone = tour.lab.host(host).run(&format!("xl domid {}", guest::NAME))?;
    ensure(!gone.success(), || "the primary kept its domain".into())?;
    tour.judge(clients)
}

/// A primary that stands still, is replaced, and goes on: it lets nothing out and stops itself.
pub(super) fn frozen(tour: &mut Tour<'_>) -> Result<()> {
    frozen_with(tour, OPTIONS)
}

/// As [`frozen`], of a guest that is protected with these options.
pub(super) fn frozen_with(tour: &mut Tour<'_>, options: &str) -> Result<()> {
    let host = tour.protected(options)?;
    let clients = tour.clients()?;
    let frames = Frames::out_of(tour.lab, host)?;
    tour.epochs_go_on(host, 3)?;
    tour.lab.host(host).freeze()?;
    let frozen = SystemTime::now();
    let taken = tour.take_over(host).and_then(|()| clients.wait_for_replies(now_ns(), LONG));
    sleep(Duration::from_secs(1));
    tour.lab.host(host).thaw()?;
    taken?;
    let code = protect_exit(tour.lab, host, LONG)?;
    ensure(code == 6, || format!("the thawed primary ended with {code}"))?;
    sleep(Duration::from_secs(2));
    let (before, late) = frames.around(frozen)?;
    ensure(before > 0, || "nothing at all of the guest was seen".into())?;
    ensure(late == 0, || format!("the thawed primary let {late} frames out"))?;
    let gone = tour.lab.host(host).run(&format!("xl domid {}", guest::NAME))?;
    ensure(!gone.success(), || "the thawed primary kept its domain".into())?;
    tour.judge(clients)
}

/// The guest powers off: protection ends, the copy is dropped.
pub(super) fn guest_shut_down(tour: &mut Tour<'_>) -> Result<()> {
    // A checkpoint writes the same xenstore node, so that an order may get lost, and is given again.
    let shut_down = "for i in 1 2 3 4 5 6; do xl shutdown NAME 2>/dev/null; \
                     for j in 1 2 3 4 5; do sleep 1; xl domid NAME >/dev/null 2>&1 || exit 0; done; done; exit 1";
    ended_by(tour, shut_down)
}

/// The guest is destroyed by its operator.
pub(super) fn guest_destroyed(tour: &mut Tour<'_>) -> Result<()> {
    ended_by(tour, "timeout 90 xl destroy NAME")
}

/// `llm protect` is killed again and again: each host receives a domain that it has had, and has taken over, before.
pub(super) fn killed_again(tour: &mut Tour<'_>) -> Result<()> {
    for _ in 0..2 {
        killed(tour)?;
    }
    let host = tour.protected(OPTIONS)?;
    tour.epochs_go_on(host, 3)
}

/// While a primary is frozen, its domain is taken over, the backup is restarted, and the domain ends there: the
/// thawed primary must not go on with what everybody has seen overtaken.
pub(super) fn frozen_and_forgotten(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let backup = 1 - host;
    tour.lab.host(host).freeze()?;
    let forgotten = tour.take_over(host).and_then(|()| {
        kill_backup(tour, backup, "KILL")?;
        start_backup(tour.lab, backup)?;
        tour.lab.host(backup).check(&format!("xl destroy {}", guest::NAME))?;
        Ok(())
    });
    tour.lab.host(host).thaw()?;
    forgotten?;
    let code = protect_exit(tour.lab, host, LONG)?;
    tour.host = None;
    ensure(code == 6, || format!("the thawed primary ended with {code}"))?;
    for host in [0, 1] {
        let list = tour.lab.host(host).check("xl list")?.text();
        ensure(!list.contains(guest::NAME), || format!("host{}: a stale copy is there: {list}", host + 1))?;
    }
    Ok(())
}

fn ended_by(tour: &mut Tour<'_>, command: &str) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    tour.lab.host(host).check(&command.replace("NAME", guest::NAME))?;
    let code = protect_exit(tour.lab, host, LONG)?;
    (tour.host, tour.options) = (None, None);
    ensure(code == 0, || format!("llm protect ended with {code}"))?;
    wait_session(tour.lab, 1 - host, "discarded", SOON)?;
    tour.no_copy(1 - host)?;
    for host in [0, 1] {
        let list = tour.lab.host(host).check("xl list")?.text();
        ensure(!list.contains(guest::NAME), || {
            format!("host{}: the guest is still there: {list}", host + 1)
        })?;
        nothing_left(&tour.lab.host(host).check("ip -o link")?.text())?;
    }
    Ok(())
}
